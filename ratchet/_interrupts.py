"""Repair after an exception that struck where none was expected.

Ctrl-C and signal handlers that raise strike at any line, and so do
`RecursionError` and `MemoryError`.  Code is ordered so that little is half done
then: what can fail comes before the change of state, and a wake-up is scheduled
before what it is for.  What is left is settled here.  Each bus and scheduler can
make its invariants true again (`Living._settle`): a connection that lost its
place is closed, a watcher that was stopped is started, a thread whose wake-up
was lost is woken.

Two places ask for it: the hub's error handler, which sees what a hub callback
raised (gevent has stopped its io watcher by then), and the public calls, when an
exception leaves them half-way.  This module knows the hub, which `_sleep` is to
forget when it is destroyed, and of the rest no more than `_alive` does.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeAlias

from gevent.exceptions import HubDestroyed
from gevent.hub import Hub
from greenlet import greenlet

from ratchet import _sleep
from ratchet._alive import living_on, schedulers
from ratchet._log import log_soon, logger

HandleError: TypeAlias = Callable[[object, type[BaseException], Any, TracebackType | None], object]
"""Takes where an error was raised, its type, the error and its traceback."""

_guarded: weakref.WeakSet[Hub] = weakref.WeakSet()


def guard(hub: Hub) -> None:
    """Settle everything on `hub` whenever one of its callbacks has raised."""
    wrap_error_handler(hub, _settling, _guarded)


def _settling(hub: Hub, inner: HandleError) -> HandleError:
    """The handler of a hub that is guarded."""

    def handle_error(
        context: object, kind: type[BaseException], value: Any, tb: TracebackType | None
    ) -> None:
        if issubclass(kind, HubDestroyed):
            _sleep.forget_hub()
            for scheduler in schedulers.living_on(hub):
                scheduler.hub_ended()
        if not isinstance(context, greenlet):
            # First, because the inner handler may not return before the next turn.
            settle_soon(hub)
        inner(context, kind, value, tb)

    return handle_error


def wrap_error_handler(
    hub: Hub, wrap: Callable[[Hub, HandleError], HandleError], wrapped: weakref.WeakSet[Hub]
) -> None:
    """Put a handler of ours, which `wrap` makes, around that of a hub; once, so `wrapped` notes it.

    Setting `handle_error` on the hub is gevent's own hook for this.
    """
    if hub not in wrapped:
        handle_error = wrap(hub, hub.handle_error)
        setattr(hub, "handle_error", handle_error)  # noqa: B010  # mypy refuses the assignment
        wrapped.add(hub)


def settle_soon(hub: Hub) -> None:
    """Settle everything on `hub` in its next turn; does not block."""
    loop = hub.loop
    if loop is not None:
        loop.run_callback(_settle, hub)


def _settle(hub: Hub) -> None:
    """Hub callback: settle each scheduler and bus of this hub."""
    for thing in living_on(hub):
        try:
            thing._settle()
        except Exception as error:
            # One that cannot be settled is not to spare the others.
            log_soon(logger, logging.ERROR, "cannot settle %s", type(thing).__name__, error=error)
