"""A server of ours with more work than it can do, and the clients that ask for it.

A handler only sleeps, so that workers are what the server is short of.  Both processes read
the same clock, by which the client asks afterwards how much was begun while it counted.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import gevent
from gevent import socket

from benchmarks.common import (
    ANSWERED,
    IN_VAIN,
    MEDIAN,
    MESSAGE,
    NOT_RUN,
    SLOWEST,
    Figures,
    Server,
    request_frame,
    target,
)
from benchmarks.ours import Client, Local, connected, printed
from ratchet import BusError, BusTimeout, Outcome, bus

TIMEOUT = 0.5
LEARNING = 1.0
"""Seconds of an overload that do not count: a queue builds up, and the server learns."""

BURST = 0.01
"""Seconds' worth of requests that are sent at once, at most; a client that is late skips the others."""

LEAST_ANSWERS = 100

SETTLING = 0.5
LONGEST_WAIT = 5.0
"""Seconds after which a polite client takes no more interest."""

STEPS = 16
"""Handling times that are drawn from the whole range before one is drawn again."""

Clients = Sequence[Client | Local]


class Handler:
    """Sleeps for from `shortest` to `longest` microseconds, and tells how often it has begun to.

    It is woken as late as the client's own work lets it be, which tells nothing of the server.
    """

    def __init__(self, shortest: int, longest: int) -> None:
        self._times = self._draw(shortest / 1e6, longest / 1e6)
        self._begun: list[float] = []
        self._late: list[tuple[float, float]] = []

    def __call__(self, request: bytes) -> bytes:
        if request != MESSAGE:
            return json.dumps(self._between(*json.loads(request))).encode()
        asleep = next(self._times)
        began = time.monotonic()
        self._begun.append(began)
        gevent.sleep(asleep)
        self._late.append((began, time.monotonic() - began - asleep))
        return request

    def _between(self, begin: float, end: float) -> tuple[int, float]:
        """How often it was called, and by how many seconds it was late in the mean."""
        late = [seconds for when, seconds in self._late if begin <= when < end]
        return sum(begin <= when < end for when in self._begun), sum(late) / max(len(late), 1)

    def _draw(self, low: float, high: float) -> Iterator[float]:
        """In no order, but a few of them have the mean of all."""
        deck = [low + (high - low) * (step + 0.5) / STEPS for step in range(STEPS)]
        chance = random.Random(0)
        while True:
            chance.shuffle(deck)
            yield from deck


def serve(ready: Callable[[str], None], workers: int, shortest: int, longest: int) -> None:
    """A server with so many workers, whose requests take so many microseconds."""
    server: bus.ServerBus[bytes, bytes] = bus.listen("127.0.0.1:0")
    ready(printed(server))
    server.serve(Handler(shortest, longest), workers)


@contextmanager
def asking(
    server: Server | None, connections: int, workers: int, shortest: int, longest: int
) -> Iterator[Clients]:
    """Clients of a server, or of a local bus if there is none."""
    with ExitStack() as stack:
        if server is not None:
            yield stack.enter_context(connected(server, connections))
            return
        local: Local = stack.enter_context(bus.new_local()[0])
        serving = gevent.spawn(local.serve, Handler(shortest, longest), workers)
        yield [local]
        serving.kill()


def overloaded(
    seconds: float,
    workers: int,
    shortest: int,
    longest: int,
    rate: int,
    server: Server | None = None,
    connections: int = 1,
) -> Figures:
    """So many requests a second, each sent when it is due."""
    each = (shortest + longest) / 2e6 / workers
    with asking(server, connections, workers, shortest, longest) as clients:
        load = OpenLoad(clients, rate, max(seconds, LEAST_ANSWERS * each))
        load.send_all()
        return load.figures(workers, each)


def polite(seconds: float, server: Server, others: int, each: int) -> Figures:
    """A client with one request at a time, beside others that have so many in flight."""
    waits = []
    with connected(server, 1) as [client], ExitStack() as stack:
        for _ in range(others):
            stack.enter_context(greedy(server, each))
        # They have sent all there is by now, and the server has a queue.
        gevent.sleep(SETTLING)
        end = time.monotonic() + seconds
        while (began := time.monotonic()) < end:
            try:
                client.call(MESSAGE, LONGEST_WAIT)
            except BusTimeout:
                pass
            waits.append(1000 * (time.monotonic() - began))
    waits.sort()
    return {MEDIAN: statistics.median(waits), SLOWEST: waits[math.ceil(0.99 * len(waits)) - 1]}


@contextmanager
def greedy(server: Server, requests: int) -> Iterator[None]:
    """A client that sends so many requests at once, without a deadline, and reads no answers."""
    family, where = target(server[0])
    with socket.socket(family) as connection:
        connection.connect(where)
        sending = gevent.spawn(connection.sendall, b"".join(map(request_frame, range(1, requests + 1))))
        yield
        sending.kill()


class OpenLoad:
    """Requests at a fixed rate, whatever becomes of those before; each has a thread of its own."""

    def __init__(self, clients: Clients, rate: float, seconds: float) -> None:
        self._clients = clients
        self._rate = rate
        self._began = time.monotonic()
        self._counted = self._began + LEARNING, self._began + LEARNING + seconds
        self._answered = 0
        self._errors: Counter[Outcome] = Counter()

    def send_all(self) -> None:
        """Send them, and wait until all have ended; blocks."""
        open_requests = []
        due = sent = 0
        while (now := time.monotonic()) < self._counted[1]:
            due, before = int((now - self._began) * self._rate), due
            for _ in range(min(due - before, max(1, int(BURST * self._rate)))):
                open_requests.append(gevent.spawn(self._ask, self._clients[sent % len(self._clients)]))
                sent += 1
            gevent.sleep(0.001)
        gevent.joinall(open_requests, raise_error=True)

    def figures(self, workers: int, each: float) -> Figures:
        """What happened while it counted; all workers together take `each` seconds for a request."""
        begin, end = self._counted
        begun, late = json.loads(self._clients[0].call(json.dumps(self._counted).encode()))
        possible = (end - begin) / (each + late / workers)
        errors = self._errors.total()
        return {
            ANSWERED: 100 * self._answered / possible,
            IN_VAIN: 100 * max(begun - self._answered, 0) / max(begun, 1),
            NOT_RUN: 100 * self._errors[Outcome.NOT_RUN] / errors if errors else 100.0,
        }

    def _ask(self, client: Client | Local) -> None:
        try:
            client.call(MESSAGE, TIMEOUT)
        except BusError as error:
            self._errors[error.outcome] += self._counts(time.monotonic())
        else:
            self._answered += self._counts(time.monotonic())

    def _counts(self, when: float) -> bool:
        return self._counted[0] <= when < self._counted[1]
