"""Deadlines: one timeout is taken at the API, a deadline is passed inward.

Rules of this room: it suspends nothing.  A deadline is a time of the monotonic
clock, in seconds; None means that there is none.
"""

from __future__ import annotations

import time
from contextvars import ContextVar, Token

_inherited: ContextVar[float | None] = ContextVar("ratchet_deadline", default=None)


inherited_deadline = _inherited.get
"""The deadline of the request which the current thread handles."""


def deadline_after(timeout: float | None) -> float | None:
    """The deadline `timeout` seconds from now."""
    return None if timeout is None else time.monotonic() + timeout


def seconds_until(deadline: float) -> float:
    """Seconds left, not below 0."""
    return max(deadline - time.monotonic(), 0.0)


def is_over(deadline: float) -> bool:
    """Whether the time is over."""
    return time.monotonic() >= deadline


def request_deadline(timeout: float | None) -> float | None:
    """The deadline of a request that is sent now.

    Its own, or that of the request which the current thread handles, if that
    one is earlier.
    """
    outer = _inherited.get()
    if timeout is None:
        return outer
    own = time.monotonic() + timeout
    return own if outer is None else min(own, outer)


def time_left(deadline: float | None) -> float | None:
    """Seconds left, not below 0; None if there is no deadline."""
    return None if deadline is None else seconds_until(deadline)


def inherit(deadline: float | None) -> Token[float | None] | None:
    """Let requests of the current context have no more time than until `deadline`.

    Returns what `stop_inheriting` needs to undo it.
    """
    outer = _inherited.get()
    if deadline is None or (outer is not None and outer <= deadline):
        return None
    return _inherited.set(deadline)


def stop_inheriting(token: Token[float | None] | None) -> None:
    """Undo an `inherit`."""
    if token is not None:
        _inherited.reset(token)
