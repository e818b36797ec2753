"""Switching greenlets by greenlet's own functions for C, for `_sleep` alone.

`_greenlets.pxd` has these functions for the compiled build.  The same in Python is here, for the
type checker and for whoever reads it; this module is not compiled itself.
"""

from __future__ import annotations

from threading import get_ident
from typing import Any

from greenlet import getcurrent, greenlet

current = getcurrent
"""The running greenlet."""


os_thread = get_ident
"""A number of this OS thread, above 0; in C, no other one ever has the same."""


def parent() -> greenlet | None:
    """The parent of the running greenlet: the hub, for almost all; None for the main greenlet."""
    return getcurrent().parent


def is_dead(thread: greenlet) -> bool:
    """Whether a greenlet has ended."""
    return thread.dead


def load() -> None:
    """Load greenlet's functions; a module that calls the others calls this first."""


def target(thread: greenlet) -> greenlet:
    """The greenlet as `switch` takes it: in C without a reference, so something else has to keep it.

    Once it runs, greenlet itself does.
    """
    return thread


def switch(target: greenlet, value: object) -> Any:
    """Switch to a greenlet, in which `value` comes out; returns when something switches back."""
    return target.switch(value)


def switch_to_hub(hub: greenlet) -> Any:
    """Switch to a hub, which goes on with what it did; returns when something switches back."""
    return hub.switch()
