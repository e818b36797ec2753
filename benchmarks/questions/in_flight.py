"""How quick is one thread that has many requests in flight?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions.many_connections import ON_UVLOOP
from benchmarks.servers import OURS

REQUESTS = 256
GREENLETS = 32


def comparisons(_: Scale) -> list[Comparison]:
    ours = Load(f"ours, {REQUESTS} in flight", program("ours:in_flight", requests=REQUESTS), OURS)
    zmq = Load(
        f"zmq.green, {REQUESTS} in flight",
        program("peers.zmq_green:in_flight", requests=REQUESTS),
        program("peers.zmq_green:serve"),
    )
    zerorpc = Load(
        f"zerorpc, {GREENLETS} greenlets",
        program("peers.zerorpc:greenlets", greenlets=GREENLETS),
        program("peers.zerorpc:serve"),
    )
    question = f"one thread, {REQUESTS} requests in flight"
    return [
        Comparison(question, ours, ON_UVLOOP, target=4),
        Comparison(question, ours, zmq, target=12),
        Comparison(question, ours, zerorpc, target=100),
    ]
