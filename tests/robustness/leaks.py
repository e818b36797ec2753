"""What a test may not leave behind: descriptors, greenlets, watchers, memory."""

from __future__ import annotations

import gc
import os

import gevent
from greenlet import greenlet

_PAGE = os.sysconf("SC_PAGE_SIZE")


def open_descriptors() -> int:
    """How many file descriptors this process has open."""
    # The listing has one open itself.
    return len(os.listdir("/proc/self/fd")) - 1


def live_greenlets() -> list[greenlet]:
    """The greenlets that have not ended, but for the hub and the one that asks."""
    gc.collect()
    hub = gevent.get_hub()
    # The type is asked: an object that another test left may answer `isinstance` with an error.
    greenlets = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet)]
    return [thing for thing in greenlets if not thing.dead and thing not in (hub, gevent.getcurrent())]


def resident_memory() -> int:
    """Bytes of memory that this process holds."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * _PAGE
