"""Do idle connections slow the busy ones down?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import OURS_UNIX

BUSY = 64


def comparisons(scale: Scale) -> list[Comparison]:
    def load(name: str, idle: int) -> Load:
        return Load(name, program("ours:connections", connections=BUSY, idle=idle), OURS_UNIX)

    question = f"{scale.connections:,} idle connections: speed of {BUSY} busy ones"
    among_idle = load(f"ours, {BUSY} busy among idle ones", scale.connections)
    alone = load("itself without the idle ones", 0)
    return [Comparison(question, among_idle, alone, target=0.9)]
