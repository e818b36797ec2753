"""gevent by itself: its sockets, its queues, its greenlets."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gevent
from gevent import socket
from gevent.event import AsyncResult
from gevent.hub import Waiter
from gevent.queue import Queue
from gevent.server import StreamServer

from benchmarks.common import (
    MESSAGE,
    Figures,
    Server,
    own_socket_path,
    raise_file_limit,
    receive_exactly,
    target,
    throughput,
)
from benchmarks.on_gevent import Exchange, closed_loop, open_loop, spawn_many

RECEIVE_SIZE = 4096
PLAIN_FRAME = struct.pack(">HI", 1, len(MESSAGE)) + MESSAGE


def send_at_once(connection: Any) -> None:
    """What ours does too: no waiting for more to send."""
    if connection.family == socket.AF_INET:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def serve(ready: Callable[[str], None], unix: bool = False, message_size: int = 0) -> None:
    """A server that echoes: what it receives at once, or whole messages of a size that it knows."""

    def echo(connection: Any, _: object) -> None:
        send_at_once(connection)
        while data := connection.recv(RECEIVE_SIZE):
            connection.sendall(data)

    def echo_whole(connection: Any, _: object) -> None:
        send_at_once(connection)
        buffer = bytearray(message_size)
        try:
            while True:
                receive_exactly(connection, memoryview(buffer))
                connection.sendall(buffer)
        except EOFError:
            return

    raise_file_limit()
    listener = socket.socket(socket.AF_UNIX if unix else socket.AF_INET)
    listener.bind(own_socket_path() if unix else ("127.0.0.1", 0))
    listener.listen(1024)
    where = listener.getsockname()
    ready(f"unix:{where}" if unix else "{}:{}".format(*where))
    StreamServer(listener, echo_whole if message_size else echo).serve_forever()


@contextmanager
def connected(server: Server, count: int) -> Iterator[list[Any]]:
    family, where = target(server[0])
    connections = [socket.socket(family) for _ in range(count)]
    for connection in connections:
        connection.connect(where)
        send_at_once(connection)
    yield connections
    for connection in connections:
        connection.close()


def exchanges_on(connections: Iterable[Any]) -> list[Exchange]:
    def exchange_on(connection: Any) -> None:
        connection.sendall(MESSAGE)
        connection.recv(RECEIVE_SIZE)

    return [partial(exchange_on, connection) for connection in connections]


def connections(seconds: float, server: Server, connections: int) -> Figures:
    """Connections with one request at a time each."""
    with connected(server, connections) as sockets:
        return closed_loop(exchanges_on(sockets), seconds, server)


def at_fixed_rate(seconds: float, server: Server, connections: int, rate: float) -> Figures:
    """Requests at a fixed rate, over whichever connection is free."""
    with connected(server, connections) as sockets:
        return open_loop(exchanges_on(sockets), seconds, rate)


def connect_and_close(seconds: float, server: Server) -> Figures:
    """Connect, send what a plain request is on the wire, receive it, close."""

    def exchange() -> None:
        connection = socket.socket(family)
        connection.connect(where)
        connection.sendall(PLAIN_FRAME)
        connection.recv(RECEIVE_SIZE)
        connection.close()

    family, where = target(server[0])
    return closed_loop([exchange], seconds, server)


def big_messages(seconds: float, server: Server, message_size: int) -> Figures:
    """One message of this size at a time, there and back."""

    def exchange() -> None:
        connection.sendall(message)
        receive_exactly(connection, memoryview(bytearray(message_size)))

    message = bytes(message_size)
    with connected(server, 1) as [connection]:
        exchange()
        figures = closed_loop([exchange], seconds, server)
    return throughput(figures, message_size)


def local(seconds: float, clients: int) -> Figures:
    """A queue of requests, each with an `AsyncResult` for its response."""

    def answer() -> None:
        while True:
            request, result = requests.get()
            result.set(request)

    def exchange() -> None:
        result: AsyncResult[bytes] = AsyncResult()
        requests.put((MESSAGE, result))
        result.get()

    requests: Queue[tuple[bytes, AsyncResult[bytes]]] = Queue()
    server = gevent.spawn(answer)
    figures = closed_loop([exchange] * clients, seconds, None)
    server.kill()
    return figures


def spawn(seconds: float, threads: int, pauses: bool) -> Figures:
    """Spawn greenlets that end at once, or wait; the seconds do not matter."""

    def wait() -> None:
        Waiter().get()

    fill = partial(spawn_many, gevent.spawn, wait if pauses else int, threads)
    figures: Figures = gevent.spawn(fill).get()
    return figures
