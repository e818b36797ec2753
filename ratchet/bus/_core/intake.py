"""The intake of a server: its requests, queued and taken, and the threads that take them.

The same for every kind of bus; nothing here knows how a request came, or how its
connection is told that no more are taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import gevent
from gevent.hub import Hub
from greenlet import greenlet

from ratchet._death import death_of
from ratchet._loop import AnyGreenlet
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.handle import Received, abandon_held, receive
from ratchet.bus._core.inbox import Inbox
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_requests import IncomingRequests
from ratchet.bus._core.incoming_states import QUEUED
from ratchet.bus._core.load import Load, Named
from ratchet.bus._core.side import OPEN
from ratchet.bus._core.stats import Counters, Stats
from ratchet.bus.codecs import Decode
from ratchet.kernel import Thread


class WorkerTeam(Protocol):
    """The threads of one call of `serve`, as far as it matters here."""

    def add_worker(self) -> None:
        """Start one more; does not block."""

    def note_end(self, worker: greenlet) -> None:
        """Hub callback: a worker has ended.  Called again where it was interrupted."""


class Intake:
    """The requests of one server, and the threads that take them.

    Args:
        owner: the bus, for texts.
        maxsize: as for `Inbox`.
        max_queued: as for `Inbox`.

    Attributes:
        load: what the server can do.
        requests: what they share.
        inbox: those that no thread has taken.
        life: how far the server has got; while it drains, only what was cast is let in.
        cut_off: whether work was left when the bus was closed.
        takers: the threads that may have taken one.
        last_taker: the one of them that came last, and most likely comes again; None if not known.
        workers: those of `serve` that are to go on, each with its team.
    """

    __slots__ = (
        "__weakref__",
        "cut_off",
        "inbox",
        "last_taker",
        "life",
        "load",
        "requests",
        "takers",
        "workers",
    )

    def __init__(
        self,
        owner: Named,
        hub: Hub,
        decode: Decode[Any] | None,
        encode: Callable[[Any], object] | None,
        maxsize: int | None,
        max_queued: int | None,
    ) -> None:
        self.load = Load(owner, hub)
        self.requests = IncomingRequests(hub, Counters(), self.load, decode, encode)
        self.inbox = Inbox(owner, self.load, maxsize, max_queued)
        self.life = OPEN
        self.cut_off = False
        self.takers: dict[AnyGreenlet, None] = {}
        self.last_taker: AnyGreenlet | None = None
        self.workers: dict[greenlet, WorkerTeam] = {}

    def take(self, timeout: float | None) -> Received[Any, Any]:
        """Take the next request that is to be handled, waiting for one if need be; see `recv_request`."""
        deadline = None if timeout is None else deadline_after(timeout)
        inbox = self.inbox
        while True:
            received = receive(inbox, inbox.first(None if deadline is None else time_left(deadline)))
            if received is not None:
                try:
                    return received
                finally:
                    # Whoever keeps the error of an earlier request's codec keeps this frame.
                    del received

    def refuse_queued(self) -> None:
        """Let nothing in any more, and refuse what waits for an answer."""
        self._refuse([request for request in self.inbox.close() if not request.one_way])

    def drop_casts(self) -> int:
        """Drop what was cast and not begun, because the bus is closed.  Returns how many those are."""
        casts = [request for request in self.inbox if request.one_way and request.state is QUEUED]
        self._refuse(casts)
        return len(casts)

    def _refuse(self, requests: list[IncomingRequest]) -> None:
        for request in requests:
            request.refuse_draining()
        self.inbox.remove(requests)

    def stats(self, connections: int, parked: int = 0) -> Stats:
        """A snapshot, of a server with so many connections, and requests that wait for one's client."""
        return self.requests.counters.snapshot(
            connections=connections,
            queued=len(self.inbox) + parked,
            in_flight=len(self.requests.in_flight),
        )

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.load.settle()
        self.requests.settle()
        # Given up, and interrupted before it was taken out.
        self.inbox.remove([request for request in self.inbox if request.state is not QUEUED])
        self.inbox.settle()
        for worker, team in list(self.workers.items()):
            if worker.dead:
                team.note_end(worker)
        for taker in list(self.takers):
            if taker.ready():
                self._on_taker_end(taker)

    def leave_to_parent(self) -> None:
        """Leave them alone in a forked child: the parent answers them, by its own threads."""
        self.inbox.forget_all()
        self.requests.leave_to_parent()
        self.workers.clear()
        self.let_go()

    def watch(self, taker: object) -> None:
        """See to it that what a thread has taken goes with it when it dies."""
        if isinstance(taker, gevent.Greenlet):
            taker.rawlink(self._on_taker_end)
            self.takers[taker] = None

    def _on_taker_end(self, taker: AnyGreenlet) -> None:
        """Hub callback: abandon what a thread that has died held.  Called again where it was interrupted."""
        death = death_of(taker)
        # The scheduler tells of its own threads.
        if death is not None and not isinstance(taker, Thread):
            abandon_held(death)
        self.last_taker = None
        self.takers.pop(taker, None)

    def let_go(self) -> None:
        """Let no thread keep a bus in memory that is closed, and no timer."""
        self.load.close()
        for taker in self.takers:
            taker.unlink(self._on_taker_end)
        self.last_taker = None
        self.takers.clear()
