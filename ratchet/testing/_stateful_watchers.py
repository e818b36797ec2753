"""The kinds of watchers with state of their own: timers, descriptors, OS threads, signals.

Watchers of a phase, of idleness and of a fork are plain `Watcher` objects.  A timer that is
stopped keeps its remaining time, as in libev.
"""

from __future__ import annotations

from typing import Any

from ratchet.testing._watchers import READ, WRITE, Called, LoopOfWatchers, Place, Watcher


class Timer(Watcher):
    """Fires after some seconds, and then periodically if `repeat` is not 0.

    Attributes:
        left: seconds until it fires, counted from its start.
        repeat: seconds between two firings; 0 to fire once.
        entry: its entry among the timers while it is active.
    """

    __slots__ = ("entry", "left", "repeat")

    def __init__(
        self,
        loop: LoopOfWatchers,
        place: Place,
        after: float = 0.0,
        repeat: float = 0.0,
        ref: bool = True,
        priority: int | None = None,
    ) -> None:
        if repeat < 0.0:
            raise ValueError(f"repeat must be positive or zero: {repeat!r}")
        super().__init__(loop, place, ref, priority)
        self.left = float(after)
        self.repeat = float(repeat)
        self.entry: list[Any] | None = None

    def start(self, callback: Called, *args: object, update: bool | None = None) -> None:
        """Have the loop call `callback(*args)` when the time is over.

        It counts from the loop's stored time, which is updated first if `update`.
        """
        if self.loop.starting_timer_may_update_loop_time if update is None else update:
            self.loop.update_now()
        self._begin(callback, args)

    def again(self, callback: Called, *args: object, update: bool = True) -> None:
        """Restart it, to fire `repeat` seconds from now; a timer that does not repeat is stopped."""
        self.loop.check_alive()
        self.callback = callback
        self.args = args
        self._unreference()
        if update:
            self.loop.update_now()
        self.deactivate()
        if self.repeat:
            self.left = self.repeat
            self.activate()

    @property
    def at(self) -> float:
        """The time at which it fires, in the loop's own seconds; the seconds left if it is not active."""
        return self.left if self.entry is None else float(self.entry[0]) / 1e9


class Io(Watcher):
    """Watches a descriptor.

    Attributes:
        fresh: whether it has not been started yet with this descriptor, whose number may have been reused.
    """

    __slots__ = ("_events", "_fd", "_passes_events", "fresh")

    def __init__(
        self,
        loop: LoopOfWatchers,
        place: Place,
        fd: int,
        events: int,
        ref: bool = True,
        priority: int | None = None,
    ) -> None:
        super().__init__(loop, place, ref, priority)
        if events & ~(READ | WRITE | 0x80):
            raise ValueError(f"illegal event mask: {events!r}")
        self._fd = fd
        self._events = events & (READ | WRITE)
        self._passes_events = False
        self.fresh = True

    def start(self, callback: Called, *args: object, pass_events: bool = False) -> None:
        """Have the loop call `callback(*args)`, or `callback(events, *args)` if `pass_events`."""
        self._passes_events = pass_events
        self._begin(callback, args)

    def arguments(self) -> tuple[object, ...]:
        return (self.came, *(self.args or ())) if self._passes_events else self.args or ()

    @property
    def fd(self) -> int:
        """The descriptor."""
        return self._fd

    @fd.setter
    def fd(self, fd: int) -> None:
        self._check_inactive("fd")
        self._fd = fd
        self.fresh = True

    @property
    def events(self) -> int:
        """1 for readable, 2 for writable, 3 for both."""
        return self._events

    @events.setter
    def events(self, events: int) -> None:
        self._check_inactive("events")
        self._events = events & (READ | WRITE)
        self.fresh = True

    def _check_inactive(self, name: str) -> None:
        if self._active:
            raise AttributeError(f"'io' watcher attribute '{name}' is read-only while watcher is active")

    def _format(self) -> str:
        names = [name for bit, name in ((READ, "READ"), (WRITE, "WRITE")) if self._events & bit]
        return f" fd={self._fd} events={'|'.join(names)}"


class Async(Watcher):
    """Has its callback called in the loop's OS thread when any OS thread calls `send`."""

    __slots__ = ("sent",)

    def __init__(
        self, loop: LoopOfWatchers, place: Place, ref: bool = True, priority: int | None = None
    ) -> None:
        super().__init__(loop, place, ref, priority)
        self.sent = False

    def activate(self) -> None:
        """Be watched from now on; earlier calls of `send` do not count."""
        if not self._active:
            self.sent = False
        super().activate()

    def send(self) -> None:
        """Have the callback called in the loop's next turn; from any OS thread."""
        self.loop.check_alive()
        self.sent = True
        self.loop.wake()

    def send_ignoring_arg(self, _ignored: object) -> None:
        """`send`, for callers that pass an argument."""
        self.send()

    @property
    def pending(self) -> bool:
        """Whether `send` was called, and the callback was not yet."""
        return self.sent


class Signal(Watcher):
    """Watches for a signal."""

    __slots__ = ("signum",)

    def __init__(
        self, loop: LoopOfWatchers, place: Place, signum: int, ref: bool = True, priority: int | None = None
    ) -> None:
        super().__init__(loop, place, ref, priority)
        self.signum = signum
