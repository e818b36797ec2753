"""Deadlines: one timeout is taken at the API, a deadline is passed inward.

A deadline is a time of the monotonic clock, in seconds; None means that there is
none.  A thread that handles a request inherits the request's deadline for what it
sends itself, as long as the request's block is open: whoever leaves the block, in
whatever thread and context, ends that for all.

Nothing here suspends.
"""

from __future__ import annotations

from contextvars import ContextVar

from ratchet import _clock, _native
from ratchet._context import belongs_to_one_request


class Scope:
    """A block in which the requests that are sent have no more time than until its deadline."""

    __slots__ = ("deadline", "left", "outer")

    def __init__(self, deadline: float, outer: Scope | None) -> None:
        self.deadline = deadline
        self.outer = outer
        self.left = False


_scope: ContextVar[Scope | None] = ContextVar("ratchet_deadline", default=None)
belongs_to_one_request(_scope, None)


def inherited_deadline() -> float | None:
    """The deadline of the request which the current thread handles."""
    scope: Scope | None = _native.value_of(_scope)
    while scope is not None and scope.left:
        scope = scope.outer
    return None if scope is None else scope.deadline


def deadline_after(timeout: float | None) -> float | None:
    """The deadline `timeout` seconds from now."""
    return None if timeout is None else _clock.monotonic() + timeout


def seconds_until(deadline: float) -> float:
    """Seconds left, not below 0."""
    return max(deadline - _clock.monotonic(), 0.0)


def request_deadline(timeout: float | None) -> float | None:
    """The deadline of a request that is sent now.

    Its own, or that of the request which the current thread handles, if that
    one is earlier.
    """
    outer = inherited_deadline()
    if timeout is None:
        return outer
    own = _clock.monotonic() + timeout
    return own if outer is None else min(own, outer)


def time_left(deadline: float | None) -> float | None:
    """Seconds left, not below 0; None if there is no deadline."""
    return None if deadline is None else seconds_until(deadline)


def in_words(seconds: float) -> str:
    """Seconds for people: the shortest number that is about right."""
    for digits in range(1, 4):
        short = float(f"{seconds:.{digits}g}")
        if abs(short - seconds) <= 0.03 * seconds:
            break
    return f"{short:g} s"


def enter_scope(deadline: float | None) -> Scope | None:
    """Let requests of the current context have no more time than until `deadline`.

    Returns what `leave_scope` needs to end that; None if it changes nothing.
    """
    outer = inherited_deadline()
    if deadline is None or (outer is not None and outer <= deadline):
        return None
    scope = Scope(deadline, _scope.get())
    _scope.set(scope)
    return scope


def leave_scope(scope: Scope | None) -> None:
    """End an `enter_scope`, from whatever context."""
    if scope is not None:
        scope.left = True
        if _scope.get() is scope:
            _scope.set(scope.outer)
