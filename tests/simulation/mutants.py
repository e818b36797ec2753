"""Bugs that are planted to see whether the simulation finds them.

Each is one plausible slip, of a kind that was fixed here once: a method that forgets a
line, or looks at the wrong thing.  They are written from the list of those kinds, and not
from what is checked.  `planted` puts one in place of the method, for a `with` block.

Nothing here knows how schedules are run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from ratchet import ConnectionLost
from ratchet.bus._core.client import ClientSide
from ratchet.bus._core.fair_queue import FairQueue
from ratchet.bus._core.handle import HeldRequest
from ratchet.bus._core.inbox import Inbox
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_requests import IncomingRequests
from ratchet.bus._core.incoming_states import ANSWERING, CANCELLED, UNENDED
from ratchet.bus._socket import stream
from ratchet.bus._socket.casts import Casts
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.gate import Gate
from ratchet.bus._socket.input import Input
from ratchet.bus._socket.outbox import Outbox
from ratchet.bus._socket.output import Output
from ratchet.bus._socket.protocol import ClientProtocol, ServerProtocol
from ratchet.bus._socket.server_connection import ServerConnection
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._transport.dial import Dialer

Method = Callable[..., Any]


@dataclass(frozen=True)
class Mutant:
    """A planted bug.

    Attributes:
        name: what it is called.
        slip: what is wrong, in a sentence.
        owner: the class, or module, whose method is replaced.
        method: the method's name.
        change: makes the wrong method of the right one.
    """

    name: str
    slip: str
    owner: Any
    method: str
    change: Callable[[Method], Method]

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Have the bug in the library within the block."""
        right = self.owner.__dict__[self.method]
        setattr(self.owner, self.method, self.change(right))
        try:
            yield
        finally:
            setattr(self.owner, self.method, right)


MUTANTS: Final[dict[str, Mutant]] = {}


def _slip(owner: Any, method: str) -> Callable[[Callable[[Method], Method]], Mutant]:
    """Make a mutant of a function that makes the wrong method of the right one."""

    def enter(change: Callable[[Method], Method]) -> Mutant:
        name = change.__name__
        assert change.__doc__ is not None
        MUTANTS[name] = Mutant(name, change.__doc__, owner, method, change)
        return MUTANTS[name]

    return enter


# What is written, and what is read.


@_slip(Outbox, "take_back")
def torn_frame(right: Method) -> Method:
    """A frame is taken back although its beginning has left."""

    def take_back(self: Any, number: int) -> Any:
        self._begun = False
        return right(self, number)

    return take_back


@_slip(Output, "wait_until_writable")
def overtaking(right: Method) -> Method:
    """While a connection waits for its socket, a new frame overtakes what waits."""

    def wait_until_writable(self: Any) -> None:
        right(self)
        self._flush_scheduled = False

    return wait_until_writable


@_slip(Outbox, "advance")
def one_noted(right: Method) -> Method:
    """Of several frames that leave in one call, only the first is noted as sent."""

    def advance(self: Any, count: int) -> None:
        sent, frames = self.sent, len(self._frames)
        right(self, count)
        if frames - len(self._frames) > 1:
            self.sent = sent + 1

    return advance


@_slip(Input, "resume")
def lost_backlog(right: Method) -> Method:
    """What is still to be told when reading is paused again is dropped."""

    def resume(self: Any) -> None:
        right(self)
        self._backlog = ()

    return resume


@_slip(FairQueue, "take")
def flow_forgotten(right: Method) -> Method:
    """A connection that has had its turn does not get another one for what is left."""

    def take(self: Any, item: Any) -> None:
        right(self, item)
        self._backlogged.pop(item.flow, None)

    return take


@_slip(FairQueue, "take")
def turn_kept(right: Method) -> Method:
    """A connection has its turn until nothing is left of what it sent."""

    def take(self: Any, item: Any) -> None:
        right(self, item)
        if item.flow in self._backlogged:
            self._backlogged.move_to_end(item.flow, last=False)
            self._fresh_turns = len(self._fresh)

    return take


@_slip(StallWatch, "move")
def no_move(right: Method) -> Method:
    """A peer that goes on slowly is taken for one that has stalled."""

    def move(self: Any) -> None:
        if self.timer is None:
            right(self)

    return move


@_slip(stream, "linger")
def no_linger(right: Method) -> Method:
    """A connection that is closed does not stay until its last bytes have arrived."""

    def linger(*_: Any) -> None:
        pass

    return linger


@_slip(stream.MessageStream, "lose_place")
def goes_on(right: Method) -> Method:
    """A connection goes on although an exception struck in the middle of a system call."""

    def lose_place(self: Any, error: BaseException) -> None:
        pass

    return lose_place


# Ids and their order.


@_slip(ClientProtocol, "request")
def same_ids(right: Method) -> Method:
    """An id is used again as soon as its request is not open any more."""

    def request(self: Any, *args: Any) -> Any:
        self._last_id = 0
        return right(self, *args)

    return request


@_slip(ClientProtocol, "_sent_after")
def goaway_off_by_one(right: Method) -> Method:
    """The last request that a draining server has taken is said not to have run."""

    def sent_after(self: Any, last_id: int) -> Any:
        return right(self, last_id - 1)

    return sent_after


@_slip(ServerProtocol, "due_answer")
def plain_out_of_order(right: Method) -> Method:
    """Plain requests are answered as soon as their answers are there, and not in their order."""

    def due_answer(self: Any) -> Any:
        return next(((request, frame) for request, frame in self.plain.items() if frame is not None), None)

    return due_answer


@_slip(ClientConnection, "withdraw")
def plain_place_lost(right: Method) -> Method:
    """A plain request that is given up loses its place, although its answer is still to come."""

    def withdraw(self: Any, transaction: Any) -> Any:
        outcome = right(self, transaction)
        if transaction.id in self.protocol.order:
            self.protocol.order.remove(transaction.id)
        return outcome

    return withdraw


# Who waits, and who is told.


@_slip(Inbox, "_wake")
def lost_wake(right: Method) -> Method:
    """Of several requests that come at once, only one wakes a thread."""

    def wake(self: Any) -> None:
        self._wake_scheduled = False
        if self._items and self._receivers:
            self._receivers.wake_next()

    return wake


@_slip(ClientConnection, "forget")
def window_stays_shut(right: Method) -> Method:
    """A request that is given up makes no room for the one that waits behind it."""

    def forget(self: Any, transaction: Any) -> None:
        if self.protocol.open.get(transaction.id) is transaction:
            del self.protocol.open[transaction.id]

    return forget


@_slip(ServerConnection, "look_again")
def parked_for_ever(right: Method) -> Method:
    """What was parked until the client reads is not let in when it does."""

    def look_again(self: Any) -> None:
        if self.gate.held_back:
            right(self)
        elif not self._has_too_much and not self.stream.input.ended and not self.stream.input.reading:
            self.stream.input.resume_reading()

    return look_again


@_slip(IncomingRequests, "wake_drain")
def drain_sleeps(right: Method) -> Method:
    """Nobody tells the thread that drains when the last request is answered."""

    def wake_drain(self: Any) -> None:
        pass

    return wake_drain


@_slip(Dialer, "_connect_once")
def dials_once(right: Method) -> Method:
    """A client that could not connect does not try again."""

    def connect_once(self: Any) -> bool:
        right(self)
        return True

    return connect_once


@_slip(HeldRequest, "__del__")
def never_abandoned(right: Method) -> Method:
    """A request that is dropped without an answer is never abandoned."""

    def delete(self: Any) -> None:
        pass

    return delete


# What ran, and what is said of it.


@_slip(ClientSide, "call")
def runs_twice(right: Method) -> Method:
    """A call is sent again when its connection is lost, whatever may have become of it."""

    def call(self: Any, *args: Any, **options: Any) -> Any:
        try:
            return right(self, *args, **options)
        except ConnectionLost:
            return right(self, *args, **options)

    return call


@_slip(IncomingRequest, "cancel")
def said_not_run(right: Method) -> Method:
    """A request that is given up while it runs is said not to have run."""

    def cancel(self: Any) -> bool:
        open_before = self.state in UNENDED
        right(self)
        return open_before

    return cancel


@_slip(IncomingRequest, "claim")
def deadline_ignored(right: Method) -> Method:
    """A thread takes a request although its time is over."""

    def claim(self: Any, inbox: Any) -> Any:
        deadline, self.deadline = self.deadline, None
        try:
            return right(self, inbox)
        finally:
            self.deadline = deadline

    return claim


@_slip(ServerConnection, "_unqueue")
def cancelled_stays_queued(right: Method) -> Method:
    """A request that is given up stays in the queue until a thread comes by."""

    def unqueue(self: Any, requests: Any) -> None:
        for request in requests:
            self.gate.drop(request)

    return unqueue


@_slip(Gate, "refuse_draining")
def drain_forgets(right: Method) -> Method:
    """A server that drains forgets what it has read and not let in."""

    def refuse_draining(self: Any) -> None:
        pass

    return refuse_draining


@_slip(Casts, "note")
def casts_uncounted(right: Method) -> Method:
    """A cast that leaves at once is not counted, so nobody is told when it is lost on its way."""

    def note(self: Any, number: int) -> None:
        count = self.count
        right(self, number)
        if number <= self._stream.output.sent:
            self.count = count

    return note


# What is counted, and what is left.


@_slip(ServerConnection, "released")
def place_leaks(right: Method) -> Method:
    """A request that is given up counts for its connection's bound for ever."""

    def released(self: Any, request: Any) -> None:
        if request.state is not CANCELLED:
            right(self, request)

    return released


@_slip(IncomingRequest, "_refuse_unwanted")
def end_uncounted(right: Method) -> Method:
    """A request whose answer found its connection closing is counted nowhere."""

    def refuse_unwanted(self: Any) -> bool:
        counted = self.requests.counters.cancelled
        ends_here = self.state is ANSWERING
        answer: bool = right(self)
        if ends_here:
            self.requests.counters.cancelled = counted
        return answer

    return refuse_unwanted


@_slip(IncomingRequest, "_stop_timer")
def timer_survives(right: Method) -> Method:
    """The timer of a request's deadline goes on after its answer."""

    def stop_timer(self: Any) -> None:
        pass

    return stop_timer
