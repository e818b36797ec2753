"""What the tests of several modules share."""

from __future__ import annotations

import itertools
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent
from typing import Any

import gevent

import ratchet

LONG = 20.0
"""Seconds after which a test gives up.  Nothing that works gets near it."""

_EAGER_TURNS = 100
_PAUSES = 0.001, 0.01  # seconds: the first, and the longest; each is longer by half than the one before

PACKAGE = Path(ratchet.__file__).parent


def wait_until(condition: Callable[[], object], what: str = "the condition", seconds: float = LONG) -> None:
    """Let the other greenlets run until `condition()` is true: turn by turn, and then now and then.

    What takes more than some turns waits for the system, or for another process: that
    one is to have the processor.
    """
    end = time.monotonic() + seconds
    pause, longest = _PAUSES
    for turn in itertools.count():
        if condition():
            return
        assert time.monotonic() < end, f"waited in vain for {what}"
        if turn < _EAGER_TURNS:
            gevent.sleep(0)
        else:
            gevent.sleep(pause)
            pause = min(1.5 * pause, longest)


def turns(count: int = 5) -> None:
    """Let the other greenlets run for some turns: time for something that must not happen."""
    for _ in range(count):
        gevent.sleep(0)


def burn(seconds: float) -> None:
    """Work on the CPU without letting the hub run."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


def narrow(connection: Any) -> None:
    """Let the kernel keep little that this side sends."""
    with socket.socket(fileno=os.dup(connection._transport.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)


def active_watchers() -> int:
    """How many watchers keep the hub of this OS thread alive."""
    loop: Any = gevent.get_hub().loop
    return int(loop.activecnt)


def raising_once(right: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises in place of its first call."""
    struck: list[bool] = []

    def fails_once(*args: Any) -> Any:
        if not struck:
            struck.append(True)
            raise MemoryError
        return right(*args)

    return fails_once


def in_os_thread(func: Callable[[], object]) -> BaseException | None:
    """Call `func` in another OS thread, and return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            func()
        except BaseException as error:
            raised.append(error)
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    os_thread = threading.Thread(target=run)
    os_thread.start()
    os_thread.join(LONG)
    assert not os_thread.is_alive(), "the call from another OS thread hangs"
    return raised[0] if raised else None


def run_program(source: str) -> subprocess.CompletedProcess[str]:
    """Run `source` as a program of its own, with warnings as errors."""
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", dedent(source)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        # It may compute for seconds, which take ten times as long on a busy machine.
        timeout=2.5 * LONG,
        check=False,
    )


def output_of(source: str) -> str:
    """What a program prints; it must end well and leave stderr empty."""
    program = run_program(source)
    assert program.stderr == ""
    assert program.returncode == 0
    return program.stdout
