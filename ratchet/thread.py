"""What a thread does: functions for the current thread.

It is thin, over `_wait` and the kernel.  Each function
works in any greenlet, owned by a `Ratchet` or not, and leaves no waiter, timer,
watcher or link behind when its thread is killed or an alarm rings in it.
"""

from __future__ import annotations

import os
import signal as _signal
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import gevent
from gevent.hub import Waiter, get_hub
from greenlet import getcurrent, greenlet

from ratchet import _clock
from ratchet._fork import frozen
from ratchet._loop import AnyGreenlet, Watcher, loop_of
from ratchet._wait import TIMED_OUT, check_hub, check_timeout, suspend
from ratchet.errors import Alarm, NotPaused, WrongThread
from ratchet.kernel import Ratchet, Thread, kernel_of, prepared, space_of

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

Arguments = ParamSpec("Arguments")
Ready = TypeVar("Ready")

_READ, _WRITE = 1, 2  # libev's event bits

_RING_AGAIN = 0.1  # seconds

_paused: dict[greenlet, Waiter[tuple[object, ...]]] = {}
_signal_waiters: dict[Waiter[object], _signal.Signals] = {}


def attach(func: Callable[Arguments, object], /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Thread:
    """Queue a new thread on the current thread's scheduler; see `Ratchet.attach`.

    That is the scheduler of the innermost `with Ratchet()` that the current thread
    is in, else the one that owns the thread, else one that all other greenlets of
    the OS thread share.
    """
    # Not by way of the scheduler's method: gevent keeps the frames in which a greenlet
    # is made, and each one more takes 5 % of the thread's memory.
    target, more = prepared(func, kwargs)
    return kernel_of(getcurrent())._start(Thread(target, *args, **more), func, background=False)


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
    waiter: Waiter[object] = Waiter()
    if seconds <= 0:
        get_hub().loop.run_callback(waiter.switch, None)
        suspend(waiter, "timer")
    else:
        suspend(waiter, "timer", timeout=seconds)


class AlarmClock:
    """Rings an `Alarm` once, in the thread that set it; stopping it twice is fine.

    To `gevent.Timeout` it is the alarm's timer, so `Alarm` itself needs no code
    of the scheduler, and can be pickled.
    """

    active = False

    def __init__(self, alarm: Alarm, seconds: float, callback: Callable[[], object] | None) -> None:
        self._alarm: Alarm | None = alarm
        self._callback = callback
        self._thread = getcurrent()
        # The priority of gevent's own: what is ready goes before a time-out of the same turn.
        # It repeats, in case that an interrupt strikes just as it rings.
        self._timer = _clock.timer(get_hub(), seconds, _RING_AGAIN, priority=-1)

    @property
    def pending(self) -> bool:
        """Whether it may still ring."""
        return self._alarm is not None

    def start(self) -> None:
        if isinstance(self._thread, gevent.Greenlet):
            # An alarm that outlives its thread would keep the loop from ending.
            self._thread.rawlink(self._on_thread_end)
        # With the thread, as gevent does it, so that a forked child finds what is for a frozen one.
        self._timer.start(self._on_expiration, self._thread)

    def stop(self) -> None:
        # The timer first: it is what would keep the loop from ending.
        self._timer.close()
        self._alarm = None
        if isinstance(self._thread, gevent.Greenlet):
            self._thread.unlink(self._on_thread_end)

    close = stop

    def _on_thread_end(self, thread: object) -> None:
        """Hub callback: the thread has ended before the alarm rang."""
        self.stop()

    def _on_expiration(self, thread: greenlet) -> None:
        """Hub callback: the time is over."""
        if self._callback is None:
            self._ring(thread, self._alarm)
        else:
            kernel_of(thread).attach_background(self._call_back, self._callback)
            self._timer.stop()

    def _call_back(self, callback: Callable[[], object]) -> None:
        try:
            callback()
        except (Exception, gevent.Timeout) as error:
            # The thread learns that its alarm went wrong, in place of the alarm.
            ringing: BaseException | None = error
        else:
            ringing = self._alarm
        get_hub().loop.run_callback(self._ring, self._thread, ringing)

    def _ring(self, thread: greenlet, error: BaseException | None) -> None:
        """Hub callback: raise in the thread, if that is still wanted."""
        wanted = error if self.pending and not thread.dead else None
        try:
            self.stop()
            if wanted is not None:
                thread.throw(wanted)
        except BaseException:
            if wanted is not None and not thread.dead:
                # What struck here is not the thread's: it is to be woken all the same.
                throw: Callable[[BaseException], object] = thread.throw
                get_hub().loop.run_callback(throw, wanted)
            raise


def alarm(seconds: float, callback: Callable[[], object] | None = None) -> Alarm:
    """Ring in the current thread after `seconds`, if it is still running then.

    To ring is to call `callback()` in a thread of its own, and then to raise
    the returned `Alarm` in the thread that set it, wherever that one blocks.
    An exception that `callback` raises is raised there in the alarm's place.
    Does not block.

    Args:
        seconds: until it rings.
        callback: called without arguments; it may block.

    Returns:
        The alarm.  `cancel()` keeps it from ringing; so does leaving it, as a
        context manager.

    Raises `TypeError` or `ValueError` for anything but a number of seconds, and
    `TypeError` for a `callback` that cannot be called.

    .. code-block:: python

        from ratchet import Alarm, thread

        try:
            with thread.alarm(0.01, lambda: print("ring")):
                thread.timer(60)
        except Alarm:
            print("awake")

    .. code-block:: text

        ring
        awake
    """
    if seconds is None:
        raise TypeError("seconds must be a number of seconds, not None")
    check_timeout(seconds, "seconds")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be a callable or None, not {callback!r}")
    ringing = Alarm()
    ringing.seconds = max(seconds, 0.0)
    # `Any`: a timer of gevent's has more, of which an `Alarm` uses nothing.
    clock: Any = AlarmClock(ringing, ringing.seconds, callback)
    try:
        ringing.timer = clock
        clock.start()
        return ringing
    except BaseException:
        clock.stop()
        raise


def pause() -> Any:
    """Wait until another thread calls `unpause` on this one; blocks.

    Returns:
        What that passed; None for nothing, the value for one, a tuple for more.

    .. code-block:: python

        from ratchet import Ratchet, thread

        with Ratchet() as kernel:
            paused = kernel.attach(lambda: print(thread.pause()))
            kernel.attach(thread.unpause, paused, "tea", 2)

    .. code-block:: text

        ('tea', 2)
    """
    current = getcurrent()
    try:
        return _pause(current)
    except BaseException:
        # Once more: an interrupt may have struck just as a kill was dealt with.
        _paused.pop(current, None)
        raise


def _pause(current: greenlet) -> object:
    waiter: Waiter[tuple[object, ...]] = Waiter()
    try:
        _paused[current] = waiter
        values = suspend(waiter, "pause")
        # unpause() has done this, unless it was interrupted.
        _paused.pop(current, None)
        return values if len(values) > 1 else values[0] if values else None
    except BaseException:
        _paused.pop(current, None)
        raise


def unpause(thread: greenlet, *values: object) -> None:
    """Wake a paused thread on the next turn; its `pause()` returns `values`.

    Does not block.  Raises `NotPaused` if the thread is not paused, or was
    unpaused already, `WrongThread` if it runs in another OS thread, and
    `TypeError` for anything but a thread.  `pause` has an example.
    """
    if not isinstance(thread, greenlet):
        raise TypeError(f"thread must be a thread, not {thread!r}")
    waiter = _paused.get(thread)
    if waiter is None:
        raise NotPaused(f"{thread!r} is not paused")
    check_hub(waiter.hub, thread)
    waiter.hub.loop.run_callback(waiter.switch, values)
    del _paused[thread]


def wait_all(threads: Iterable[gevent.Greenlet[..., Any]], timeout: float | None = None) -> bool:
    """Wait until all `threads` have ended, by return, error or kill; blocks.

    Their errors are not raised here.

    Args:
        threads: of any scheduler, or other greenlets of gevent's.
        timeout: seconds; None for ever.

    Returns:
        Whether all have ended; False on time-out.

    Raises `ValueError` if the current thread is one of them, `WrongThread` if
    one runs in another OS thread, and `TypeError` for what is no
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
    waiter: Waiter[object] = Waiter()
    try:
        thread.rawlink(waiter.switch)
        ended = suspend(waiter, "wait_all", all_of_them, timeout) is not TIMED_OUT
        thread.unlink(waiter.switch)
        return ended
    except BaseException:
        thread.unlink(waiter.switch)
        raise


def block_on(
    reads: Iterable[Ready], writes: Iterable[Ready] = (), timeout: float | None = None
) -> Ready | None:
    """Wait until one of the objects is ready, and return it; None on time-out.

    Args:
        reads: objects with `fileno()`, or file descriptors, to be readable.
        writes: the same, to be writable.
        timeout: seconds; None for ever.

    Raises `ValueError` for a closed object, or for none at all, and `TypeError`
    for what is neither an object with `fileno()` nor a descriptor.

    .. code-block:: python

        import socket

        from ratchet import thread

        ours, theirs = socket.socketpair()
        with ours, theirs:
            print(thread.block_on([ours], timeout=0.01))
            theirs.send(b"hello")
            print(thread.block_on([ours]) is ours)

    .. code-block:: text

        None
        True
    """
    check_timeout(timeout)
    wanted = [(ready, _READ) for ready in reads] + [(ready, _WRITE) for ready in writes]
    if not wanted:
        raise ValueError("block_on needs at least one object to wait for")
    objects = [ready for ready, _ in wanted]
    descriptors = [_open_descriptor(ready) for ready in objects]
    waiter: Waiter[object] = Waiter()
    loop = loop_of(get_hub())
    watchers: list[Watcher] = []
    try:
        for (ready, events), descriptor in zip(wanted, descriptors, strict=True):
            # Two may be ready in one turn; the second finds nobody in the waiter.
            # MAXPRI: what is ready goes before a time-out of the same turn.
            watcher = loop.io(descriptor, events, priority=loop.MAXPRI)
            watchers.append(watcher)
            watcher.start(waiter.switch, ready)
        # No comprehension in here: of what strikes in one, CPython 3.12.1 skips the `except`.
        value = suspend(waiter, "block_on", objects, timeout)
        _close(watchers)
        return None if value is TIMED_OUT else value  # type: ignore[return-value]
    except BaseException:
        _close(watchers)
        raise


def _close(watchers: list[Watcher]) -> None:
    for watcher in watchers:
        watcher.close()


def _open_descriptor(ready: object) -> int:
    fileno: Callable[[], int] | None = getattr(ready, "fileno", None)
    descriptor = ready if fileno is None else fileno()
    if not isinstance(descriptor, int) or isinstance(descriptor, bool):
        raise TypeError(f"block_on needs objects with fileno(), not {ready!r}")
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise ValueError(f"block_on needs open objects; {ready!r} is closed") from error
    return descriptor


def sigwait(signal: int | str, timeout: float | None = None) -> bool:
    """Wait for a signal; True when it has come, False on time-out.

    While a thread waits, the signal does nothing else: Python's own handler is
    out of force, and comes back when the last waiter is gone.  A waiter keeps
    the loop alive.  All threads that wait for one signal get it.

    Args:
        signal: a number or a name: `signal.SIGTERM`, `"SIGTERM"`, `"TERM"`.
        timeout: seconds; None for ever.

    Raises `ValueError` for a signal that does not exist or cannot be caught,
    and `WrongThread` outside the main OS thread.

    .. code-block:: python

        import os
        import signal

        from ratchet import thread

        thread.attach(os.kill, os.getpid(), signal.SIGHUP)
        print(thread.sigwait("HUP", timeout=5))

    .. code-block:: text

        True
    """
    number = _signal_number(signal)
    check_timeout(timeout)
    loop = loop_of(get_hub())
    # Not asked of `threading`: in a patched program a greenlet is a thread to it.
    if not loop.default:
        raise WrongThread("sigwait works in the main OS thread only, as Python's signal handlers do")
    waiter: Waiter[object] = Waiter()
    watcher = loop.signal(number)
    try:
        return _sigwait(waiter, watcher, number, timeout)
    except BaseException:
        # Once more, as in `pause`.
        _stop_sigwait(waiter, watcher, number)
        raise


def _sigwait(
    waiter: Waiter[object], watcher: Watcher, number: _signal.Signals, timeout: float | None
) -> bool:
    try:
        _signal_waiters[waiter] = number
        watcher.start(waiter.switch, True)
        came = suspend(waiter, f"sigwait({number.name})", timeout=timeout) is True
        _stop_sigwait(waiter, watcher, number)
        return came
    except BaseException:
        _stop_sigwait(waiter, watcher, number)
        raise


def _stop_sigwait(waiter: Waiter[object], watcher: Watcher, number: _signal.Signals) -> None:
    watcher.close()
    _signal_waiters.pop(waiter, None)
    _restore_handler(number)


def _restore_handler(number: _signal.Signals) -> None:
    """Put Python's own handler in force again, if no thread waits for the signal any more."""
    if number not in _signal_waiters.values():
        # libev leaves the system's default action behind; Python still
        # believes in its own handler.  Setting it again makes that true.
        # The default action stands already, unless gevent waits for the
        # signal elsewhere in the program, and then that must go on.
        handler = _signal.getsignal(number)
        if handler not in (None, _signal.SIG_DFL):
            _signal.signal(number, handler)


def _signal_number(signal: int | str) -> _signal.Signals:
    """Take a signal's name or number apart, or say what is wrong with it."""
    try:
        if isinstance(signal, str):
            name = signal.upper()
            number = _signal.Signals[name if name.startswith("SIG") else f"SIG{name}"]
        elif isinstance(signal, int) and not isinstance(signal, bool):
            number = _signal.Signals(signal)
        else:
            raise TypeError(f"signal must be a number or a name such as 'SIGTERM', not {signal!r}")
    except (KeyError, ValueError):
        raise ValueError(
            f"there is no signal {signal!r}; expected a number or a name such as 'SIGTERM'"
        ) from None
    if number in (_signal.SIGKILL, _signal.SIGSTOP):
        raise ValueError(f"{number.name} cannot be waited for: the system lets no program catch it")
    return number


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


def _after_fork() -> None:
    """In a forked child, after the parent's threads were frozen: forget what they wait for."""
    for paused in frozen:
        _paused.pop(paused, None)
    for waiter, number in list(_signal_waiters.items()):
        # A thread that sleeps is in its waiter.
        if waiter.greenlet is None:
            del _signal_waiters[waiter]
            _restore_handler(number)


os.register_at_fork(after_in_child=_after_fork)
