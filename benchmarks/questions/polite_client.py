"""How long does a client with one request at a time wait beside those that ask far more?"""

from __future__ import annotations

from benchmarks.common import MEDIAN, SLOWEST
from benchmarks.measure import Comparison, Load, Scale, program

HANDLING = 5_000
IN_FLIGHT = 1_000
# Twice as long as alone and one handler more, which is about as long as alone.
TARGET = 3.0


def comparisons(scale: Scale) -> list[Comparison]:
    server = program("under_load:serve", workers=1, shortest=HANDLING, longest=HANDLING)

    def beside(name: str, others: int) -> Load:
        client = program("under_load:polite", others=others, each=IN_FLIGHT)
        return Load(name, client, server, fresh=True, once=not scale.every_overload)

    alone = beside("itself alone", 0)
    return [
        Comparison(
            f"one request of {HANDLING // 1000} ms at a time, beside {many} with {IN_FLIGHT:,} in flight",
            beside(f"beside {many} with {IN_FLIGHT:,} in flight", others),
            alone,
            figure,
            TARGET,
        )
        for many, others in (("one client", 1), ("50 clients", 50))
        for figure in (MEDIAN, SLOWEST)
    ]
