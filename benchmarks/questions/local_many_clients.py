"""How quick is the bus inside one process, for many clients?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions import both_ways
from benchmarks.servers import WORKERS

CLIENTS = 64

Targets = tuple[float | None, float | None]


def ours_with(clients: int, workers: int = 0) -> Load:
    """Answered by hand, or with `serve` and so many workers."""
    name = f"ours, {many(clients)}{', by serve' if workers else ''}"
    return Load(name, program("ours:local", clients=clients, workers=workers))


def many(clients: int) -> str:
    return f"local bus, {clients} client{'s' if clients > 1 else ''}"


def against_queues(clients: int, on_asyncio: Targets, on_gevent: Targets) -> list[Comparison]:
    """So many clients; the targets are those by hand and by `serve`."""
    return both_ways(
        many(clients),
        ours_with(clients),
        ours_with(clients, WORKERS),
        [
            (Load("asyncio Queue + Future", program("peers.asyncio:local", clients=clients)), *on_asyncio),
            (Load("gevent Queue + AsyncResult", program("peers.gevent:local", clients=clients)), *on_gevent),
        ],
    )


def comparisons(_: Scale) -> list[Comparison]:
    return against_queues(CLIENTS, on_asyncio=(2.2, 1.8), on_gevent=(3, None))
