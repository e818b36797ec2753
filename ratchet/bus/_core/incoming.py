"""A request at its server: it is taken, run and answered, once.

The whole life of a request is here, the same for every kind of bus: no other module makes the
transitions of `incoming_states`, and what became of a request is counted nowhere else.  A
kind of bus makes an `IncomingRequest` of what came, puts it into the inbox, and supplies the
`Route` by which the answer goes back.

A request is answered only after its answer has been handed over, for that is the step
that can fail.  Until then it is being answered, and goes back to the thread that has
it if that fails: an error can still be sent, or that nothing will come.

Nothing here knows how a message travels, or who decodes and handles it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sized
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from greenlet import greenlet

from ratchet import _clock
from ratchet._interrupts import settle_soon
from ratchet._loop import Watcher
from ratchet.bus._core.address import format_address
from ratchet.bus._core.deadline import Scope, enter_scope, leave_scope
from ratchet.bus._core.fair_queue import Flow, Queued
from ratchet.bus._core.faults import SERVER_DRAINS, ErrorTexts, Reason, error_texts
from ratchet.bus._core.incoming_requests import IncomingRequests, Interrupted
from ratchet.bus._core.incoming_states import (
    ANSWER,
    ANSWERING,
    BEING_ANSWERED,
    CANCEL,
    CANCELLED,
    CLAIMED,
    FAIL,
    HANDED_OVER,
    LATE,
    QUEUED,
    TAKEN,
    TAKEN_BACK,
    TRANSITIONS,
    UNENDED,
)
from ratchet.bus._core.outgoing import EXPIRED, WAITING, OutgoingRequest
from ratchet.bus._core.peer import Peer
from ratchet.bus._core.recipient import Recipient
from ratchet.bus.codecs import PeerAddress
from ratchet.errors import AlreadyAnswered, Outcome

_NO_METADATA: Final[Mapping[str, str]] = MappingProxyType({})
_Handling: TypeAlias = "tuple[greenlet, Scope | None, _Handling | None]"
"""A thread that handles a request, what ends its deadline, and who handled it before and still does."""

_ABANDONED: Final = "the server took the request and will not answer it"


class Route(Recipient):
    """How answers get back to a client: a connection, or the client's side itself.

    A base class, and no protocol, so that the compiled build calls it directly.

    Attributes:
        in_process: whether the client's side is in this very process.  Then it sees to the
            request's deadline itself, always reads, and need not be told what is released:
            only `send` and `fail` are called.
        peer: the client's address.
        flow: those of its requests that wait for a thread.
    """

    __slots__ = ("flow", "in_process", "peer")

    def __init__(self, in_process: bool, peer: PeerAddress, flow: Flow) -> None:
        self.in_process = in_process
        self.peer = peer
        self.flow = flow

    def identify(self) -> Peer | None:
        """The client, as somebody vouches for it; by default nobody does."""
        return None

    def was_redelivered(self, request: IncomingRequest) -> bool:
        """Whether another server may have had a request before; by default none ever has."""
        return False

    def is_writable(self, request: IncomingRequest) -> bool:
        """Whether the answer of a request would not have to wait until the client reads."""
        raise NotImplementedError

    def park(self, request: IncomingRequest) -> None:
        """Keep a request from the threads until the client has read more."""
        raise NotImplementedError

    def send(self, request: IncomingRequest, message: Any) -> bool:
        """Hand over a response; may block.  False if nobody waits for it."""
        raise NotImplementedError

    def fail(
        self, request: IncomingRequest, reason: Reason, texts: ErrorTexts, outcome: Outcome | None
    ) -> bool:
        """Hand over an error; does not block.  False if nobody waits for it.

        The client takes the outcome from the reason, unless it is told another one.
        """
        raise NotImplementedError

    def give_up(self, request: IncomingRequest) -> None:
        """Hub callback: give it up in its client's place, because its time is over."""
        raise NotImplementedError

    def released(self, request: IncomingRequest) -> None:
        """Forget a request that needs nothing more.  May be called more than once."""
        raise NotImplementedError


class IncomingRequest(Queued):
    """A request on the server's side, as the bus holds it.

    Attributes:
        requests: what it shares with the others of its bus.
        route: how its answer gets back.
        state: where it is.
        message: what came, until it is decoded; then the object that was sent.
        one_way: whether no answer is wanted.
        id: what its connection knows it by.
        client: the client's side of it, if that is in this process.
        handler: the thread that decodes or handles it.
        metadata: what the client sent along.
        size: about how many bytes its connection has counted it with; 0 when it needs nothing more.
    """

    __slots__ = (
        "_begun",
        "_handling",
        "_timer",
        "client",
        "handler",
        "message",
        "metadata",
        "one_way",
        "requests",
        "route",
        "size",
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
        client: OutgoingRequest | None = None,
        half_time: float = 0.0,
    ) -> None:
        self.begin(requests, route, message, one_way, deadline, id, client, half_time)

    def begin(
        self,
        requests: IncomingRequests,
        route: Route,
        message: Any,
        one_way: bool,
        deadline: float | None,
        id: int = 0,
        client: OutgoingRequest | None = None,
        half_time: float = 0.0,
    ) -> None:
        """As `__init__`, which takes the compiled build five times as long to call."""
        self.requests = requests
        self.route = route
        self.flow = route.flow
        self.deadline = deadline
        self.half_time = half_time
        self.state = QUEUED
        self.message = message
        self.one_way = one_way
        self.id = id
        self.size = 0
        self.client = client
        self.handler: greenlet | None = None
        self.metadata: Mapping[str, str] = _NO_METADATA
        # The thread that handles it, which is `handler`; and the one before, whose block is still open.
        self._handling: _Handling | None = None
        # Rings at the deadline, while a thread handles it.
        self._timer: Watcher | None = None
        # When a thread took it, if `load` is to learn how long it takes from then on.
        self._begun: float | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x}: {self.state.name.lower()}>"

    def claim(self, inbox: Sized) -> bool:
        """Take it from the inbox, for a thread; False if it is not to be handled after all.

        With others waiting in the inbox, it is refused unless it is likely to end in time.
        """
        client = self.client
        if self.state is not QUEUED or (
            client is not None and client.state is not WAITING and client.state is not EXPIRED
        ):
            # Its client may have been told that it was not run, and no more.
            return False
        route = self.route
        if not (self.one_way or route.in_process or route.is_writable(self)):
            # Its client does not read: no thread is to wait for that.
            route.park(self)
            return False
        if self.deadline is not None:
            now, load = _clock.monotonic(), self.requests.load
            if now + load.time_needed >= self.deadline:
                refusal = load.refusal(now, self.half_time, self.deadline, len(inbox) > 1)
                if refusal is not None:
                    reason, text = refusal
                    self.refuse(reason, ("Rejected", text, ""))
                    return False
            self._begun = now
        self.requests.in_flight[self] = None
        self.state = CLAIMED
        return True

    def respond(self, response: object) -> bool:
        """Answer it, once; see `ServerTransaction.send_response`."""
        if self.state is not TAKEN:
            return self._refuse_answer()
        requests, wanted = self.requests, not self.one_way
        try:
            self.state = BEING_ANSWERED
            if wanted:
                message = response if requests.encode is None else requests.encode(response)
                if not self.route.send(self, message):
                    return self._refuse_unwanted()
            self.state = HANDED_OVER
            requests.counters.answered += 1
            self._release()
        except BaseException as error:
            try:
                if self.state is ANSWERING:
                    self.state = TAKEN_BACK
                    if isinstance(error, Exception):
                        self.refuse(Reason.HANDLER_RAISED, error_texts(error))
                    else:
                        self.abandon()
            finally:
                settle_soon(requests.hub)
            raise
        return wanted

    def _refuse_unwanted(self) -> bool:
        """Refuse an answer whose client gave up while it was made, or on the way to it."""
        if self.state is ANSWERING:
            self.state = TRANSITIONS[self.state, CANCEL]
            self.requests.counters.cancelled += 1
            self._release()
        return self._refuse_answer()

    def respond_error(self, error: BaseException, outcome: Outcome | None = None) -> bool:
        """Answer it with an error, once; see `ServerTransaction.send_error`."""
        # First: to render an error may run code of its own, in which the client gives up.
        texts = error_texts(error)
        if self.state is not TAKEN:
            return self._refuse_answer()
        return self._fail(Reason.HANDLER_RAISED, texts, outcome)

    def _refuse_answer(self) -> bool:
        """Refuse an answer that comes too late, by False; or that is the second one, by an error."""
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
        """Refuse it, if it was not taken yet, because the server takes no new work."""
        self.refuse(Reason.DRAINING, ("Rejected", SERVER_DRAINS, ""))

    def abandon(self) -> None:
        """Tell its client that no thread can answer it any more, if it has no answer.

        If it has ended and is not forgotten, that was interrupted, and is made good: at the end of
        the stack `settle_soon` fails as well.  Whoever has the request lets go of it further up.
        """
        if self.state is TAKEN:
            self._fail(Reason.ABANDONED, ("Abandoned", _ABANDONED, ""))
        elif self.state not in UNENDED and self in self.requests.in_flight:
            settle_soon(self.requests.hub)

    def _fail(self, reason: Reason, texts: ErrorTexts, outcome: Outcome | None = None) -> bool:
        counters = self.requests.counters
        try:
            handed_over = not self.one_way and self.route.fail(self, reason, texts, outcome)
            if (self.state, FAIL) not in TRANSITIONS:
                # A signal handler has taken it meanwhile, and ended it.
                return handed_over
            self.state = TRANSITIONS[self.state, FAIL]
            if reason is Reason.OUT_OF_TIME:
                # Its client has given up, though word of that has not come.
                counters.cancelled += 1
            else:
                counters.failed += 1
                if reason is Reason.DRAINING:
                    counters.refused_draining += 1
                elif reason is Reason.OVERLOADED:
                    counters.refused_overloaded += 1
                    self.requests.load.note_refusal(texts[1])
            self._release()
            return handed_over
        except BaseException:
            settle_soon(self.requests.hub)
            raise

    def cancel(self) -> bool:
        """End it because its client gave up.  True if no thread has taken it.

        Does not block, also from a hub callback.
        """
        queued = self.state is QUEUED
        if self.state in UNENDED:
            if self.handler is not None:
                self.requests.interrupt_soon(self)
            self.state = TRANSITIONS[self.state, CANCEL]
            self.requests.counters.cancelled += 1
            self._release()
        return queued

    def begin_handling(self, handler: greenlet) -> None:
        """Let a thread handle it.

        Until `end_handling`, what the thread sends has no more time than this request, and
        the thread is interrupted when the client gives up.
        """
        scope = None
        try:
            if self.deadline is not None:
                scope = enter_scope(self.deadline)
                if not self.route.in_process:
                    self._watch_deadline(self.deadline)
            if self.state is CANCELLED:
                self.requests.interrupt_soon(self)
            self._handling = (handler, scope, self._handling)
            self.handler = handler
        except BaseException:
            leave_scope(scope)
            raise

    def _watch_deadline(self, deadline: float) -> None:
        # The client's own word may not come through: it has gone, or so many of its
        # requests are open that nothing more is read.
        if self.state is TAKEN and self._timer is None:
            timer = _clock.timer(self.requests.hub, deadline - _clock.monotonic())
            timer.start(self.route.give_up, self)
            self._timer = timer

    @property
    def handlings(self) -> int:
        """How often `begin_handling` has begun what has not ended."""
        count, handling = 0, self._handling
        while handling is not None:
            count, handling = count + 1, handling[2]
        return count

    def end_handling(self, handlings: int) -> None:
        """End what `begin_handling` has begun since there were so many.

        Another thread may do so than began, or a generator's end in any thread.  Calling it
        twice is the same as once.
        """
        while self._handling is not None and (not handlings or self.handlings > handlings):
            _, scope, before = self._handling
            if scope is not None:
                leave_scope(scope)
            self._handling = before
        if self._handling is not None:
            self.handler = self._handling[0]
            return
        self.handler = None
        if self.requests.to_interrupt:
            self.requests.to_interrupt.pop(self, None)
        if self._timer is not None:
            self._stop_timer()

    def _stop_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def interrupt(self) -> None:
        """Hub callback: interrupt the thread that handles it, because its client gave up."""
        self.requests.to_interrupt.pop(self, None)
        # Looked at again: the thread may have left the block meanwhile.
        if self.handler is not None and self.state in (CANCELLED, LATE) and not self.handler.dead:
            self.handler.throw(Interrupted(self))

    def leave_to_parent(self) -> None:
        """Leave it alone in a forked child: the parent answers it."""
        if self.state in UNENDED:
            self.state = TRANSITIONS[self.state, CANCEL]

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self.state not in UNENDED:
            self._release()
        if self._timer is not None and not self._timer.active:
            # It has rung, and what it was for was interrupted.
            self.route.give_up(self)

    def _release(self) -> None:
        """Forget it: it has its answer, or needs none.  Calling it twice is the same as once."""
        if self._begun is not None and self.deadline is not None:
            load, now = self.requests.load, _clock.monotonic()
            begun, self._begun = self._begun, None
            if self.state is CANCELLED:
                load.note_given_up(begun, now, self.deadline)
            else:
                load.learn(now - begun)
        if self._timer is not None:
            # From now on another request may have the id.
            self._stop_timer()
        if not self.route.in_process:
            self.route.released(self)
        requests = self.requests
        if requests.drain_waiters.waits:
            requests.wake_drain()
        requests.in_flight.pop(self, None)
