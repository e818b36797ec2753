"""RPyC: calls of remote objects, over blocking sockets."""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial

import rpyc

from benchmarks.common import MESSAGE, Figures, Server, target, timed_loop


class Echo(rpyc.Service):  # type: ignore[misc,unused-ignore]  # rpyc has no types
    def exposed_echo(self, message: bytes) -> bytes:
        return message


def serve(ready: Callable[[str], None]) -> None:
    """A server that echoes, for one client after the other."""
    listener = socket.create_server(("127.0.0.1", 0))
    ready("{}:{}".format(*listener.getsockname()))
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        rpyc.connect_stream(rpyc.SocketStream(connection), Echo).serve_all()


def calls(seconds: float, server: Server) -> Figures:
    """One call at a time."""
    _, where = target(server[0])
    with rpyc.connect(*where) as connection:
        exchange = partial(connection.root.echo, MESSAGE)
        exchange()
        return timed_loop(exchange, seconds, server)
