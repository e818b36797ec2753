"""A thread that calls one function, and how a call fails, for the tests of what threads call."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from helpers import wait_until
from ratchet import BusError, Outcome, Ratchet
from ratchet._wait import waiting_on

WRONG_SECONDS = ["1", True, 1j, b"1", [1]]


class Caller:
    """A thread that calls something, with what came of it.

    It is a thread of `kernel`, or a plain greenlet without one.
    """

    def __init__(self, call: Callable[[], object], kernel: Ratchet | None = None) -> None:
        self.outcome: object = None
        self._call = call
        self.thread: gevent.Greenlet[Any, Any]
        self.thread = gevent.spawn(self._run) if kernel is None else kernel.attach(self._run)

    def _run(self) -> None:
        try:
            self.outcome = self._call()
        except BaseException as error:
            self.outcome = error

    def started(self) -> Caller:
        """Wait until the thread waits in its call."""
        wait_until(lambda: waiting_on(self.thread) or self.thread.ready(), "the thread to wait")
        return self

    def result(self) -> object:
        """Wait until the call is over."""
        wait_until(self.thread.ready, "the call to end")
        return self.outcome


def failure(call: Callable[[], object]) -> tuple[type[BusError], Outcome]:
    """The type and the outcome of the error that a call raises."""
    with pytest.raises(BusError) as caught:
        call()
    return type(caught.value), caught.value.outcome


def send_signal(number: int = signal.SIGUSR1) -> None:
    os.kill(os.getpid(), number)
