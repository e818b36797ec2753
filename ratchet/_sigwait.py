"""Threads that wait for a signal: `sigwait`.

A watcher of libev's per thread takes the signal, and Python's own handler is out of
force meanwhile.  The last waiter that goes puts it back.
"""

from __future__ import annotations

import os
import signal as _signal

from gevent.hub import get_hub

from ratchet._loop import Watcher, loop_of
from ratchet._wait import Wait, check_timeout, new_wait, suspend
from ratchet.errors import WrongThread

waiters: dict[Wait, _signal.Signals] = {}
"""The signal that each thread waits for, by the wait that the thread sleeps on."""


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
    wait = new_wait()
    watcher = loop.signal(number)
    try:
        return _sigwait(wait, watcher, number, timeout)
    except BaseException:
        # Once more, as in `pause`.
        _stop_sigwait(wait, watcher, number)
        raise


def _sigwait(wait: Wait, watcher: Watcher, number: _signal.Signals, timeout: float | None) -> bool:
    try:
        waiters[wait] = number
        watcher.start(wait.switch, True)
        came = suspend(wait, f"sigwait({number.name})", timeout=timeout) is True
        _stop_sigwait(wait, watcher, number)
        return came
    except BaseException:
        _stop_sigwait(wait, watcher, number)
        raise


def _stop_sigwait(wait: Wait, watcher: Watcher, number: _signal.Signals) -> None:
    watcher.close()
    waiters.pop(wait, None)
    _restore_handler(number)


def _restore_handler(number: _signal.Signals) -> None:
    """Put Python's own handler in force again, if no thread waits for the signal any more."""
    if number not in waiters.values():
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


def _after_fork() -> None:
    """Forget, in a forked child, what the parent's threads waited for; these are frozen by then."""
    for wait, number in list(waiters.items()):
        # A thread that sleeps is in its wait.
        if wait.greenlet is None:
            del waiters[wait]
            _restore_handler(number)


os.register_at_fork(after_in_child=_after_fork)
