"""An example that runs, in a process of its own; the test's greenlets run meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import gevent
from gevent import socket
from gevent.subprocess import PIPE, Popen

from helpers import LONG

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


class Program:
    """A running example, whose lines of output are read one by one."""

    def __init__(self, process: Popen[str], stderr: IO[str]) -> None:
        self._process = process
        self._stderr = stderr
        assert process.stdout is not None
        self._stdout = process.stdout

    def line(self) -> str:
        """The next line of its output, without its end; an error if none comes."""
        with gevent.Timeout(LONG, AssertionError("no line comes")):
            line = self._stdout.readline()
        assert line.endswith("\n"), f"ended in the midst of {line!r}; {self.errors()}"
        return line.removesuffix("\n")

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        """Wait for its end, and for that of all processes that it has started.

        Returns the exit status, the lines that were not read yet, and what it
        complained of.
        """
        with gevent.Timeout(LONG, AssertionError("it does not end")):
            status = self._process.wait()
            # Its processes share its output.
            lines = self._stdout.read().splitlines()
        return status, lines, self.errors()

    def errors(self) -> str:
        """What it has written to stderr so far."""
        self._stderr.seek(0)
        return self._stderr.read()


class ListeningProgram(Program):
    """A running example that has said where it listens.

    Attributes:
        address: that place.
    """

    def __init__(self, process: Popen[str], stderr: IO[str]) -> None:
        super().__init__(process, stderr)
        line = self.line()
        assert line.startswith("listening on "), line
        self.address = line.removeprefix("listening on ")


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Let other processes run until `condition()` is true, which is looked at now and then."""
    with gevent.Timeout(LONG, AssertionError(f"waited in vain for {what}")):
        while not condition():
            gevent.sleep(0.01)


def refuses(address: str) -> bool:
    """Whether nobody listens there (any more)."""
    host, port = address.split(":")
    try:
        socket.create_connection((host, int(port)), LONG).close()
    except ConnectionRefusedError:
        return True
    return False


@contextmanager
def started(name: str, *arguments: object) -> Iterator[tuple[Popen[str], IO[str]]]:
    """An example's process, with warnings as errors, and its stderr; killed if it outlives the block."""
    with tempfile.TemporaryFile("w+") as stderr:
        process = Popen(
            [sys.executable, EXAMPLES / name, *map(str, arguments)],
            env={**os.environ, "PYTHONWARNINGS": "error"},
            stdout=PIPE,
            stderr=stderr,
            text=True,
        )
        with process:
            try:
                yield process, stderr
            finally:
                process.kill()


@contextmanager
def running(name: str, *arguments: object) -> Iterator[Program]:
    """An example that was started; it is killed if it outlives the block."""
    with started(name, *arguments) as (process, stderr):
        yield Program(process, stderr)


@contextmanager
def listening(name: str, *arguments: object) -> Iterator[ListeningProgram]:
    """The same of one that listens, and does so already."""
    with started(name, *arguments) as (process, stderr):
        yield ListeningProgram(process, stderr)


def output_of(name: str, *arguments: object) -> list[str]:
    """The lines that an example puts out when it ends by itself, well and without complaint."""
    with running(name, *arguments) as program:
        status, lines, errors = program.end()
    assert (status, errors) == (0, "")
    return lines
