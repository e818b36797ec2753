"""How quick is one thread that has many requests in flight?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions import both_ways
from benchmarks.servers import LOOPS, OURS, OURS_BY_SERVE, grpc, nats, redis

REQUESTS = 256
FEWER = 64


def protocol_in_flight(loop: str, requests: int, joined: bool = True) -> Load:
    """One task that has them in flight without streams."""
    on_uvloop = LOOPS[loop]
    return Load(
        f"{loop} Protocol, {requests} in flight, {'joined' if joined else 'single'} writes",
        program("peers.protocol:in_flight", requests=requests, on_uvloop=on_uvloop, joined=joined),
        program("peers.protocol:serve", on_uvloop=on_uvloop, joined=joined),
    )


def ours(requests: int, by_serve: bool = False) -> Load:
    name = f"ours, {requests} in flight{', by serve' if by_serve else ''}"
    return Load(name, program("ours:in_flight", requests=requests), OURS_BY_SERVE if by_serve else OURS)


def comparisons(_: Scale) -> list[Comparison]:
    others = [
        protocol_in_flight("uvloop", REQUESTS, joined=False),
        protocol_in_flight("asyncio", REQUESTS),
        Load(
            f"uvloop streams, {REQUESTS} in flight",
            program("peers.asyncio:in_flight", requests=REQUESTS, on_uvloop=True),
            program("peers.asyncio:serve", on_uvloop=True),
        ),
        nats(REQUESTS),
        grpc(REQUESTS),
        Load(
            f"zmq.green, {REQUESTS} in flight",
            program("peers.zmq_green:in_flight", requests=REQUESTS),
            program("peers.zmq_green:serve"),
        ),
        Load(
            f"zerorpc, {REQUESTS} greenlets",
            program("peers.zerorpc:greenlets", greenlets=REQUESTS),
            program("peers.zerorpc:serve"),
        ),
    ]
    rows = both_ways(
        f"one thread, {REQUESTS} requests in flight",
        ours(REQUESTS),
        ours(REQUESTS, by_serve=True),
        [
            (protocol_in_flight("uvloop", REQUESTS), 1.0, 0.9),
            (redis(connections=1, in_flight=REQUESTS), 0.65, None),
            *((other, None, None) for other in others),
        ],
    )
    fewer = f"one thread, {FEWER} requests in flight"
    peers = protocol_in_flight("uvloop", FEWER), redis(connections=1, in_flight=FEWER)
    return rows + [Comparison(fewer, ours(FEWER), peer) for peer in peers]
