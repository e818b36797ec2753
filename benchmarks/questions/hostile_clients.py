"""How much memory can clients make a server take that has the default limits?"""

from __future__ import annotations

from benchmarks.common import TAKEN
from benchmarks.measure import Comparison, Load, Scale, program

WAYS = {
    "unread_answers": "requests of 64 KiB whose answers nobody reads",
    "tiny_requests": "requests without a body",
    "large_requests": "requests of 16 MiB",
    "unfinished_requests": "one request of 16 MiB each, less its last byte",
    "half_heads": "half a head each",
}


def comparisons(scale: Scale) -> list[Comparison]:
    rows = []
    for way, what in WAYS.items():
        server = program("hostile:serve", answers=way == "unread_answers")
        for count in scale.hostile_clients:
            clients = f"{count:,} hostile client{'s' if count > 1 else ''}"
            load = Load(
                f"{clients}, {what}",
                program(f"hostile:{way}", connections=count),
                server,
                fresh=True,
                once=True,
            )
            rows.append(Comparison(f"memory for {clients}: {what}", load, None, TAKEN, 150))
    return rows
