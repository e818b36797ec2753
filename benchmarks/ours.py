"""The library's own part: servers and clients that use nothing but its public calls."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

from benchmarks import rabbitmq
from benchmarks.common import (
    MESSAGE,
    ORDER,
    Figures,
    Order,
    Server,
    children_of,
    idle_connections,
    own_socket_path,
    raise_file_limit,
    throughput,
)
from benchmarks.on_gevent import Exchange, Window, closed_loop, open_loop, spawn_many
from ratchet import Ratchet, bus, thread
from ratchet.bus import codecs

Client = bus.ClientBus[bytes, bytes]
Local = bus.LocalBus[bytes, bytes]
Batch = list[tuple[bus.ServerTransaction[bytes, bytes], bytes]]

ROOM_FOR_HEADS = 1024

BROKER_SERVICE = "echo"
BROKER_PREFETCH = 256
BROKER_TIMEOUT = 10.0


def answer(server: bus.ServerBus[bytes, bytes] | Local) -> None:
    """One thread: send back what comes."""
    while True:
        transaction, request = server.recv_request()
        transaction.send_response(request)


def answer_batches(recv_requests: Callable[[int], Batch], most: int) -> None:
    """The same, for up to so many requests at a time."""
    while True:
        for transaction, request in recv_requests(most):
            transaction.send_response(request)


def echo(request: bytes) -> bytes:
    return request


def large(message_size: int) -> bus.Limits:
    """The limits with room for a message of this size."""
    return bus.Limits(max_message=max(bus.Limits().max_message, message_size + ROOM_FOR_HEADS))


def printed(server: bus.ServerBus[bytes, bytes] | bus.Supervisor) -> str:
    """Where a server listens, for its clients."""
    where = server.address
    return where if isinstance(where, str) else "{}:{}".format(*where)


def serve(
    ready: Callable[[str], None],
    unix: bool = False,
    workers: int = 0,
    batch: int = 0,
    message_size: int = len(MESSAGE),
) -> None:
    """A server that echoes: with `serve` and that many workers, or in one thread by hand."""
    raise_file_limit()
    server = bus.listen(f"unix:{own_socket_path()}" if unix else "127.0.0.1:0", limits=large(message_size))
    if workers:
        work = partial(server.serve, echo, workers)
    elif batch:
        work = partial(answer_batches, server.recv_requests, batch)
    else:
        work = partial(answer, server)
    ready(printed(server))
    Ratchet(work).loop()


def serve_by_processes(ready: Callable[..., None], processes: int) -> None:
    """A supervisor, which is this process, and so many workers on the same processor."""

    def say(supervisor: bus.Supervisor) -> None:
        ready(printed(supervisor), os.getpid(), *children_of(os.getpid()))

    bus.serve_processes("127.0.0.1:0", "benchmarks.common:handle", processes, codec="json", on_ready=say)


@contextmanager
def connected(server: Server, count: int) -> Iterator[list[Client]]:
    """Clients that have each made an exchange already, and with it their connection."""
    clients: list[Client] = []
    for _ in range(count):
        clients.append(bus.connect(server[0]))
        assert clients[-1].call(MESSAGE) == MESSAGE
    yield clients
    for client in clients:
        client.close()


def exchanges_on(clients: Iterable[Client]) -> list[Exchange]:
    return [partial(client.call, MESSAGE) for client in clients]


def connections(
    seconds: float,
    server: Server,
    connections: int,
    threads: int = 1,
    idle: int = 0,
    least: int = 1,
) -> Figures:
    """Connections that so many threads share each, one request of each thread at a time."""
    raise_file_limit()
    others = idle_connections(server[0], idle)
    with connected(server, connections) as clients, Ratchet() as kernel:
        exchanges = exchanges_on(clients) * threads
        figures = closed_loop(exchanges, seconds, server, kernel.attach, least)
    for other in others:
        other.close()
    return figures


def calls(seconds: float, server: Server, connections: int, threads: int = 1) -> Figures:
    """Connections that so many threads share each, one call in JSON of each thread at a time."""
    clients: list[bus.ClientBus[Order, Order]] = []
    for _ in range(connections):
        clients.append(bus.connect(server[0], codec=codecs.json))
        assert clients[-1].call(ORDER) == ORDER
    with Ratchet() as kernel:
        exchanges = [partial(client.call, ORDER) for client in clients] * threads
        figures = closed_loop(exchanges, seconds, server, kernel.attach)
    for client in clients:
        client.close()
    return figures


def in_flight(seconds: float, server: Server, requests: int) -> Figures:
    """One thread on one connection, with so many requests in flight."""

    def keep_in_flight(client: Client) -> int:
        open_requests = deque(client.send_request(MESSAGE) for _ in range(requests))
        done = 0
        while open_requests:
            open_requests.popleft().recv_response()
            done += 1
            if window.open:
                open_requests.append(client.send_request(MESSAGE))
        return done

    with connected(server, 1) as [client], Ratchet() as kernel:
        window = Window(seconds, server)
        return window.figures(kernel.attach(keep_in_flight, client).get())


def call_many(seconds: float, server: Server, requests: int) -> Figures:
    """One thread on one connection, with so many requests in each call."""

    def call_again(client: Client) -> int:
        done = 0
        while window.open:
            done += len(client.call_many([MESSAGE] * requests))
        return done

    with connected(server, 1) as [client], Ratchet() as kernel:
        window = Window(seconds, server)
        return window.figures(kernel.attach(call_again, client).get())


def connect_and_close(seconds: float, server: Server) -> Figures:
    """Connect, one plain request, close."""

    def exchange() -> None:
        with bus.connect(server[0], plain=True) as client:
            client.call(MESSAGE)

    with Ratchet() as kernel:
        return closed_loop([exchange], seconds, server, kernel.attach)


def big_messages(seconds: float, server: Server, message_size: int) -> Figures:
    """One request of this size at a time."""
    message = bytes(message_size)
    with bus.connect(server[0], limits=large(message_size)) as client, Ratchet() as kernel:
        assert client.call(message) == message
        figures = closed_loop([partial(client.call, message)], seconds, server, kernel.attach)
    return throughput(figures, message_size)


def at_fixed_rate(seconds: float, server: Server, connections: int, rate: float) -> Figures:
    """Requests at a fixed rate, over whichever connection is free."""
    with connected(server, connections) as clients, Ratchet() as kernel:
        return open_loop(exchanges_on(clients), seconds, rate, kernel.attach)


def local(seconds: float, clients: int, workers: int = 0) -> Figures:
    """A bus inside the process and so many clients; the server as in `serve`."""
    both_sides: tuple[Local, Local] = bus.new_local()
    server, client = both_sides
    with Ratchet() as kernel:
        if workers:
            kernel.attach_background(server.serve, echo, workers)
        else:
            kernel.attach_background(answer, server)
        return closed_loop([partial(client.call, MESSAGE)] * clients, seconds, None, kernel.attach)


def attach(seconds: float, threads: int, pauses: bool) -> Figures:
    """Attach threads that end at once, or pause; the seconds do not matter."""

    def fill() -> None:
        figures.update(spawn_many(thread.attach, thread.pause if pauses else int, threads))
        kernel.stop()

    figures: Figures = {}
    kernel = Ratchet(fill)
    kernel.loop()
    return figures


def serve_by_broker(ready: Callable[..., None], workers: int) -> None:
    """A server over a broker, which echoes with `serve` and that many workers."""
    url = rabbitmq.node_url()
    server = bus.broker_server(url, BROKER_SERVICE, prefetch=BROKER_PREFETCH)
    server.wait_connected()
    ready(url, os.getpid())
    Ratchet(partial(server.serve, echo, workers)).loop()


def broker_calls(seconds: float, server: Server, threads: int) -> Figures:
    """Threads that share a client over a broker, one call of each at a time."""
    with bus.broker_client(server[0], BROKER_SERVICE) as client, Ratchet() as kernel:
        exchange = partial(client.call, MESSAGE, BROKER_TIMEOUT)
        assert exchange() == MESSAGE
        return closed_loop([exchange] * threads, seconds, server, kernel.attach)
