"""A thread of a scheduler: its name, its state, and how people see it.

A thread is a greenlet of gevent's, and switching is gevent's affair.  The scheduler
makes one with what `prepared` returns, and calls `equip` before it starts.  This
module knows no scheduler: `ratchet.kernel.Thread` adds which one owns the thread.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from contextvars import copy_context
from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevent
from greenlet import getcurrent, greenlet

from ratchet._context import context_that_outlives
from ratchet._wait import waiting_on

if TYPE_CHECKING:
    Greenlet = gevent.Greenlet[..., Any]
else:
    Greenlet = gevent.Greenlet


class ScheduledThread(Greenlet):
    """A greenlet with a name, a state, and a scratch object of its own."""

    # Set by `equip`.  gevent keeps the frames in which a greenlet is made, and that
    # of an `__init__` would take 5 % of the thread's memory.
    background: bool
    # gevent forgets the function when the thread has ended; its name must last.
    _called: str

    def __repr__(self) -> str:
        waits = self.waiting_on
        return f"<Thread at {id(self):#x}: {self.name}, {self.state}{f': {waits}' if waits else ''}>"

    @property
    def name(self) -> str:
        """A name for people: the function's and a small number, unless one was set."""
        assigned: str | None = self.__dict__.get("_name")
        return assigned or f"{self._called}-{self.minimal_ident}"

    @name.setter
    def name(self, name: str) -> None:
        self.__dict__["_name"] = name

    @property
    def space(self) -> Any:
        """The thread's own scratch object, made on first use; see `ratchet.thread.space`."""
        return space_of(self)

    @property
    def waiting_on(self) -> str | None:
        """A description of what the thread waits for; None if it is not waiting."""
        return None if self.ready() else waiting_on(self)

    @property
    def state(self) -> str:
        """`starting`, `running`, `waiting` or `ended`."""
        if self.ready():
            return "ended"
        if self is getcurrent():
            return "running"
        # gevent's own says whether it was told to start.
        return "waiting" if greenlet.__bool__(self) else "starting"


def prepared(
    func: Callable[..., object], kwargs: Mapping[str, object]
) -> tuple[Callable[..., object], Mapping[str, object]]:
    """Return what a `Thread` is made with to call `func(**kwargs)`; refuse what cannot be called."""
    if not callable(func):
        raise TypeError(f"func must be callable, not {func!r}")
    if kwargs and ("run" in kwargs or "self" in kwargs):
        # gevent would take these two for its own arguments.
        return partial(func, **kwargs), {}
    return func, kwargs


def equip(thread: ScheduledThread, func: Callable[..., object], *, background: bool) -> None:
    """Give a new thread, which will call `func`, its name and the context that it starts with."""
    thread.background = background
    thread._called = name_of(func)
    context = context_that_outlives() if background else copy_context()
    # A thread without one starts with an empty one, and does not keep it before.
    if context:
        thread.gr_context = context


def name_of(func: Callable[..., object]) -> str:
    """A name for people of what a thread calls."""
    return getattr(func, "__name__", None) or type(func).__name__


def described(thread: ScheduledThread) -> str:
    """The thread's entry in `dump()` and in a deadlock's text."""
    waits = thread.waiting_on
    kind = "background, " if thread.background else ""
    head = f"{thread.name} ({kind}{thread.state}{f': {waits}' if waits else ''})"
    if thread.gr_frame is None or thread.ready():
        return head
    return head + "\n" + "".join(traceback.format_stack(thread.gr_frame)).rstrip()


def space_of(thread: greenlet, premade: object = None) -> Any:
    """The scratch object of any greenlet: `premade`, or an empty namespace, on first use."""
    attributes = thread.__dict__
    if "_space" not in attributes:
        attributes["_space"] = SimpleNamespace() if premade is None else premade
    return attributes["_space"]
