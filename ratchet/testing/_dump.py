"""A text that shows what every thread is doing: for a test that hangs, or leaves something behind."""

from __future__ import annotations

import gc
import sys
import traceback
from _thread import get_ident
from typing import Any

from gevent.hub import Hub
from greenlet import getcurrent, greenlet

from ratchet import _alive
from ratchet._log import safe_repr
from ratchet._thread import ScheduledThread, described
from ratchet._wait import waiting_on


def hubs_of(ident: int) -> list[Hub]:
    """The hubs of an OS thread: its own, and those on virtual time."""
    # By its type, because `isinstance` reads `__class__`, which may raise.
    hubs = [thing for thing in gc.get_objects() if issubclass(type(thing), Hub)]
    return [hub for hub in hubs if hub.thread_ident == ident and hub.loop is not None]


def greenlets_on(hubs: list[Hub]) -> list[greenlet]:
    """The greenlets that wait or can run on these hubs, without the hubs and the current greenlet."""
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet)]
    # A parent that has ended is none any more.
    return [
        thing
        for thing in found
        if not thing.dead
        and thing.parent is not None
        and any(thing.parent is hub for hub in hubs)
        and thing is not getcurrent()
        and not issubclass(type(thing), Hub)
    ]


def describe(thread: greenlet) -> str:
    """Describe a greenlet of any kind: its name, what it waits for, its stack."""
    if issubclass(type(thread), ScheduledThread):
        scheduled: Any = thread
        return described(scheduled)
    waits = waiting_on(thread)
    # A greenlet that has not started, or is only in compiled code, has no frame.
    head = f"{safe_repr(thread)} (waiting: {waits})" if waits else safe_repr(thread)
    stack = traceback.format_stack(thread.gr_frame) if thread.gr_frame is not None else []
    return "\n".join([head, "".join(stack).rstrip()]).rstrip()


def dump(ident: int) -> str:
    """Describe everything that runs or waits on the hubs of an OS thread; callable from another one."""
    parts = []
    owned: dict[greenlet, None] = {}
    hubs = hubs_of(ident)
    for living in _alive.schedulers.living():
        scheduler: Any = living
        if scheduler.threads and any(scheduler._hub is hub for hub in hubs):
            owned.update(scheduler.threads)
            parts.append(scheduler._owner.dump())
    parts += [describe(thread) for thread in greenlets_on(hubs) if thread not in owned]
    if ident != get_ident() and (frame := sys._current_frames().get(ident)) is not None:
        parts.append("running now:\n" + "".join(traceback.format_stack(frame)).rstrip())
    return "\n\n".join(parts) or "no other thread is alive"
