"""Steps of the hot path that are other code in the compiled build.

This module has them in pure Python, and is not compiled itself; `_native.pxd` has them in C, each
with its reason.  Callers look the same in both builds: they import this module, not its names.
Those that are compiled also say `cimport` in their `.pxd`; all others use `_wait`, because from
here they would get the steps of the pure build.

Nothing here has a state; in the compiled build, `_sleep` keeps it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import Context, ContextVar
from sys import getrefcount
from types import FrameType
from typing import Any

from gevent.hub import Hub, Waiter, get_hub
from greenlet import getcurrent, greenlet

hub_here: Callable[[], Hub] = get_hub
"""The hub of this OS thread, only to be compared with one; for where that is asked in each exchange."""

current_thread: Callable[[], greenlet] = getcurrent
"""The running greenlet."""

new_wait: Callable[[], Waiter[Any]] = Waiter
"""An object for a thread to sleep on: gevent's, or `_sleep.Wait`."""


def wait_on(wait: Waiter[Any], call: str, subject: object) -> Any:
    """Sleep until `wait` is woken, and return the value that it is woken with."""
    return wait.get()


def run(waits: Iterable[Waiter[Any]]) -> None:
    """Wake the threads that sleep on these, one after the other; only from a hub callback."""
    for wait in waits:
        wait.switch(None)


def sleep_of(thread: greenlet) -> tuple[str, object] | None:
    """The call that a thread sleeps in, and on what; None if it does not `wait_on` anything."""
    frame = thread.gr_frame
    if not isinstance(frame, FrameType) or frame.f_code is not wait_on.__code__:
        return None
    return frame.f_locals["call"], frame.f_locals["subject"]


new: Callable[[type[Any]], Any] = object.__new__
"""Make an object without calling `__init__`."""

value_of: Callable[[ContextVar[Any]], Any] = ContextVar.get
"""The value of a context variable, which has one or a default."""

copy_of: Callable[[Context], Context] = Context.copy
"""A copy of a context."""

references: Callable[[object], int] = getrefcount
"""How many references there are to an object; only to compare with another count of this function."""


def check_stack() -> bool:
    """Raise `RecursionError` if no level of the stack is left to undo what comes next.

    In pure Python, what comes next raises it by itself.
    """
    return True


def set_module(thing: object, module: str) -> None:
    """Have a class or function say that it is from a module."""
    thing.__module__ = module
