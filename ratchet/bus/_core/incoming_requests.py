"""State that the requests at one server share.

The hub interrupts handlers, and abandons the requests that another OS thread drops: neither
can be done in place.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from gevent.hub import Hub

from ratchet._wait import WaitQueue
from ratchet.bus._core import lines
from ratchet.bus._core.load import Load
from ratchet.bus._core.stats import Counters
from ratchet.bus.codecs import Decode

IncomingRequest: TypeAlias = Any
"""One of `incoming`, which is above this module."""


class Interrupted(BaseException):
    """Thrown into the thread that handles a request when its client gives up.

    Never seen outside of `with transaction:`, which swallows its own.
    """


class IncomingRequests:
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
        self.in_flight = lines.new_line()
        self.to_interrupt: dict[IncomingRequest, None] = {}
        # Those that nobody holds any more.
        self._dropped: deque[IncomingRequest] = deque()
        self.drain_waiters = WaitQueue()

    def wake_drain(self) -> None:
        """Wake those who drain: a request has left `in_flight`, or a connection is gone."""
        self.run_callback(self.drain_waiters.wake_all)

    def drop(self, request: IncomingRequest) -> None:
        """Abandon a request that nobody holds any more; may be called in any OS thread."""
        self._dropped.append(request)
        self.leave_to_hub(self._abandon_dropped)

    def leave_to_hub(self, callback: Callable[..., object], *args: object) -> None:
        """Have the hub call this; may be called in any OS thread."""
        loop = self.hub.loop
        if loop is not None:
            loop.run_callback_threadsafe(callback, *args)

    def interrupt_soon(self, request: IncomingRequest) -> None:
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
