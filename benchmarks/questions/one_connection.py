"""How quick is one connection, with one request at a time?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions import both_ways
from benchmarks.servers import GEVENT, GRPC, LOOPS, OURS, OURS_BY_SERVE, nats, protocol, redis, streams


def comparisons(_: Scale) -> list[Comparison]:
    client = program("ours:connections", connections=1)
    on_gevent = Load("gevent.socket echo", program("peers.gevent:connections", connections=1), GEVENT)
    others = [
        *(protocol(loop, connections=1) for loop in LOOPS),
        *(streams(loop, connections=1) for loop in LOOPS),
        redis(connections=1),
        nats(tasks=1),
        Load("gRPC", program("peers.grpc:calls"), GRPC),
        Load("thriftpy2", program("peers.thriftpy2:calls"), program("peers.thriftpy2:serve")),
        Load("rpyc", program("peers.rpyc:calls"), program("peers.rpyc:serve")),
    ]
    return both_ways(
        "one connection, one request at a time",
        Load("ours, 1 connection", client, OURS),
        Load("ours, 1 connection, by serve", client, OURS_BY_SERVE),
        [(on_gevent, 1.6, 1.6), *((other, None, None) for other in others)],
    )
