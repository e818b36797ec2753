"""Context variables that belong to one request, and to nothing that outlives it.

A thread starts with a copy of its maker's context.  A background thread may go
on long after the request in which it was started; so what was that request's
alone, such as its deadline, is reset in the copy.  This module imports nothing
of ours: whoever has such a variable registers it.
"""

from __future__ import annotations

from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

Value = TypeVar("Value")

_registered: list[tuple[ContextVar[Any], Any]] = []


def belongs_to_one_request(variable: ContextVar[Value], outside: Value) -> None:
    """Reset `variable` to `outside` in whatever outlives the request."""
    _registered.append((variable, outside))


def context_that_outlives() -> Context:
    """Copy the current context, without what belongs to one request."""
    context = copy_context()
    for variable, outside in _registered:
        if variable in context:
            context.run(variable.set, outside)
    return context
