"""A proxy that treats what it passes on badly, by a seeded plan."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket

FAULTS = ("split", "delay", "cut", "reset", "stop reading", "half-close", "mixed")
_STRIKING = ("cut", "reset", "stop reading", "half-close")
_RESET = struct.pack("ii", 1, 0)


class FaultyProxy:
    """Listens on loopback and connects each client to a server, over a bad line.

    What becomes of the bytes is decided by `random_source` alone; when it
    happens is up to the hub.
    """

    def __init__(self, server: tuple[str, int], fault: str, random_source: random.Random) -> None:
        self._server = server
        self._fault = fault
        self._random = random_source
        self._sockets: set[Any] = set()
        self._threads: list[Any] = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.address: tuple[str, int] = self._listener.getsockname()
        self._threads.append(gevent.spawn(self._accept))

    def close(self) -> None:
        """Close every connection and end every thread."""
        gevent.killall(self._threads)
        for each in (*self._sockets, self._listener):
            each.close()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            self._sockets.add(near)
            try:
                far = socket.create_connection(self._server)
            except OSError:
                near.close()
                continue
            self._sockets.add(far)
            for source, target in ((near, far), (far, near)):
                line = random.Random(self._random.random())
                self._threads.append(gevent.spawn(self._pass_on, source, target, line))

    def _pass_on(self, source: Any, target: Any, line: random.Random) -> None:
        fault = line.choice(FAULTS[:-1]) if self._fault == "mixed" else self._fault
        # Now and then a line is good, so that something comes to its end.
        strike = None
        if fault in _STRIKING and line.random() < 0.7:
            # Early ones fall into the first messages, the others anywhere.
            strike = line.choice((line.randrange(60), line.randrange(6000)))
        passed = 0
        try:
            while True:
                data = source.recv(4096)
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                if strike is not None and passed + len(data) >= strike:
                    target.sendall(data[: strike - passed])
                    self._strike(fault, source, target, line)
                    return
                passed += len(data)
                self._send(fault, target, data, line)
        except OSError:
            # The other direction, or one of the two ends, has closed it.
            self._close(source, target)

    def _send(self, fault: str, target: Any, data: bytes, line: random.Random) -> None:
        size: Callable[[], int] = lambda: len(data)  # noqa: E731
        if fault == "split":
            size = lambda: line.choice((1, 2, 3, 7, 16, 500))  # noqa: E731
        elif fault == "delay":
            size = lambda: line.randrange(1, 5000)  # noqa: E731
        while data:
            count = size()
            piece, data = data[:count], data[count:]
            target.sendall(piece)
            if fault == "delay":
                for _ in range(line.randrange(20)):
                    gevent.sleep(0)
                if line.random() < 0.1:
                    gevent.sleep(0.01)
            elif fault == "split":
                gevent.sleep(0)

    def _strike(self, fault: str, source: Any, target: Any, line: random.Random) -> None:
        if fault == "half-close":
            target.shutdown(socket.SHUT_WR)
            while source.recv(4096):
                pass
        elif fault in ("cut", "reset"):
            if fault == "reset":
                for each in (source, target):
                    each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self._close(source, target)
        # What stops reading leaves everything as it is.

    def _close(self, *sockets: Any) -> None:
        for each in sockets:
            self._sockets.discard(each)
            each.close()
