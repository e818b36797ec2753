"""Threads for the tests of the scheduler, and the greenlets that run it."""

from __future__ import annotations

from collections.abc import Callable

import gevent
import pytest

from ratchet import Thread, thread


def on_main(func: Callable[[], None]) -> None:
    """Call `func` in the main greenlet, as a plain program does."""
    func()


def off_main(func: Callable[[], None]) -> None:
    """Call `func` in a greenlet of its own, as a program that runs gevent already does."""
    caller = gevent.spawn(func)
    # gevent prints the error as well, and a timeout of get() would hide a deadlock.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gevent.get_hub(), "exception_stream", None)
        caller.get()


anywhere = pytest.mark.parametrize("call", [on_main, off_main])


def fail(error: BaseException) -> None:
    """A thread that dies of `error`."""
    raise error


def pause_until_killed(trace: list[str], name: str = "thread") -> None:
    """A thread that waits until it is killed, and says that its `finally` block ran."""
    try:
        thread.pause()
    finally:
        trace.append(name)


def wait_and_fail(error: BaseException) -> None:
    """A thread that dies of `error`, when its time is over or when it is killed."""
    try:
        thread.timer(0.01)
    finally:
        raise error


class Odd(BaseException):
    """What a library that knows no better raises."""


def here(func: Callable[..., object], line: int) -> str:
    """How a stack names the line that is `line` lines below `def` of `func`."""
    return f'kernels.py", line {func.__code__.co_firstlineno + line}, in {func.__name__}'


def wait_for_unpause() -> None:
    thread.pause()


def wait_for_others(others: list[Thread]) -> None:
    thread.wait_all(others)
