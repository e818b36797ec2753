"""How quick are many connections, with one request at a time each?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions import both_ways
from benchmarks.servers import LOOPS, OURS, OURS_BY_SERVE, protocol, redis, streams

CONNECTIONS = 32


def comparisons(_: Scale) -> list[Comparison]:
    client = program("ours:connections", connections=CONNECTIONS)
    return both_ways(
        f"{CONNECTIONS} connections, one request at a time each",
        Load(f"ours, {CONNECTIONS} connections", client, OURS),
        Load(f"ours, {CONNECTIONS} connections, by serve", client, OURS_BY_SERVE),
        [
            (streams("uvloop", CONNECTIONS), 1.6, None),
            (redis(CONNECTIONS), 0.9, None),
            (streams("asyncio", CONNECTIONS), None, None),
            *((protocol(loop, CONNECTIONS), None, None) for loop in LOOPS),
        ],
    )
