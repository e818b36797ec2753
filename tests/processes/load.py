"""Clients that keep servers busy, and what they are told held against what ran."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import gevent

from helpers import LONG, wait_until
from ratchet import BusError, Outcome, bus
from ratchet.bus import codecs


class Load:
    """Clients that have lines recorded all the time, each once, and note how each request ended.

    Args:
        addresses: the servers, all of which each client knows; their handler is `tasks:record`.
        ledger: the file in which lines are recorded.
        clients: how many there are.
        in_flight: how many requests each of them keeps in flight.
        idempotent: whether a request may run twice.
        options: for `connect`.

    Attributes:
        ends: how each request ended, by its line.
        errors: how often there was which error.
        by_process: how many requests each worker process has answered.
    """

    def __init__(
        self,
        addresses: list[str],
        ledger: Path,
        clients: int = 4,
        in_flight: int = 1,
        idempotent: bool = False,
        **options: Any,
    ) -> None:
        self._ledger = ledger
        self._idempotent = idempotent
        self._stopping = False
        self._numbers = itertools.count()
        self.ends: dict[str, str] = {}
        self.errors: Counter[str] = Counter()
        self.by_process: Counter[int] = Counter()
        self._clients: list[Any] = [
            bus.connect(addresses, codec=codecs.json, **options) for _ in range(clients)
        ]
        self._threads = [gevent.spawn(self._ask, each) for each in self._clients for _ in range(in_flight)]

    def _ask(self, client: Any) -> None:
        while not self._stopping:
            line = str(next(self._numbers))
            request = [str(self._ledger), line]
            try:
                self.by_process[client.call(request, timeout=LONG, idempotent=self._idempotent)] += 1
                self.ends[line] = "answered"
            except BusError as error:
                self.ends[line] = str(error.outcome)
                self.errors[repr(error)] += 1

    def wait_for(self, pid: int) -> None:
        """Wait until a worker has answered some."""
        before = self.by_process[pid]
        wait_until(lambda: self.by_process[pid] > before + 2, f"answers of {pid}")

    def stop(self) -> Counter[str]:
        """End it; how often requests ended in which way, if that agrees with the ledger."""
        self._stopping = True
        gevent.joinall(self._threads, timeout=LONG, raise_error=True)
        for client in self._clients:
            client.close()
        ran = Counter(self._ledger.read_text(encoding="utf-8").split())
        assert self._idempotent or max(ran.values()) == 1, "a request ran twice"
        for line, end in self.ends.items():
            if end in ("answered", Outcome.RAN):
                assert ran[line], f"{line} ended {end}, and did not run"
            elif end != Outcome.UNKNOWN:
                assert not ran[line], f"{line} ended {end}, and ran"
        return Counter(self.ends.values())
