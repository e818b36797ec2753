"""The two programs that `robustness.chaos` starts, kills, stops and cuts off.

The server's handler first says in a log that the request runs.  The client says
in its own file that it begins a request, and how it ended after that is known.
Each line is one write to a file that is open for appending, so it outlives a
kill.  Nothing here judges anything.

    python -m robustness.chaos_programs server|client NAME ADDRESS KIND DIRECTORY PARENT
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import gevent
from gevent.event import Event

from ratchet import BusError
from ratchet import bus as ratchet_bus

RAN = "ran.log"
READY = ".ready"
ENDINGS = ".endings"
WORKERS = 32
THREADS = 16
REST = 0.3
"""Seconds that a client's thread rests between two requests, or bursts of them, on average."""
LAST_SECONDS = 25.0
"""How long a client that is to end waits for its last requests."""

_DIES_WITH_PARENT = 1  # prctl's PR_SET_PDEATHSIG


def request_of(name: bytes) -> bytes:
    """The one request that has this name, which ends in its size."""
    return name + b" " + b"x" * int(name.rpartition(b"-")[2])


def answer_to(name: bytes) -> bytes:
    """The one answer to the request of this name; a large one has a large answer."""
    return name + b" " + b"y" * (int(name.rpartition(b"-")[2]) // 2)


def tls(kind: str, directory: Path, server_side: bool) -> ssl.SSLContext | None:
    if kind != "tls":
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(directory / "authority.pem")
    if server_side:
        context.load_cert_chain(directory / "server.pem")
    return context


def appending(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def say_ready(directory: Path, name: str, address: Any) -> None:
    """Leave a file that says so, and to a server's peers where it listens; whole or not at all."""
    port = address[1] if isinstance(address, tuple) else ""
    (directory / f"{name}.new").write_text(str(port))
    os.rename(directory / f"{name}.new", directory / f"{name}{READY}")


def serve(name: str, address: str, kind: str, directory: Path) -> None:
    log = appending(directory / RAN)
    chance = random.Random()

    def handle(request: bytes) -> bytes:
        named = request.partition(b" ")[0]
        # Before anything else.
        os.write(log, named + b"\n")
        if request != request_of(named):
            os.write(log, b"%s torn\n" % named)
        gevent.sleep(chance.choice((0, 0, 0.002, 0.02)))
        if chance.random() < 0.02:
            raise ValueError("an error of the handler")
        return answer_to(named)

    server = ratchet_bus.listen(address, ssl_context=tls(kind, directory, True))
    gevent.signal_handler(signal.SIGTERM, lambda: gevent.spawn(server.drain, 3.0))
    say_ready(directory, name, server.address)
    server.serve(handle, WORKERS)


class Client:
    """Asks with many threads, in every way there is, and writes down how each request ended."""

    def __init__(self, name: str, address: str, kind: str, directory: Path) -> None:
        self._name = name
        self._chance = random.Random()
        self._file = appending(directory / f"{name}-{os.getpid()}{ENDINGS}")
        self._count = 0
        self._ending = Event()
        self._client: Any = ratchet_bus.connect(address, ssl_context=tls(kind, directory, False))
        gevent.signal_handler(signal.SIGTERM, self._ending.set)

    def run(self) -> None:
        threads = [gevent.spawn(self._work) for _ in range(THREADS)]
        self._ending.wait()
        gevent.joinall(threads, timeout=LAST_SECONDS)
        self._client.close()

    def _work(self) -> None:
        ways = (self._call, self._call, self._burst, self._cancel, self._cast)
        while not self._ending.is_set():
            self._chance.choice(ways)()
            gevent.sleep(self._chance.expovariate(1 / REST))

    def _new(self) -> bytes:
        self._count += 1
        size = 300_000 if self._chance.random() < 0.01 else self._chance.choice((0, 10, 2000))
        name = f"{self._name}-{os.getpid()}-{self._count}-{size}".encode()
        os.write(self._file, b"begun %s\n" % name)
        return name

    def _ended(self, name: bytes, how: str) -> None:
        os.write(self._file, b"ended %s %s\n" % (name, how.encode()))

    def _failed(self, name: bytes, error: BusError) -> None:
        self._ended(name, f"{type(error).__name__} {error.outcome}")

    def _timeout(self) -> float:
        return self._chance.choice((0.005, 0.05, 0.5, 5.0))

    def _answered(self, name: bytes, answer: bytes) -> None:
        self._ended(name, "answered" if answer == answer_to(name) else f"strange {answer[:60]!r}")

    def _call(self) -> None:
        name = self._new()
        try:
            answer = self._client.call(request_of(name), self._timeout())
        except BusError as error:
            self._failed(name, error)
        else:
            self._answered(name, answer)

    def _send(self, name: bytes) -> Any:
        try:
            return self._client.send_request(request_of(name), self._timeout())
        except BusError as error:
            self._failed(name, error)
            return None

    def _receive(self, name: bytes, transaction: Any) -> None:
        try:
            answer = transaction.recv_response()
        except BusError as error:
            self._failed(name, error)
        else:
            self._answered(name, answer)

    def _burst(self) -> None:
        sent = [(name, self._send(name)) for name in [self._new() for _ in range(16)]]
        for name, transaction in sent:
            if transaction is not None:
                self._receive(name, transaction)

    def _cancel(self) -> None:
        name = self._new()
        transaction = self._send(name)
        if transaction is not None:
            gevent.sleep(self._chance.choice((0, 0.001, 0.01)))
            transaction.cancel()
            self._receive(name, transaction)

    def _cast(self) -> None:
        name = self._new()
        try:
            self._client.cast(request_of(name))
        except BusError as error:
            self._failed(name, error)
        else:
            self._ended(name, "cast")


def main() -> None:
    role, name, address, kind, directory, parent = sys.argv[1:]
    ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != int(parent):
        return
    if role == "server":
        serve(name, address, kind, Path(directory))
    else:
        client = Client(name, address, kind, Path(directory))
        say_ready(Path(directory), name, None)
        client.run()


if __name__ == "__main__":
    main()
