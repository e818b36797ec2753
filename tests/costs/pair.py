"""A server and a client that are processes of their own, and what each asks of the system.

The counts are made in Python.  So that a tracer of system calls can make them
too, each reading leaves a mark among those.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from itertools import pairwise
from multiprocessing.connection import Connection

import gevent

from costs.measure import BODY, CALL, FORK, MEASURING_TIME, asking, count_calls, polls, undisturbed
from helpers import LONG
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus

Client = ClientBus[bytes, bytes]

MARK = "the mark of "
ALONE, THREADS, IN_FLIGHT = "one at a time", "64 threads", "256 in flight"
EXCHANGES = {ALONE: 40, THREADS: 64 * 10, IN_FLIGHT: 256 * 3}
"""Of one run."""

_RUNS = 10
# Each run ends with a call of its own, and with that which has the counts read.
_LONE_EXCHANGES = EXCHANGES[ALONE] + 2


def side_under_load(side: str, load: str) -> str:
    return f"{side}, {load}"


def figure(load: str, readings: Sequence[int]) -> float:
    """The cost of one exchange, by readings before, between and after runs."""
    if load == ALONE:
        # A hub that is late, as by chance it is, looks once more before it writes.
        return min(after - before for before, after in pairwise(readings)) / _LONE_EXCHANGES
    # No two runs cost the same, since it depends on who is when ready for more.
    return (readings[-1] - readings[0]) / ((len(readings) - 1) * EXCHANGES[load])


def keep_in_flight(client: Client, count: int) -> Callable[[int], None]:
    """Asks in one thread, with so many requests at a time."""

    def run(exchanges: int) -> None:
        for _ in range(exchanges // count):
            for sent in [client.send_request(BODY) for _ in range(count)]:
                sent.recv_response(LONG)

    return run


def load_of(client: Client, load: str) -> Callable[[int], None]:
    if load == IN_FLIGHT:
        return keep_in_flight(client, 256)
    return asking(client, CALL, 64 if load == THREADS else 1)


class Side:
    """Counts what this process does, from reading to reading."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._calls = count_calls()
        self._readings: dict[str, list[dict[str, int]]] = {load: [] for load in EXCHANGES}

    def read(self, load: str) -> None:
        """To be called before, between and after runs."""
        os.access(MARK + side_under_load(self._name, load), os.F_OK)
        counts = {name: self._calls["c_call", name] for name in ("recv", "send")}
        self._readings[load].append({"poll": polls(), **counts})

    def figures(self) -> dict[str, dict[str, float]]:
        return {
            side_under_load(self._name, load): {
                name: figure(load, [reading[name] for reading in readings]) for name in readings[0]
            }
            for load, readings in self._readings.items()
        }


def client_process(pipe: Connection) -> None:
    """Ask under every load, and tell both sides when to read their counts."""
    side = Side("client")
    assert pipe.poll(LONG), "no server"
    address = pipe.recv()
    for load, exchanges in EXCHANGES.items():
        with ratchet_bus.new_client(socket.create_connection(address)) as client, undisturbed():
            run = load_of(client, load)
            for _ in range(_RUNS if load == ALONE else 3):
                run(exchanges)
                client.call((MARK + load).encode())
                side.read(load)
    pipe.send(side.figures())


def system_calls() -> dict[str, dict[str, float]]:
    """How often each side polls, receives and sends per exchange, under each load."""
    # Before there is a hub, for the client is to have one of its own.
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=client_process, args=(theirs,), daemon=True)
    process.start()
    side = Side("server")

    def handle(request: bytes) -> bytes:
        if request.startswith(MARK.encode()):
            side.read(request.decode().removeprefix(MARK))
        return request

    with ratchet_bus.listen("127.0.0.1:0") as server:
        serving = gevent.spawn(server.serve, handle)
        ours.send(server.address)
        with undisturbed():
            gevent.socket.wait_read(ours.fileno(), MEASURING_TIME)
        figures: dict[str, dict[str, float]] = {**ours.recv(), **side.figures()}
    serving.join(LONG)
    process.join(LONG)
    return figures
