"""A server and its clients in one process, on virtual time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent

from contract.buses import connected
from helpers import LONG
from ratchet import bus as ratchet_bus
from ratchet.bus._socket import wire
from ratchet.testing import virtual_time
from raw_peer import RawPeer

Client = ratchet_bus.ClientBus[bytes, bytes] | ratchet_bus.LocalBus[bytes, bytes]
Server = ratchet_bus.ServerBus[bytes, bytes] | ratchet_bus.LocalBus[bytes, bytes]
Handler = Callable[[bytes], bytes]


@contextmanager
def on_virtual_time() -> Iterator[None]:
    """Virtual time that jumps at once, and by a millisecond at most.

    So what the kernel hands over late is late by little, and nobody waits in real time for more
    to come.
    """

    def tick() -> None:
        while True:
            gevent.sleep(0.001)

    with virtual_time():
        gevent.spawn(tick)
        yield


@contextmanager
def opened(
    kind: str, connections: int, limits: ratchet_bus.Limits | None = None
) -> Iterator[tuple[Server, list[Client]]]:
    """A server, and clients with a connection each; on a local bus, the bus for each of them."""
    with ExitStack() as stack:
        if kind == "local":
            local: ratchet_bus.LocalBus[bytes, bytes] = stack.enter_context(ratchet_bus.new_local()[0])
            yield local, [local] * connections
            return
        server: Any = stack.enter_context(ratchet_bus.listen("127.0.0.1:0", limits=limits))
        clients: list[Client] = []
        for _ in range(connections):
            clients.append(stack.enter_context(ratchet_bus.connect(server.address)))
            clients[-1].wait_connected(LONG)
        yield server, clients


@contextmanager
def serving(server: Server, handler: Handler, workers: int) -> Iterator[None]:
    """Have a server answer requests."""
    thread = gevent.spawn(server.serve, handler, workers)
    try:
        yield
    finally:
        thread.kill()


@contextmanager
def greedy(server: Server, count: int, request: bytes = b"greedy") -> Iterator[RawPeer]:
    """A client that sends so many requests at once, without a deadline, as far as it is read from."""
    requests = b"".join(wire.encode(wire.REQUEST, 0, id, 0, [request]) for id in range(1, count + 1))
    with RawPeer(connected(server.address)) as peer:
        sending = gevent.spawn(peer.send, requests)
        try:
            yield peer
        finally:
            sending.kill()
