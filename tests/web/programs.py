"""A running example, and requests to it that let other greenlets run meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import gevent
from gevent import socket

from helpers import LONG, wait_until
from ratchet import bus

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
WEB_APP = EXAMPLES / "web_app.py"

COUNTING = b": still counting\n"
"""The line that comes when there is nothing to tell."""


class Program:
    """A program that has said where it listens: at `address`, which is without a scheme."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self._process = process
        self._log = log
        self._told = False
        assert process.stdout is not None
        self._stdout = process.stdout
        line = self._stdout.readline()
        assert line.startswith("listening on "), line + self.log()
        self.address = line.removeprefix("listening on ").removeprefix("http://").strip()

    def log(self) -> str:
        """What it has written to stderr."""
        return self._log.read_text(encoding="utf-8")

    def end(self) -> str:
        """Tell it to end, unless it was told, see that it ends well, and return what it printed since."""
        if not self._told:
            self.tell_to_end()
        wait_until(lambda: self._process.poll() is not None, "the program's end")
        assert self._process.returncode == 0, self.log()
        assert "Traceback" not in self.log()
        return self._stdout.read()

    def tell_to_end(self) -> None:
        # Once: a second signal would end it at once.
        self._told = True
        self._process.send_signal(signal.SIGTERM)

    def get(self, path: str) -> tuple[int, str]:
        """The status and the text of a whole response."""
        with self.getting(path) as response:
            return response.status, response.read().decode()

    def stats(self) -> dict[str, int]:
        """What the bus of the web application counts."""
        status, text = self.get("/stats")
        assert status == 200
        stats: dict[str, int] = json.loads(text)
        return stats

    @contextmanager
    def getting(self, path: str) -> Iterator[HTTPResponse]:
        """A response that has begun.  Leaving the block breaks it off."""
        host, port = self.address.split(":")
        connection = HTTPConnection(host, int(port))
        connection.sock = socket.socket()
        connection.sock.settimeout(LONG)
        try:
            connection.sock.connect((host, int(port)))
            connection.request("GET", path)
            with connection.getresponse() as response:
                yield response
        finally:
            connection.close()


def events(response: HTTPResponse) -> Iterator[dict[str, Any]]:
    """The server-sent events as they come."""
    for line in response:
        if line.startswith(b"data: "):
            yield json.loads(line.removeprefix(b"data: "))


@contextmanager
def serving(handler: Callable[[list[int]], int]) -> Iterator[tuple[bus.ServerBus[Any, Any], str]]:
    """A server of the bus in this process, and its address."""
    with bus.listen("127.0.0.1:0", codec=bus.codecs.json) as server:
        workers = gevent.spawn(server.serve, handler)
        yield server, "{}:{}".format(*server.address)
    workers.join()


@contextmanager
def running(log: Path, *command: str | Path, **environment: str) -> Iterator[Program]:
    """A Python program, killed at the end of the block if it still runs then."""
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    with process:
        try:
            yield Program(process, log)
        finally:
            process.kill()
