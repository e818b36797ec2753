"""Types of gevent's loop, watchers and greenlets, as far as its stubs do not have them.

Whoever wants a loop with these types asks `loop_of`; nothing else here runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any, Protocol, TypeAlias

import gevent
from gevent.hub import Hub

AnyGreenlet: TypeAlias = "gevent.Greenlet[..., Any]"
"""A greenlet of gevent's, whatever it was called with and returns."""


class Watcher(Protocol):
    """Watches a descriptor, a signal, a moment or a phase of the loop."""

    @property
    def active(self) -> bool:
        """Whether it is started and, if it is a timer that does not repeat, has not rung."""

    def start(self, callback: Callable[..., object], *args: object) -> None:
        """Have the hub call `callback(*args)`."""

    def stop(self) -> None:
        """Call nothing any more, until it is started again."""

    def close(self) -> None:
        """Stop for good.  Closing twice is fine."""


class Callback(Protocol):
    """What the loop is to call in its next turn."""

    pending: bool


class Loop(Protocol):
    """The loop of a hub; only `_clock` makes timers."""

    MINPRI: int
    MAXPRI: int
    _callbacks: Sized

    @property
    def activecnt(self) -> int:
        """How many watchers and callbacks keep it running."""

    @property
    def backend(self) -> str | int:
        """The system's way of polling."""

    @property
    def default(self) -> bool:
        """Whether it is that of the main OS thread."""

    @property
    def iteration(self) -> int:
        """The number of its turn."""

    def io(self, fd: int, events: int, ref: bool = True, priority: int | None = None) -> Watcher:
        """Watches a descriptor."""

    def signal(self, signum: int, ref: bool = True, priority: int | None = None) -> Watcher:
        """Watches for a signal."""

    def idle(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Watches for nothing, and keeps the poll from blocking."""

    def prepare(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Calls before each poll."""

    def check(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Calls after each poll."""

    def async_(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Watches for what another OS thread sends."""

    def run_callback(self, func: Callable[..., object], *args: object) -> Callback:
        """Call it in the next turn."""

    def run_callback_threadsafe(self, func: Callable[..., object], *args: object) -> Callback:
        """The same, and wake the loop if it waits; in any OS thread."""


def loop_of(hub: Hub) -> Loop:
    """The loop of a hub that has not been destroyed."""
    loop: Any = hub.loop
    typed: Loop = loop
    return typed
