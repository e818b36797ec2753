"""A limit of real time for what a greenlet does, even if its hub is virtual, busy or stuck.

An OS thread watches, because a timer of the hub would fire in the hub's own time, and
only if the hub runs.  When the time is over it has the hub interrupt the greenlet.  If no
hub runs, because something computes or is stuck in a system call, it interrupts whatever
runs in the OS thread, as soon as that is Python code again.
"""

from __future__ import annotations

import ctypes
from _thread import get_ident
from collections.abc import Callable
from types import TracebackType
from typing import Any, Final

from gevent.monkey import get_original
from greenlet import getcurrent

from ratchet._log import safe_repr
from ratchet.testing._dump import dump, hubs_of
from ratchet.testing._loop import VirtualLoop

# The originals, also in a program that gevent has patched.
_new_lock: Final = get_original("_thread", "allocate_lock")
_start_thread: Final = get_original("_thread", "start_new_thread")

# Seconds that a running hub has to call a callback.
_PATIENCE: Final = 1.0


class TookTooLong(BaseException):
    """Raised in a greenlet whose time is over; no `except Exception` catches it.

    Attributes:
        text: its text; an attribute of the class, because the interpreter makes the object without arguments.
    """

    text = "it took too long"

    def __str__(self) -> str:
        return self.text


class TimeLimit:
    """`with TimeLimit(seconds, what, tell):` raises `TookTooLong` in a block that takes too long.

    Args:
        seconds: the limit, in real time; 0 for none.
        what: names what the block does, for the text of the error.
        tell: called with a dump of all threads just before the error is raised, in the hub
            or in another OS thread.
    """

    def __init__(self, seconds: float, what: str, tell: Callable[[str], object]) -> None:
        self._seconds = seconds
        text = f"{what} took more than {seconds:g} s"
        self._error: Any = type("TookTooLong", (TookTooLong,), {"text": text, "__module__": __name__})
        self._tell = tell
        self._greenlet = getcurrent()
        self._ident = get_ident()
        # Held for as long as the block lasts.
        self._lasts = _new_lock()
        self._told = False
        self._rang = False
        self._over = False

    def __enter__(self) -> TimeLimit:
        if self._seconds > 0:
            self._lasts.acquire()
            _start_thread(self._watch, ())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.cancel()

    def cancel(self) -> None:
        """Lift the limit.  Cancelling twice is fine."""
        if self._seconds > 0 and not self._over:
            self._over = True
            self._lasts.release()

    def _watch(self) -> None:
        """Enforce the limit, in an OS thread of its own."""
        if self._lasts.acquire(True, self._seconds):
            return
        for hub in hubs_of(self._ident):
            loop: Any = hub.loop
            loop.run_callback_threadsafe(self._ring)
        if not self._lasts.acquire(True, _PATIENCE) and not self._rang:
            self._tell_once()
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(self._ident), ctypes.py_object(self._error)
            )

    def _ring(self) -> None:
        """Hub callback: the time is over."""
        if not (self._over or self._rang):
            self._rang = True
            self._tell_once()
            self._greenlet.throw(self._error())

    def _tell_once(self) -> None:
        if self._told:
            return
        self._told = True
        self._error.text += _virtual_times(self._ident)
        try:
            text = dump(self._ident)
        except Exception as error:
            # In another OS thread, it reads objects that change meanwhile.
            text = f"the threads cannot be shown: {safe_repr(error)}"
        self._tell(text)


def _virtual_times(ident: int) -> str:
    """The end of a sentence that names the time on each hub of an OS thread that is on virtual time."""
    loops: list[Any] = [hub.loop for hub in hubs_of(ident)]
    return "".join(
        f", at {loop.elapsed / 1e9:.6f} seconds of virtual time"
        for loop in loops
        if type(loop) is VirtualLoop
    )
