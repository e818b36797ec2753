"""Greenlets as the compiled build switches them: by greenlet's own functions for C.

Here is what the same comes to in Python; `_greenlets.pxd` has the functions for C, which are
used in place of these by whatever is compiled.
"""

from __future__ import annotations

from typing import Any

from greenlet import getcurrent, greenlet

current = getcurrent
"""The running greenlet."""


def parent() -> greenlet | None:
    """The parent of the running greenlet: the hub, for almost all; None for the main greenlet."""
    return getcurrent().parent


def load() -> None:
    """Get ready; a module that calls the other functions calls this first."""


def target(thread: greenlet) -> greenlet:
    """What `switch` takes: not a reference, so that something else has to keep the greenlet until then.

    Once it runs, greenlet itself does.
    """
    return thread


def switch(target: greenlet, value: object) -> Any:
    """Switch to a greenlet, in which `value` comes out; returns when something switches back."""
    return target.switch(value)


def switch_to_hub(hub: greenlet) -> Any:
    """Switch to a hub, which goes on with what it did; returns when something switches back."""
    return hub.switch()
