"""The future of a submission: one of `concurrent.futures`, whose lock is safe between OS threads.

In a patched program the locks of `threading` are gevent's, and these lose wake-ups between OS
threads in some versions of it.  So this future has a lock of the system's, held for a few
instructions only, and each thread that waits sleeps on what suits it: a greenlet in its hub, a
plain OS thread on a lock of its own.  What runs until the future ends is not known here.
"""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, RUNNING
from typing import Any, Final, Protocol, TypeVar

from gevent._hub_local import get_hub_if_exists
from gevent.hub import Hub
from gevent.monkey import get_original
from greenlet import GreenletExit

from ratchet._loop import loop_of
from ratchet._wait import check_may_wait, new_wait, suspend

Result = TypeVar("Result")

_new_lock: Final = get_original("_thread", "allocate_lock")
_RLock: Any = get_original("_thread", "RLock")


class SubmittedFuture(concurrent.futures.Future[Result]):
    """A future that is pending until it has a result, as asyncio's `run_coroutine_threadsafe` has it.

    So `cancel()` works while the function runs, and `running()` is False then.
    """

    def __init__(self, hub: Hub) -> None:
        super().__init__()
        # The only lock that the standard library's code uses.
        self._condition: Any = _Condition()
        self._hub = hub

    def result(self, timeout: float | None = None) -> Result:
        """Wait for the end, and return the result or raise the error; see `concurrent.futures.Future`."""
        self._wait(timeout)
        return super().result(0)

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end, and return the error, or None; see `concurrent.futures.Future`."""
        self._wait(timeout)
        return super().exception(0)

    def _wait(self, timeout: float | None) -> None:
        if self.done():
            return
        sleeper = self._new_sleeper()
        condition = self._condition
        try:
            with condition:
                if self.done():
                    return
                condition.sleepers.append(sleeper)
            sleeper.until_woken(timeout)
            condition.sleepers.remove(sleeper)
        except BaseException:
            if sleeper in condition.sleepers:
                condition.sleepers.remove(sleeper)
            raise

    def _new_sleeper(self) -> _Sleeper:
        hub = get_hub_if_exists()
        if hub is None:
            return _OsThread()
        return _Greenlet(hub, self, keep_alive=hub is not self._hub)

    def end(self, result: Result | None, error: BaseException | None) -> None:
        """End it, if it has not ended; a `GreenletExit` cancels it.

        Calls what was registered by `add_done_callback`.  After an interrupt, it may be called again.
        """
        if self._state in (CANCELLED_AND_NOTIFIED, FINISHED):
            return
        killed = issubclass(type(error), GreenletExit)
        if killed:
            self.cancel()
        if self._state == RUNNING or self.set_running_or_notify_cancel():
            if error is None:
                self.set_result(result)  # type: ignore[arg-type]  # None is for those with an error
            else:
                self.set_exception(concurrent.futures.CancelledError() if killed else error)

    def leave_to_parent(self, error: BaseException) -> None:
        """End it in a forked child.

        Whoever waited for it is in the parent, and so may be whoever held its lock.
        """
        self._condition = _Condition()
        self._waiters.clear()
        self._done_callbacks: list[Any] = []
        if not self.done():
            self.set_exception(error)


class _Condition(_RLock):  # type: ignore[misc]  # it has no type
    """The lock of a future and those who wait for its end, in place of a `threading.Condition`.

    It is entered and left in C, so that no interrupt can leave it locked.

    Attributes:
        sleepers: those who wait.  They are added with the lock held, and removed without.
    """

    def __init__(self) -> None:
        self.sleepers: list[_Sleeper] = []

    def wait(self, timeout: float) -> None:
        """Return at once: `SubmittedFuture._wait` has waited already, without holding the lock."""

    def notify_all(self) -> None:
        """Wake all who sleep; from any OS thread that holds the lock."""
        for sleeper in list(self.sleepers):
            sleeper.wake()


class _Sleeper(Protocol):
    """A thread that waits for a future."""

    def until_woken(self, timeout: float | None) -> None:
        """Sleep until it is woken, if it was not yet, or until `timeout` seconds are over; blocks."""

    def wake(self) -> None:
        """Wake it; in any OS thread.  Waking it twice is fine."""


class _OsThread:
    """An OS thread without a hub."""

    def __init__(self) -> None:
        self._lock = _new_lock()
        self._lock.acquire()

    def until_woken(self, timeout: float | None) -> None:
        self._lock.acquire(True, -1 if timeout is None else max(timeout, 0.0))

    def wake(self) -> None:
        if self._lock.locked():
            self._lock.release()


class _Greenlet:
    """A greenlet of an OS thread that has a hub, whose other greenlets are to run meanwhile."""

    def __init__(self, hub: Hub, future: object, *, keep_alive: bool) -> None:
        check_may_wait("result")
        self._hub = hub
        self._future = future
        self._wait = new_wait()
        # In the scheduler's own OS thread the hub need not be kept alive: when it has nothing left to
        # do, nothing will end the future.
        self._keep_alive = keep_alive

    def until_woken(self, timeout: float | None) -> None:
        if not self._keep_alive:
            suspend(self._wait, "result", self._future, timeout)
            return
        watcher = loop_of(self._hub).async_()
        try:
            watcher.start(_do_nothing)
            suspend(self._wait, "result", self._future, timeout)
            watcher.close()
        except BaseException:
            watcher.close()
            raise

    def wake(self) -> None:
        call_in_hub(self._hub, self._wait.switch, None)


def call_in_hub(hub: Hub, callback: Callable[..., object], *args: object) -> None:
    """Have the hub call `callback` in its next turn; in any OS thread.

    Does nothing if the hub has been destroyed.
    """
    loop: Any = hub.loop
    try:
        if loop is not None:
            loop.run_callback_threadsafe(callback, *args)
    except ValueError:
        # It is being destroyed right now.
        return


def _do_nothing() -> None:
    pass
