"""Releasing, in a forked child, what it must not inherit from its parent.

A child has copies of its parent's greenlets and of its connections' descriptors.
Were they used, the parent's work would be done twice, and bytes of both would
mix on one connection.  So in the child they are dead, and say so.

A scheduler's threads are not ended in the child, because their `finally` blocks
are the parent's business: they are frozen.  Nothing that could switch to one is
left in the child's hub, and they are kept for ever.  The thread that forked is
the only one that goes on.

Each scheduler and bus decides itself what it releases (`Living._after_fork`).
This module knows gevent's objects through which a greenlet is resumed, and no
more of the others than `_alive` does.
"""

from __future__ import annotations

import gc
import logging
import os
from collections.abc import Callable, Iterable
from types import BuiltinMethodType, MethodType
from typing import Any, Final

import gevent
from gevent._abstract_linkable import AbstractLinkable
from gevent.hub import Waiter
from greenlet import greenlet

from ratchet._alive import living
from ratchet._log import log_error, logger
from ratchet._sleep import Wait

_ROLES: Final = ("waiter", "method", "callback", "greenlet", "linkable")
_module: Final[Callable[[type], object]] = type.__dict__["__module__"].__get__

frozen: Final[dict[greenlet, None]] = {}
"""The threads that are copies of the parent's.  They are kept, because dropping one would end it."""


def freeze(threads: Iterable[greenlet]) -> None:
    """Make sure, in a forked child, that these threads are never resumed."""
    frozen.update(dict.fromkeys(threads))


def _after_fork() -> None:
    for thing in living():
        try:
            thing._after_fork()
        except Exception as error:
            # One that fails is not to spare the others.
            log_error(
                logger, logging.ERROR, "cannot leave %s to the parent", type(thing).__name__, error=error
            )
    if frozen:
        _take_out_wakers()
    # In an unpatched program nobody else does: the child would share its parent's
    # descriptor for polling.  Twice does no harm.
    gevent.reinit()


def _take_out_wakers() -> None:
    """Take out of gevent's objects whatever would resume a frozen thread."""
    things: dict[str, list[Any]] = {role: [] for role in _ROLES}
    roles: dict[int, str] = {}
    # One walk for all threads.
    for thing in gc.get_objects():
        kind = type(thing)
        role = roles.get(id(kind))
        if role is None:
            role = roles[id(kind)] = _role(kind)
        if role != "other":
            things[role].append(thing)
    asleep = {id(waiter): waiter for waiter in things["waiter"] if waiter.greenlet in frozen}
    for waiter in asleep.values():
        waiter.clear()
    for callback in things["callback"]:
        if any(_resumes(part, asleep) for part in _parts(callback)):
            callback.stop()
    methods = [method for method in things["method"] if _resumes(method, asleep)]
    for thing in things["greenlet"]:
        # A frozen one never ends.  gevent lets nobody look at the links of a greenlet.
        if thing not in frozen and thing.has_links():
            for method in methods:
                thing.unlink(method)
    for thing in things["linkable"]:
        for links in gc.get_referents(thing):
            if type(links) is list:
                links[:] = [link for link in links if not _resumes(link, asleep)]


def _role(kind: type) -> str:
    """The role that objects of a type play in gevent."""
    # The type is asked, because an object may answer `isinstance` with an error.
    if issubclass(kind, (Waiter, Wait)):
        return "waiter"
    if kind in (BuiltinMethodType, MethodType):
        return "method"
    if issubclass(kind, gevent.Greenlet):
        return "greenlet"
    if issubclass(kind, AbstractLinkable):
        return "linkable"
    if str(_module(kind)).startswith("gevent.") and hasattr(kind, "stop") and hasattr(kind, "pending"):
        # A callback of the loop, or a watcher.
        return "callback"
    return "other"


def _parts(callback: object) -> Iterable[object]:
    """The function that a callback or a watcher calls, and its arguments."""
    for part in gc.get_referents(callback):
        yield part
        if type(part) in (tuple, list):
            yield from gc.get_referents(part)


def _resumes(part: Any, asleep: dict[int, object]) -> bool:
    """Whether it is a frozen thread or its waiter, or a method of one."""
    if type(part) in (BuiltinMethodType, MethodType):
        part = part.__self__
    return id(part) in asleep or (issubclass(type(part), greenlet) and part in frozen)


os.register_at_fork(after_in_child=_after_fork)
