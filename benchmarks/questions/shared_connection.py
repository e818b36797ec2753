"""How quick is one connection that many threads share?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions import both_ways
from benchmarks.questions.many_connections import CONNECTIONS
from benchmarks.servers import LOOPS, OURS, OURS_BY_SERVE, grpc, nats, redis, streams

THREADS = 64


def tasks(loop: str) -> Load:
    """Tasks that share a connection without streams."""
    on_uvloop = LOOPS[loop]
    return Load(
        f"{loop} Protocol, {THREADS} tasks, joined writes",
        program("peers.protocol:connections", connections=1, tasks=THREADS, on_uvloop=on_uvloop, joined=True),
        program("peers.protocol:serve", on_uvloop=on_uvloop, joined=True),
    )


def comparisons(_: Scale) -> list[Comparison]:
    client = program("ours:connections", connections=1, threads=THREADS)
    return both_ways(
        f"{THREADS} threads sharing one connection",
        Load(f"ours, {THREADS} threads on 1 connection", client, OURS),
        Load(f"ours, {THREADS} threads on 1 connection, by serve", client, OURS_BY_SERVE),
        [
            (streams("uvloop", CONNECTIONS), 6, 5),
            *((tasks(loop), None, None) for loop in LOOPS),
            (redis(connections=1, in_flight=THREADS), None, None),
            (nats(THREADS), None, None),
            (grpc(THREADS), None, None),
        ],
    )
