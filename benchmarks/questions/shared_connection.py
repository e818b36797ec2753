"""How quick is one connection that many threads share?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions.many_connections import ON_UVLOOP
from benchmarks.servers import OURS

THREADS = 64


def comparisons(_: Scale) -> list[Comparison]:
    client = program("ours:connections", connections=1, threads=THREADS)
    ours = Load(f"ours, {THREADS} threads on 1 connection", client, OURS)
    return [Comparison(f"{THREADS} threads sharing one connection", ours, ON_UVLOOP, target=3.5)]
