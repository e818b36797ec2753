"""Clients that make a server hold as much memory as they can, and how much that is.

Each is bounded in time, in what it sends and in what it makes the server take.
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections.abc import Callable, Iterator
from itertools import count

import gevent

from benchmarks.common import (
    MESSAGE,
    TAKEN,
    Figures,
    Server,
    idle_connections,
    raise_file_limit,
    request_frame,
    request_head,
    resident_bytes,
    target,
)
from benchmarks.ours import echo, printed
from ratchet import bus

LONGEST = 10.0
MOST_SENT = 3 * 2**30
ENOUGH = 2 * 2**30
"""Bytes that a server has taken, after which nobody need go on."""

STILL = 1.0
"""Seconds in which nothing could be sent, after which nothing will change."""

MOST_ADDRESSES = 3 * 2**30
"""Bytes of addresses that the server may have, for this machine's sake."""

LARGEST = bus.Limits().max_message
ZEROS = memoryview(bytes(LARGEST))

Pieces = Iterator[bytes | memoryview]
"""What one connection sends, one after the other."""


def serve(ready: Callable[[str], None], answers: bool) -> None:
    """A server with the default limits, whose handler echoes, or never ends but for a usual message."""

    def hang(request: bytes) -> bytes:
        while request != MESSAGE:
            gevent.sleep(LONGEST)
        return request

    raise_file_limit()
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    server: bus.ServerBus[bytes, bytes] = bus.listen("127.0.0.1:0")
    ready(printed(server))
    server.serve(echo if answers else hang)


def unread_answers(seconds: float, server: Server, connections: int) -> Figures:
    """Ask for 64 KiB again and again, and read no answer."""
    return attack(server, connections, lambda: (request_frame(id, bytes(ZEROS[: 2**16])) for id in count(1)))


def tiny_requests(seconds: float, server: Server, connections: int) -> Figures:
    """Requests without a body."""
    return attack(
        server,
        connections,
        lambda: (b"".join(request_frame(id + n, b"") for n in range(1000)) for id in count(1, 1000)),
    )


def large_requests(seconds: float, server: Server, connections: int) -> Figures:
    """Requests as large as they may be."""

    def pieces() -> Pieces:
        for id in count(1):
            yield request_head(id, LARGEST)
            yield ZEROS

    return attack(server, connections, pieces)


def unfinished_requests(seconds: float, server: Server, connections: int) -> Figures:
    """One request each, as large as it may be, but for its last byte."""
    return attack(server, connections, lambda: iter((request_head(1, LARGEST), ZEROS[:-1])))


def half_heads(seconds: float, server: Server, connections: int) -> Figures:
    """Half a head each."""
    return attack(server, connections, lambda: iter((request_head(1, 1)[:8],)))


def attack(server: Server, connections: int, pieces: Callable[[], Pieces]) -> Figures:
    """Send all pieces on so many connections, and return by how much the server has grown."""
    raise_file_limit()
    address, [process] = server
    for warm in idle_connections(address, 10):
        warm.close()
    idle = resident_bytes(process)
    attackers = [Attacker(address, pieces()) for _ in range(connections)]
    return {TAKEN: (most_resident(attackers, process, idle + ENOUGH) - idle) / 2**20}


class Attacker:
    """A connection that sends pieces, one after the other, and reads nothing."""

    def __init__(self, address: str, pieces: Pieces) -> None:
        family, where = target(address)
        self.connection = socket.socket(family)
        # So that what is sent is the server's to hold, and not the kernel's.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
        self.connection.connect(where)
        self.connection.setblocking(False)
        self._pieces = pieces
        self._rest = memoryview(b"")

    def send(self) -> int:
        """Send what can be sent at once, and return how much that was.

        Raises `StopIteration` when nothing is left, and `OSError`.
        """
        if not self._rest:
            self._rest = memoryview(next(self._pieces))
        try:
            sent = self.connection.send(self._rest)
        except BlockingIOError:
            return 0
        self._rest = self._rest[sent:]
        return sent


def most_resident(attackers: list[Attacker], process: int, enough: int) -> int:
    """Let all send until a bound is reached, or nothing can be sent; the most memory of a process."""
    most = sent = 0
    selector = selectors.DefaultSelector()
    for attacker in attackers:
        selector.register(attacker.connection, selectors.EVENT_WRITE, attacker)
    now = last = time.monotonic()
    end = now + LONGEST
    while now < min(end, last + STILL) and most < enough and sent < MOST_SENT:
        for key, _ in selector.select(0.05):
            last = now
            try:
                sent += key.data.send()
            except (StopIteration, OSError):
                # It has sent all, or the server has closed the connection.
                selector.unregister(key.fileobj)
        most = max(most, resident_bytes(process))
        now = time.monotonic()
    return most
