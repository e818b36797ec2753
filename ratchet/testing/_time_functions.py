"""The functions that read the time, replaced while a block on virtual time is open.

While any such block is open in the process, these functions are replaced by ones that look at
the hub of their OS thread; after the last block they are restored.  A replacement that
somebody has imported by name keeps working, in real time too.  Meanwhile gevent tells of each
greenlet that is spawned, and those of a block are noted.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import gevent
from gevent import monkey
from gevent._hub_local import get_hub_if_exists
from greenlet import getcurrent, greenlet

from ratchet import _clock
from ratchet._loop import AnyGreenlet
from ratchet.testing._loop import VirtualLoop
from ratchet.testing._loop_interface import Beginning

# The time that a reading takes, so that a loop which spins on the clock ends.
_TICK = 1000  # nanoseconds

Module = Any
"""A module, some of whose attributes are replaced."""

# The loops of the open blocks, each with the greenlets that were started on it, numbered.
_open: weakref.WeakKeyDictionary[VirtualLoop, weakref.WeakValueDictionary[int, AnyGreenlet]] = (
    weakref.WeakKeyDictionary()
)
_numbers = itertools.count()

# Each attribute that was ever replaced: its module, what was there last, and the replacement.
_replaced: dict[tuple[str, str], tuple[Module, object, object]] = {}


def virtual_loop() -> VirtualLoop | None:
    """The loop of this OS thread's hub, if that is on virtual time."""
    hub = get_hub_if_exists()
    loop: Any = None if hub is None else hub.loop
    return loop if type(loop) is VirtualLoop else None


def readings() -> Beginning:
    """Read each of the clocks; in a nested block, these are the outer one's."""
    return Beginning(time.time_ns(), time.monotonic_ns(), time.perf_counter_ns())


def _reader(original: Callable[[], Any], clock: str, *, nanoseconds: bool) -> Callable[[], Any]:
    """Make a function that reads a clock: the virtual one, or `original` in real time."""

    def read() -> Any:
        loop = virtual_loop()
        if loop is None:
            return original()
        loop.elapsed += _TICK
        now: int = getattr(loop.began, clock) + loop.elapsed
        return now if nanoseconds else now / 1e9

    return read


def _sleeper(original: Callable[[float], object]) -> Callable[[float], None]:
    """Make a `time.sleep`: in virtual time, or `original` in real time."""

    def sleep(seconds: float) -> None:
        if virtual_loop() is None:
            original(seconds)
        elif seconds < 0:
            raise ValueError("sleep length must be non-negative")
        else:
            _clock.sleep(seconds)

    return sleep


def _time_functions() -> Iterator[tuple[Module, str, Callable[[Any], object]]]:
    """Each function of time: its module and name, and what makes a replacement from the original."""
    for name, clock in (("time", "wall"), ("monotonic", "monotonic"), ("perf_counter", "performance")):
        yield time, name, partial(_reader, clock=clock, nanoseconds=False)
        yield time, f"{name}_ns", partial(_reader, clock=clock, nanoseconds=True)
    yield time, "sleep", _sleeper
    yield _clock, "monotonic", partial(_reader, clock="monotonic", nanoseconds=False)
    yield _clock, "wall_time", partial(_reader, clock="wall", nanoseconds=False)
    # These have bound it by a name of their own.  With locks that are not gevent's they wait in real time.
    if monkey.is_module_patched("threading"):
        for module, name in ((threading, "_time"), (queue, "time")):
            yield module, name, partial(_reader, clock="monotonic", nanoseconds=False)


# No lock guards what follows, because an interrupt could leave it locked.  Instead each step may be
# repeated, after an interrupt or when another OS thread has come in between.


def replace_for(loop: VirtualLoop) -> None:
    """Replace them for the block of a loop, unless they are replaced already; doing so twice is fine."""
    _open[loop] = weakref.WeakValueDictionary()
    _replace()


def _replace() -> None:
    gevent.Greenlet.add_spawn_callback(_note_spawned)
    for module, name, replacement_of in _time_functions():
        there = getattr(module, name)
        key = module.__name__, name
        if key not in _replaced or _replaced[key][2] is not there:
            _replaced[key] = (module, there, replacement_of(there))
            setattr(module, name, _replaced[key][2])


def restore_after(loop: VirtualLoop) -> None:
    """Restore them unless another block is open; doing so twice is fine."""
    _open.pop(loop, None)
    if _open:
        return
    for (_, name), (module, original, replacement) in list(_replaced.items()):
        # Something else may have replaced it since.
        if getattr(module, name) is replacement:
            setattr(module, name, original)
    gevent.Greenlet.remove_spawn_callback(_note_spawned)
    if _open:
        _replace()


def _note_spawned(spawned: AnyGreenlet) -> None:
    """Callback of gevent's: a greenlet was spawned, in any OS thread."""
    loop = virtual_loop()
    if loop is not None and loop in _open:
        _open[loop][next(_numbers)] = spawned


def note_started(method: Any) -> None:
    """Callback of a loop: a method in C was queued, with which `gevent.spawn_raw` starts a greenlet."""
    thread = method.__self__
    raw = isinstance(thread, greenlet) and not isinstance(thread, gevent.Greenlet)
    if raw and thread.parent is get_hub_if_exists():
        _note_spawned(thread)


def spawned_on(loop: VirtualLoop) -> list[AnyGreenlet]:
    """The greenlets that were spawned on a loop and still exist, in order, without the current one."""
    return [each for _, each in sorted(_open.get(loop, {}).items()) if each is not getcurrent()]
