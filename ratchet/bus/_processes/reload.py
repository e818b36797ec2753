"""Noticing that the program's files have changed, for development.

Needs the extra `reload`: watchfiles.  It watches in an OS thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from gevent.hub import get_hub

_logger: Final = logging.getLogger("ratchet.processes")


def call_on_change(folder: str, changed: Callable[[], object]) -> None:
    """Call `changed()` whenever Python files in a folder have changed; blocks until it is killed.

    Raises `ImportError` without watchfiles.
    """
    watch, python_files = _watchfiles()
    stop = threading.Event()
    changes = watch(folder, watch_filter=python_files(), stop_event=stop, raise_interrupt=False)
    pool = get_hub().threadpool
    try:
        while files := pool.apply(next, (changes, None)):
            names = sorted({Path(path).name for _, path in files})
            _logger.info("changed: %s", ", ".join(names))
            changed()
    finally:
        stop.set()


def check_reload() -> None:
    """Raise `ImportError` without watchfiles, in the call that asked to reload."""
    _watchfiles()


def _watchfiles() -> tuple[Any, Any]:
    try:
        from watchfiles import PythonFilter, watch
    except ImportError as error:
        raise ImportError("reload needs watchfiles; pip install 'gevent-ratchet[reload]'") from error
    return watch, PythonFilter
