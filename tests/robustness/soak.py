"""Two hundred clients that ask, time out, cancel, are killed and vanish, for minutes.

Run it with `make soak`; SECONDS says for how long.  At the end descriptors,
greenlets, watchers and memory are where they were after the warm-up, and what
the server counted adds up.
"""

from __future__ import annotations

import argparse
import os
import random
import socket
import struct
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import gevent
import pytest
from gevent.resolver.blocking import Resolver

from helpers import LONG, active_watchers, wait_until
from ratchet import BusError
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus, Limits
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.intake import Intake
from ratchet.bus._socket import server
from ratchet.bus._socket.admission import Admission
from ratchet.bus._socket.server_connection import ServerConnection
from robustness.leaks import live_greenlets, open_descriptors, resident_memory

CLIENTS = 200
MEMORY_TOLERANCE = 16 * 1024 * 1024
"""Bytes by which the resident memory may have grown since the warm-up, both at
rest: the allocator gives back in big pieces only.  Descriptors, greenlets and
watchers have no tolerance at all."""

_RESET = struct.pack("ii", 1, 0)


@dataclass
class Level:
    """What is there when all clients have gone."""

    descriptors: int
    greenlets: int
    watchers: int
    memory: int

    def __str__(self) -> str:
        memory = f"{self.memory / 1024 / 1024:.1f} MiB"
        return (
            f"descriptors {self.descriptors}, greenlets {self.greenlets}, watchers {self.watchers}, {memory}"
        )


class CountingAdmission(Admission):
    """Counts the requests that come in."""

    def __init__(self, intake: Intake, limits: Limits) -> None:
        super().__init__(intake, limits)
        self.came = 0

    def enqueue(self, request: IncomingRequest) -> None:
        route = request.route
        assert isinstance(route, ServerConnection)
        # One that was kept until its client reads comes a second time.
        self.came += request not in route.gate.parked
        super().enqueue(request)


class Soak:
    """The server, and the clients that come and go."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        with pytest.MonkeyPatch.context() as patch:
            # Methods of a compiled class cannot be replaced.
            patch.setattr(server, "Admission", CountingAdmission)
            limits = Limits(max_queued=500, max_in_flight=20)
            self.server: Any = ratchet_bus.listen("127.0.0.1:0", limits=limits)
        # Requests that a handler was called for.
        self.taken = 0
        self.endings: Counter[str] = Counter()
        self._serving = gevent.spawn(self.server.serve, self._handle, workers=32)

    @property
    def came(self) -> int:
        """Requests that have come in."""
        admission: CountingAdmission = self.server._admission
        return admission.came

    def _handle(self, request: bytes) -> bytes:
        self.taken += 1
        fate = random.random()
        if fate < 0.2:
            gevent.sleep(fate / 10)
        if fate > 0.95:
            raise ValueError("a handler that fails")
        return request * 2

    def run(self, seconds: float, progress: bool = False) -> None:
        """Let the clients live for so long, and wait until all have gone."""
        end = time.monotonic() + seconds
        clients = [gevent.spawn(self._live, end, random.Random(self.random.random())) for _ in range(CLIENTS)]
        while not all(client.ready() for client in clients):
            gevent.joinall(clients, timeout=1.0)
            if progress:
                stats = self.server.stats()
                left = max(end - time.monotonic(), 0)
                print(f"\r{left:4.0f} s left, {self.taken} taken, {stats}", end="", flush=True)
            assert time.monotonic() < end + LONG, "a client hangs"
        if progress:
            print()
        for client in clients:
            client.get()

    def rest(self) -> Level:
        """Wait until nothing goes on any more, and look what is there."""
        stats = self.server.stats
        wait_until(lambda: stats()[:3] == (0, 0, 0), f"the server to be at rest: {stats()}")
        # What was logged, or let go of, runs in threads of its own.
        level = [0, -1]
        while level[0] != level[1]:
            gevent.sleep(0.01)
            level = [level[1], len(live_greenlets())]
        return Level(open_descriptors(), level[1], active_watchers(), resident_memory())

    def check_sums(self) -> None:
        """Every request that came ended once."""
        stats = self.server.stats()
        assert (stats.connections, stats.queued, stats.in_flight) == (0, 0, 0), stats
        assert stats.answered + stats.failed + stats.cancelled == self.came, (stats, self.came)
        # One that was cancelled or refused in the queue was never taken.
        assert stats.answered <= self.taken <= self.came, (stats, self.taken, self.came)

    def close(self) -> None:
        assert self.server.drain(LONG) is True
        self._serving.join(LONG)
        assert self._serving.ready(), "serve() does not end"

    def _live(self, end: float, chance: random.Random) -> None:
        while time.monotonic() < end:
            if chance.random() < 0.5:
                client: ClientBus[bytes, bytes] = ratchet_bus.connect(self.server.address)
            else:
                connected = gevent.socket.socket()
                connected.connect(self.server.address)
                client = ratchet_bus.new_client(connected)
            with client:
                for _ in range(chance.randrange(1, 8)):
                    self.endings[self._ask(client, chance)] += 1
                if chance.random() < 0.2:
                    self._vanish(client, chance)
            gevent.sleep(chance.random() * 0.01)

    def _ask(self, client: ClientBus[bytes, bytes], chance: random.Random) -> str:
        request = b"x" * chance.choice((1, 100, 10_000))
        way = chance.random()
        try:
            if way < 0.5:
                assert client.call(request, LONG) == request * 2
            elif way < 0.65:
                assert client.call(request, chance.choice((0.0, 0.001, 0.01))) == request * 2
            elif way < 0.75:
                client.cast(request)
                return "one way"
            elif way < 0.85:
                transaction = client.send_request(request, LONG)
                gevent.sleep(chance.choice((0, 0.001)))
                transaction.cancel()
                transaction.recv_response()
            else:
                asking = gevent.spawn(client.call, request, LONG)
                gevent.sleep(chance.choice((0, 0.001, 0.005)))
                # What the killed thread would have raised is of no interest.
                asking.kill()
                return "killed"
        except BusError as error:
            return error.code
        return "answered"

    def _vanish(self, client: ClientBus[bytes, bytes], chance: random.Random) -> None:
        """Leave with requests open, by a reset or by the end of the stream, and without a word."""
        sent = []
        try:
            sent = [client.send_request(b"x", LONG) for _ in range(chance.randrange(4))]
        except BusError:
            return
        for link in client._servers.connections:
            with socket.socket(fileno=os.dup(link.stream._transport.fileno())) as same:
                if chance.random() < 0.5:
                    # The next close sends the reset, and leaves no time for a cancel.
                    same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                else:
                    same.shutdown(socket.SHUT_RDWR)
        if chance.random() < 0.5:
            for transaction in sent:
                try:
                    transaction.recv_response(LONG)
                except BusError as error:
                    self.endings[error.code] += 1


def soak(seconds: float, warm_up: float, seed: int, progress: bool = False) -> Soak:
    """Warm up, run, and compare; raises `AssertionError` if something was left."""
    run = Soak(seed)
    try:
        run.run(warm_up, progress)
        before = run.rest()
        run.run(seconds, progress)
        after = run.rest()
        if progress:
            print(f"after the warm-up: {before}\nat the end:        {after}\n{dict(run.endings)}")
        assert after.descriptors <= before.descriptors, (before, after)
        assert after.greenlets <= before.greenlets, (before, after)
        assert after.watchers <= before.watchers, (before, after)
        assert after.memory <= before.memory + MEMORY_TOLERANCE, (before, after)
        run.check_sums()
    finally:
        run.close()
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="Let many clients come and go, and look what is left.")
    parser.add_argument("--seconds", type=float, default=180.0, help="for how long, the warm-up included")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    options = parser.parse_args()
    hub: Any = gevent.get_hub()
    # gevent's own way to look up an address keeps a thread, and a watcher.
    hub.resolver = Resolver()
    print(f"seed {options.seed}")
    warm_up = min(60.0, options.seconds / 3)
    soak(options.seconds - warm_up, warm_up, options.seed, progress=True)
    print("nothing is left behind")


if __name__ == "__main__":
    main()
