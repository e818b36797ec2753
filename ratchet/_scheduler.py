"""The threads of a `Ratchet`, and the loop that runs until they have ended.

The life of a thread: `start` enters it in the table and has gevent start it;
gevent runs it; its end is noticed in a hub callback, `_on_end`, which keeps its
error, takes it out of the table, and wakes the greenlet that runs `loop` if there
is a reason to return.  That greenlet sleeps in `_wait_for_change`.

Rules of this module:

- The scheduler adds nothing to how greenlets are switched: gevent's hub does
  that.  It only knows which threads are its own, and when `loop()` may return.
- `_on_end` must not block or run user code: the error handler gets a thread of
  its own.
- A thread enters the table in `start` and leaves it in `_on_end`, when all has
  been done about its end.  What an exception leaves half done in between, in
  whatever line, `_settle` does again: a thread that has ended and is still in the
  table says so.
- The errors of threads and of the hub's callbacks are kept until `loop()` raises
  them, each once.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import Generic, Protocol, TypeVar

import gevent
from gevent.exceptions import LoopExit
from gevent.hub import Hub, get_hub
from greenlet import GreenletExit, getcurrent

from ratchet._death import on_thread_end
from ratchet._fork import freeze
from ratchet._log import kernel_logger, log_error, log_soon, safe_repr
from ratchet._loop import AnyGreenlet
from ratchet._submit import Submissions
from ratchet._thread import ScheduledThread, described
from ratchet._turns import suspend_for_a_turn, suspend_until_nothing_is_left
from ratchet._wait import Wait, check_hub, new_wait
from ratchet.errors import DeadlockError

Owned = TypeVar("Owned", bound=ScheduledThread)

# How many errors are kept for a loop() that may never be called.
_KEPT_ERRORS = 100

# In the repr of what a thread waits on; for people it is noise.
_MEMORY_ADDRESS = re.compile(" at 0x[0-9a-f]+")

_DIED = "thread %s died with nobody to tell: %s"


class Owner(Protocol):
    """The `Ratchet` that a scheduler belongs to: the one that errors and waits name."""

    def attach(self, func: Callable[..., object], /, *args: object) -> AnyGreenlet:
        """Queue a new thread."""


class _HubCallback:
    """A callback of the hub, as the origin of an error."""

    name = "(the hub)"


class Scheduler(Generic[Owned]):
    """The threads of one `Ratchet`.

    Attributes:
        threads: those that have not ended, in the order of attaching.
        background: those of them that `loop()` does not wait for.
        running: whether a greenlet runs the loop.
        submissions: what other OS threads have it do.
    """

    def __init__(self, owner: Owner, hub: Hub, errh: Callable[[BaseException, Owned], object] | None) -> None:
        self._owner = owner
        self._hub = hub
        self._errh = errh
        self.threads: dict[Owned, None] = {}
        self.background: set[Owned] = set()
        # Errors that no `loop()` has raised yet, by the thread that died of each.
        self._errors: dict[Owned | _HubCallback, BaseException] = {}
        self.running = False
        # What the greenlet that runs the loop sleeps on, or slept on last.
        self._looper = new_wait()
        self._stopping = False
        self.submissions = Submissions(owner, hub)
        # One bound method for all threads: a new one for each costs memory.
        self._ended = self._on_end

    def start(self, thread: Owned) -> None:
        """Own a new thread, and have it start on the next turn of the loop."""
        if get_hub() is not self._hub:
            check_hub(self._hub, self._owner)
        try:
            self.threads[thread] = None
            if thread.background:
                self.background.add(thread)
            # The first link, so that it is told before any thread that waits for this one.
            thread.rawlink(self._ended)
            thread.start()
        except BaseException:
            self._forget(thread)
            thread.unlink(self._ended)
            # Whoever gets the error of `attach` has not attached anything.
            thread.kill(block=False)
            raise

    def _forget(self, thread: Owned) -> None:
        self.background.discard(thread)
        self.threads.pop(thread, None)

    def loop(self) -> None:
        """See `Ratchet.loop`."""
        self.run_alone(self.run)
        self._raise_error()

    def loop_once(self, noblock: bool) -> bool:
        """See `Ratchet.loop_once`."""
        check_hub(self._hub, self._owner)
        self.submissions.open()
        self.submissions.take()
        if self._waits_for_threads():
            sleep = partial(suspend_for_a_turn, noblock=noblock)
            self.run_alone(partial(self._wait_for_change, sleep))
        self._raise_error()
        return self._waits_for_threads()

    def run_alone(self, run: Callable[[], object]) -> None:
        """Call `run` in the one greenlet that runs it: errors come out there, and need not be logged."""
        check_hub(self._hub, self._owner)
        if self.running:
            raise RuntimeError(f"{self._owner!r} is already run by another greenlet")
        try:
            self.running = True
            run()
            self.running = False
        except BaseException:
            self.running = False
            raise

    def run(self) -> None:
        """Run until there is an error, until `stop()`, or until every thread has ended."""
        self._stopping = False
        self.submissions.open()
        while not (self._errors or self._stopping):
            self.submissions.take()
            if self._waits_for_threads():
                self._wait_for_change(suspend_until_nothing_is_left)
            elif self.threads:
                # What their `finally` blocks attach or raise, the next round sees.
                self._kill_round()
            elif self.submissions.close_if_idle():
                return

    def _wait_for_change(self, sleep: Callable[[Wait, object], None]) -> None:
        """Sleep until a thread's end, an error or `stop()`, or as long as `sleep` says."""
        looper = new_wait()
        self._looper = looper
        try:
            sleep(looper, self._owner)
        except LoopExit:
            # Unless another OS thread has submitted something just now.
            if not self.submissions.take():
                raise self._deadlock() from None

    def _waits_for_threads(self) -> bool:
        return len(self.threads) > len(self.background)

    def stop(self) -> None:
        """See `Ratchet.stop`."""
        check_hub(self._hub, self._owner)
        self._wake_loop()
        self._stopping = True

    def close(self) -> None:
        """See `Ratchet.close`."""
        check_hub(self._hub, self._owner)
        self.submissions.close()
        while self.threads:
            self._kill_round()

    def _kill_round(self) -> None:
        """Kill the threads that there are now, and wait until that is known here."""
        gevent.killall(list(self.threads))
        # One turn, in which `_on_end` sees their ends, and one in which the
        # report of an error starts, before another round may kill that too.
        gevent.sleep(0)
        gevent.sleep(0)

    def _wake_loop(self) -> None:
        if self.running:
            # One that has been woken already is not woken twice.
            self._hub.loop.run_callback(self._looper.switch, None)

    def _on_end(self, thread: Owned) -> None:
        """Hub callback: a thread has ended, by return, error or kill.

        It leaves `threads` last, so that `_settle` does again what an exception
        has left half done.
        """
        if thread not in self.threads:
            return
        error = thread.exception
        # One that returned nothing needs no more, and that is most of them.
        if error is not None or thread.value is not None:
            on_thread_end(thread)
            if error is not None and not issubclass(type(error), Hub.SYSTEM_ERROR):
                if self._errh is not None:
                    self._owner.attach(self._report, self._errh, error, thread)
                else:
                    self._keep_error(error, thread)
        if thread.background:
            self.background.discard(thread)
        self.threads.pop(thread, None)
        if self.running:
            if self._errors:
                # At once, and last: gevent tells the threads that wait for this one next.
                self._looper.switch(None)
            elif not self._waits_for_threads():
                self._wake_loop()

    def _report(
        self, errh: Callable[[BaseException, Owned], object], error: BaseException, thread: Owned
    ) -> None:
        """Call `errh`.  What it raises itself is for `loop()`, and not for `errh` again."""
        # Told of from here on, however `_on_end` ended.
        self._forget(thread)
        try:
            errh(error, thread)
        except BaseException as failure:
            if issubclass(type(failure), (GreenletExit, *Hub.SYSTEM_ERROR)):
                # A kill is not an error; the others end the program from any thread.
                raise
            self._wake_loop()
            self._keep_error(failure, thread)

    def _keep_error(self, error: BaseException, thread: Owned) -> None:
        """Keep an error for the next `loop()`; log it as well if none is running to raise it."""
        if not self.running:
            log_soon(kernel_logger, logging.ERROR, _DIED, thread.name, safe_repr(error), error=error)
        if not self.running and len(self._errors) >= _KEPT_ERRORS:
            del self._errors[next(iter(self._errors))]
        self._errors[thread] = error

    def take_error(self, error: BaseException) -> None:
        """Make `loop()` raise what a callback of the hub has raised."""
        self._wake_loop()
        self._errors[_HubCallback()] = error

    def _raise_error(self) -> None:
        if self._errors:
            first = next(iter(self._errors))
            if not isinstance(first, _HubCallback):
                self._forget(first)
            raise self._errors.pop(first)

    def raise_all_errors(self) -> None:
        """Raise all that is kept, in a group if that is more than one error."""
        errors = list(self._errors.values())
        if errors:
            self._errors.clear()
            raise (
                errors[0] if len(errors) == 1 else BaseExceptionGroup(f"{len(errors)} threads failed", errors)
            )

    def take_untold_errors(self) -> list[tuple[str, BaseException]]:
        """See `LivingScheduler`."""
        untold = [(died.name, error) for died, error in list(self._errors.items())]
        self._errors.clear()
        return untold

    def log_errors(self) -> None:
        """Log the errors that no loop() has raised, and that none will."""
        for died, error in list(self._errors.items()):
            log_error(kernel_logger, logging.ERROR, _DIED, died.name, safe_repr(error), error=error)
        self._errors.clear()

    def _deadlock(self) -> DeadlockError:
        stuck = [described(thread) for thread in self.threads if not thread.background]
        who = "1 thread" if len(stuck) == 1 else f"{len(stuck)} threads"
        text = f"{who} can never run again:\n\n" + "\n\n".join(stuck)
        return DeadlockError(_MEMORY_ADDRESS.sub("", text))

    def _settle(self) -> None:
        """See `Living`."""
        for thread in list(self.threads):
            if thread.ready():
                # The links of one whose error gevent could not even note were never called.
                thread.rawlink(_do_nothing)
                self._on_end(thread)
            elif not thread:
                # It was never started, and never will be.
                self._forget(thread)
        self.background.intersection_update(self.threads)
        self.submissions.settle()
        if self._errors or not self._waits_for_threads():
            self._wake_loop()

    def _after_fork(self) -> None:
        """Freeze the threads, in a forked child: they are copies of the parent's, and must not run."""
        current = getcurrent()
        copies = [thread for thread in self.threads if thread is not current]
        freeze(copies)
        for thread in copies:
            self._forget(thread)
        self._errors.clear()
        self.submissions.leave_to_parent()

    def hub_ended(self) -> None:
        """See `LivingScheduler`."""
        self.submissions.abandon()


def _do_nothing(thread: object) -> None:
    """Link that makes gevent call the links before it."""
