"""What a child process must not inherit when its parent forks.

A child has copies of its parent's greenlets and of its connections' descriptors.
Were they used, the parent's work would be done twice, and bytes of both would
mix on one connection.  So in the child they are dead, and say so.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """An object that is told, in the child, that it was inherited."""

    def _after_fork(self) -> None:
        """Let go of what is the parent's; sends nothing, wakes nobody, does not block."""


_told: weakref.WeakSet[Forkable] = weakref.WeakSet()


def tell_after_fork(thing: Forkable) -> None:
    """Have `thing` told after a fork, as long as it lives."""
    _told.add(thing)


def _after_fork() -> None:
    for thing in list(_told):
        thing._after_fork()


os.register_at_fork(after_in_child=_after_fork)
