"""zerorpc: calls over ZeroMQ, on gevent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import zerorpc

from benchmarks.common import MESSAGE, Figures, Server
from benchmarks.on_gevent import closed_loop


class Echo:
    def echo(self, message: bytes) -> bytes:
        return message


def serve(ready: Callable[[str], None]) -> None:
    """A server that echoes."""
    server = zerorpc.Server(Echo())
    # ZeroMQ takes a free port, but zerorpc keeps which one to itself.
    server.bind("tcp://127.0.0.1:0")
    ready(server._events._socket.last_endpoint.decode().removeprefix("tcp://"))
    server.run()


def greenlets(seconds: float, server: Server, greenlets: int) -> Figures:
    """Greenlets that share one client, with one call at a time each."""
    client: Any = zerorpc.Client()
    client.connect(f"tcp://{server[0]}")
    exchange = partial(client.echo, MESSAGE)
    exchange()
    figures = closed_loop([exchange] * greenlets, seconds, server)
    client.close()
    return figures
