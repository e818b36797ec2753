"""A network in memory: who listens where, who is connected to whom, and who is cut off.

It replaces the system's network for the hub on whose loop it is set; `listen` and `connect`
cannot tell the difference.  An address is only a name, which belongs to the first one to
listen on it.  What happens to the bytes of a connection belongs in `_pipe`.
"""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final, NoReturn

from greenlet import GreenletExit

from ratchet import _clock
from ratchet._loop import Watcher
from ratchet._wait import check_hub
from ratchet.bus._core.address import Address, Endpoint, UnixEndpoint, format_address, parse
from ratchet.bus._transport.dial import Dial
from ratchet.testing._connection import ConnectionEnd, SocketName, new_connection, os_error
from ratchet.testing._faults import Faults, Line
from ratchet.testing._owner import Owner, living_owner
from ratchet.testing._shown import Shown
from ratchet.testing._sockets import MemoryListener, MemorySocket
from ratchet.testing._undo import undoing

# As on a real system: seconds until an attempt to connect is given up, and until a
# connection on which nothing passes is found dead.
_CONNECT_TIMEOUT: Final = 10.0
_KEEPALIVE: Final = 30.0
_FIRST_FREE_PORT: Final = 49152
_WILDCARDS: Final = ("", "0.0.0.0", "::")
_LOOPBACK: Final = ("127.0.0.1", "::1")


class _Link:
    """A connection: its two ends, and the names by which each side is known."""

    __slots__ = ("client", "client_names", "keepalive", "server", "server_names")

    def __init__(
        self,
        client: ConnectionEnd,
        server: ConnectionEnd,
        client_names: frozenset[str],
        server_names: frozenset[str],
    ) -> None:
        self.client = client
        self.server = server
        self.client_names = client_names
        self.server_names = server_names
        self.keepalive: Watcher | None = None

    @property
    def ends(self) -> tuple[ConnectionEnd, ConnectionEnd]:
        return self.client, self.server

    @property
    def is_over(self) -> bool:
        return not (self.client.takes or self.server.takes)


class Network(Shown):
    """A network in memory, made by `network`.

    Attributes:
        faults: the faults of its lines.
    """

    _shown = ("cut", "faults", "heal", "partition")

    def __init__(self, line: Line) -> None:
        self.faults = line.faults
        self._line = line
        self._around: Network | None = line.loop.network
        self._is_over = False
        self._listeners: dict[object, MemoryListener] = {}
        self._links: list[_Link] = []
        self._ports = itertools.count(_FIRST_FREE_PORT)
        # For each partition, the names on one side of it.
        self._partitions: list[frozenset[str]] = []

    def __repr__(self) -> str:
        listening = ", ".join(format_address(listener.address) for listener in self._listeners.values())
        return (
            f"<Network at {id(self):#x}: {len(self._open())} connections; listening: {listening or 'nobody'}>"
        )

    def leave(self) -> None:
        """Leave its block; for `network`.  Doing so again changes nothing."""
        self._is_over = True
        # Blocks may be left in any order, if generators hold them.
        innermost: Network | None = self._line.loop.network
        while innermost is not None and innermost._is_over:
            innermost = innermost._around
        self._line.loop.network = innermost

    def partition(self, *names: Address) -> None:
        """Cut the named hosts off from all others: nothing passes, until `heal`.

        Nothing is lost either: what is sent meanwhile arrives afterwards, unless the
        partition lasts 30 s, after which the system finds a connection dead.  An attempt
        to connect is given up after 10 s.  Hosts that are named in one call still reach
        each other.  Does not block.

        Args:
            *names: each is an address that something listens on, its host alone, or the
                name of a process of a simulation.

        Raises `TypeError` without a name, and `WrongThread` on another hub than the network's,
        as `heal` and `cut` do.
        """
        check_hub(self._line.hub, self)
        if not names:
            raise TypeError("partition() needs the names of those to cut off")
        self._partitions.append(_names(names))
        for link in self._open():
            if link.keepalive is None and self._is_cut_off(link.client_names, link.server_names):
                for end in link.ends:
                    end.outgoing.hold()
                link.keepalive = _clock.timer(self._line.hub, _KEEPALIVE, ref=False)
                link.keepalive.start(_time_out, link)

    def heal(self) -> None:
        """Undo every `partition`.  Does not block."""
        check_hub(self._line.hub, self)
        self._partitions.clear()
        for link in self._open():
            if link.keepalive is not None:
                link.keepalive.close()
                link.keepalive = None
                for end in link.ends:
                    end.outgoing.release()

    def cut(self, *names: Address) -> None:
        """Break every connection of the named hosts now: both sides see a reset.  Does not block.

        Args:
            *names: as for `partition`; without any, all connections are broken.
        """
        check_hub(self._line.hub, self)
        cut = _names(names)
        for link in self._open():
            if not cut or cut & (link.client_names | link.server_names):
                for end in link.ends:
                    end.abort()

    def listen(self, endpoint: Endpoint) -> MemoryListener:
        """Listen on an endpoint; port 0 takes a free one; see `ratchet.bus.listen`.

        Raises `OSError` if the address is in use.
        """
        owner = living_owner()
        name: SocketName
        if isinstance(endpoint, UnixEndpoint):
            name = endpoint.path
        else:
            name = (endpoint.host or "0.0.0.0", endpoint.port or self._free_port())
        key = _key(name)
        if key in self._listeners:
            raise OSError(errno.EADDRINUSE, f"cannot listen on {name!r}: {os.strerror(errno.EADDRINUSE)}")
        listener = MemoryListener(self._line, name, owner, partial(self._listeners.pop, key, None))
        self._listeners[key] = listener
        return listener

    def dialer(self, endpoint: Endpoint) -> Dial:
        """Make a function that connects to an endpoint for the current owner; see `ratchet.bus.connect`."""
        return partial(self._dial, endpoint, living_owner())

    def sockets_of(self, owner: Owner) -> tuple[list[MemoryListener], list[ConnectionEnd]]:
        """The listeners, and the ends of connections, that an owner has open."""
        listeners = [listener for listener in self._listeners.values() if listener.owner is owner]
        return listeners, [end for link in self._open() for end in link.ends if end.owner is owner]

    def _dial(self, endpoint: Endpoint, owner: Owner | None) -> tuple[MemorySocket, Address]:
        """Connect once; blocks."""
        trip = 2 * self._line.transit()
        client_names, server_names = self._names_of_both(endpoint, owner)
        if trip > _CONNECT_TIMEOUT or self._is_cut_off(client_names, server_names):
            _give_up(_CONNECT_TIMEOUT)
        _clock.sleep(trip)
        if owner is not None and not owner.alive:
            raise GreenletExit
        if self._is_cut_off(*self._names_of_both(endpoint, owner)):
            _give_up(_CONNECT_TIMEOUT - trip)
        listener = self._find(endpoint)
        if listener is None or self._line.happens(self.faults.refused):
            raise os_error(errno.ECONNREFUSED)
        name: SocketName = ""
        if not isinstance(endpoint, UnixEndpoint):
            name = (owner.name if owner else "client", self._free_port())
        client, server = new_connection(self._line, (name, owner), (listener.getsockname(), listener.owner))
        link = _Link(client, server, *self._names_of_both(endpoint, owner))
        connected = MemorySocket(client)
        try:
            self._links = [*self._open(), link]
            listener.admit(server)
            return connected, endpoint.address
        except BaseException:
            connected.close()
            raise

    def _names_of_both(
        self, endpoint: Endpoint, client: Owner | None
    ) -> tuple[frozenset[str], frozenset[str]]:
        """The names of a client of an endpoint, and of the server there."""
        listener = self._find(endpoint)
        server_names = _names_for(endpoint.address)
        if listener is not None:
            server_names |= _names_for(listener.address) | _names_of(listener.owner)
        return _names_of(client), server_names

    def _find(self, endpoint: Endpoint) -> MemoryListener | None:
        """The listener on an endpoint, or on its port under every host name; None if there is none."""
        if isinstance(endpoint, UnixEndpoint):
            return self._listeners.get(endpoint.path)
        found = self._listeners.get(_key((endpoint.host, endpoint.port)))
        return found or self._listeners.get(_key(("", endpoint.port)))

    def _free_port(self) -> int:
        return next(self._ports)

    def _open(self) -> list[_Link]:
        return [link for link in self._links if not link.is_over]

    def _is_cut_off(self, client_names: frozenset[str], server_names: frozenset[str]) -> bool:
        return any(bool(side & client_names) != bool(side & server_names) for side in self._partitions)


def _give_up(seconds: float) -> NoReturn:
    """Fail to connect when that takes so many seconds more."""
    _clock.sleep(seconds)
    raise TimeoutError(errno.ETIMEDOUT, f"no connection within {_CONNECT_TIMEOUT:g} s")


def _time_out(link: _Link) -> None:
    """Hub callback: nothing has passed for so long that the system gives up the connection."""
    for end in link.ends:
        end.fail(errno.ETIMEDOUT)


def _key(name: SocketName) -> object:
    """The key of an address: all names of the loopback are one, and so are all wildcards."""
    if isinstance(name, str):
        return name
    host, port = name
    if host in _WILDCARDS:
        return "", port
    return "localhost" if host in _LOOPBACK else host, port


def _names(given: tuple[Address, ...]) -> frozenset[str]:
    """Normalize the names given to `partition` and `cut` to those by which sides are known."""
    return frozenset(
        name if isinstance(name, str) and ":" not in name else format_address(parse(name).address)
        for name in given
    )


def _names_for(address: Address) -> frozenset[str]:
    """The names of a server that listens on an address: the address, and its host."""
    host = () if isinstance(address, str) else (address[0],)
    return frozenset({format_address(address), *host})


def _names_of(owner: Owner | None) -> frozenset[str]:
    return frozenset() if owner is None else frozenset({owner.name})


@contextmanager
def network(seed: int | None = None, faults: Faults | None = None) -> Iterator[Network]:
    """Make a network in memory, on which `bus.listen` and `bus.connect` open their sockets in the block.

    It works only within `with virtual_time():`, for the threads of its hub.  An address may
    have any host name, port or path: nothing is looked up and no file is made, so a
    program runs unchanged, with names such as `"orders:80"`.  Port 0 takes a free one.
    A listener on `""` or `"0.0.0.0"` is reached under any host name.  A connection to an
    address that nothing listens on is refused.  TLS is refused with `ValueError`.

    Args:
        seed: decides what the faults do; None to leave that to the seed of `virtual_time`.
        faults: the faults of its lines; None for none: what is sent arrives at once.

    Raises `RuntimeError` outside `with virtual_time():`, and `TypeError` for a seed that is
    no `int`.

    .. code-block:: python

        from ratchet import Ratchet, bus, testing

        with testing.virtual_time(), testing.network(faults=testing.Faults(latency=0.5)):
            with Ratchet() as kernel, bus.listen("shop:80") as server:
                kernel.attach_background(server.serve, bytes.upper)
                with bus.connect("shop:80") as client:
                    print(client.call(b"tea", timeout=5))

    .. code-block:: text

        b'TEA'
    """
    line = Line("network()", faults, seed)
    made = Network(line)
    with undoing(made.leave):
        line.loop.network = made
        yield made
