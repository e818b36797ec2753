"""How quick is the bus inside one process, for one client?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Scale
from benchmarks.questions.local_many_clients import against_queues


def comparisons(_: Scale) -> list[Comparison]:
    return against_queues(1, on_asyncio=(2.4, None), on_gevent=(None, None))
