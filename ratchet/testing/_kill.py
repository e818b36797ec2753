"""Kill greenlets until they are dead."""

from __future__ import annotations

from collections.abc import Callable

import gevent

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
        gevent.joinall(alive, timeout=seconds)
    return living()
