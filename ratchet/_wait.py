"""The one way to suspend a greenlet and to resume it.

Rules of this module:

- No other module switches to a greenlet.  A thread of ours goes to sleep in
  `suspend`, and is woken through the private `Wait` that it sleeps on: a wake
  that comes too late finds no greenlet in there and does nothing.
- `GreenletExit` and `gevent.Timeout` may come out of `suspend` instead of a
  value.  Whoever registered a wait takes it back when that happens.
- Whatever must be undone is undone within the `try`, and in its `except` as well.
  A `finally` or the end of a `with` is skipped by an interrupt that strikes just
  before; here the `except` catches that one, and undoing twice is fine.
- What a greenlet waits for is not stored anywhere in pure Python: `waiting_on` reads it
  from the arguments of the call in which the greenlet sleeps.  So a wait does not pay
  for the description that only a person debugging wants to see.
"""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from types import FrameType
from typing import Any, Final, TypeAlias

from gevent.hub import Waiter, get_hub
from greenlet import getcurrent, greenlet

from ratchet import _clock, _native
from ratchet._log import safe_repr
from ratchet.errors import WrongThread

Wait: TypeAlias = "Waiter[Any]"
"""The object that one thread sleeps on, once: gevent's in pure Python, in whose C no interrupt
strikes, and `_sleep.Wait` in the compiled build."""

TIMED_OUT: Final = object()
"""Returned by `suspend` when its time is over."""


def new_wait() -> Wait:
    """An object for the current thread to sleep on; also for modules that are not compiled."""
    return _native.new_wait()


def suspend(wait: Wait, call: str, subject: object = None, timeout: float | None = None) -> Any:
    """Sleep until `wait.switch(value)`, and return that value.

    Args:
        wait: a fresh one of the current thread's hub.
        call: the call that waits, as a person would name it.
        subject: the object that the call waits on, if there is one.
        timeout: seconds after which `TIMED_OUT` is returned; None for never.
    """
    if timeout is None:
        return _native.wait_on(wait, call, subject)
    timer = _clock.timer(get_hub(), timeout)
    try:
        timer.start(wait.switch, TIMED_OUT)
        value = _native.wait_on(wait, call, subject)
        timer.close()
        return value
    except BaseException:
        timer.close()
        raise


class WaitQueue:
    """Threads that wait for one condition, woken first come, first served.

    `wake_next` runs the woken thread before it returns.  So a thread that was
    promised an item takes it at once, and one that is killed in the queue was
    never promised anything: nothing is lost in either order of events.

    Attributes:
        waits: what each sleeps on, first come first.  Others only ask whether there are any.
    """

    __slots__ = ("waits",)

    def __init__(self) -> None:
        self.waits: deque[Wait] = deque()

    def __len__(self) -> int:
        return len(self.waits)

    def wait(
        self, call: str, subject: object, timeout: float | None = None, group: set[Wait] | None = None
    ) -> bool:
        """Sleep until it is this thread's turn; False when the time is over.

        Args:
            call: as for `suspend`, and so are the next two.
            subject: see there.
            timeout: see there.
            group: some of those who wait, with whom this one is counted meanwhile.
        """
        wait = _native.new_wait()
        waits = self.waits
        try:
            if group is not None:
                group.add(wait)
            waits.append(wait)
            if timeout is None:
                # As `suspend` does.
                woken = _native.wait_on(wait, call, subject) is not TIMED_OUT
            else:
                woken = suspend(wait, call, subject, timeout) is not TIMED_OUT
            # By the thread itself: a wake-up that is interrupted is then still to come.
            if waits and waits[0] is wait:
                waits.popleft()
            elif wait in waits:
                # Its time is over.  A forked child has cleared the queues of its parent.
                waits.remove(wait)
            if group is not None:
                group.discard(wait)
            return woken
        except BaseException:
            if wait in waits:
                waits.remove(wait)
            if group is not None:
                group.discard(wait)
            raise

    def clear(self) -> None:
        """Forget all who wait: they are a parent process's."""
        self.waits.clear()

    def wake_next(self) -> None:
        """Run the thread that has waited longest.  Only from a hub callback."""
        waits = self.waits
        while waits:
            wait = waits[0]
            if wait.greenlet is not None:
                wait.switch(None)
                return
            # Left behind by a thread that was killed and interrupted at once.
            waits.popleft()

    def wake_all(self) -> None:
        """Run each thread that waits now.  Only from a hub callback."""
        for _ in range(len(self.waits)):
            # A thread that was woken may have killed another one meanwhile.
            if self.waits:
                self.wake_next()


def check_hub(hub: greenlet | None, owner: object) -> None:
    """Refuse a call from another OS thread than the one whose hub `owner` uses.

    Raises `WrongThread`, also if that hub has been destroyed, or is not the one that the OS
    thread uses now.
    """
    if get_hub() is hub:
        return
    # A hub that has been destroyed has no loop, and a greenlet that is over no hub.
    name = getattr(owner, "name", None) or f"this {type(owner).__name__}"
    if getattr(hub, "loop", None) is None:
        raise WrongThread(f"{name} belongs to a gevent hub that has been destroyed")
    if getattr(hub, "thread_ident", None) == get_hub().thread_ident:
        raise WrongThread(
            f"{name} belongs to another gevent hub of this OS thread: one of them is on virtual time"
        )
    raise WrongThread(
        f"{name} belongs to another OS thread; it was called from {threading.current_thread().name!r}"
    )


def check_may_wait(call: str) -> None:
    """Refuse a call that waits in the hub, before it has changed anything."""
    if get_hub() is getcurrent():
        raise RuntimeError(
            f"{call}() would have to wait in gevent's hub, where a signal handler may run;"
            f" start a thread for it with thread.attach, or wait for the signal with thread.sigwait"
        )


def check_timeout(timeout: float | None, name: str = "timeout") -> None:
    """Refuse anything but a number of seconds.  None is for ever; what is over already is 0."""
    if timeout is None:
        return
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{name} must be a number of seconds or None, not {timeout!r}")
    # An int may be more than any float; for ever is `inf` as well.
    if timeout != timeout or sys.float_info.max < timeout < math.inf:
        raise ValueError(f"{name} must be a number of seconds or None, not {timeout!r}")


def waiting_on(thread: greenlet) -> str | None:
    """Describe what a suspended greenlet waits for; None if it does not wait."""
    if thread.dead:
        return None
    if (sleep := _native.sleep_of(thread)) is None:
        frame = thread.gr_frame
        if not isinstance(frame, FrameType):
            return None
        return f"{frame.f_globals.get('__name__', '?')}.{frame.f_code.co_name}"
    call, subject = sleep
    return str(call) if subject is None else f"{call} on {safe_repr(subject)}"
