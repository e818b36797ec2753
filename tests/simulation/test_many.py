"""`call_many` and `recv_requests` on a bad network: what callers are told is held against what ran.

The big simulation's plans know neither, and each of its seeds would take another course if they did.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from random import Random
from typing import Any, Final

import gevent
import pytest

from ratchet import BusError, Outcome, bus, testing, thread
from ratchet.bus import Limits
from ratchet.testing import Faults, World

SEEDS: Final = 60
_CALLS: Final = 3


def faults(random: Random) -> Faults:
    """A line on which connections are lost, in many of the runs."""
    rough = random.random() < 0.6
    return Faults(
        latency=random.choice(((0.0, 0.0), (0.0001, 0.005), (0.001, 0.3))),
        delayed=random.choice((0.0, 0.3)),
        split=random.choice((0.0, 0.3)),
        partial=random.choice((0.0, 0.5)),
        cut=random.choice((0.0, 0.3)) if rough else 0.0,
        reset=random.choice((0.0, 0.3)) if rough else 0.0,
        lost_at=(0, random.choice((300, 3000))),
        send_buffer=random.choice((50, 300, 65536)),
        receive_buffer=random.choice((50, 300, 65536)),
    )


class Run:
    """One run: what the server ran, and how each request ended for its caller."""

    def __init__(self, world: World) -> None:
        self.random = world.random
        self._clock = world.clock
        self.ran: Counter[bytes] = Counter()
        self.ended: dict[bytes, str] = {}
        self.plain = self.random.random() < 0.2
        world.network.faults = faults(self.random)

    def serve(self) -> None:
        """The server: a pool, or batches, or both."""
        limits = Limits(
            max_in_flight=self.random.choice((1, 3, 1024)), max_queued=self.random.choice((2, 100))
        )
        server = bus.listen("server:80", limits=limits)
        if self.random.random() < 0.7:
            thread.attach_background(server.serve, self._handle, 3)
        else:
            self._start_batches(server)
        self._start_batches(server)
        thread.timer(300)

    def _start_batches(self, server: Any) -> None:
        thread.attach_background(self._take_batches, server, self.random.choice((1, 2, 5, 100)))

    def _handle(self, body: bytes) -> bytes:
        self.ran[body] += 1
        thread.timer(self.random.choice((0.0, 0.0, 0.01, 1.0)))
        return body[::-1]

    def _take_batches(self, server: Any, most: int) -> None:
        while True:
            batch = server.recv_requests(most)
            assert 1 <= len(batch) <= most
            self.ran.update(body for _, body in batch)
            thread.timer(self.random.choice((0.0, 0.01, 0.2)))
            if self.random.random() < 0.1:
                # They are all abandoned.
                batch.clear()
            for transaction, body in batch:
                transaction.send_response(body[::-1])
            batch.clear()
            transaction = None

    def ask(self, name: str) -> None:
        """A client: some calls of many requests each, side by side."""
        limits = Limits(high_water=self.random.choice((1, 300, 1 << 20)))
        with bus.connect("server:80", plain=self.plain, limits=limits) as client:
            calls = [thread.attach(self._call_many, client, f"{name} {number}") for number in range(_CALLS)]
            if self.random.random() < 0.3:
                thread.timer(self.random.choice((0.0, 0.01, 0.3)))
                self.random.choice(calls).kill()
            thread.wait_all(calls)
            stats = client.stats()
            assert (stats.queued, stats.in_flight) == (0, 0), stats

    def _call_many(self, client: Any, name: str) -> None:
        count = self.random.choice((1, 2, 10, 60))
        requests = [f"{name} {number} ".encode().ljust(self._size(), b".") for number in range(count)]
        # In the plain form nobody is told that a request was abandoned, and it may wait for ever.
        timeout = self.random.choice((0.05, 1.0, 20.0))
        began = self._clock.now
        interrupt = gevent.Timeout(self.random.choice((None, None, 0.02, 0.5)))
        try:
            with interrupt:
                results = client.call_many(requests, timeout)
        except gevent.Timeout:
            return
        # Its own time, and that of the server's last words.
        assert self._clock.now - began <= timeout + 0.2
        assert len(results) == count
        for request, result in zip(requests, results, strict=True):
            if isinstance(result, BusError):
                self.ended[request] = str(result.outcome)
            else:
                assert result == request[::-1]
                self.ended[request] = Outcome.RAN

    def _size(self) -> int:
        return int(self.random.choice((0, 30, 300)) * self.random.random())

    def check(self) -> None:
        """Nothing ran twice, and what callers were told is true."""
        assert max(self.ran.values(), default=0) <= 1, self.ran.most_common(1)
        for request, outcome in self.ended.items():
            if outcome in (Outcome.NOT_SENT, Outcome.NOT_RUN):
                assert not self.ran[request], (request, outcome)
            elif outcome == Outcome.RAN:
                assert self.ran[request], (request, outcome)


def main(world: World) -> None:
    run = Run(world)
    server = world.process("server", run.serve)
    clients = [world.process(name, partial(run.ask, name)) for name in ("first", "second")]
    for client in clients:
        client.wait()
    server.kill()
    run.check()


@pytest.mark.uncounted
def test_whatever_the_network_does_each_result_is_true() -> None:
    testing.simulate(main, seeds=SEEDS)
