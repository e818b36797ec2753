"""What does a call over RabbitMQ cost, next to doing the same by hand?

The node has one scheduler, on another core than the two programs, and its time does not count.
"""

from __future__ import annotations

from benchmarks.common import BY_THE_CLOCK, CPU, EXCHANGES
from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import WORKERS

MOST_CPU = 110.0


def ours(threads: int) -> Load:
    return Load(
        f"ours, {threads} threads, by serve",
        program("ours:broker_calls", threads=threads),
        program("ours:serve_by_broker", workers=WORKERS),
    )


def comparisons(_: Scale) -> list[Comparison]:
    question = "calls over a broker, {} in flight"
    pika = Load("pika", program("peers.pika:in_flight", requests=64), program("peers.pika:serve"))
    kombu = Load("kombu, patched", program("peers.kombu:threads", threads=256), program("peers.kombu:serve"))
    few, many = ours(64), ours(256)
    by_the_clock = BY_THE_CLOCK[EXCHANGES]
    return [
        Comparison(question.format(64), few, pika, by_the_clock, 1.2, by_serve=True),
        Comparison(question.format(64), few, pika, by_serve=True),
        Comparison(question.format(64), few, None, CPU, MOST_CPU, by_serve=True),
        Comparison(question.format(256), many, kombu, by_the_clock, 5.0, by_serve=True),
        Comparison(question.format(256), many, kombu, by_serve=True),
    ]
