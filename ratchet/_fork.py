"""What a child process must not inherit when its parent forks.

A child has copies of its parent's greenlets and of its connections' descriptors.
Were they used, the parent's work would be done twice, and bytes of both would
mix on one connection.  So in the child they are dead, and say so.
"""

from __future__ import annotations

import os

from ratchet._alive import living


def _after_fork() -> None:
    for thing in living():
        thing._after_fork()


os.register_at_fork(after_in_child=_after_fork)
