"""State that the requests at one server share, and the way by which an answer goes back.

The hub interrupts handlers, and abandons the requests that another OS thread drops: neither
can be done in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from gevent.hub import Hub

from ratchet._wait import WaitQueue
from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import ErrorTexts, Reason
from ratchet.bus._core.load import Load
from ratchet.bus._core.stats import Counters
from ratchet.bus.codecs import Decode, PeerAddress


class Taken(Protocol):
    """A request that a thread has taken, as far as it matters here."""

    def abandon(self) -> None:
        """Tell its client that no thread can answer it any more."""

    def interrupt(self) -> None:
        """Hub callback: interrupt its handler, because its client gave up."""

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""

    def leave_to_parent(self) -> None:
        """Leave it alone in a forked child: the parent answers it."""


Request = TypeVar("Request", bound=Taken)
AnyRequest = TypeVar("AnyRequest", contravariant=True)


class Interrupted(BaseException):
    """Thrown into the thread that handles a request when its client gives up.

    Never seen outside of `with transaction:`, which swallows its own.
    """


class Route(Protocol[AnyRequest]):
    """How answers get back to a client: a connection, or the client's side itself."""

    in_process: bool
    """Whether the client's side is in this very process.

    Then it sees to the request's deadline itself, always reads, and need not be told
    what is released.
    """
    peer: PeerAddress
    """The client's address."""

    @property
    def flow(self) -> Flow[Any]:
        """Those of its requests that wait for a thread."""

    def is_writable(self, request: AnyRequest) -> bool:
        """Whether the answer of a request would not have to wait until the client reads."""

    def park(self, request: AnyRequest) -> None:
        """Keep a request from the threads until the client has read more."""

    def send(self, request: AnyRequest, message: Any) -> bool:
        """Hand over a response; may block.  False if nobody waits for it."""

    def fail(self, request: AnyRequest, reason: Reason, texts: ErrorTexts) -> bool:
        """Hand over an error; does not block.  False if nobody waits for it."""

    def give_up(self, request: AnyRequest) -> None:
        """Hub callback: give it up in its client's place, because its time is over."""

    def released(self, request: AnyRequest) -> None:
        """Forget a request that needs nothing more.  May be called more than once."""


class IncomingRequests(Generic[Request]):
    """Counters, codec and registers of the requests of one bus.

    Attributes:
        load: what their server can do.
        in_flight: those that a thread has taken and that are open.
        to_interrupt: those whose handler is to be interrupted.
        drain_waiters: the threads that wait until none is in flight.
    """

    def __init__(
        self,
        hub: Hub,
        counters: Counters,
        load: Load,
        decode: Decode[Any] | None,
        encode: Callable[[Any], object] | None,
    ) -> None:
        self.hub = hub
        self.run_callback: Callable[..., object] = hub.loop.run_callback
        self.counters = counters
        self.load = load
        # None where requests and responses pass as they are.
        self.decode = decode
        self.encode = encode
        self.in_flight: dict[Request, None] = {}
        self.to_interrupt: dict[Request, None] = {}
        # Those that nobody holds any more.
        self._dropped: deque[Request] = deque()
        self.drain_waiters = WaitQueue()

    def wake_drain(self) -> None:
        """Wake those who drain: a request has left `in_flight`, or a connection is gone."""
        self.run_callback(self.drain_waiters.wake_all)

    def drop(self, request: Request) -> None:
        """Abandon a request that nobody holds any more; may be called in any OS thread."""
        self._dropped.append(request)
        self.leave_to_hub(self._abandon_dropped)

    def leave_to_hub(self, callback: Callable[..., object], *args: object) -> None:
        """Have the hub call this; may be called in any OS thread."""
        loop = self.hub.loop
        if loop is not None:
            loop.run_callback_threadsafe(callback, *args)

    def interrupt_soon(self, request: Request) -> None:
        """Have the hub interrupt a handler whose client gave up."""
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
        """Leave them alone in a forked child: the parent answers them."""
        for request in self.in_flight:
            request.leave_to_parent()
        self.in_flight.clear()
        self.to_interrupt.clear()
        self._dropped.clear()
        self.drain_waiters.clear()

    def _abandon_dropped(self) -> None:
        """Hub callback: tell the clients of requests that nobody holds any more."""
        while self._dropped:
            self._dropped[0].abandon()
            self._dropped.popleft()

    def _interrupt_handlers(self) -> None:
        """Hub callback: interrupt the handlers whose clients gave up."""
        for request in list(self.to_interrupt):
            request.interrupt()
