"""The one clock: no other module asks what time it is, or makes a timer.

Others import this module and not its names: they call `_clock.monotonic()`.  So
whoever sets an attribute of this module gives another time to the whole package, in
one place; and the system's own functions stand here as they are, with no function of
ours around them, so that real time costs nothing more.  Timers come from the hub's
loop, and follow the time of whatever loop the hub has.

A timer counts from the time that the loop has stored, which is that of its last poll;
after a thread that has computed for a second it would ring a second early.  So the
loop is told the time first, which happens here and in the functions of gevent's that
are named here, and nowhere else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import gevent
from gevent import socket
from gevent.hub import Hub

from ratchet._loop import Loop, Watcher

__all__ = [
    "Timeout",
    "monotonic",
    "sleep",
    "timer",
    "turn_time",
    "wait_read",
    "wait_write",
    "wall_time",
    "with_timeout",
]


monotonic = time.monotonic
"""Seconds that only ever go on; deadlines and durations are in these."""

wall_time = time.time
"""Seconds since 1970, which the system may set anew; only to compare with `turn_time`."""

turn_time: Callable[[Loop], float] = methodcaller("now")
"""The `wall_time` that a loop has stored, which is that of its last poll."""

# gevent's own that take seconds.
sleep = gevent.sleep
Timeout = gevent.Timeout
with_timeout = gevent.with_timeout
wait_read = socket.wait_read
wait_write = socket.wait_write


def timer(
    hub: Hub, seconds: float, repeat: float = 0.0, *, ref: bool = True, priority: int | None = None
) -> Watcher:
    """A timer that is to be started at once, and rings after `seconds`; below 0 is as 0.

    It is made and not started, so that its caller may keep it first: nobody could stop
    one that is running and that an interrupt kept from being kept.

    Args:
        hub: whose loop it is a timer of.
        seconds: until it rings.
        repeat: seconds after which it rings again, and again; 0 for once.
        ref: whether the loop goes on for it alone.
        priority: that of its callback among those of one turn.
    """
    loop: Any = hub.loop
    loop.update_now()
    made: Watcher = loop.timer(seconds if seconds > 0.0 else 0.0, repeat, ref, priority)
    return made
