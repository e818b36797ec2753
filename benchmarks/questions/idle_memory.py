"""What does an idle connection cost the server in memory?"""

from __future__ import annotations

from benchmarks.common import CONNECTION
from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import GEVENT_UNIX, OURS_UNIX


def comparisons(scale: Scale) -> list[Comparison]:
    client = program("common:idle_memory", connections=scale.connections)
    ours = Load(f"ours, {scale.connections:,} idle connections", client, OURS_UNIX, fresh=True)
    peer = Load("gevent StreamServer", client, GEVENT_UNIX, fresh=True)
    question = f"{scale.connections:,} idle connections: memory of each on the server"
    return [Comparison(question, ours, peer, figure=CONNECTION, target=0.25)]
