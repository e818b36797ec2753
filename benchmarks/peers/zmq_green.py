"""ZeroMQ on gevent: a DEALER asks, a ROUTER answers."""

from __future__ import annotations

from collections.abc import Callable

import zmq.green as zmq

from benchmarks.common import MESSAGE, Figures, Server
from benchmarks.on_gevent import Window


def serve(ready: Callable[[str], None]) -> None:
    """A server that echoes."""
    router = zmq.Context().socket(zmq.ROUTER)
    ready(f"127.0.0.1:{router.bind_to_random_port('tcp://127.0.0.1')}")
    while True:
        router.send_multipart(router.recv_multipart())


def in_flight(seconds: float, server: Server, requests: int) -> Figures:
    """One greenlet, with so many requests in flight."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"tcp://{server[0]}")
        for _ in range(requests):
            dealer.send(MESSAGE)
        dealer.recv()
        dealer.send(MESSAGE)
        window = Window(seconds, server)
        done = 0
        while window.open:
            dealer.recv()
            dealer.send(MESSAGE)
            done += 1
        figures = window.figures(done)
        dealer.linger = 0
        return figures
