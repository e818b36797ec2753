"""What holds for every test: it leaves nothing behind on the hub."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers import LONG, active_watchers, wait_until
from ratchet import _pause, _sigwait, _turns, kernel


def leftovers() -> list[str]:
    """The registers that should be empty between two tests, and are not."""
    registers = {
        "paused threads": _pause.paused,
        "waiters for signals": _sigwait.waiters,
        "schedulers that were entered": kernel._entered,
        "loops off the main greenlet": _turns._off_main,
        "threads of the shared scheduler": [
            owned for shared in kernel._shared.values() for owned in shared._scheduler.threads
        ],
    }
    return [f"{name}: {register!r}" for name, register in registers.items() if register]


@pytest.fixture(autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """No watcher keeps the hub alive after the test, and no register of ours has an entry."""
    before = active_watchers()
    known = leftovers()
    yield
    try:
        wait_until(lambda: active_watchers() <= before and leftovers() in ([], known), seconds=5)
    except AssertionError:
        pytest.fail(f"watchers left: {active_watchers() - before}; {leftovers()}")


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def hits() -> Iterator[list[int]]:
    """The signals that reached Python's own handler for SIGUSR1 and SIGUSR2."""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in (signal.SIGUSR1, signal.SIGUSR2)
    }
    yield caught
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for socket files, and the working one: a socket's path must be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sockets() -> Iterator[Callable[[Any], Any]]:
    """Closes what is passed to it at the end of the test."""
    opened: list[Any] = []

    def remember(opened_socket: Any) -> Any:
        opened_socket.settimeout(LONG)
        opened.append(opened_socket)
        return opened_socket

    yield remember
    for each in opened:
        each.close()
