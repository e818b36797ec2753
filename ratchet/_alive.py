"""A register of the schedulers and buses that are alive, in the order in which they were made.

Forking and repair after an interrupt walk it.  It keeps nothing alive, imports
nothing of ours, and knows no more of its entries than `Living` says.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Protocol

from gevent.hub import Hub


class Living(Protocol):
    """A scheduler or a bus."""

    _hub: Hub

    def _after_fork(self) -> None:
        """Release, in a forked child, what is the parent's.

        Sends nothing, wakes nobody, does not block.
        """

    def _settle(self) -> None:
        """Complete what an exception may have left half done.

        Runs in the hub and does not block.  Where nothing is half done, it
        changes nothing, and calling it twice is the same as once.
        """


_numbers = itertools.count()
_living: weakref.WeakValueDictionary[int, Living] = weakref.WeakValueDictionary()


def register(thing: Living) -> None:
    """Enter `thing`, for as long as it lives."""
    _living[next(_numbers)] = thing


def living() -> list[Living]:
    """List all that is alive now, oldest first."""
    return list(_living.values())


def living_on(hub: Hub) -> list[Living]:
    """List what is alive now and belongs to a hub, oldest first."""
    return [thing for thing in living() if thing._hub is hub]
