"""What does a connection for one plain request cost?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import GEVENT_UNIX, OURS_UNIX


def comparisons(_: Scale) -> list[Comparison]:
    ours = Load("ours, connect and close", program("ours:connect_and_close"), OURS_UNIX)
    peer = Load("gevent.socket, the same", program("peers.gevent:connect_and_close"), GEVENT_UNIX)
    return [Comparison("Unix socket: connect, one plain request, close", ours, peer, target=0.75)]
