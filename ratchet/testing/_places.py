"""The places where active watchers stand: by phase, by priority when idle, by time, by signal.

Each gives out its watchers in libev's order.  There is one exception: timers that are due
at the same instant fire in the order in which they were started.  In real time no two
are, because time passes between their starts; libev's own order of equal times is an
accident of its heap.
"""

from __future__ import annotations

import heapq
import itertools
import math
import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

from ratchet.testing._stateful_watchers import Signal, Timer
from ratchet.testing._watchers import MAXPRI, MINPRI, LoopOfWatchers, Watcher

_NANOSECONDS = 1e9

# Three hundred years, in seconds; a timer beyond that never fires.
_MOST_SECONDS = 1e10

# Entries of stopped timers are thrown out once there are more than this, and they are the majority.
_MOST_STOPPED = 100


class Phase:
    """Watchers that are all fed when the loop reaches their phase."""

    def __init__(self) -> None:
        self.watchers: list[Any] = []

    def enter(self, watcher: Watcher) -> None:
        watcher.position = len(self.watchers)
        self.watchers.append(watcher)

    def leave(self, watcher: Watcher) -> None:
        """Remove it; the last one moves into its slot, as in libev."""
        last = self.watchers.pop()
        if last is not watcher:
            last.position = watcher.position
            self.watchers[watcher.position] = last

    def __bool__(self) -> bool:
        return bool(self.watchers)


class Idles:
    """Watchers that are fed when nothing of their priority or a higher one is pending."""

    def __init__(self) -> None:
        self.by_priority = [Phase() for _ in range(MINPRI, MAXPRI + 1)]
        self._count = 0

    def enter(self, watcher: Watcher) -> None:
        self.by_priority[watcher.priority - MINPRI].enter(watcher)
        self._count += 1

    def leave(self, watcher: Watcher) -> None:
        self._count -= 1
        self.by_priority[watcher.priority - MINPRI].leave(watcher)

    def __bool__(self) -> bool:
        return self._count > 0


class Timers:
    """The active timers: a heap, ordered by when they are due.

    An entry is `[nanoseconds, tie, number, timer]`.  That of a stopped timer has None in
    place of the timer, and is thrown out when it comes up.
    """

    def __init__(self, loop: LoopOfWatchers, tie: Callable[[], float]) -> None:
        """Order timers due at one instant by `tie()`, drawn once for each, and then by their numbers."""
        self._loop = loop
        self._tie = tie
        self._numbers = itertools.count()
        self._heap: list[list[Any]] = []
        self._stopped = 0

    def enter(self, timer: Timer) -> None:
        if timer.left <= _MOST_SECONDS:
            seconds = max(timer.left, -_MOST_SECONDS)
            self._push(timer, self._loop.stored + round(seconds * _NANOSECONDS))
        elif math.isnan(timer.left):
            raise ValueError("a timer cannot fire after nan seconds")

    def _push(self, timer: Timer, due: int) -> None:
        timer.entry = [due, self._tie(), next(self._numbers), timer]
        heapq.heappush(self._heap, timer.entry)

    def leave(self, timer: Timer) -> None:
        """Remove it; started again, it resumes with its remaining time, as in libev."""
        entry = timer.entry
        if entry is None:
            return
        timer.left = (entry[0] - self._loop.stored) / _NANOSECONDS
        timer.entry = None
        if entry[3] is not None:
            entry[3] = None
            self._stopped += 1
            if self._stopped > _MOST_STOPPED and 2 * self._stopped > len(self._heap):
                self._heap = [kept for kept in self._heap if kept[3] is not None]
                heapq.heapify(self._heap)
                self._stopped = 0

    def first(self) -> int | None:
        """The time at which the first one is due, in nanoseconds; None if there is none."""
        heap = self._heap
        while heap:
            if heap[0][3] is not None:
                due: int = heap[0][0]
                return due
            heapq.heappop(heap)
            self._stopped -= 1
        return None

    def take_due(self) -> list[Timer]:
        """Remove and return the timers that are due, earliest first; those that repeat are added again."""
        due: list[Timer] = []
        now = self._loop.stored
        while (first := self.first()) is not None and first <= now:
            due.append(heapq.heappop(self._heap)[3])
        for timer in due:
            entry = timer.entry
            assert entry is not None
            entry[3] = None
            if timer.repeat:
                self._push(timer, max(entry[0] + round(timer.repeat * _NANOSECONDS), now))
            else:
                timer.deactivate()
        return due


class Signals:
    """Watchers of signals, by number; only in the main OS thread, as with Python's own handlers."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.came: dict[int, None] = {}
        self._wake = wake
        self._watchers: dict[int, list[Signal]] = {}
        self._before: dict[int, Any] = {}

    def enter(self, watcher: Signal) -> None:
        watchers = self._watchers.setdefault(watcher.signum, [])
        if not watchers:
            self._before[watcher.signum] = signal.signal(watcher.signum, self._note)
        watchers.insert(0, watcher)

    def leave(self, watcher: Signal) -> None:
        watchers = self._watchers[watcher.signum]
        watchers.remove(watcher)
        if not watchers:
            self._put_back(watcher.signum)

    def close(self) -> None:
        """Give every signal back to whose it was; closing twice is fine."""
        for signum in list(self._before):
            self._put_back(signum)

    def _put_back(self, signum: int) -> None:
        if signum in self._before:
            before = self._before[signum]
            signal.signal(signum, signal.SIG_DFL if before is None else before)
            del self._before[signum]

    def _note(self, signum: int, frame: FrameType | None) -> None:
        """Signal handler."""
        self.came[signum] = None
        self._wake()

    def take(self) -> list[Signal]:
        """Take the watchers of the signals that have come, in the order in which to feed them."""
        came = sorted(self.came, reverse=True)
        self.came.clear()
        return [watcher for signum in came for watcher in self._watchers.get(signum, ())]

    def __bool__(self) -> bool:
        return bool(self._before)
