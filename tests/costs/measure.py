"""How costs are counted, and both sides of each bus whose costs they are.

A cost is the slope of a count, over a run of N exchanges and one of twice as many.
So what a whole run costs, such as starting its threads, drops out, and the rest
is the cost of one exchange, often a whole number.  Each run is made several times,
and the cheapest counts: what an exchange costs, it costs in all of them, and what
comes by chance, such as a timer that runs out, does not.

Where one side of a socket is measured, the other is a process of its own that
speaks bytes: it sends or answers so many messages at a time, in one piece.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import gevent
import greenlet

from helpers import LONG, PACKAGE, turns
from ratchet import RemoteError, _clock
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus, LocalBus
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import wire

MEASURING_TIME = 50.0
"""Seconds in which a group has to be measured.  A busy machine may be slow, and is no failure."""

RUNS = 9
MOST_RUNS = 25

Run = Callable[[int], None]
"""Makes so many exchanges, and returns when all are through."""

Count = Callable[[], int]
Counts = dict[str, Count]
"""What is counted in the same runs, by name."""

Figures = dict[str, float]

Client = LocalBus[bytes, bytes] | ClientBus[bytes, bytes]

BODY = b"x" * 100
FAILING = b"fail"

LIBRARY = str(PACKAGE) + os.sep

FORK = multiprocessing.get_context("fork")


class Way(NamedTuple):
    """How a client asks."""

    body: bytes = BODY
    timeout: float | None = None
    one_way: bool = False


CALL = Way()
WAYS = {
    "call": CALL,
    "call with a time-out": Way(timeout=LONG),
    "cast": Way(one_way=True),
    "call that fails": Way(body=FAILING),
}


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let nothing depend on the time: no slice of it ends, and no hub is late.  Collect no garbage."""
    clocks = _clock.monotonic, _clock.wall_time
    interval = sys.getswitchinterval()
    try:
        gc.collect()
        gc.disable()
        _clock.monotonic, _clock.wall_time = (repeat(clock()).__next__ for clock in clocks)
        # For so long, gevent runs callbacks without a poll.
        sys.setswitchinterval(LONG)
        yield
    finally:
        sys.setswitchinterval(interval)
        _clock.monotonic, _clock.wall_time = clocks
        gc.enable()


def costs_of_an_exchange(counts: Counts, run: Run, exchanges: int, runs: int = RUNS) -> Figures:
    """By how much each count grows with each exchange of `run`, at the cheapest of so many `runs`."""

    def cheapest(exchanges: int) -> dict[str, int]:
        least = dict.fromkeys(counts, sys.maxsize)
        for _ in range(runs):
            before = {name: count() for name, count in counts.items()}
            run(exchanges)
            for name, count in counts.items():
                least[name] = min(least[name], count() - before[name])
        return least

    run(exchanges)
    with undisturbed():
        short, long = cheapest(exchanges), cheapest(2 * exchanges)
    return {name: (long[name] - short[name]) / exchanges for name in counts}


def per_exchange(count: Count, run: Run, exchanges: int) -> float:
    """By how much a single count grows with each exchange."""
    return costs_of_an_exchange({"": count}, run, exchanges)[""]


def count_calls() -> Counter[tuple[str, str]]:
    """Count the functions that every greenlet of this OS thread calls, from now on.

    The keys are `call` for those in Python and `c_call` for those in C that Python
    calls, each with the function's name.
    """
    calls: Counter[tuple[str, str]] = Counter()

    def profile(frame: Any, event: str, function: Any) -> None:
        if event == "call":
            calls[event, frame.f_code.co_name] += 1
        elif event == "c_call":
            calls[event, function.__name__] += 1

    sys.setprofile(profile)
    return calls


def trail() -> Counter[str]:
    """Count from now on the functions of the library that are entered, and changes of module on the way."""
    counts: Counter[str] = Counter()
    last = ""

    def profile(frame: Any, event: str, _: Any) -> None:
        nonlocal last
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(LIBRARY):
            counts["functions"] += 1
            counts["changes of module"] += file != last
            last = file

    sys.setprofile(profile)
    return counts


@contextmanager
def switches() -> Iterator[Callable[[], int]]:
    """Counts the switches between greenlets of this OS thread."""
    seen = 0

    def trace(event: str, greenlets: object) -> None:
        nonlocal seen
        seen += 1

    greenlet.settrace(trace)
    try:
        yield lambda: seen
    finally:
        greenlet.settrace(None)


def polls() -> int:
    """How often the event loop of this OS thread has polled so far."""
    loop: Any = gevent.get_hub().loop
    return int(loop.iteration)


def growth(count: Count, run: Run, exchanges: int) -> float:
    """By how much `count()` grows with each exchange at the least, in any of several runs.

    What an exchange leaves behind, it leaves in each of them.  What comes by chance
    is not in all: a table that grows, a pool that is refilled, the lines of a source
    for a traceback.  So the first run that leaves as good as nothing decides.
    """
    least = sys.maxsize
    for _ in range(MOST_RUNS):
        before = count()
        run(exchanges)
        # Whoever has answered may still have to let go of the request.
        turns()
        least = min(least, count() - before)
        if least <= 1:
            break
    return least / exchanges


class Garbage:
    """Counts objects that only the cycle collector can free; it collects at no other time."""

    def __init__(self) -> None:
        gc.collect()
        gc.disable()
        self._found = 0

    def __call__(self) -> int:
        self._found += gc.collect()
        return self._found


def ask(client: Client, way: Way) -> None:
    if way.one_way:
        client.cast(way.body)
        return
    try:
        client.call(way.body, way.timeout)
    except RemoteError:
        assert way.body == FAILING


def echo(request: bytes) -> bytes:
    if request == FAILING:
        raise ValueError("as asked")
    return request


def answer_by_hand(server: Any) -> None:
    for transaction, request in server:
        if request == FAILING:
            transaction.send_error(ValueError("as asked"))
        else:
            transaction.send_response(request)


def answer_in_with(server: Any) -> None:
    for transaction, request in server:
        with transaction:
            transaction.send_response(echo(request))


def serve(server: Any) -> None:
    server.serve(echo)


Style = Callable[[Any], None]
"""How a server answers; it ends when the bus is closed."""

STYLES: dict[str, Style] = {"by hand": answer_by_hand, "in a with block": answer_in_with, "serve()": serve}


def asking(client: Client, way: Way, threads: int) -> Run:
    """Asks in so many threads; a single one is the current thread."""

    def ask_often(count: int) -> None:
        for _ in range(count):
            ask(client, way)

    def run(count: int) -> None:
        if threads == 1:
            ask_often(count)
            # Whoever answers this has taken everything before it, casts too.
            ask(client, CALL)
        else:
            gevent.joinall([gevent.spawn(ask_often, count // threads) for _ in range(threads)])

    return run


def leaving_open(client: Client) -> Run:
    """Sends requests that wait for their responses as long as this lives."""
    sent: list[object] = []

    def run(count: int) -> None:
        sent.extend(client.send_request(BODY) for _ in range(count))
        # What waits for the end of the turn goes out.
        turns()

    return run


@contextmanager
def local_bus(way: Way = CALL, style: Style = answer_by_hand, threads: int = 1) -> Iterator[Run]:
    """Both sides of a bus inside this process."""
    bus: LocalBus[bytes, bytes] = ratchet_bus.new_local()[0]
    server = gevent.spawn(style, bus)
    with bus:
        yield asking(bus, way, threads)
    server.join(LONG)


@contextmanager
def tcp_bus(way: Way = CALL) -> Iterator[Run]:
    """Both sides of a bus over TCP, inside this process."""
    with ratchet_bus.listen("127.0.0.1:0") as server:
        serving = gevent.spawn(server.serve, echo)
        with ratchet_bus.connect(server.address) as client:
            yield asking(client, way, 1)
    serving.join(LONG)


@contextmanager
def client_bus(way: Way = CALL, threads: int = 1) -> Iterator[Run]:
    """A client over TCP; each of its threads has one request in flight, and all are answered at once."""
    with connected_client(threads) as client:
        yield asking(client, way, threads)


@contextmanager
def connected_client(batch: int) -> Iterator[ClientBus[bytes, bytes]]:
    """A client whose peer answers so many requests at a time."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = FORK.Process(target=_answer, args=(listener.getsockname(), batch), daemon=True)
        peer.start()
        connected = listener.accept()[0]
    with ratchet_bus.new_client(connected) as client:
        yield client
    peer.join(LONG)


def _answer(address: tuple[str, int], batch: int) -> None:
    """The peer of a client, in a process of its own."""
    decoder = wire.Decoder(Limits().max_message, Limits().max_parts)
    answers: list[bytes] = []
    with socket.create_connection(address, LONG) as peer:
        while data := peer.recv(1 << 16):
            for kind, flags, id, _, parts in decoder.feed(data):
                if kind != wire.REQUEST or flags & wire.ONE_WAY:
                    continue
                if parts[0] == FAILING:
                    texts = ("ValueError", "as asked", "")
                    answers.append(wire.encode_error(id, Reason.HANDLER_RAISED, texts))
                else:
                    answers.append(wire.encode(wire.RESPONSE, 0, id, 0, parts))
            if len(answers) == batch:
                peer.sendall(b"".join(answers))
                answers.clear()


@contextmanager
def server_bus(way: Way = CALL, style: Style = serve, batch: int = 1) -> Iterator[Run]:
    """A server over TCP, whose client sends so many requests at a time."""
    orders, taken = FORK.Pipe()
    with ratchet_bus.listen("127.0.0.1:0") as server:
        peer = FORK.Process(target=_ask, args=(server.address, taken, way, batch), daemon=True)
        peer.start()
        serving = gevent.spawn(style, server)

        def run(count: int) -> None:
            orders.send(count)
            gevent.socket.wait_read(orders.fileno(), LONG)
            orders.recv()

        yield run
        orders.send(0)
        peer.join(LONG)
    serving.join(LONG)


def _ask(address: tuple[str, int], orders: Connection, way: Way, batch: int) -> None:
    """The peer of a server, in a process of its own."""
    decoder = wire.Decoder(Limits().max_message, Limits().max_parts)
    arg = 0 if way.timeout is None else int(way.timeout * 1000)
    flags = wire.ONE_WAY if way.one_way else 0
    requests = b"".join(wire.encode(wire.REQUEST, flags, 1 + i, arg, [way.body]) for i in range(batch))
    answers = batch
    if way.one_way:
        # The answer to one that is sent along tells that they were taken.
        requests += wire.encode(wire.REQUEST, 0, 1, 0, [BODY])
        answers = 1
    with socket.create_connection(address, LONG) as peer:
        while orders.poll(LONG) and (count := orders.recv()):
            for _ in range(count // batch):
                peer.sendall(requests)
                left = answers
                while left:
                    left -= len(decoder.feed(peer.recv(1 << 16)))
            orders.send("done")
