"""Threads that wait until another thread wakes them: `pause` and `unpause`.

A paused thread is in `paused` from the moment that it sleeps until the call that
wakes it, which schedules the wake-up first.  Nothing else wakes it but a kill or
an alarm.
"""

from __future__ import annotations

import os
from typing import Any

from greenlet import getcurrent, greenlet

from ratchet._fork import frozen
from ratchet._wait import Wait, check_hub, new_wait, suspend
from ratchet.errors import NotPaused

paused: dict[greenlet, Wait] = {}
"""The wait that each paused thread sleeps on."""


def pause() -> Any:
    """Wait until another thread calls `unpause` on this one; blocks.

    Returns:
        What that passed; None for nothing, the value for one, a tuple for more.

    .. code-block:: python

        from ratchet import Ratchet, thread

        with Ratchet() as kernel:
            paused = kernel.attach(lambda: print(thread.pause()))
            kernel.attach(thread.unpause, paused, "tea", 2)

    .. code-block:: text

        ('tea', 2)
    """
    current = getcurrent()
    try:
        return _pause(current)
    except BaseException:
        # Once more: an interrupt may have struck just as a kill was dealt with.
        paused.pop(current, None)
        raise


def _pause(current: greenlet) -> Any:
    wait = new_wait()
    try:
        paused[current] = wait
        values: Any = suspend(wait, "pause")
        # unpause() has done this, unless it was interrupted.
        paused.pop(current, None)
        return values if len(values) > 1 else values[0] if values else None
    except BaseException:
        paused.pop(current, None)
        raise


def unpause(thread: greenlet, *values: object) -> None:
    """Wake a paused thread on the next turn; its `pause()` returns `values`.

    Does not block.  Raises `NotPaused` if the thread is not paused, or was
    unpaused already, `WrongThread` if it runs in another OS thread, and
    `TypeError` for anything but a thread.  `pause` has an example.
    """
    if not isinstance(thread, greenlet):
        raise TypeError(f"thread must be a thread, not {thread!r}")
    wait = paused.get(thread)
    if wait is None:
        raise NotPaused(f"{thread!r} is not paused")
    check_hub(wait.hub, thread)
    wait.hub.loop.run_callback(wait.switch, values)
    del paused[thread]


def _after_fork() -> None:
    """Forget, in a forked child, which of the parent's threads were paused; these are frozen by then."""
    for thread in frozen:
        paused.pop(thread, None)


os.register_at_fork(after_in_child=_after_fork)
