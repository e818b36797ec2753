"""That no connection waits longer than for its turn, whatever else happens in a schedule.

A connection with something to be done has its turn after a bounded number of turns of others:
here, of so many for each connection of which something waits.  Compiled, the queue cannot be
watched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from ratchet import build_info
from ratchet.bus._core.fair_queue import FairQueue
from simulation.journal import Journal

# Turns for each one that waits.  Two would do, but one that has a backlog all at once goes to the
# end of another line.
_TURNS: Final = 4


@contextmanager
def watching_turns(journal: Journal) -> Iterator[None]:
    """Note whoever waits for longer, within the block."""
    if build_info().compiled:
        yield
        return
    right = FairQueue.take
    waited: dict[Any, int] = {}

    def take(queue: Any, item: Any) -> None:
        right(queue, item)
        waited.pop(item.flow, None)
        waiting = [
            flow
            for flow in (*queue._fresh, *queue._backlogged)
            if flow.with_deadline or flow.without_deadline
        ]
        for flow in waiting:
            waited[flow] = waited.get(flow, 0) + (flow is not item.flow)
            if waited[flow] > _TURNS * (len(waiting) + 1):
                journal.note(f"a connection waits while others have {waited[flow]} turns")

    setattr(FairQueue, right.__name__, take)
    try:
        yield
    finally:
        setattr(FairQueue, right.__name__, right)
