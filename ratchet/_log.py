"""The loggers, silent unless the program sets them up, and how errors are logged.

An error that is logged may be anybody's: its text, its truth value and each of
its attributes may raise.  Whoever logs one goes by way of `log_error`, or of
`log_soon` in a hub callback, and puts it into a text by way of `safe_repr`; none of
these runs more of the error's code than it can bear.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Final

import gevent

logger: Final = logging.getLogger("ratchet")
logger.addHandler(logging.NullHandler())

bus_logger: Final = logging.getLogger("ratchet.bus")
kernel_logger: Final = logging.getLogger("ratchet.kernel")

later: Callable[..., object] = gevent.spawn
"""How a hub callback has something done that may block; a simulation has it done at once."""

# `error.__traceback__` would ask the error's own `__getattribute__`.
_fields: Final = BaseException.__dict__
_traceback: Final[Callable[[BaseException], TracebackType | None]] = _fields["__traceback__"].__get__


def safe_repr(value: object) -> str:
    """`repr(value)`, or a stand-in if that fails."""
    try:
        return repr(value)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return f"<a {type(value).__name__} that cannot be shown>"


def traceback_of(error: BaseException) -> TracebackType | None:
    """The traceback of an error, without running code of the error's own."""
    return _traceback(error)


def log_error(target: logging.Logger, level: int, text: str, *args: object, error: BaseException) -> None:
    """Log a text with the traceback of `error`, or without it if it cannot be rendered."""
    if target.isEnabledFor(level):
        # Not the error itself: `logging` would ask for its truth value.
        exc_info = type(error), error, traceback_of(error)
        try:
            target.log(level, text, *args, exc_info=exc_info if _can_be_rendered(exc_info) else None)
        except Exception:
            # A filter of the program's that fails is not to cost who reports an error.
            return


def log_soon(
    target: logging.Logger, level: int, text: str, *args: object, error: BaseException | None = None
) -> None:
    """Log from a hub callback: a handler may block, so a greenlet of its own does it."""
    if not target.isEnabledFor(level):
        return
    if error is None:
        later(target.log, level, text, *args)
    else:
        later(log_error, target, level, text, *args, error=error)


def _can_be_rendered(exc_info: tuple[type[BaseException], BaseException, TracebackType | None]) -> bool:
    """Try it: a log handler in which it failed would print that, and lose the text as well."""
    try:
        traceback.format_exception(*exc_info)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return False
    return True
