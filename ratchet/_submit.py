"""Calls that other OS threads submit to a scheduler: `Ratchet.submit`.

The way of a submission: `submit`, in any OS thread, puts it into a queue and wakes the hub.  There
`take` attaches a thread for each, which claims the call, makes it, and ends the future.  A cancelled
future has the hub kill that thread.

Rules of this module:

- `claim` decides between all who want a submission: the thread that is to make the call, a
  scheduler that closes, and a `submit` that finds it closed.  It hands the call over once.
- A future ends in a thread or in the greenlet that closes, never in a hub callback, because its end
  runs the program's callbacks.  Only the end of a hub is an exception: nothing else runs any more.
- A scheduler that nobody is going to run takes nothing: `_refusal` says why.  It is set before the
  queue is looked at for the last time, and `submit` looks at it after it has put something there;
  so each submission is seen by one of them.
"""

from __future__ import annotations

import logging
import os
import sys
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextvars import Context
from functools import partial
from typing import Any, Final, Protocol

from gevent.hub import Hub
from gevent.monkey import get_original
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet import _alive
from ratchet._death import on_death
from ratchet._future import SubmittedFuture, call_in_hub
from ratchet._log import kernel_logger, later, log_error, safe_repr, traceback_of
from ratchet._loop import AnyGreenlet, loop_of
from ratchet._thread import name_of
from ratchet.errors import WrongThread

_ident_of_os_thread: Final = get_original("_thread", "get_ident")

Refusal = tuple[type[RuntimeError], str]
"""The type of an error, and what it says of the scheduler."""

_CLOSED: Final[Refusal] = (
    RuntimeError,
    "takes no submissions: it has been closed, or its loop() has ended; loop() opens it again",
)
_PARENTS: Final[Refusal] = (
    WrongThread,
    "belongs to the parent process; it takes submissions in this one when its loop() runs here",
)
_ENDED: Final[Refusal] = (
    WrongThread,
    "belongs to a gevent hub that has been destroyed, or to an OS thread that has ended",
)


class Owner(Protocol):
    """The `Ratchet` that submissions are for."""

    def attach(self, func: Callable[..., object], /, *args: object) -> AnyGreenlet:
        """Queue a new thread."""


class Submission:
    """One call, and the future that has its outcome.

    Attributes:
        future: ends when the call has.
    """

    def __init__(self, submissions: Submissions, call: Callable[[], object], name: str) -> None:
        # Its thread is named for it.
        self.__name__ = name
        self._submissions = submissions
        self.future: SubmittedFuture[Any] = SubmittedFuture(submissions.hub)
        # Here until it is claimed: taking it out is one step, whatever other OS threads do.
        self._call = [call]
        # The thread, while the call runs.
        self._thread: greenlet | None = None
        # Weakly: a cycle would keep the result of a future that nobody has.
        self.future.add_done_callback(partial(_kill_if_cancelled, weakref.ref(self)))

    @property
    def runs(self) -> bool:
        """Whether the call is being made."""
        return self._thread is not None

    def claim(self) -> Callable[[], object] | None:
        """Return the call to the first who asks, and None to all others."""
        try:
            return self._call.pop()
        except IndexError:
            return None

    def end(self, result: object, error: BaseException | None) -> None:
        """End the future, if it has not ended; see there."""
        self.future.end(result, error)
        self._submissions.forget(self)

    def __call__(self) -> None:
        """Make the call: this is what the thread runs."""
        call = self.claim()
        if call is None:
            return
        result: object = None
        failure: BaseException | None = None
        try:
            if not self.future.cancelled():
                self._thread = getcurrent()
                result = call()
                self._thread = None
        except BaseException as error:
            self._thread = None
            if issubclass(type(error), Hub.SYSTEM_ERROR):
                # These end the program from any thread, and come out once.
                self.end(None, GreenletExit())
                raise
            failure = _without_this_frame(error)
        self.end(result, failure)
        if failure is not None and not issubclass(type(failure), GreenletExit):
            # As when a thread dies of an error, except that only the future reports it.
            loop_of(self._submissions.hub).run_callback(on_death, failure)
            if self.future.cancelled():
                text = "%s died after its future was cancelled: %s"
                log_error(
                    kernel_logger, logging.ERROR, text, self.__name__, safe_repr(failure), error=failure
                )
        # The future keeps the error, and the error this frame.
        del self, call, failure

    def kill_soon(self) -> None:
        """Have the hub kill the thread; in any OS thread."""
        call_in_hub(self._submissions.hub, self.kill_cancelled)

    def kill_cancelled(self) -> None:
        """Hub callback: kill the thread while it makes a call whose future was cancelled."""
        if self._thread is not None and self.future.cancelled():
            self._thread.throw(GreenletExit)

    def on_thread_end(self, thread: AnyGreenlet) -> None:
        """Hub callback: end the future, if the thread was killed before it began, or was interrupted."""
        if self._thread is thread:
            self._thread = None
        if not self.runs and self._submissions.has(self):
            later(self.end, None, GreenletExit())
            self.claim()

    def settle(self) -> None:
        """Hub callback: see `Living`."""
        self.kill_cancelled()
        if not self.runs and not self._call:
            # Its thread has ended without ending the future.
            later(self.end, None, GreenletExit())


def _without_this_frame(error: BaseException) -> BaseException:
    """The error with the traceback that begins in the function called."""
    trace = traceback_of(error)
    return BaseException.with_traceback(error, trace and trace.tb_next)


def _kill_if_cancelled(submission: weakref.ref[Submission], future: Future[Any]) -> None:
    """Callback of a future that has ended; in any OS thread."""
    # None if it has ended, too.
    running = submission()
    if running is not None and future.cancelled():
        running.kill_soon()


class Submissions:
    """All submissions of a scheduler that have not ended.

    Attributes:
        hub: that of the scheduler.
    """

    def __init__(self, owner: Owner, hub: Hub) -> None:
        self.hub = hub
        self._owner = owner
        self._queue: deque[Submission] = deque()
        self._open: dict[Submission, None] = {}
        # Why it takes none.
        self._refusal: Refusal | None = None
        _notice_end_of_os_thread()

    def submit(
        self, func: Callable[..., object], args: tuple[object, ...], kwargs: Mapping[str, object]
    ) -> SubmittedFuture[Any]:
        """See `Ratchet.submit`."""
        if not callable(func):
            raise TypeError(f"func must be callable, not {func!r}")
        self._check_open()
        submission = Submission(self, partial(func, *args, **kwargs), name_of(func))
        try:
            self._open[submission] = None
            self._queue.append(submission)
            call_in_hub(self.hub, self.take)
        except BaseException:
            self._withdraw(submission)
            raise
        if self._refusal is not None and self._withdraw(submission):
            self._check_open()
        return submission.future

    def _check_open(self) -> None:
        refusal = self._refusal or (_ENDED if self.hub.loop is None else None)
        if refusal is not None:
            raise self._error(refusal)

    def _error(self, refusal: Refusal) -> RuntimeError:
        kind, text = refusal
        return kind(f"this {type(self._owner).__name__} {text}")

    def _withdraw(self, submission: Submission) -> bool:
        """Take back a submission whose future nobody has; False if its call runs, and is cancelled."""
        if submission.claim() is None:
            submission.future.cancel()
            return False
        self.forget(submission)
        return True

    def forget(self, submission: Submission) -> None:
        """Its future has ended, or nobody has it."""
        self._open.pop(submission, None)

    def has(self, submission: Submission) -> bool:
        """Whether its future has not ended."""
        return submission in self._open

    def take(self) -> bool:
        """Start a thread for each that waits for one; False if there was none.

        Called in the hub or in one of its threads; does not block.
        """
        queue = self._queue
        if not queue:
            return False
        while queue:
            # It stays there until it has its thread.  Should it get two, one claims the call.
            submission = queue[0]
            # An empty context, so that the thread inherits nothing from wherever this is called.
            thread = Context().run(self._owner.attach, submission)
            thread.rawlink(submission.on_thread_end)
            queue.popleft()
        return True

    def open(self) -> None:
        """Take submissions, for the first time or again: somebody is going to run them."""
        self._refusal = None

    def close_if_idle(self) -> bool:
        """Close, unless a submission waits for a thread; returns whether it closed."""
        self._refusal = _CLOSED
        if self._queue:
            self._refusal = None
            return False
        self.close()
        return True

    def close(self) -> None:
        """Take none from now on, and cancel those whose call is not being made."""
        self._refusal = _CLOSED
        for submission in list(self._open):
            if not submission.runs:
                submission.claim()
                submission.end(None, GreenletExit())
        self._queue.clear()

    def settle(self) -> None:
        """Hub callback: see `Living`."""
        self.take()
        for submission in list(self._open):
            submission.settle()

    def abandon(self) -> None:
        """End all of them with an error, because their hub is not going to run any more."""
        self._refusal = _ENDED
        self._queue.clear()
        for submission in list(self._open):
            submission.claim()
            submission.end(None, self._error(_ENDED))

    def leave_to_parent(self) -> None:
        """See `Living._after_fork`: whoever runs them is in the parent, and so is whoever waits."""
        self._refusal = _PARENTS
        self._queue.clear()
        for submission in list(self._open):
            submission.claim()
            submission.future.leave_to_parent(self._error(_PARENTS))
        self._open.clear()


class _EndOfOsThread:
    """Ends the submissions to the schedulers of an OS thread when that ends."""

    def __init__(self) -> None:
        self._ident = _ident_of_os_thread()
        self._process = os.getpid()
        # As the program ends the interpreter empties the modules, and this one may be gone before.
        self._is_finalizing = sys.is_finalizing

    def __del__(self) -> None:
        # The main OS thread ends last, when nobody can wait any more.  In a forked child those of the
        # parent's other threads go, too; locks there may be held for ever.
        if not self._is_finalizing() and os.getpid() == self._process:
            for scheduler in _alive.schedulers.living():
                if scheduler._hub.thread_ident == self._ident:
                    scheduler.hub_ended()


_of_os_thread: Final = get_original("_thread", "_local")()


def _notice_end_of_os_thread() -> None:
    if not hasattr(_of_os_thread, "end"):
        _of_os_thread.end = _EndOfOsThread()
