"""How quick is one connection, with one request at a time?"""

from __future__ import annotations

from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.servers import ASYNCIO, GEVENT, OURS

WORKERS = 64


def comparisons(_: Scale) -> list[Comparison]:
    client = program("ours:connections", connections=1)
    ours = Load("ours, 1 connection", client, OURS)
    serving = Load(
        f"ours, 1 connection, serve with {WORKERS} workers", client, program("ours:serve", workers=WORKERS)
    )
    on_gevent = Load("gevent.socket echo", program("peers.gevent:connections", connections=1), GEVENT)
    on_asyncio = Load(
        "asyncio streams", program("peers.asyncio:connections", connections=1, on_uvloop=False), ASYNCIO
    )
    rpyc = Load("rpyc", program("peers.rpyc:calls"), program("peers.rpyc:serve"))
    thrift = Load("thriftpy2", program("peers.thriftpy2:calls"), program("peers.thriftpy2:serve"))
    question = "one connection, one request at a time"
    return [
        Comparison(question, ours, on_gevent, target=0.65),
        Comparison(question, ours, on_asyncio),
        Comparison(question, ours, thrift),
        Comparison(question, ours, rpyc),
        Comparison(f"{question}, answered by serve()", serving, on_gevent),
    ]
