"""geventhttpclient asking gunicorn: a call as programs make it, with JSON made and read at both ends."""

from __future__ import annotations

import json
from contextlib import closing

from geventhttpclient import HTTPClient

from benchmarks.common import ORDER, Figures, Server, target, to_json
from benchmarks.on_gevent import closed_loop

HEADERS = {"Content-Type": "application/json"}
# Longer than any exchange takes, however busy the machine is.
TIMEOUT = 60


def calls(seconds: float, server: Server, connections: int) -> Figures:
    """Connections with one call at a time each."""

    def exchange() -> object:
        return json.loads(client.post("/", to_json(ORDER), HEADERS).read())

    _, where = target(server[0])
    assert isinstance(where, tuple)
    asking = HTTPClient(*where, concurrency=connections, connection_timeout=TIMEOUT, network_timeout=TIMEOUT)
    with closing(asking) as client:
        assert exchange() == ORDER
        return closed_loop([exchange] * connections, seconds, server)
