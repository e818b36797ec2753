"""The watchers of a virtual loop, which behave as gevent's do.

A watcher that has been started is *active*, and stands in the place for its kind, where the
loop looks (`_places`, `_descriptors`).  When the event that it watches for has happened, the
loop *feeds* it: it is then *pending*, and its callback is called in the same turn.  `stop`
undoes both.

Watchers know no time except the one that their loop has stored, and never run the loop.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

READ = 1  # libev's event bits
WRITE = 2

MINPRI = -2
MAXPRI = 2

Called: TypeAlias = Callable[..., object]


class LoopOfWatchers(Protocol):
    """A loop, as its watchers and the places where they stand see it."""

    stored: int
    references: int
    starting_timer_may_update_loop_time: bool

    def check_alive(self) -> None:
        """Raise `ValueError` if it has been destroyed."""

    def update_now(self) -> None:
        """Store the current time."""

    def feed(self, watcher: Watcher, events: int) -> None:
        """Make a watcher pending."""

    def unfeed(self, watcher: Watcher) -> None:
        """Make a watcher no longer pending."""

    def wake(self) -> None:
        """Have the loop look at what was sent; from any OS thread."""


class Place(Protocol):
    """Where the active watchers of a kind are."""

    def enter(self, watcher: Any) -> None:
        """Add a watcher."""

    def leave(self, watcher: Any) -> None:
        """Remove a watcher."""


class Callback:
    """A function that the loop calls once, in its next turn."""

    __slots__ = ("args", "callback")

    def __init__(self, callback: Called, args: tuple[object, ...]) -> None:
        self.callback: Called | None = callback
        self.args: tuple[object, ...] | None = args

    def stop(self) -> None:
        """Cancel it."""
        self.callback = self.args = None

    close = stop

    def __bool__(self) -> bool:
        """Whether it is waiting or running."""
        return self.args is not None

    @property
    def pending(self) -> bool:
        """Whether it is waiting."""
        return self.callback is not None

    def __repr__(self) -> str:
        state = f" pending callback={self.callback!r} args={self.args!r}" if self.pending else ""
        return f"<{type(self).__name__} at {id(self):#x}{state}>"


class Watcher:
    """Calls a callback when an event happens; this class, in a phase of the loop or after a fork.

    Attributes:
        loop: the loop that calls it.
        args: the arguments of the callback.
        queued: its position, from 1, among the pending ones of its priority; 0 for none.
        came: what it is pending for, as libev's bits.
        position: its index in its place; for the place to use.
    """

    __slots__ = (
        "_active",
        "_callback",
        "_place",
        "_priority",
        "_ref",
        "_unreferenced",
        "args",
        "came",
        "loop",
        "position",
        "queued",
    )

    def __init__(
        self, loop: LoopOfWatchers, place: Place, ref: bool = True, priority: int | None = None
    ) -> None:
        self.loop = loop
        self.args: tuple[object, ...] | None = None
        self.queued = 0
        self.came = 0
        self.position = 0
        self._place = place
        self._ref = bool(ref)
        # Whether its reference to the loop was dropped, which is to be restored when it stops.
        self._unreferenced = False
        self._priority = min(max(priority or 0, MINPRI), MAXPRI)
        self._callback: Called | None = None
        self._active = False

    def start(self, callback: Called, *args: object) -> None:
        """Have the loop call `callback(*args)`; if it is active, this replaces the callback."""
        self._begin(callback, args)

    def _begin(self, callback: Called, args: tuple[object, ...]) -> None:
        self.loop.check_alive()
        self.callback = callback
        self.args = args
        self._unreference()
        self.activate()

    def _unreference(self) -> None:
        """Drop its reference to the loop, which counts while it is active, if `ref` is false."""
        if not self._ref and not self._unreferenced:
            self.loop.references -= 1
            self._unreferenced = True

    def activate(self) -> None:
        """Be watched from now on."""
        if not self._active:
            self._place.enter(self)
            self._active = True
            self.loop.references += 1

    def deactivate(self) -> None:
        """Be neither watched nor pending any more; the callback is kept."""
        if self.queued:
            self.loop.unfeed(self)
        if self._active:
            self._place.leave(self)
            self._active = False
            self.loop.references -= 1

    def stop(self) -> None:
        """Deactivate it and forget the callback."""
        if self._unreferenced:
            self.loop.references += 1
            self._unreferenced = False
        self._callback = self.args = None
        self.deactivate()

    def close(self) -> None:
        """Stop.  Closing twice is fine."""
        self.stop()

    def feed(self, revents: int, callback: Called, *args: object) -> None:
        """Have the loop call `callback(*args)` as if the event had happened."""
        self.loop.check_alive()
        self.callback = callback
        self.args = args
        self._unreference()
        self.loop.feed(self, revents)

    @property
    def active(self) -> bool:
        """Whether it has been started and not stopped."""
        return self._active

    @property
    def pending(self) -> bool:
        """Whether its event has happened, and its callback is still to be called."""
        return self.queued > 0

    @property
    def callback(self) -> Called | None:
        """The function that is called."""
        return self._callback

    @callback.setter
    def callback(self, callback: Called | None) -> None:
        if not callable(callback):
            raise TypeError(f"Expected callable, not {callback!r}")
        self._callback = callback

    @property
    def ref(self) -> bool:
        """Whether it keeps the loop running by itself."""
        return self._ref

    @ref.setter
    def ref(self, ref: object) -> None:
        self.loop.check_alive()
        self._ref = bool(ref)
        if self._ref and self._unreferenced:
            self.loop.references += 1
            self._unreferenced = False
        elif self._active:
            self._unreference()

    @property
    def priority(self) -> int:
        """Its priority: of the watchers that are pending, those with a higher one go first."""
        return self._priority

    @priority.setter
    def priority(self, priority: int) -> None:
        if self._active or self.queued:
            raise AttributeError("Cannot set priority of an active watcher")
        self._priority = min(max(priority, MINPRI), MAXPRI)

    def arguments(self) -> tuple[object, ...]:
        """The arguments for its callback now."""
        return self.args or ()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        states = [name for name in ("active", "pending") if getattr(self, name)]
        called = [] if self._callback is None else [f"callback={self._callback!r}", f"args={self.args!r}"]
        words = [f"<{type(self).__name__} at {id(self):#x}{self._format()}", *states, *called]
        return " ".join(words) + ">"

    def _format(self) -> str:
        return ""


class InternalWatcher(Watcher):
    """A watcher of the loop's own: its callback does not count as a step, and raises nothing."""

    __slots__ = ()
