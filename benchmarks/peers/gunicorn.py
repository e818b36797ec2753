"""gunicorn with workers on gevent: JSON over HTTP/1.1, on connections that are kept alive.

What asks it here is not a client but a load generator, as wrk is.  It sends the same bytes over and
over, and checks only the size of each answer.  That shows gunicorn at its best: a client that makes
requests and takes answers apart uses far more of the processor.
"""

from __future__ import annotations

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from gunicorn.app.base import BaseApplication

from benchmarks.common import ORDER, Figures, Meter, Server, handle, target, to_json

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

RECEIVE_SIZE = 4096

BODY = to_json(ORDER).encode()
HEAD = (
    "POST / HTTP/1.1",
    "Host: localhost",
    "Content-Type: application/json",
    f"Content-Length: {len(BODY)}",
)
REQUEST = "\r\n".join([*HEAD, "", ""]).encode() + BODY


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """What each worker runs."""
    request = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    body = to_json(handle(json.loads(request))).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]


class Gunicorn(BaseApplication):
    """gunicorn without a command line; each worker says through a pipe that it is about to serve."""

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self._begun, self._tell = os.pipe()
        super().__init__()

    def load_config(self) -> None:
        settings = {
            "bind": "127.0.0.1:0",
            "workers": self._processes,
            "worker_class": "gevent",
            "loglevel": "error",
            # Longer than any exchange takes, however busy the machine is.
            "keepalive": 60,
            # It would be one file for all the gunicorns of a user.
            "control_socket_disable": True,
            "post_worker_init": self._say_begun,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return application

    def wait_for_workers(self) -> tuple[str, list[int]]:
        """Where they listen, and the processes; blocks."""
        with open(self._begun, encoding="utf-8") as lines:
            begun = [next(lines).split() for _ in range(self._processes)]
        return begun[0][0], [int(process) for _, process in begun]

    def _say_begun(self, worker: Any) -> None:
        host, port = worker.sockets[0].getsockname()
        os.write(self._tell, f"{host}:{port} {os.getpid()}\n".encode())


def serve(ready: Callable[..., None], processes: int) -> None:
    """A master, which is this process, and so many workers on the same processor."""

    def say() -> None:
        address, workers = gunicorn.wait_for_workers()
        ready(address, os.getpid(), *workers)

    gunicorn = Gunicorn(processes)
    threading.Thread(target=say, daemon=True).start()
    gunicorn.run()


def requests(seconds: float, server: Server, connections: int) -> Figures:
    """Connections with one request at a time each."""
    with ExitStack() as stack, select.epoll() as epoll:
        # Those that wait for an answer, by their descriptors.
        busy: dict[int, socket.socket] = {}
        for _ in range(connections):
            connection, answer_size = connected(stack, server)
            busy[connection.fileno()] = connection
            epoll.register(connection, select.EPOLLIN)
        meter = Meter(server)
        end = time.perf_counter() + seconds
        for connection in busy.values():
            connection.sendall(REQUEST)
        done = 0
        while busy:
            for descriptor, _ in epoll.poll():
                connection = busy[descriptor]
                if len(connection.recv(RECEIVE_SIZE)) != answer_size:
                    raise RuntimeError("an answer is not like the first one")
                done += 1
                if time.perf_counter() < end:
                    connection.sendall(REQUEST)
                else:
                    del busy[descriptor]
        return meter.figures(done)


def connected(stack: ExitStack, server: Server) -> tuple[socket.socket, int]:
    """A connection that wakes its reader for whole answers alone, and their size; the stack closes it."""
    family, where = target(server[0])
    connection = stack.enter_context(socket.socket(family))
    connection.connect(where)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(REQUEST)
    answer = b""
    while not answer.endswith(BODY):
        received = connection.recv(RECEIVE_SIZE)
        if not received:
            raise EOFError(f"the connection ended after {answer!r}")
        answer += received
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(f"it answered {answer!r}")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, len(answer))
    return connection, len(answer)
