"""How late are the latest answers at half of full load?"""

from __future__ import annotations

from benchmarks.common import LATENCY
from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import GEVENT, OURS

CONNECTIONS = 32


def comparisons(_: Scale) -> list[Comparison]:
    full_load = Load(
        "gevent.socket at full load", program("peers.gevent:connections", connections=CONNECTIONS), GEVENT
    )
    ours = Load(
        "ours at a fixed rate",
        program("ours:at_fixed_rate", connections=CONNECTIONS),
        OURS,
        half_of=full_load,
    )
    peer = Load(
        "gevent.socket at the same rate",
        program("peers.gevent:at_fixed_rate", connections=CONNECTIONS),
        GEVENT,
        half_of=full_load,
    )
    question = f"latency at half of gevent.socket's full load, {CONNECTIONS} connections"
    return [Comparison(question, ours, peer, figure=LATENCY, target=1.5)]
