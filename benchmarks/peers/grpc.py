"""gRPC: calls of one method whose messages are bytes, on OS threads, which is faster than on asyncio."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from benchmarks.common import MESSAGE, Figures, Server, timed_loop

SERVICE, METHOD = "Echo", "echo"
WORKERS = 8


def serve(ready: Callable[[str], None]) -> None:
    """A server that echoes."""
    method = grpc.unary_unary_rpc_method_handler(lambda request, _: request)
    server = grpc.server(ThreadPoolExecutor(WORKERS))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {METHOD: method}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    ready(f"127.0.0.1:{port}")
    server.wait_for_termination()


def calls(seconds: float, server: Server) -> Figures:
    """One call at a time."""
    with grpc.insecure_channel(server[0]) as channel:
        exchange = partial(channel.unary_unary(f"/{SERVICE}/{METHOD}"), MESSAGE)
        exchange()
        return timed_loop(exchange, seconds, server)


def in_flight(seconds: float, server: Server, requests: int) -> Figures:
    """One thread, with so many calls in flight."""
    with grpc.insecure_channel(server[0]) as channel:
        method = channel.unary_unary(f"/{SERVICE}/{METHOD}")
        method(MESSAGE)
        open_calls = deque(method.future(MESSAGE) for _ in range(requests))

        def exchange() -> None:
            open_calls.popleft().result()
            open_calls.append(method.future(MESSAGE))

        figures = timed_loop(exchange, seconds, server)
        for call in open_calls:
            call.cancel()
        return figures
