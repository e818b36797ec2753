"""Make a run depend on its seed alone: not on what ran before, nor on what is logged.

Each function here holds for a block of code, and restores what it has changed.
"""

from __future__ import annotations

import gc
import logging
import random
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ratchet import _log
from ratchet._chance import chance
from ratchet.testing._time_functions import virtual_loop
from ratchet.testing._undo import undoing

# The OS thread of each block that is open, the first one first.
_alone: dict[object, int] = {}


@contextmanager
def alone(call: str) -> Iterator[None]:
    """Keep other OS threads out, with which all that is changed here is shared.

    Raises `RuntimeError` for `call` if another OS thread is in such a block.
    """
    ident, entry = get_ident(), object()
    with undoing(partial(_alone.pop, entry, None)):
        _alone[entry] = ident
        if next(iter(_alone.values())) != ident:
            raise RuntimeError(f"{call} runs in another OS thread; both would draw from the same chance")
        yield


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the library's source of chance, and the one that `random`'s functions share."""
    ours, everybodys = chance.getstate(), random.getstate()

    def put_back() -> None:
        chance.setstate(ours)
        random.setstate(everybodys)

    with undoing(put_back):
        chance.seed(seed)
        random.seed(seed)
        yield


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Turn off automatic garbage collection, which comes at any time, and closes what it finds."""
    with undoing(gc.enable if gc.isenabled() else gc.disable):
        gc.disable()
        yield


@contextmanager
def logs_beside_time() -> Iterator[None]:
    """Keep logging from starting greenlets and from moving virtual time: its level must change nothing."""
    later, make_record = _log.later, logging.getLogRecordFactory()

    def at_once(func: Callable[..., object], *args: object, **kwargs: object) -> object:
        call = later if virtual_loop() is None else _logged
        return call(func, *args, **kwargs)

    def make_record_beside_time(*args: Any, **kwargs: Any) -> logging.LogRecord:
        loop = virtual_loop()
        if loop is None:
            return make_record(*args, **kwargs)
        elapsed = loop.elapsed
        try:
            return make_record(*args, **kwargs)
        finally:
            loop.elapsed = elapsed

    def put_back() -> None:
        _log.later = later
        logging.setLogRecordFactory(make_record)

    with undoing(put_back):
        _log.later = at_once
        logging.setLogRecordFactory(make_record_beside_time)
        yield


def _logged(func: Callable[..., object], *args: object, **kwargs: object) -> None:
    try:
        func(*args, **kwargs)
    except Exception:
        # In a greenlet of its own it would have ended nothing but that.
        return
