"""The loggers, silent unless the program sets them up, and how the hub's callbacks log."""

from __future__ import annotations

import logging
from typing import Final

import gevent

logger: Final = logging.getLogger("ratchet")
logger.addHandler(logging.NullHandler())

bus_logger: Final = logging.getLogger("ratchet.bus")
kernel_logger: Final = logging.getLogger("ratchet.kernel")


def shown(value: object) -> str:
    """`repr(value)`, or a stand-in if that fails."""
    try:
        return repr(value)
    except Exception:
        return f"<a {type(value).__name__} that cannot be shown>"


def log_soon(
    target: logging.Logger, level: int, text: str, *args: object, error: BaseException | None = None
) -> None:
    """Log from a hub callback: a handler may block, so a greenlet of its own does it."""
    if target.isEnabledFor(level):
        gevent.spawn(target.log, level, text, *args, exc_info=error)


def log_error(target: logging.Logger, level: int, text: str, *args: object, error: BaseException) -> None:
    target.log(level, text, *args, exc_info=(type(error), error, error.__traceback__))
