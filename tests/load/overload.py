"""More load than a server can carry, played on virtual time, and what came of it.

    result = play(Load(kind="tcp", workers=1, handling=(0.01, 0.01), times=5))
    assert result.missed == []

The load is open: each request is sent when it is due, whatever became of those before it, in a
thread of its own and with a time-out of `TIMEOUT`.  Only the last part of the run counts: what
happens in the first `learning` seconds, in which a queue builds up and a server may learn how
long its requests take, is left out.  The load ends with the part that counts, so the server is
overloaded all through it, and what its workers can do in it is known beforehand.  Each event
counts that falls into it: an answer is one of this part's, whenever its request was sent.

Both sides are in this process.  Their own work takes next to no virtual time: handlers alone
are what the server is short of.
"""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import gevent

from load.stage import Client, on_virtual_time, opened, serving
from ratchet import BusError, Outcome

TIMEOUT = 0.5

AIMS = {2: 0.95, 5: 0.92, 10: 0.90}
"""The share of what is possible that is to be answered, by how many times as much is asked."""

MOST_IN_VAIN = 0.05
"""The share of what is begun that may be begun in vain."""

LEAST_NOT_RUN = 0.95
"""The share of what is not answered that must be known not to have run."""

_STEPS = 16
"""Handling times that are drawn from the whole range before one is drawn again."""


@dataclass(frozen=True)
class Load:
    """What is asked of a server.

    Attributes:
        kind: `"local"` or `"tcp"`.
        workers: threads of the server.
        handling: seconds that a request takes, at least and at most; evenly spread.
        times: how many times as much is asked as can be done.
        connections: the requests go over these in turn.
        regular: whether the gaps between requests are all the same; otherwise they are as those
            of many clients that know nothing of each other.
        learning: seconds before the part that counts.
        seconds: how long that is.
    """

    kind: str
    workers: int
    handling: tuple[float, float]
    times: float
    connections: int = 1
    regular: bool = False
    learning: float = 1.0
    seconds: float = 2.0

    @property
    def capacity(self) -> float:
        """Requests that the workers can do in a second."""
        return self.workers / (sum(self.handling) / 2)

    @property
    def rate(self) -> float:
        """Requests that are sent in a second."""
        return self.times * self.capacity

    def gaps(self) -> Iterator[float]:
        """Seconds from each request to the next."""
        chance = random.Random(0)
        while True:
            yield 1 / self.rate if self.regular else chance.expovariate(self.rate)

    def handling_times(self) -> Iterator[float]:
        """Seconds that each request takes: in no order, but a few of them have the mean of all."""
        low, high = self.handling
        deck = [low + (high - low) * (step + 0.5) / _STEPS for step in range(_STEPS)]
        chance = random.Random(0)
        while True:
            chance.shuffle(deck)
            yield from deck

    def __str__(self) -> str:
        low, high = (f"{1000 * seconds:g}" for seconds in self.handling)
        time = low if low == high else f"{low} to {high}"
        connections = "" if self.connections == 1 else f", {self.connections} connections"
        gaps = ", regular" if self.regular else ""
        return f"{self.kind}, {self.workers} x {time} ms, {self.times:g} times{connections}{gaps}"


@dataclass
class Call:
    """A request, and when what happened to it, in seconds of the process."""

    sent: float
    begun: float | None = None
    ended: float | None = None
    error: Outcome | None = None

    @property
    def answered(self) -> bool:
        return self.ended is not None and self.error is None


@dataclass(frozen=True)
class Result:
    """What happened in the part of a run that counts.

    Attributes:
        load: what was asked.
        offered: requests that were sent.
        answered: answers that came in time.
        begun: requests that a worker has begun.
        in_vain: those of `begun` whose client got no answer: they were interrupted, or came too late.
        outcomes: of the requests that ended without an answer.
    """

    load: Load
    offered: int
    answered: int
    begun: int
    in_vain: int
    outcomes: Counter[Outcome]

    @property
    def possible(self) -> float:
        """Requests that could be answered: as many as the workers can do, or all that were sent."""
        return min(self.load.capacity * self.load.seconds, self.offered)

    @property
    def answered_share(self) -> float:
        """Answers, of those that were possible."""
        return self.answered / self.possible

    @property
    def in_vain_share(self) -> float:
        """Requests begun in vain, of those begun."""
        return self.in_vain / self.begun if self.begun else 0.0

    @property
    def not_run_share(self) -> float:
        """Requests that are known not to have run, of those not answered."""
        not_answered = self.outcomes.total()
        return self.outcomes[Outcome.NOT_RUN] / not_answered if not_answered else 1.0

    @property
    def missed(self) -> list[str]:
        """The aims that were not reached, in words."""
        least = AIMS[int(self.load.times)]
        missed = []
        if self.answered_share < least:
            missed.append(f"answered {self.answered_share:.1%} of what was possible, not {least:.0%}")
        if self.in_vain_share > MOST_IN_VAIN:
            missed.append(f"{self.in_vain_share:.1%} were begun in vain, not {MOST_IN_VAIN:.0%}")
        if self.not_run_share < LEAST_NOT_RUN:
            rest = ", ".join(f"{outcome.name} {count:,}" for outcome, count in self.outcomes.most_common())
            missed.append(f"{self.not_run_share:.1%} of the rest NOT_RUN, not {LEAST_NOT_RUN:.0%}: {rest}")
        return missed


def play(
    load: Load, gaps: Iterator[float] | None = None, handling_times: Iterator[float] | None = None
) -> Result:
    """Put a load on a new server, on virtual time, and return what came of it.

    Args:
        load: what is asked.
        gaps, handling_times: in place of those of the load.
    """
    with on_virtual_time(), opened(load.kind, load.connections) as (server, clients):
        run = Run(load, clients, gaps or load.gaps(), handling_times or load.handling_times())
        with serving(server, run.handle, load.workers):
            run.send_all()
            return run.result()


class Run:
    """The requests of a load, which both sides note.

    Args:
        load: how long it lasts, and which part of it counts.
        clients: the requests go over these in turn.
        gaps: seconds from each to the next.
        handling_times: seconds that each takes.
    """

    def __init__(
        self, load: Load, clients: list[Client], gaps: Iterator[float], handling_times: Iterator[float]
    ) -> None:
        self.calls: list[Call] = []
        self._load = load
        self._clients = clients
        self._gaps = gaps
        self._handling_times = handling_times
        self._counts_from = time.monotonic() + load.learning
        self._end = self._counts_from + load.seconds

    def handle(self, request: bytes) -> bytes:
        """The handler of the server: whose request it is stands in it."""
        self.calls[int(request)].begun = time.monotonic()
        gevent.sleep(next(self._handling_times))
        return request

    def send_all(self) -> None:
        """Send each request when it is due, and wait until all have ended; blocks."""
        asking = []
        due = time.monotonic()
        for client, gap in zip(itertools.cycle(self._clients), self._gaps, strict=False):
            due += gap
            if due >= self._end:
                break
            if (pause := due - time.monotonic()) > 0:
                gevent.sleep(pause)
            asking.append(gevent.spawn(self._ask, client, len(self.calls)))
            self.calls.append(Call(due))
        gevent.joinall(asking, raise_error=True)

    def _ask(self, client: Client, number: int) -> None:
        call = self.calls[number]
        try:
            client.call(b"%d" % number, TIMEOUT)
        except BusError as error:
            call.error = error.outcome
        call.ended = time.monotonic()

    def result(self) -> Result:
        """What happened, when all requests have ended."""
        begun = [call for call in self.calls if self._counts(call.begun)]
        ended = [call for call in self.calls if self._counts(call.ended)]
        return Result(
            self._load,
            offered=sum(self._counts(call.sent) for call in self.calls),
            answered=sum(call.answered for call in ended),
            begun=len(begun),
            in_vain=sum(not call.answered for call in begun),
            outcomes=Counter(call.error for call in ended if call.error is not None),
        )

    def _counts(self, when: float | None) -> bool:
        return when is not None and self._counts_from <= when < self._end
