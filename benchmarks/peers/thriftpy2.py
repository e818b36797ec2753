"""thriftpy2: Thrift's binary protocol, on OS threads."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial

from thriftpy2.parser import load_fp
from thriftpy2.protocol import TCyBinaryProtocolFactory
from thriftpy2.rpc import client_context
from thriftpy2.server import TThreadedServer
from thriftpy2.thrift import TProcessor
from thriftpy2.transport import TCyBufferedTransportFactory, TServerSocket

from benchmarks.common import MESSAGE, Figures, Server, target, timed_loop

INTERFACE = load_fp(io.StringIO("service Echo { binary echo(1: binary message) }"), "echo_thrift")


class Echo:
    def echo(self, message: bytes) -> bytes:
        return message


class Listener(TServerSocket):  # type: ignore[misc,unused-ignore]  # typed only where it is installed
    """A listener that tells which port it was given."""

    def __init__(self, ready: Callable[[str], None]) -> None:
        super().__init__("127.0.0.1", 0)
        self._ready = ready

    def listen(self) -> None:
        super().listen()
        self._ready("{}:{}".format(*self.sock.getsockname()))


def serve(ready: Callable[[str], None]) -> None:
    """A server that echoes."""
    processor = TProcessor(INTERFACE.Echo, Echo())
    protocol, transport = TCyBinaryProtocolFactory(), TCyBufferedTransportFactory()
    TThreadedServer(processor, Listener(ready), iprot_factory=protocol, itrans_factory=transport).serve()


def calls(seconds: float, server: Server) -> Figures:
    """One call at a time."""
    _, where = target(server[0])
    with client_context(INTERFACE.Echo, *where) as client:
        return timed_loop(partial(client.echo, MESSAGE), seconds, server)
