"""How quick is the bus inside one process, for one client?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program


def comparisons(_: Scale) -> list[Comparison]:
    ours = Load("ours, local bus, 1 client", program("ours:local", clients=1))
    peer = Load("asyncio Queue + Future", program("peers.asyncio:local", clients=1))
    return [Comparison("local bus, 1 client and 1 server thread", ours, peer, target=1.6)]
