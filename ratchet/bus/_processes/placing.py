"""Which worker gets the next connection, and which have more than their share of them.

Numbers alone: no worker, socket or clock may live here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

# How far apart the most and the least loaded worker may be: closer than that, moving a
# connection costs its client more than it gains.
_TOLERANCE: Final = 2


def order_of(loads: Sequence[int], last: int) -> list[int]:
    """The indices of workers in the order in which they are to be offered a connection.

    The one with the fewest comes first; among equals the one whose turn is the longest ago.

    Args:
        loads: how many connections each has.
        last: the index of the one that got the last connection.
    """
    count = len(loads)
    return sorted(range(count), key=lambda index: (loads[index], (index - last - 1) % count))


def surplus(loads: Sequence[int], moving: int) -> list[int]:
    """How many connections each worker is to send away, so that all have about as many.

    Args:
        loads: how many each has.
        moving: how many more are about to come, because a worker has sent them away or drains.
    """
    if not loads or max(loads) - min(loads) <= _TOLERANCE:
        return [0] * len(loads)
    even, more = divmod(sum(loads) + moving, len(loads))
    # Those that have most keep one more, if it cannot be even.
    ranks = sorted(range(len(loads)), key=lambda index: -loads[index])
    share = {index: even + (rank < more) for rank, index in enumerate(ranks)}
    return [max(0, load - share[index]) for index, load in enumerate(loads)]
