"""The routing of errors that nobody catches, of threads and of the hub's callbacks.

gevent gives every error that nobody catches to `handle_error` of its hub, which
prints it.  On a hub that has schedulers, the errors of their threads are kept by
those, and the errors of the hub's callbacks come out of the `loop()` that runs.
Those of other greenlets, and those of callbacks while no `loop()` runs on the hub,
go where they went before.  So does what is only reported here by code that deals with it:
the thread pool raises a job's error in the thread that waits for it, a web server
answers that of an application, and one that could not accept a client tries again.
This module keeps none itself.
"""

from __future__ import annotations

import weakref
from types import TracebackType
from typing import Any

from gevent.exceptions import HubDestroyed
from gevent.hub import Hub
from greenlet import GreenletExit, getcurrent, greenlet

from ratchet import _alive
from ratchet._interrupts import HandleError, settle_soon, wrap_error_handler
from ratchet._thread import ScheduledThread

_quiet_hubs: weakref.WeakSet[Hub] = weakref.WeakSet()


def leave_errors_to_schedulers(hub: Hub) -> None:
    """Let the errors of threads and of the hub's callbacks come out of `loop()`, instead of being printed."""
    wrap_error_handler(hub, _routing, _quiet_hubs)


def _routing(hub: Hub, inner: HandleError) -> HandleError:
    """The handler of a hub that has schedulers."""

    def handle_error(
        context: object, kind: type[BaseException], value: Any, tb: TracebackType | None
    ) -> None:
        ours = isinstance(context, ScheduledThread)
        if not ours and (
            isinstance(context, greenlet)
            or issubclass(kind, (HubDestroyed, GreenletExit))
            or not _is_of_callback(hub, context)
        ):
            inner(context, kind, value, tb)
        elif issubclass(kind, hub.SYSTEM_ERROR):
            # KeyboardInterrupt and SystemExit end the program from any thread.
            if not ours:
                settle_soon(hub)
            hub.handle_system_error(kind, value, tb)
        elif not ours:
            scheduler = _running_on(hub)
            # Its type is asked, not the error: its attributes may be anything.
            if scheduler is None or not issubclass(type(value), BaseException):
                inner(context, kind, value, tb)
            else:
                settle_soon(hub)
                scheduler.take_error(BaseException.with_traceback(value, tb))

    return handle_error


def _is_of_callback(hub: Hub, context: object) -> bool:
    """Whether an error is one of a callback of the hub's, rather than of what the context deals with."""
    if getcurrent() is not hub:
        return False
    if isinstance(context, tuple):
        # A link, and what it is linked to.  A job has its worker first, and a client its address.
        return bool(context) and callable(context[0])
    # Watchers and what `run_callback` returns have such a field.
    return context is None or callable(context) or hasattr(type(context), "callback")


def _running_on(hub: Hub) -> _alive.LivingScheduler | None:
    """The oldest scheduler that a greenlet of this hub runs."""
    for scheduler in _alive.schedulers.living_on(hub):
        if scheduler.running:
            return scheduler
    return None
