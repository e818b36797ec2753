"""A loop for gevent's hub, in pure Python, on virtual time.

It implements gevent's loop interface (`gevent._interfaces.ILoop`), and goes through its
turns as gevent's own loop does on libev:

1.  Prepare watchers.  One of the loop's own runs the callbacks; if they take long, the rest
    are left for the next turn.
2.  The poll.  When nothing can run and no descriptor is ready, time jumps to the first
    timer.  The loop waits in real time only while another OS thread works for it, or when
    nothing but the system can make anything run again.
3.  Pending watchers are called: those of a higher priority first, and within a priority
    the one that became pending last first.  So check watchers come before timers, and timers before
    descriptors.  Idle watchers become pending when nothing of their priority or a higher one is.

The rest of the interface is in `_loop_interface`, watchers are in `_watchers` and
`_stateful_watchers`, and the places where active ones stand in `_places` and `_descriptors`.
This module knows nothing of greenlets and hubs, and nothing of the functions that read the time.

An exception in one of the loop's own lines, from Ctrl-C for example, is raised in the main
greenlet, as with gevent's own loop, and the loop carries on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from ratchet.testing._loop_interface import Beginning, LoopBase
from ratchet.testing._places import Phase
from ratchet.testing._stateful_watchers import Io, Timer
from ratchet.testing._watchers import MAXPRI, MINPRI, READ, WRITE, Callback, Called, InternalWatcher, Watcher

# libev's bits for what a watcher is pending for.
_TIMER, _SIGNAL, _IDLE, _PREPARE, _CHECK = 0x100, 0x400, 0x2000, 0x4000, 0x8000
_FORK, _ASYNC = 0x20000, 0x80000

# Callbacks of one turn, at most: while time stands still, it cannot show that a turn takes long.
_MOST_CALLBACKS = 1000

# Steps without a moment at which nothing could run, after which some thread is assumed to spin:
# more than a test takes at one instant, and a small part of a second of the processor.
_MOST_STEPS_WITHOUT_REST = 100_000


class Livelock(AssertionError):
    """A run that never ends: it has taken more steps than it may."""


class VirtualLoop(LoopBase):
    """A loop on virtual time; see the module.

    Attributes:
        threshold: real seconds for which all descriptors have to be quiet before time jumps.
        iteration: the number of the turn.
        steps: how many callbacks have been called, those of watchers included.
        jumps: how often time has jumped.
        on_step: called with each callback just before it is called.
        advances: whoever wants time to pass even if some thread can always run.
        max_steps: the steps after which `Livelock` is raised in the main greenlet, and each time
            after as many more; None for never.
    """

    def __init__(
        self,
        seed: int | None = None,
        threshold: float = 0.0,
        *,
        began: Beginning | None = None,
        on_step: Callable[[Called], None] | None = None,
        max_steps: int | None = None,
    ) -> None:
        """Begin with the clocks at `began`, or all at 0; with a `seed`, shuffle what can run."""
        super().__init__(seed, began)
        self.threshold = threshold
        self.iteration = 0
        self.steps = 0
        self.jumps = 0
        self.on_step = on_step
        self.max_steps = max_steps
        self.advances: set[object] = set()
        # The steps until nothing could run last.
        self._steps_at_rest = 0
        # The steps until `Livelock` was raised last.
        self._steps_before = 0
        self._shuffles = seed is not None
        # Whether nothing can ever run again.
        self._stuck = False
        self._start_own_watchers()

    def _start_own_watchers(self) -> None:
        self._call_callbacks = InternalWatcher(self, self._prepares, ref=False)
        self._call_callbacks.start(self._run_callbacks)
        # Keeps the poll from waiting while callbacks are left.
        self._more = Timer(self, self._timers)
        self._came_from_outside = InternalWatcher(self, Phase(), ref=False, priority=MAXPRI)
        self._came_from_outside.callback = self._feed_what_was_sent

    def allow(self, steps: int) -> None:
        """Raise `Livelock` after so many steps from now on."""
        self._steps_before, self.max_steps = self.steps, steps

    def run(self, nowait: bool = False, once: bool = False) -> None:
        """Go through turns until nothing keeps the loop running, or through one turn only.

        Args:
            nowait: whether to go through one turn that does not wait.
            once: whether to go through one turn.
        """
        self.check_alive()
        self._done = 0
        goes_on = True
        while goes_on:
            try:
                self._stuck = False
                self._turn(nowait)
            except BaseException:
                self._report(None)
            goes_on = bool(self.activecnt) and not (self._done or self._stuck or once or nowait)
        if self._hub_destroyed is not None:
            destroyed, self._hub_destroyed = self._hub_destroyed, None
            raise destroyed

    def handle_error(
        self, context: object, type: type[BaseException] | None, value: Any, tb: TracebackType | None
    ) -> None:
        """Tell the hub of an error; of a `Livelock` the main greenlet, whatever schedulers the hub has."""
        tell_main = getattr(self.error_handler, "handle_system_error", None)
        if context is None and type is Livelock and tell_main is not None:
            tell_main(type, value, tb)
        else:
            super().handle_error(context, type, value, tb)

    def _turn(self, nowait: bool) -> None:
        if self.max_steps is not None and self.steps - self._steps_before > self.max_steps:
            # Again and again: whatever is ended because of the first one may be just as endless.
            self._steps_before = self.steps
            raise Livelock(f"it takes more than {self.steps} steps, at {self.elapsed / 1e9:.6f} seconds")
        self._invoke_pending()
        if self._forked:
            self._forked = False
            self._feed_all(self._forks, _FORK)
            self._invoke_pending()
        self._feed_all(self._prepares, _PREPARE)
        self._invoke_pending()
        if self._done:
            return
        self.update_now()
        self._descriptors.tell_system()
        self.iteration += 1
        self._poll(may_wait=not nowait and not self._idles and self.activecnt != 0)
        if self._stuck:
            return
        self.update_now()
        timers = self._timers.take_due()
        if self._must_go_on() and not self._idles:
            self._jump(self._timers.first())
            timers += self._timers.take_due()
        for timer in reversed(timers):
            self.feed(timer, _TIMER)
        self._feed_idle()
        self._feed_all(self._checks, _CHECK)
        self._invoke_pending()

    def _poll(self, may_wait: bool) -> None:
        found = self._descriptors.ready()
        if not (found or self._sent or self._callbacks or self._idles):
            due = self._timers.first()
            if due is None or due > self.stored:
                self._steps_at_rest = self.steps
                if may_wait:
                    found = self._wait(due)
        if self._sent:
            self._sent = False
            self.feed(self._came_from_outside, READ)
        if self._shuffles:
            self.random.shuffle(found)
        for watcher, events in found:
            self.feed(watcher, events)

    def _wait(self, due: int | None) -> list[tuple[Io, int]]:
        """Wait until something can run: for the system, or by a jump to the first timer."""
        if any(watcher.ref for watcher in self._asyncs.watchers):
            return self._wait_for_system(None)
        if self.threshold > 0:
            found = self._wait_for_system(self.threshold)
            if found or self._sent:
                return found
        if due is not None:
            self._jump(due)
        elif self._descriptors.watches_system() or self._signals:
            return self._wait_for_system(None)
        else:
            # Nothing is left that could make any watcher pending.
            self._stuck = True
        return []

    def _must_go_on(self) -> bool:
        """Whether time has to pass although something can run."""
        return bool(self.advances) and self.steps - self._steps_at_rest > _MOST_STEPS_WITHOUT_REST

    def _jump(self, due: int | None) -> None:
        """Move time to when the first timer is due, if there is one."""
        if due is not None:
            self.elapsed = max(self.elapsed, due)
            self.jumps += 1
            self.update_now()

    def _wait_for_system(self, seconds: float | None) -> list[tuple[Io, int]]:
        self._waits = True
        try:
            return self._descriptors.wait(0 if self._sent else seconds)
        finally:
            self._waits = False

    def _run_callbacks(self) -> None:
        """Run the queued callbacks, and those that they add, unless that takes long."""
        callbacks = self._callbacks
        expiration = self.stored + round(sys.getswitchinterval() * 1e9)
        in_all, in_a_row = _MOST_CALLBACKS, self.CALLBACK_CHECK_COUNT
        self.starting_timer_may_update_loop_time = True
        try:
            self._more.stop()
            while callbacks:
                if self._shuffles and len(callbacks) > 1:
                    chosen = self.random.randrange(len(callbacks))
                    callbacks[0], callbacks[chosen] = callbacks[chosen], callbacks[0]
                callback = callbacks[0]
                # Not by popleft(): an interrupt could strike after the call, and the callback would be lost.
                del callbacks[0]
                self._run_callback(callback)
                in_a_row -= 1
                if not in_a_row and callbacks:
                    in_a_row = self.CALLBACK_CHECK_COUNT
                    in_all -= in_a_row
                    self.update_now()
                    if self.stored >= expiration or not in_all:
                        break
            self.update_now()
            if callbacks:
                self._more.start(_do_nothing, update=False)
        finally:
            self.starting_timer_may_update_loop_time = False

    def _run_callback(self, callback: Callback) -> None:
        func, args = callback.callback, callback.args
        if func is None or args is None:
            return
        callback.callback = None
        try:
            self._note_step(func)
            func(*args)
        except BaseException:
            self._report(callback)
        callback.args = None

    def _feed_idle(self) -> None:
        if not self._idles:
            return
        for level in range(MAXPRI - MINPRI, -1, -1):
            if self._pending[level] and not self._must_go_on():
                return
            if self._idles.by_priority[level]:
                self._feed_all(self._idles.by_priority[level], _IDLE)
                return

    def _feed_what_was_sent(self) -> None:
        for watcher in self._signals.take():
            self.feed(watcher, _SIGNAL)
        for watcher in reversed(self._asyncs.watchers):
            if watcher.sent:
                watcher.sent = False
                self.feed(watcher, _ASYNC)

    def _invoke_pending(self) -> None:
        """Call the pending watchers, and those that become pending meanwhile."""
        pending = self._pending
        self._level = MAXPRI - MINPRI
        while True:
            # `feed`, called by a callback, resets the level.
            while queue := pending[self._level]:
                watcher = queue[-1]
                # First of all: with this set, and in no queue, it would never be fed again.
                if watcher is not None:
                    watcher.queued = 0
                del queue[-1]
                if watcher is not None:
                    self._invoke(watcher)
            if not self._level:
                return
            self._level -= 1

    def _invoke(self, watcher: Watcher) -> None:
        callback = watcher.callback
        if callback is None:
            return
        if isinstance(watcher, InternalWatcher):
            callback()
            return
        came = watcher.came
        try:
            self._note_step(callback)
            callback(*watcher.arguments())
        except BaseException:
            self._report(watcher)
            if came & (READ | WRITE):
                # Otherwise it would be called, and fail, again and again.
                watcher.stop()
        if not watcher.active:
            # This frees its callback.
            watcher.stop()

    def _note_step(self, callback: Called) -> None:
        self.steps += 1
        if self.on_step is not None:
            self.on_step(callback)


def _do_nothing() -> None:
    pass
