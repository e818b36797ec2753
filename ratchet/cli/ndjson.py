"""`ratchet call --ndjson`: a stream of requests and the stream of their responses, over one connection.

A background greenlet reads a line, sends its request and queues the transaction; the main one
takes the transactions in that order, waits for each, and writes its line.  Both streams move
at once, and no more than a fixed number of requests are between the two.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

import gevent
from gevent.lock import Semaphore
from gevent.queue import SimpleQueue

from ratchet import _clock
from ratchet.bus import ClientTransaction
from ratchet.cli.client import Client
from ratchet.cli.common import USAGE, Failure, cannot_read, put
from ratchet.cli.forms import Form, FormError, Response, one_line
from ratchet.errors import BusError

__all__ = ["Pipeline", "lines_of"]

_READ_SIZE = 64 * 1024

Sent: TypeAlias = "ClientTransaction[Sequence[bytes], Response] | BusError | FormError"
"""A request on its way, or why it is not."""


class Pipeline:
    """Sends a request for each line of input, and writes a line of output for each, in order.

    Attributes:
        failed: how many requests have ended in an error.
    """

    def __init__(
        self,
        client: Client,
        form: Form,
        timeout: float,
        metadata: Mapping[str, str] | None,
        most_in_flight: int,
    ) -> None:
        self.failed = 0
        self._client = client
        self._form = form
        self._timeout = timeout
        self._metadata = metadata
        self._window = Semaphore(most_in_flight)
        # None is the end.
        self._sent: SimpleQueue[Sent | None] = SimpleQueue()
        self._input_failure: Failure | None = None

    def run(self, lines: Iterable[bytes]) -> None:
        """Answer all lines; blocks.  Raises `Failure` if the input or the output fails."""
        reader = gevent.spawn(self._send_all, lines)
        try:
            while (sent := self._sent.get()) is not None:
                put(self._line(sent))
                self._window.release()
            if self._input_failure is not None:
                raise self._input_failure
            reader.get()
        finally:
            reader.kill()

    def _send_all(self, lines: Iterable[bytes]) -> None:
        """The background greenlet; waits while enough are in flight."""
        try:
            for line in lines:
                self._window.acquire()
                self._sent.put(self._send(line))
        except Failure as failure:
            self._input_failure = failure
        finally:
            self._sent.put(None)

    def _send(self, line: bytes) -> Sent:
        try:
            return self._client.send_request(self._form.encode(line), self._timeout, self._metadata)
        except (BusError, FormError) as error:
            return error

    def _line(self, sent: Sent) -> bytes:
        """The line of one request, when it has ended; blocks."""
        try:
            if isinstance(sent, Exception):
                raise sent
            return self._form.show(sent.recv_response())
        except (BusError, FormError) as error:
            self.failed += 1
            return one_line(
                {"error": {"code": error.code, "outcome": error.outcome, "message": error.message}}
            )


def lines_of(argument: str) -> Iterator[bytes]:
    """The lines of a REQUEST as they come, but for blank ones; blocks.  Raises `Failure`."""
    return filter(bytes.strip, _all_lines(argument))


def _all_lines(argument: str) -> Iterator[bytes]:
    try:
        if argument in ("-", "@-"):
            if sys.stdin is None:
                raise Failure("stdin is closed; give the requests as @FILE", USAGE)
            yield from _read_lines(sys.stdin.fileno())
        elif argument.startswith("@"):
            with open(argument[1:], "rb", buffering=0) as file:
                yield from _read_lines(file.fileno())
        else:
            yield from os.fsencode(argument).split(b"\n")
    except OSError as error:
        raise cannot_read(argument, error) from error


def _read_lines(file: int) -> Iterator[bytes]:
    """Read each line when it is there, while other greenlets run.  Raises `OSError`."""
    # A file on a disk is always ready, and some loops refuse to watch one.
    waits = not stat.S_ISREG(os.fstat(file).st_mode)
    begun: list[bytes] = []
    while True:
        if waits:
            _clock.wait_read(file)
        try:
            data = os.read(file, _READ_SIZE)
        except BlockingIOError:
            continue
        if not data:
            break
        first, *others = data.split(b"\n")
        begun.append(first)
        if others:
            yield b"".join(begun)
            yield from others[:-1]
            begun = [others[-1]]
    yield b"".join(begun)
