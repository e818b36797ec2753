"""Middleware: functions around the handler of a server, or around the calls of a client.

Each is called `function(request, transaction, proceed)`, the first one outermost, and goes on by
`proceed(request)`.  This module only checks them; `handler_chain` and `client_middleware` call
them.  A side without middleware uses neither.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeAlias

Middleware: TypeAlias = Callable[[Any, Any, Any], Any]


def checked_middleware(middleware: Iterable[Middleware]) -> tuple[Middleware, ...]:
    """The functions of a sequence; raises `TypeError` for what cannot be called as middleware is."""
    # A tuple first, as the default is: to ask for an abstract class takes twenty times as long.
    if not isinstance(middleware, tuple) and (
        callable(middleware) or isinstance(middleware, str) or not isinstance(middleware, Iterable)
    ):
        raise TypeError(f"middleware must be a sequence of functions, not {middleware!r}")
    functions = tuple(middleware)
    for function in functions:
        _check(function)
    return functions


def _check(function: object) -> None:
    if not callable(function):
        raise TypeError(f"each of middleware must be a callable, not {function!r}")
    refuse_coroutine(function, "each of middleware")
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some built-in functions do not tell.
        return
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        raise TypeError(
            f"each of middleware must take the request, the transaction and proceed; {function!r} does not"
        ) from error


def refuse_coroutine(function: Callable[..., object], name: str) -> None:
    """Refuse a coroutine function, whatever it is wrapped in."""
    called: Any = function
    while isinstance(called, (partial, staticmethod)):
        called = called.func if isinstance(called, partial) else called.__func__
    if not inspect.isroutine(called):
        called = type(called).__call__
    if inspect.iscoroutinefunction(called) or inspect.isasyncgenfunction(called):
        raise TypeError(f"{name} must be a plain function, not the coroutine function {function!r}")
