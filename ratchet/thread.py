"""Functions for the current thread: sleeping, waiting, alarms, and starting and ending others.

Each function works in any greenlet, owned by a `Ratchet` or not, and leaves no waiter,
timer, watcher or link behind when its thread is killed or an alarm rings in it.

This module is a thin layer over `_wait` and the kernel.  Waits that need more than a page
are in private modules of ours, one for each kind, and are named here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec

import gevent
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from ratchet import _clock
from ratchet._alarm import alarm
from ratchet._block_on import block_on
from ratchet._loop import AnyGreenlet
from ratchet._pause import pause, unpause
from ratchet._sigwait import sigwait
from ratchet._thread import prepared, space_of
from ratchet._wait import TIMED_OUT, check_hub, check_timeout, new_wait, suspend
from ratchet.kernel import Ratchet, Thread, kernel_of, start

__all__ = [
    "alarm",
    "attach",
    "attach_background",
    "block_on",
    "current",
    "kernel",
    "kill",
    "kill_all",
    "pause",
    "sigwait",
    "space",
    "timer",
    "unpause",
    "wait_all",
]


def __dir__() -> list[str]:
    return __all__


Arguments = ParamSpec("Arguments")

for _function in (alarm, block_on, pause, sigwait, unpause):
    # Where a program finds it; its repr and its pickle say so.
    _function.__module__ = __name__


def attach(func: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Thread:
    """Queue a new thread on the current thread's scheduler; see `Ratchet.attach`.

    That is the scheduler of the innermost `with Ratchet()` that the current thread
    is in, else the one that owns the thread, else one that all other greenlets of
    the OS thread share.
    """
    # Not by way of the scheduler's method: gevent keeps the frames in which a greenlet
    # is made, and each one more takes 5 % of the thread's memory.
    target, more = prepared(func, kwargs)
    return start(kernel_of(getcurrent()), Thread(target, *args, **more), func, background=False)


def attach_background(
    func: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs
) -> Thread:
    """Queue a background thread on the current thread's scheduler; see `Ratchet.attach_background`."""
    return kernel_of(getcurrent()).attach_background(func, *args, **kwargs)


def kernel() -> Ratchet:
    """The current thread's scheduler, to which `attach` attaches.

    In a plain greenlet of gevent's it is the one that all such greenlets of this OS
    thread share.  Does not block.
    """
    return kernel_of(getcurrent())


def current() -> greenlet:
    """The running greenlet: a `Thread` if a scheduler owns it."""
    return getcurrent()


def space(premade: object = None) -> Any:
    """The current thread's own scratch object, made on first use.

    Args:
        premade: the object to use, if there is none yet; without it, that is an
            empty `types.SimpleNamespace`.
    """
    return space_of(getcurrent(), premade)


def timer(seconds: float) -> None:
    """Sleep for `seconds`; blocks.  0 lets every other thread that can run do so first.

    Raises `TypeError` or `ValueError` for anything but a number of seconds.
    """
    if seconds is None:
        raise TypeError("seconds must be a number of seconds, not None")
    check_timeout(seconds, "seconds")
    wait = new_wait()
    if seconds <= 0:
        get_hub().loop.run_callback(wait.switch, None)
        suspend(wait, "timer")
    else:
        suspend(wait, "timer", timeout=seconds)


def wait_all(threads: Iterable[gevent.Greenlet[..., Any]], timeout: float | None = None) -> bool:
    """Wait until all `threads` have ended, by return, error or kill; blocks.

    Their errors are not raised here.

    Args:
        threads: of any scheduler, or other greenlets of gevent's.
        timeout: seconds; None for ever.

    Returns:
        Whether all have ended; False on time-out.

    Raises `ValueError` if the current thread is one of them, `WrongThread` if
    one runs in another OS thread, and `TypeError` for anything but a
    `gevent.Greenlet`.

    .. code-block:: python

        from ratchet import thread

        threads = [thread.attach(thread.timer, seconds) for seconds in (0, 60)]
        print(thread.wait_all(threads, timeout=0.05))
        thread.kill_all(threads)
        print(thread.wait_all(threads))

    .. code-block:: text

        False
        True
    """
    check_timeout(timeout)
    running = []
    for thread in threads:
        _check_thread(thread)
        if thread is getcurrent():
            raise ValueError(f"{thread!r} cannot wait for itself")
        if not thread.ready():
            running.append(thread)
    end = None if timeout is None else _clock.monotonic() + timeout
    # One after the other, and without a callback of ours in which an end could be lost.
    return all(_wait_for(thread, running, end) for thread in running)


def _wait_for(thread: AnyGreenlet, all_of_them: object, end: float | None) -> bool:
    if thread.ready():
        return True
    timeout = None if end is None else end - _clock.monotonic()
    wait = new_wait()
    try:
        thread.rawlink(wait.switch)
        ended = suspend(wait, "wait_all", all_of_them, timeout) is not TIMED_OUT
        thread.unlink(wait.switch)
        return ended
    except BaseException:
        thread.unlink(wait.switch)
        raise


def kill(thread: gevent.Greenlet[..., Any]) -> None:
    """End a thread, and wait until it has ended; its `finally` blocks run.

    A thread that has ended already is left alone; one that has not started
    never will.  A thread may kill itself.  Raises `WrongThread` if it runs in
    another OS thread, and `TypeError` for anything but a `gevent.Greenlet`.
    """
    kill_all([thread])


def kill_all(threads: Iterable[gevent.Greenlet[..., Any]]) -> None:
    """End all `threads` at once, and wait until they have ended; see `kill`."""
    threads = list(threads)
    for thread in threads:
        _check_thread(thread)
    gevent.killall(threads)
    if any(thread.exception is not None for thread in threads):
        # `loop()` hears of an error in the next turn, and raises it before this thread runs on.
        gevent.sleep(0)


def _check_thread(thread: object) -> None:
    """Refuse anything but a thread, and one that runs in another OS thread."""
    if not isinstance(thread, gevent.Greenlet):
        raise TypeError(f"expected a thread, not {thread!r}")
    if not thread.ready():
        check_hub(thread.parent, thread)
