"""Kill greenlets until they are dead."""

from __future__ import annotations

from collections.abc import Callable

import gevent
from greenlet import greenlet

from ratchet import _clock
from ratchet._loop import AnyGreenlet

# For greenlets that survive a kill, and those that are started meanwhile.
_ROUNDS = 5


def kill_all(living: Callable[[], list[AnyGreenlet]], seconds: float) -> list[AnyGreenlet]:
    """Kill the greenlets that `living()` returns, until it returns none; blocks.

    Args:
        living: returns those that are alive now, without the current one.
        seconds: how long they may take to end, each time.

    Returns:
        Those that survive.
    """
    for _ in range(_ROUNDS):
        alive = living()
        if not alive:
            return []
        gevent.killall(alive, block=False)
        gevent.joinall([each for each in alive if isinstance(each, gevent.Greenlet)], timeout=seconds)
        _wait_for_raw([each for each in alive if not isinstance(each, gevent.Greenlet)], seconds)
    return living()


def is_over(thread: AnyGreenlet) -> bool:
    """Whether a greenlet has ended, be it a plain one, as `gevent.spawn_raw` starts them."""
    return thread.ready() if isinstance(thread, gevent.Greenlet) else thread.dead


def _wait_for_raw(killed: list[greenlet], seconds: float) -> None:
    """Wait until plain greenlets have ended, which nobody can join."""
    pause = 0.0
    while seconds > 0 and not all(each.dead for each in killed):
        _clock.sleep(pause)
        seconds -= pause
        pause = 2 * pause or 0.001
