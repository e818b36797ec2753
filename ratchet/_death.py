"""What is done about a thread that was killed, or died of an error.

Rules of this room: it imports nothing of ours.  Whoever has something to do
registers it; whoever sees a thread end says so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from greenlet import GreenletExit

_registered: list[Callable[[BaseException], None]] = []


def after_death(act: Callable[[BaseException], None]) -> None:
    """Have `act(error)` called, in the hub, for each death that is seen; it must not block."""
    _registered.append(act)


def death_of(thread: gevent.Greenlet[Any, Any]) -> BaseException | None:
    """What a thread that has ended died of; None if it returned."""
    death = thread.value if thread.exception is None else thread.exception
    # The type is asked, not the error: its attributes may be anything.
    return death if issubclass(type(death), (Exception, GreenletExit, gevent.Timeout)) else None


def on_thread_end(thread: gevent.Greenlet[Any, Any]) -> None:
    """Hub callback: a thread has ended, by return, error or kill."""
    death = death_of(thread)
    if death is None:
        return
    for act in _registered:
        try:
            act(death)
        except Exception:
            # An error whose attributes raise keeps what it has.
            continue
