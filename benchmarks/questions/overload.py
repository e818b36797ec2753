"""How much of what a server can do is done in time when far more is asked?

One core lets a client ask for some thousand requests a second, and a server answer them, and no
more.  Where ten times what the workers can do is beyond that, as much is asked as there can be,
and the row says how much that is.  16 workers of 1 ms each are short of nothing then, so they
have no row.  The whole grid is played on virtual time: `PYTHONPATH=tests python -m load`.
"""

from __future__ import annotations

from benchmarks.common import ANSWERED, IN_VAIN, NOT_RUN
from benchmarks.measure import Comparison, Load, Scale, program

TIMES = {2: 95, 5: 92, 10: 90}
"""The percentage of what can be answered that is to be, by how many times as much is asked."""

MOST_ASKED = {"local": 8000, "tcp": 3200}
"""Requests in a second that leave the core some time to spare."""

WORKERS = (1, 16)
HANDLING = ((1_000, 1_000), (10_000, 10_000), (1_000, 50_000))
"""Microseconds that a request takes, at least and at most."""

CONNECTIONS = 8

FEW = {
    ("tcp", 1, (10_000, 10_000), 5),
    ("tcp", 16, (1_000, 50_000), 2),
    ("local", 1, (10_000, 10_000), 10),
}
"""For a quick look: the kind, the workers, the handling and the times of each."""


def comparisons(scale: Scale) -> list[Comparison]:
    return [
        row
        for kind in MOST_ASKED
        for workers in WORKERS
        for handling in HANDLING
        for times in TIMES
        if scale.every_overload or (kind, workers, handling, times) in FEW
        for row in rows(kind, workers, handling, times)
    ]


def rows(kind: str, workers: int, handling: tuple[int, int], times: int) -> list[Comparison]:
    """The rows of one load; none where no more can be asked than in the one before."""
    shortest, longest = handling
    can_do = workers * 2_000_000 // (shortest + longest)
    rate = min(times * can_do, MOST_ASKED[kind])
    before = max((each for each in TIMES if each < times), default=1)
    if rate < 1.2 * before * can_do:
        return []
    given = {"workers": workers, "shortest": shortest, "longest": longest}
    server = program("under_load:serve", **given) if kind == "tcp" else None
    if kind == "tcp":
        given["connections"] = CONNECTIONS
    took = f"{longest // 1000}" if shortest == longest else f"{shortest // 1000} to {longest // 1000}"
    team = f"{kind}, {workers} worker{'s' if workers > 1 else ''} of {took} ms"
    asked = f"{rate / can_do:.2g} times what it can do"
    if rate < times * can_do:
        asked += ", as much as one core allows"
    client = program("under_load:overloaded", **given, rate=rate)
    load = Load(f"{team}, {asked}", client, server, fresh=True, once=True)
    targets = {ANSWERED: TIMES[times], IN_VAIN: 5, NOT_RUN: 95}
    return [
        Comparison(f"overload: {team}, asked for {asked}", load, None, figure, target)
        for figure, target in targets.items()
    ]
