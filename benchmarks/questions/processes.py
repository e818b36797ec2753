"""What does a call over two processes cost, next to a web server with as many?

The load generator uses far less of the processor than our client, which makes and reads messages.  So
one row is by the time of the server alone, and one has a client on the other side as well.
"""

from __future__ import annotations

from benchmarks.common import EXCHANGES, SERVED
from benchmarks.measure import Comparison, Load, Scale, program
from benchmarks.questions.many_connections import CONNECTIONS

PROCESSES = 2
TARGET = 4.0


def ours(connections: int) -> Load:
    """As many calls at a time, however many connections they share."""
    return Load(
        f"ours, {PROCESSES} processes, {connections} connections",
        program("ours:calls", connections=connections, threads=CONNECTIONS // connections),
        program("ours:serve_by_processes", processes=PROCESSES),
    )


def gunicorn(asked_by: str, client: str) -> Load:
    return Load(
        f"gunicorn -k gevent -w {PROCESSES}, {asked_by}",
        program(client, connections=CONNECTIONS),
        program("peers.gunicorn:serve", processes=PROCESSES),
    )


def comparisons(_: Scale) -> list[Comparison]:
    question = f"JSON calls to {PROCESSES} processes"
    one_each = f"{question}, {CONNECTIONS} connections"
    shared = f"{question}, {CONNECTIONS} threads sharing {PROCESSES} connections"
    by_generator = gunicorn("load generator", "peers.gunicorn:requests")
    by_client = gunicorn("geventhttpclient", "peers.geventhttpclient:calls")
    return [
        Comparison(asked, ours(connections), peer, figure, TARGET, by_serve=True)
        for asked, connections, peer, figure in (
            (one_each, CONNECTIONS, by_generator, EXCHANGES),
            (one_each, CONNECTIONS, by_client, EXCHANGES),
            (f"{one_each}, by CPU time of the server alone", CONNECTIONS, by_generator, SERVED),
            (shared, PROCESSES, by_generator, EXCHANGES),
        )
    ]
