"""Alarms: time-outs that a thread sets for whatever it does.

`alarm` starts an `AlarmClock`, whose timer runs on the hub.  When the time is over,
the clock calls the callback in a thread of its own, if there is one, and then raises
the `Alarm` in the thread that set it.  A clock that is stopped no longer
rings, nor does one whose thread has ended.  `Alarm` is in `errors`, and has no code of the
scheduler's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent.hub import get_hub
from greenlet import getcurrent, greenlet

from ratchet import _clock
from ratchet._wait import check_timeout
from ratchet.errors import Alarm
from ratchet.kernel import kernel_of

_RING_AGAIN = 0.1  # seconds


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
        # It repeats, in case an interrupt strikes just as it rings.
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
        try:
            self._timer.close()
        except ValueError:
            # The hub's loop has been destroyed, and the timer with it.
            pass
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
