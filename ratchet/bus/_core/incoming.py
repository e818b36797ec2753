"""A request at its server: it is taken, run and answered, once.

The whole life of a request is here, the same for every kind of bus: `TRANSITIONS`
says what may follow what, and counters change nowhere else.  A kind of bus makes an
`IncomingRequest` of what came, puts it into the inbox, and supplies the `Route` by
which the answer goes back.

A request is answered only after its answer has been handed over, for that is the step
that can fail.  Until then it is being answered, and goes back to the thread that has
it if that fails: an error can still be sent, or that nothing will come.

Nothing here knows how a message travels, or who runs a handler.
"""

from __future__ import annotations

import enum
import logging
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import gevent
from gevent.hub import Hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger, log_error
from ratchet._wait import WaitQueue
from ratchet.bus._core.address import format_address
from ratchet.bus._core.deadline import Scope, enter_scope, is_over, leave_scope, seconds_until
from ratchet.bus._core.faults import DRAINING, ErrorTexts, Reason, error_texts
from ratchet.bus._core.outgoing import ENDED, OutgoingRequest
from ratchet.bus._core.stats import Counters
from ratchet.bus.codecs import Address, Decode
from ratchet.errors import AlreadyAnswered


class State(enum.IntEnum):
    """Where a request is on the server's side."""

    QUEUED = 1
    """It waits for a thread."""
    TAKEN = 2
    """A thread has it."""
    ANSWERING = 3
    """The thread's answer is being made and handed over."""
    ANSWERED = 4
    """It has its answer, which may be an error of the bus itself."""
    CANCELLED = 5
    """Its client gave up, and wants no answer."""
    LATE = 6
    """It was answered after its client had given up."""


class Event(enum.IntEnum):
    """What can happen to it."""

    CLAIM = 1
    """A thread takes it from the inbox."""
    ANSWER = 2
    """The thread begins to answer it."""
    HAND_OVER = 3
    """The answer is on its way."""
    TAKE_BACK = 4
    """The answer could not be made."""
    FAIL = 5
    """An error is on its way, of the handler or of the bus."""
    CANCEL = 6
    """The client gives up."""


# Module names, because an enum's attribute takes three times as long to read.
QUEUED, TAKEN, ANSWERING, ANSWERED, CANCELLED, LATE = State
CLAIM, ANSWER, HAND_OVER, TAKE_BACK, FAIL, CANCEL = Event

TRANSITIONS: Final[Mapping[tuple[State, Event], State]] = {
    (QUEUED, CLAIM): TAKEN,
    (QUEUED, FAIL): ANSWERED,
    (QUEUED, CANCEL): CANCELLED,
    (TAKEN, ANSWER): ANSWERING,
    (TAKEN, FAIL): ANSWERED,
    (TAKEN, CANCEL): CANCELLED,
    (ANSWERING, HAND_OVER): ANSWERED,
    (ANSWERING, TAKE_BACK): TAKEN,
    (ANSWERING, CANCEL): CANCELLED,
    (CANCELLED, ANSWER): LATE,
}
"""What may happen in which state, and where it leads; nothing else may."""

# Looked up beforehand: each exchange comes by, and a look-up compares tuples, which fails
# where the stack is at its end; a step back must not.
_CLAIMED: Final = TRANSITIONS[QUEUED, CLAIM]
_BEING_ANSWERED: Final = TRANSITIONS[TAKEN, ANSWER]
_HANDED_OVER: Final = TRANSITIONS[ANSWERING, HAND_OVER]
_TAKEN_BACK: Final = TRANSITIONS[ANSWERING, TAKE_BACK]

# Where it has no answer, and one is wanted.
OPEN: Final = (QUEUED, TAKEN, ANSWERING)
# Where the thread that has it is still to answer, even if that is in vain.
UNANSWERED: Final = (TAKEN, CANCELLED)

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})
_ABANDONED: Final = "the server took the request and will not answer it"
_OUT_OF_TIME: Final = "the request's time was over before it ran"


class Interrupted(BaseException):
    """Thrown into the thread that handles a request when its client gives up.

    Never seen outside of `with transaction:`, which swallows its own.
    """


class Route(Protocol):
    """How answers get back to a client: a connection, or the client's side itself."""

    in_process: bool
    """Whether the client's side is in this very process.

    Then it sees to the request's deadline itself, always reads, and need not be told
    what is released.
    """
    peer: Address
    """The client's address."""

    def is_writable(self, request: IncomingRequest) -> bool:
        """Whether the answer of a request would not have to wait until the client reads."""

    def park(self, request: IncomingRequest) -> None:
        """Keep a request from the threads until the client has read more."""

    def send(self, request: IncomingRequest, message: Any) -> bool:
        """Hand over a response; may block.  False if nobody waits for it."""

    def fail(self, request: IncomingRequest, reason: Reason, texts: ErrorTexts) -> bool:
        """Hand over an error; does not block.  False if nobody waits for it."""

    def give_up(self, request: IncomingRequest) -> None:
        """Hub callback: its time is over, so the client gives it up."""

    def released(self, request: IncomingRequest) -> None:
        """It needs nothing more.  May be told more than once."""


class IncomingRequests:
    """What the requests of one bus share: its counters and codec, and where they are walked.

    Attributes:
        in_flight: those that a thread has taken and that are open.
        to_interrupt: those whose handler is to be interrupted.
        drained: the threads that wait until none is in flight.
    """

    def __init__(
        self,
        hub: Hub,
        counters: Counters,
        decode: Decode[Any] | None,
        encode: Callable[[Any], Any] | None,
    ) -> None:
        self.hub = hub
        self.run_callback: Callable[..., object] = hub.loop.run_callback
        self.counters = counters
        # None where requests and responses pass as they are.
        self.decode = decode
        self.encode = encode
        self.in_flight: dict[IncomingRequest, None] = {}
        self.to_interrupt: dict[IncomingRequest, None] = {}
        # Those that nobody holds any more.
        self._dropped: deque[IncomingRequest] = deque()
        self.drained = WaitQueue()

    def wake_drain(self) -> None:
        """A request has left `in_flight`, or a connection is gone."""
        self.run_callback(self.drained.wake_all)

    def drop(self, request: IncomingRequest) -> None:
        """Nobody holds it any more; may be called in any OS thread."""
        self._dropped.append(request)
        self.leave_to_hub(self._abandon_dropped)

    def leave_to_hub(self, callback: Callable[..., object], *args: object) -> None:
        """Have the hub call this; may be called in any OS thread."""
        loop: Any = self.hub.loop
        if loop is not None:
            loop.run_callback_threadsafe(callback, *args)

    def interrupt_soon(self, request: IncomingRequest) -> None:
        """Its client gave up while a thread handles it."""
        self.run_callback(self._interrupt_handlers)
        self.to_interrupt[request] = None

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._abandon_dropped()
        for request in list(self.in_flight):
            request.settle()
        self._interrupt_handlers()
        self.wake_drain()

    def leave_to_parent(self) -> None:
        """In a forked child: the parent answers them."""
        for request in self.in_flight:
            request.state = CANCELLED
        self.in_flight.clear()
        self.to_interrupt.clear()
        self._dropped.clear()
        self.drained.clear()

    def _abandon_dropped(self) -> None:
        """Hub callback: tell the clients of requests that nobody holds any more."""
        while self._dropped:
            self._dropped[0].abandon()
            self._dropped.popleft()

    def _interrupt_handlers(self) -> None:
        """Hub callback: their clients gave up."""
        for request in list(self.to_interrupt):
            request.interrupt()


class IncomingRequest:
    """A request on the server's side, as the bus holds it.

    Attributes:
        requests: what it shares with the others of its bus.
        route: how its answer gets back.
        state: where it is.
        message: what came, until it is decoded; then the object that was sent.
        one_way: whether no answer is wanted.
        deadline: when its client gives up; None for never.
        id: what its connection knows it by.
        client: the client's side of it, if that is in this process.
        handler: the thread that handles it, or decodes it.
        metadata: what the client sent along.
        kept_answer: its answer, while that waits for those of earlier requests.
    """

    __slots__ = (
        "_handlings",
        "_timer",
        "client",
        "deadline",
        "handler",
        "id",
        "kept_answer",
        "message",
        "metadata",
        "one_way",
        "requests",
        "route",
        "state",
    )

    def __init__(
        self,
        requests: IncomingRequests,
        route: Route,
        message: Any,
        one_way: bool,
        deadline: float | None,
        id: int = 0,
        client: OutgoingRequest[Any, Any] | None = None,
    ) -> None:
        self.requests = requests
        self.route = route
        self.state = QUEUED
        self.message = message
        self.one_way = one_way
        self.deadline = deadline
        self.id = id
        self.client = client
        self.handler: greenlet | None = None
        self.metadata: Mapping[str, str] = _NO_METADATA
        self.kept_answer: Any = None
        # The threads that handle it, each with what ends its deadline; the last one is `handler`.
        self._handlings: tuple[tuple[greenlet, Scope | None], ...] = ()
        # Rings at the deadline, while a thread handles it.
        self._timer: Any = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}: {self.state.name.lower()}>"

    def claim(self) -> bool:
        """A thread takes it from the inbox; False if it is not to be handled after all."""
        if self.state is not QUEUED or (self.client is not None and self.client.state in ENDED):
            # Its client may have been told that it was not run, and no more.
            return False
        route = self.route
        if not (self.one_way or route.in_process or route.is_writable(self)):
            # Its client does not read: no thread is to wait for that.
            route.park(self)
            return False
        if self.deadline is not None and is_over(self.deadline):
            # The hub is late, or a timer would have given the request up.
            self.refuse(Reason.OUT_OF_TIME, ("Rejected", _OUT_OF_TIME, ""))
            return False
        self.requests.in_flight[self] = None
        self.state = _CLAIMED
        return True

    def load(self) -> bool:
        """Decode what was claimed; may block.  False if it is not to be handled after all.

        A codec that blocks is interrupted when the client gives up.
        """
        decode = self.requests.decode
        assert decode is not None
        try:
            # First, or a client that gives up right now would find nobody to interrupt.
            self.handler = getcurrent()
            self.message = decode(self.message, self.route.peer)
        except Interrupted as interrupt:
            if interrupt.args[0] is not self:
                raise
        except (KeyboardInterrupt, GreenletExit, gevent.Timeout):
            raise
        except BaseException as error:
            self.refuse(Reason.NOT_DECODED, error_texts(error))
            log_error(
                bus_logger,
                logging.WARNING,
                "a request from %s could not be decoded",
                self.route.peer,
                error=error,
            )
        finally:
            self.handler = None
            self.requests.to_interrupt.pop(self, None)
        # The client may have given up meanwhile.
        return self.state is TAKEN

    def respond(self, response: Any) -> bool:
        """Answer it, once; see `ServerTransaction.send_response`."""
        if self.state is not TAKEN:
            return self._refuse_answer()
        requests, wanted = self.requests, not self.one_way
        try:
            self.state = _BEING_ANSWERED
            if wanted:
                message = response if requests.encode is None else requests.encode(response)
                if not self.route.send(self, message):
                    return self._refuse_unwanted()
            self.state = _HANDED_OVER
            requests.counters.answered += 1
            self._release()
            return wanted
        except BaseException as error:
            try:
                if self.state is ANSWERING:
                    self.state = _TAKEN_BACK
                    if isinstance(error, Exception):
                        self.refuse(Reason.HANDLER_RAISED, error_texts(error))
                    else:
                        self.abandon()
            finally:
                settle_soon(requests.hub)
            raise

    def _refuse_unwanted(self) -> bool:
        """The client gave up while its answer was made, or on the way to it."""
        if self.state is ANSWERING:
            self.state = TRANSITIONS[self.state, CANCEL]
            self.requests.counters.cancelled += 1
            self._release()
        return self._refuse_answer()

    def respond_error(self, error: BaseException) -> bool:
        """Answer it with an error, once; see `ServerTransaction.send_error`."""
        if self.state is not TAKEN:
            return self._refuse_answer()
        return self._fail(Reason.HANDLER_RAISED, error_texts(error))

    def _refuse_answer(self) -> bool:
        """An answer comes too late, so False; or it is the second one."""
        if self.state is CANCELLED:
            self.state = TRANSITIONS[self.state, ANSWER]
            self.requests.counters.dropped_late += 1
            return False
        peer = self.route.peer
        whose = "the request" if peer is None else f"the request from {format_address(peer)}"
        raise AlreadyAnswered(f"{whose} has its answer already")

    def refuse(self, reason: Reason, texts: ErrorTexts) -> None:
        """Answer with an error of the bus itself, if it has no answer; does not block."""
        if self.state is QUEUED or self.state is TAKEN:
            self._fail(reason, texts)

    def refuse_draining(self) -> None:
        """The server takes no new work, and this was not taken yet."""
        self.refuse(Reason.DRAINING, ("Rejected", DRAINING, ""))

    def abandon(self) -> None:
        """No thread can answer it any more."""
        if self.state is TAKEN:
            self._fail(Reason.ABANDONED, ("Abandoned", _ABANDONED, ""))

    def _fail(self, reason: Reason, texts: ErrorTexts) -> bool:
        counters = self.requests.counters
        try:
            handed_over = not self.one_way and self.route.fail(self, reason, texts)
            self.state = TRANSITIONS[self.state, FAIL]
            if reason is Reason.OUT_OF_TIME:
                # That is the client's wish, though it could not tell any more.
                counters.cancelled += 1
            else:
                counters.failed += 1
            self._release()
            return handed_over
        except BaseException:
            settle_soon(self.requests.hub)
            raise

    def cancel(self) -> bool:
        """The client gave up.  True if no thread has taken the request.

        Does not block, also from a hub callback.
        """
        queued = self.state is QUEUED
        if self.state in OPEN:
            if self.handler is not None:
                self.requests.interrupt_soon(self)
            self.state = TRANSITIONS[self.state, CANCEL]
            self.requests.counters.cancelled += 1
            self._release()
        return queued

    def begin_handling(self, handler: greenlet) -> None:
        """A thread begins to handle it: what it sends has no more time than this.

        It is interrupted when the client gives up, until `end_handling`.
        """
        scope = None
        try:
            if self.deadline is not None:
                scope = enter_scope(self.deadline)
                if not self.route.in_process:
                    self._watch_deadline(self.deadline)
            if self.state is CANCELLED:
                self.requests.interrupt_soon(self)
            self._handlings += ((handler, scope),)
            self.handler = handler
        except BaseException:
            leave_scope(scope)
            raise

    def _watch_deadline(self, deadline: float) -> None:
        # The client's own word may not come through: it has gone, or so many of its
        # requests are open that nothing more is read.
        if self.state is TAKEN and self._timer is None:
            timer = self.requests.hub.loop.timer(seconds_until(deadline))
            timer.start(self.route.give_up, self, update=True)
            self._timer = timer

    def end_handling(self) -> None:
        """A thread handles it no longer.

        It is the one that began last: it may be another thread that says so, or a
        generator's end in any thread.
        """
        scope = self._handlings[-1][1]
        if scope is not None:
            leave_scope(scope)
        self._handlings = self._handlings[:-1]
        if self._handlings:
            self.handler = self._handlings[-1][0]
            return
        self.handler = None
        self.requests.to_interrupt.pop(self, None)
        if self._timer is not None:
            self._stop_timer()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        timer.close()

    def interrupt(self) -> None:
        """Hub callback: its client gave up."""
        self.requests.to_interrupt.pop(self, None)
        # Looked at again: the thread may have left the block meanwhile.
        if self.handler is not None and self.state in (CANCELLED, LATE) and not self.handler.dead:
            self.handler.throw(Interrupted(self))

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self.state not in OPEN:
            self._release()
        if self._timer is not None and not self._timer.active:
            # It has rung, and what it was for was interrupted.
            self.route.give_up(self)

    def _release(self) -> None:
        """It has its answer, or needs none.  Calling it twice is the same as once."""
        if self._timer is not None:
            # From now on another request may have the id.
            self._stop_timer()
        if not self.route.in_process:
            self.route.released(self)
        requests = self.requests
        if requests.drained:
            requests.wake_drain()
        requests.in_flight.pop(self, None)
