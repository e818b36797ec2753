"""How quick is the bus inside one process, for many clients?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program

CLIENTS = 64


def comparisons(_: Scale) -> list[Comparison]:
    ours = Load(f"ours, local bus, {CLIENTS} clients", program("ours:local", clients=CLIENTS))
    on_gevent = Load("gevent Queue + AsyncResult", program("peers.gevent:local", clients=CLIENTS))
    on_asyncio = Load("asyncio Queue + Future", program("peers.asyncio:local", clients=CLIENTS))
    question = f"local bus, {CLIENTS} clients and 1 server thread"
    return [
        Comparison(question, ours, on_gevent, target=1.4),
        Comparison(question, ours, on_asyncio, target=0.9),
    ]
