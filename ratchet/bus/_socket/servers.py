"""The servers of one client: a place for each connection that it is to have, and which is next.

A `Connections` stands for one of these places: it has its own address, dialer and failure.  Those who
wait for a connection wait for all of them.  Each request goes to the place with the fewest requests
in flight.  Recent failures count too: a server that fails everything at once would look like the
quickest one.  Among equals, the one that has answered faster is taken.

How a request waits and is sent is decided in `sender`; where addresses come from, in `discovery`.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Final

from gevent.hub import Hub

from ratchet._chance import chance
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.retry import Retrier
from ratchet.bus._core.side import Life
from ratchet.bus._core.stats import Counters
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.connections import Connections, Waiters
from ratchet.bus._transport.dial import Target
from ratchet.bus._transport.failure import Failure
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode
from ratchet.errors import BusTimeout

# Of more places than this, two are drawn at random: to look at each would take too long.
_MOST_LOOKS: Final = 8


class Servers:
    """The servers of one client.

    Args:
        hub: the client's.
        name: all of them, for people.
        decode: decodes a response.
        limits: the client's.
        plain: whether it speaks the plain form.
        counters: what it counts.

    Attributes:
        name: all of them, for people.
        places: one for each connection that there is to be.
        leaving: places that are no longer to be used, and still have answers to come.
        only: the place, if there is one and never another.
        life: how far the client has got.
        waiters: the threads that wait for a connection.
        retrier: the requests between two attempts.
        asking: why it is not known where the servers are, if somebody asks.
    """

    __slots__ = (
        "__weakref__",
        "_counters",
        "_decode",
        "_limits",
        "_lost_casts",
        "_plain",
        "_ready",
        "_turn",
        "asking",
        "leaving",
        "life",
        "name",
        "only",
        "places",
        "retrier",
        "waiters",
    )

    def __init__(
        self,
        hub: Hub,
        name: str,
        decode: Decode[Any],
        limits: Limits,
        plain: bool,
        counters: Counters,
        retrier: Retrier,
    ) -> None:
        self._decode = decode
        self._limits = limits
        self._plain = plain
        self._counters = counters
        self.name = name
        self.places: list[Connections] = []
        self.leaving: list[Connections] = []
        self.only: Connections | None = None
        self.life = Life.OPEN
        self.waiters = Waiters(hub)
        self.retrier = retrier
        self.asking = Failure(name)
        # Those on which a request can go, as of when that was looked up last.
        self._ready: list[Connections] = []
        self._turn = 0
        # At places that are no longer known.
        self._lost_casts = 0

    def make_place(self, server: Address, has_others: bool) -> Connections:
        """Make a place for one more connection to a server, which may have others beside it."""
        return Connections(
            server,
            self._decode,
            self._limits,
            self._plain,
            self._counters,
            self.waiters,
            self.retrier,
            has_others,
        )

    def use(self, transport: Transport, peer: Address) -> None:
        """Send requests over this connection, and no other one ever."""
        self.only = self.make_place(peer, has_others=False)
        self.places = [self.only]
        self.only.use(transport, peer)

    def keep_only(self, target: Target) -> None:
        """Keep one connection to this server, and never one to another; does not block."""
        self.only = self.make_place(target.address, has_others=False)
        self.places = [self.only]
        self.only.keep_connected(target.dial, target.waits)

    def keep(self, targets: list[Target], connections: int) -> None:
        """Keep so many connections to each of these servers, and to no others; does not block.

        What is open on others is still answered.
        """
        wanted = Counter({format_address(target.address): connections for target in targets})
        kept: list[Connections] = []
        left: list[Connections] = []
        for place in self.places:
            wanted[place.server] -= 1
            (kept if wanted[place.server] >= 0 else left).append(place)
        new = [
            (self.make_place(target.address, has_others=True), target)
            for target in targets
            for _ in range(wanted[format_address(target.address)])
        ]
        self._lost_casts += sum(place.lost_casts for place in self.leaving if not place.all)
        # Before anything is closed or opened, so that whatever is interrupted then is known here.
        self.leaving = [*(place for place in self.leaving if place.all), *left]
        self.places = [*kept, *(place for place, _ in new)]
        for place in left:
            place.retire()
        for place, target in new:
            place.keep_connected(target.dial, target.waits)
        self.waiters.wake()

    @property
    def all(self) -> list[Connections]:
        """The places, and those that are no longer used."""
        return [*self.places, *self.leaving]

    @property
    def connections(self) -> list[ClientConnection]:
        """The connections that are open."""
        return [connection for place in self.all for connection in list(place.all)]

    @property
    def lost_casts(self) -> int:
        """How many casts were lost with a connection, or may have been."""
        return self._lost_casts + self.retrier.lost_casts + sum(place.lost_casts for place in self.all)

    @property
    def needs_close(self) -> bool:
        """Whether the loop keeps anything of them alive."""
        return any(place.all or place.dialer for place in self.all)

    @property
    def state(self) -> str:
        """How the client is connected, or why it is not, for people."""
        connected = sum(place.current is not None for place in self.places)
        if self.only is None and self.places:
            state = f"connected to {connected} of {len(self.places)}"
        elif connected:
            return "connected"
        else:
            state = "lost" if self.only is not None and self.only.dialer is None else "connecting"
        failure = next((place.failure for place in self.places if place.current is None), self.asking)
        return state + failure.suffix

    @property
    def in_flight(self) -> int:
        """How many requests are open."""
        return sum(place.in_flight for place in self.all) + len(self.retrier)

    def share_of(self, count: int) -> int:
        """How many of `count` requests one connection is to take, so that all take about as many."""
        if self.only is not None:
            return count
        return max(math.ceil(count / max(sum(place.is_ready for place in self.places), 1)), 1)

    @property
    def ready(self) -> bool:
        """Whether there is a connection on which requests go."""
        return self.let_in if self.only is None else self.only.current is not None

    @property
    def connected(self) -> bool:
        """Whether there is a connection to any server, though it may not have said hello."""
        return any(place.current is not None for place in self.places)

    @property
    def let_in(self) -> bool:
        """Whether a server has said hello, or need not."""
        return any(place.is_ready for place in self.places)

    def not_connected(self, seconds: float) -> BusTimeout:
        """The error of a thread that has waited for a connection in vain."""
        # Of several, that of one which says why.
        place = next((each for each in self.places if each.failure.error is not None), None)
        if place is None:
            place = self.places[0] if self.places else None
        if place is None:
            return self.asking.not_connected(seconds, silent=False)
        return place.failure.not_connected(seconds, silent=place.current is not None)

    def choose(self) -> Connections | None:
        """The place on which the next request is to go; None while there is no connection."""
        if self.waiters.changed:
            self.waiters.changed = False
            self._ready = [place for place in self.places if place.is_ready]
        ready = self._ready
        if not ready:
            return None
        count = len(ready)
        if count > _MOST_LOOKS:
            first = int(chance.random() * count)
            second = int(chance.random() * (count - 1))
            candidates = [ready[first], ready[second + (second >= first)]]
        else:
            # Begin at the next one each time, so that equals take turns.
            self._turn = turn = (self._turn + 1) % count
            candidates = ready[turn:] + ready[:turn]
        best, fewest = candidates[0], math.inf
        for place in candidates:
            load = place.load
            if load < fewest or (load == fewest and place.slowness < best.slowness):
                best, fewest = place, load
        return best

    def dial(self) -> None:
        """Have each place connect that is not connected and has not failed for good; does not block."""
        for place in self.places:
            if place.current is None and not place.failure.final:
                place.dial_at_once()

    def begin_drain(self) -> None:
        """Send nothing new.  What is open keeps its connection; nothing new gets one."""
        self.life = max(self.life, Life.DRAINING)
        self.waiters.note_gone()
        self.retrier.stop()
        for place in self.all:
            place.begin_drain()
        self.waiters.wake()

    def close(self) -> int:
        """Close them all, and return how many casts have not left; also from a hub callback."""
        self.life = max(self.life, Life.CLOSED)
        self.waiters.note_gone()
        # First, so that nothing that fails now is sent again.
        unsent = self.retrier.close()
        self.waiters.wake()
        return unsent + sum(place.close() for place in self.all)

    def leave_to_parent(self) -> None:
        """In a forked child: they are the parent's."""
        self.life = Life.INHERITED
        self.waiters.clear()
        self.retrier.active = False
        for place in self.all:
            place.leave_to_parent()
        self.retrier.leave_to_parent()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self.life is Life.CLOSED:
            self.close()
        elif self.life is Life.DRAINING:
            self.begin_drain()
        for place in self.all:
            place.settle()
        self.retrier.settle()
        self.waiters.wake()
