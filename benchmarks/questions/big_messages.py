"""How quick are big messages?"""

from __future__ import annotations

from benchmarks.common import THROUGHPUT
from benchmarks.measure import Comparison, Load, Program, Scale, program

# By the question: the size, and what is aimed at.
SIZES = {"1 MiB messages": (2**20, 0.9), "64 MiB messages, the limit raised": (64 * 2**20, 0.8)}


def comparisons(_: Scale) -> list[Comparison]:
    def load(name: str, module: str, size: int) -> Load:
        def sized(function: str) -> Program:
            return program(f"{module}:{function}", message_size=size)

        return Load(name, sized("big_messages"), sized("serve"))

    return [
        Comparison(
            question,
            load(f"ours, {question}", "ours", size),
            load("gevent.socket, the same bytes back", "peers.gevent", size),
            figure=THROUGHPUT,
            target=target,
        )
        for question, (size, target) in SIZES.items()
    ]
