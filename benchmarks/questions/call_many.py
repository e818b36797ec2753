"""How quick is one thread that asks for many responses in one call?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions import both_ways
from benchmarks.questions.in_flight import REQUESTS, protocol_in_flight
from benchmarks.servers import OURS, OURS_BY_SERVE, redis


def comparisons(_: Scale) -> list[Comparison]:
    client = program("ours:call_many", requests=REQUESTS)
    in_batches = program("ours:serve", batch=REQUESTS)
    on_redis = redis(connections=1, in_flight=REQUESTS)
    question = f"call_many of {REQUESTS}"
    name = f"ours, {question}"
    rows = both_ways(
        question,
        Load(name, client, OURS),
        Load(f"{name}, by serve", client, OURS_BY_SERVE),
        [(on_redis, 1.0, None), (protocol_in_flight("uvloop", REQUESTS), None, None)],
    )
    by_batches = Load(f"{name}, by recv_requests", client, in_batches)
    return [*rows, Comparison(f"{question}, answered by recv_requests()", by_batches, on_redis)]
