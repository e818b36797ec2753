"""Running the threads that were woken: one callback of the hub for all of a turn but the first.

Whoever wakes a thread puts the object that it sleeps on into the run queue of its hub.  They run in
that order, for a slice of time at most; then readers and timers get their turn.  How a greenlet
is switched to is not for this module to know.

As long as anything is in the queue, its callback is scheduled or running: it is scheduled
before the first is put in, and again before whatever is raised goes on.  Where an exception
strikes just before that, `_settle` schedules it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gevent.hub import Hub

from ratchet import _alive, _clock, _native
from ratchet._loop import Callback, Watcher, loop_of
from ratchet._sleep import Dispatcher
from ratchet._wait import Wait

# Seconds after which the hub has its turn, however many threads can run.
_SLICE: Final = 0.01
# Looks at the clock after which they count as over in any case: virtual time stands still
# meanwhile.
_MOST_LOOKS: Final = 1000
# How many threads are run between two looks at the clock.
_STRIDE: Final = 8
# How often threads of the compiled build switch straight to the next one before the hub has its turn:
# a few that feed each other hold up the rest no longer than as many that wait in line.
_MOST_SWITCHES: Final = 64


class RunQueue(Dispatcher):
    """The threads of one hub that are to run, and how long they may before the hub's next turn.

    Attributes:
        inbox: the latest one that has its receivers woken in this turn.
        woken: what they sleep on, first come first; without the first of a turn, for which the
            loop has a callback of its own.  As long as there is one, `wake` does no more than to
            append another.
    """

    __slots__ = (
        "__weakref__",
        "_ends",
        "_first",
        "_first_wait",
        "_hub",
        "_looks_left",
        "_loop",
        "_rest",
        "_run_callback",
        "_switches_left",
        "_timer",
        "_turn",
        "inbox",
        "woken",
    )

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._loop = loop_of(hub)
        self._run_callback: Callable[..., Callback] = self._loop.run_callback
        self.woken: list[Wait] = []
        # What the loop calls for the first thread of a turn, and for the others.
        self._first: Callback = self._run_callback(_do_nothing)
        self._rest = self._first
        # What the first one sleeps on, unless it was run already.
        self._first_wait: Wait | None = None
        # Rings in the next turn, if this one's slice was not enough.
        self._timer: Watcher | None = None
        # The turn of the loop whose slice this is, and when that ends.
        self._turn = -1
        self._ends = 0.0
        self._looks_left = 0
        self.inbox: Dispatcher | None = None
        # How many threads may still switch straight to the next one.
        self._switches_left = 0
        _alive.run_queues.add(self)

    def wake(self, wait: Wait) -> None:
        """Have the hub run the thread that sleeps on `wait`; does not block, also from a hub callback."""
        woken = self.woken
        if woken or self._rest.pending:
            # The hub knows.
            woken.append(wait)
        elif self._first.pending:
            self._rest = self._run_callback(self._run)
            woken.append(wait)
        else:
            # With one client at a time it stays the only one.
            self._first = self._run_callback(wait.switch, None)
            self._first_wait = wait

    def slice_is_over(self) -> bool:
        """Whether the hub is to have its turn, because threads have run for long enough.

        A slice begins when this is first asked in a turn of the loop.
        """
        turn = self._loop.iteration
        if turn != self._turn:
            self._ends = _clock.monotonic() + _SLICE
            self._looks_left = _MOST_LOOKS
            self._turn = turn
            return False
        self._looks_left -= 1
        if self._looks_left < 0:
            return True
        now = _clock.monotonic()
        return now >= self._ends

    def begin_turn(self) -> None:
        """Let threads switch straight to the next one again: the hub has its turn."""
        self._switches_left = _MOST_SWITCHES

    def next_wait(self) -> Wait | None:
        """See `Dispatcher`; without the hub, for so many switches and one slice of time."""
        left = self._switches_left
        if not left or (self._first_wait is None and self.inbox is None and not self.woken):
            return None
        if not left % _STRIDE and left < _MOST_SWITCHES and self.slice_is_over():
            return None
        self._switches_left = left - 1
        wait, self._first_wait = self._first_wait, None
        if wait is not None and wait.greenlet is not None:
            return wait
        while self.woken:
            wait = self.woken.pop(0)
            if wait.greenlet is not None:
                return wait
        return None if self.inbox is None else self.inbox.next_wait()

    def call_next_turn(self, callback: Callable[[], None]) -> Watcher:
        """Have the hub call this once it has looked for what else there is to do.

        A callback of the loop would be called in this turn, again and again.
        """
        timer = _clock.timer(self._hub, 0.0)
        timer.start(callback)
        return timer

    def _run(self) -> None:
        """Hub callback: run the threads, one after the other."""
        woken: list[Wait] = []
        done = 0
        self.begin_turn()
        try:
            woken, self.woken = self.woken, woken
            while done < len(woken) and not self.slice_is_over():
                _native.run(woken[done : done + _STRIDE])
                done += _STRIDE
            if done < len(woken):
                self._put_off(woken[done:])
        except BaseException:
            # Those that were not run still sleep on these, and no other one does.
            self.woken[:0] = [wait for wait in woken if wait.greenlet is not None]
            self._rest = self._run_callback(self._run)
            raise

    def _put_off(self, woken: list[Wait]) -> None:
        """Run these in the next turn."""
        if self._timer is None or not self._timer.active:
            self._timer = self.call_next_turn(self._run)
        self.woken[:0] = woken

    def _settle(self) -> None:
        """See `Living`."""
        if self.woken:
            self._rest = self._run_callback(self._run)

    def _after_fork(self) -> None:
        """See `Living`: those who slept in the parent are on no wait any more, and are passed over."""


def run_queue_of(hub: Hub) -> RunQueue:
    """The run queue of a hub, made on first use."""
    attributes: dict[str, Any] = hub.__dict__
    queue: RunQueue | None = attributes.get("_run_queue")
    if queue is None:
        queue = attributes["_run_queue"] = RunQueue(hub)
    return queue


def _do_nothing() -> None:
    pass
