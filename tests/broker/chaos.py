"""Chaos: a cluster, servers and many threads that call, while nodes and servers are killed and frozen.

Every outcome is held against the servers' own logs of what ran:

- nothing ran twice,
- what was answered, or is said to have run, ran,
- what is said not to have been sent or run did not.

`python -m broker.chaos SECONDS` runs it for longer than the tests do.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from contextlib import ExitStack
from random import Random
from typing import Any

import gevent

from broker.nodes import Cluster, cluster
from broker.services import ServerProcess, Service
from helpers import LONG
from ratchet import BusError
from ratchet.bus import Retry

_THREADS = 32
_SERVERS = 3
# Seconds between two faults, and how long something stays frozen or dead.
_PAUSE = 1.0, 4.0
_FROZEN = 0.5, 3.0


class Chaos:
    """One run.

    Attributes:
        outcomes: what each request that was sent came to: "answered", or the outcome of its error.
        faults: how often each fault was made.
    """

    def __init__(self, made: Cluster, stack: ExitStack, seed: int) -> None:
        self._cluster = made
        self._random = Random(seed)
        self._service = Service(made.url, stack)
        self._servers: list[ServerProcess] = [self._service.process() for _ in range(_SERVERS)]
        self._all = list(self._servers)
        self.client = self._service.client(retry=Retry())
        self.outcomes: dict[int, str] = {}
        self.errors: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._number = 0
        self._ends = 0.0

    def run(self, seconds: float) -> None:
        """Call and make faults for so long, and check."""
        self._service.wait_for_processes(self.client, *self._servers)
        self._ends = time.monotonic() + seconds
        threads = [gevent.spawn(self._call) for _ in range(_THREADS)]
        try:
            self._make_faults()
        finally:
            self._heal()
            gevent.joinall(threads, timeout=3 * LONG)
            assert all(thread.ready() for thread in threads), "a call does not end"
        self._check()

    def _call(self) -> None:
        while time.monotonic() < self._ends:
            self._number += 1
            number = self._number
            try:
                self.client.call(["run", number], timeout=self._random.uniform(0.2, 5))
                self.outcomes[number] = "answered"
            except BusError as error:
                self.outcomes[number] = str(error.outcome)
                self.errors[f"{type(error).__name__} {error.outcome}"] += 1
                gevent.sleep(0.05)

    def _make_faults(self) -> None:
        while time.monotonic() < self._ends:
            gevent.sleep(self._random.uniform(*_PAUSE))
            fault = self._random.choice([self._kill_server, self._freeze_server, self._kill_node])
            self.faults[fault.__name__] += 1
            fault()

    def _kill_server(self) -> None:
        index = self._random.randrange(_SERVERS)
        self._servers[index].kill()
        self._servers[index] = self._service.process()
        self._all.append(self._servers[index])

    def _freeze_server(self) -> None:
        server = self._random.choice(self._servers)
        server.signal(signal.SIGSTOP)
        gevent.sleep(self._random.uniform(*_FROZEN))
        server.signal(signal.SIGCONT)

    def _kill_node(self) -> None:
        node = self._random.choice(self._cluster.nodes)
        node.kill()
        gevent.sleep(self._random.uniform(*_FROZEN))
        node.launch()
        node.wait_until_up()

    def _heal(self) -> None:
        self._cluster.heal()

    def _check(self) -> None:
        runs: Counter[int] = Counter()
        for server in self._all:
            runs.update(int(line.split()[2]) for line in server.runs if line.split()[1] == "run")
        twice = [number for number, count in runs.items() if count > 1]
        assert not twice, f"ran twice: {twice}"
        lies = [
            (number, outcome)
            for number, outcome in self.outcomes.items()
            if (outcome in ("answered", "RAN") and not runs[number])
            or (outcome in ("NOT_SENT", "NOT_RUN") and runs[number])
        ]
        assert not lies, f"outcomes that are not true: {lies}"

    def __str__(self) -> str:
        outcomes = dict(Counter(self.outcomes.values()))
        return f"requests: {len(self.outcomes)}, {outcomes}; {dict(self.errors)}; faults: {dict(self.faults)}"


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())
    print(f"chaos for {seconds:g} s, seed {seed}", flush=True)
    with cluster(3) as made, ExitStack() as stack:
        chaos: Any = Chaos(made, stack, seed)
        chaos.run(seconds)
        print(chaos)


if __name__ == "__main__":
    main()
