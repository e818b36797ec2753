"""The part of gevent's loop interface that does not run anything.

It makes watchers and has the places where they stand, keeps the queues of callbacks and of
pending watchers, opens virtual descriptors, stores the time and reports errors.  Nothing
here calls a callback: that is done in the turns, in `_loop`, which alone knows about chance,
steps and jumps.
"""

from __future__ import annotations

import sys
import threading
import traceback
from _thread import get_ident
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from types import BuiltinMethodType, TracebackType
from typing import Any, NamedTuple, NoReturn

from gevent.exceptions import HubDestroyed

from ratchet.testing._descriptors import Descriptors
from ratchet.testing._places import Idles, Phase, Signals, Timers
from ratchet.testing._stateful_watchers import Async, Io, Signal, Timer
from ratchet.testing._watchers import MAXPRI, MINPRI, Callback, Called, Watcher

_BREAK_ONE = 1


class Beginning(NamedTuple):
    """The readings of the system's clocks when a loop begins, in nanoseconds."""

    wall: int
    monotonic: int
    performance: int


class LoopBase:
    """A loop without its turns.

    Attributes:
        random: the source of chance, from which the order is drawn if there is a seed.
        network: the network in memory that connections of this loop go through, if any.
        block: the block of code that it is the loop of, if any; for `_time`.
        note_builtin: called with each method in C that is queued: a greenlet's `switch` is one.
        began: the readings of the clocks when it began.
        elapsed: nanoseconds since the loop began; reading the time moves it.
        stored: `elapsed` at the last poll, from which timers count.
        references: how many active watchers keep the loop running.
        error_handler: the hub that runs it, to which errors are reported.
        default: whether it belongs to the main OS thread.
        destroyed: whether it can no longer run.
    """

    MINPRI = MINPRI
    MAXPRI = MAXPRI
    CALLBACK_CHECK_COUNT = 50
    approx_timer_resolution = 1e-9
    backend = "virtual"
    backend_int = 0
    depth = 0

    def __init__(self, seed: int | None, began: Beginning | None) -> None:
        self.random = Random(seed)
        self.network: Any = None
        self.block: Any = None
        self.note_builtin: Callable[[Any], object] = _ignore
        self.began = began or Beginning(0, 0, 0)
        self.elapsed = 0
        self.stored = 0
        self.references = 0
        self.error_handler: Any = None
        self.starting_timer_may_update_loop_time = False
        self.default = get_ident() == threading.main_thread().ident
        self.destroyed = False
        self._callbacks: deque[Callback] = deque()
        self._pending: list[list[Watcher | None]] = [[] for _ in range(MINPRI, MAXPRI + 1)]
        # The index of the priority that is looked at next.
        self._level = 0
        self._forked = False
        self._done = 0
        self._hub_destroyed: HubDestroyed | None = None
        # Whether another OS thread or a signal has woken the loop, and whether it is blocked in the poll.
        self._sent = False
        self._waits = False
        self._prepares, self._checks, self._forks, self._asyncs = Phase(), Phase(), Phase(), Phase()
        self._idles = Idles()
        self._timers = Timers(self, self.random.random if seed is not None else _no_chance)
        self._signals = Signals(self.wake)
        self._descriptors = Descriptors(self)

    # --- watchers

    def timer(
        self, after: float, repeat: float = 0.0, ref: bool = True, priority: int | None = None
    ) -> Timer:
        """Make a watcher that fires after `after` seconds, and every `repeat` seconds then if not 0."""
        return Timer(self, self._timers, after, repeat, ref, priority)

    def io(self, fd: int, events: int, ref: bool = True, priority: int | None = None) -> Io:
        """Make a watcher of a descriptor; `events` is 1 for readable, 2 for writable, 3 for both."""
        self._descriptors.check(fd)
        return Io(self, self._descriptors, fd, events, ref, priority)

    def prepare(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Make a watcher that is called before each poll."""
        return Watcher(self, self._prepares, ref, priority)

    def check(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Make a watcher that is called after each poll."""
        return Watcher(self, self._checks, ref, priority)

    def idle(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Make a watcher that is called when nothing else of its priority or a higher one can run.

        While it is active, time stands still.
        """
        return Watcher(self, self._idles, ref, priority)

    def fork(self, ref: bool = True, priority: int | None = None) -> Watcher:
        """Make a watcher that is called in a forked child."""
        return Watcher(self, self._forks, ref, priority)

    def async_(self, ref: bool = True, priority: int | None = None) -> Async:
        """Make a watcher that any OS thread can trigger; while it is active, time stands still."""
        return Async(self, self._asyncs, ref, priority)

    def signal(self, signum: int, ref: bool = True, priority: int | None = None) -> Signal:
        """Make a watcher of a signal."""
        return Signal(self, self._signals, signum, ref, priority)

    def child(self, pid: int, trace: int = 0, ref: bool = True) -> NoReturn:
        """Not supported: processes run in real time.  Raises `NotImplementedError`."""
        raise NotImplementedError("a loop on virtual time does not watch processes")

    def stat(
        self, path: str, interval: float = 0.0, ref: bool = True, priority: int | None = None
    ) -> NoReturn:
        """Not supported: files change in real time.  Raises `NotImplementedError`."""
        raise NotImplementedError("a loop on virtual time does not watch files")

    # --- callbacks, from this OS thread and from others

    def run_callback(self, func: Called, *args: object) -> Callback:
        """Have `func(*args)` called in the next turn."""
        self.check_alive()
        callback = Callback(func, args)
        self._callbacks.append(callback)
        if type(func) is BuiltinMethodType:
            self.note_builtin(func)
        return callback

    def run_callback_threadsafe(self, func: Called, *args: object) -> Callback:
        """Have it called in the next turn, and wake the loop if it is waiting; from any OS thread."""
        callback = self.run_callback(func, *args)
        self.wake()
        return callback

    def wake(self) -> None:
        """See `LoopOfWatchers`."""
        self._sent = True
        # Only after that, or the loop could begin to wait in between.
        if self._waits:
            self._descriptors.wake()

    # --- virtual descriptors

    @property
    def descriptors(self) -> Mapping[int, Callable[[], int]]:
        """The virtual descriptors that are open, each with its readiness function."""
        return self._descriptors.virtual

    def open_descriptor(self, readiness: Callable[[], int]) -> int:
        """Open a virtual descriptor, for a socket in memory.

        Args:
            readiness: returns 1 for readable, 2 for writable, 3 for both, 0 for neither.

        Returns:
            Its number, which the system never uses.
        """
        return self._descriptors.open(readiness)

    def touch(self, fd: int) -> None:
        """Check in the next turn what a virtual descriptor is ready for, which may have changed."""
        self._descriptors.touch(fd)

    def close_descriptor(self, fd: int) -> None:
        """Close a virtual descriptor.  Closing twice is fine."""
        self._descriptors.close_virtual(fd)

    def closing_fd(self, fd: int) -> bool:
        """Make the watchers of a descriptor pending; return whether that was new for any of them."""
        before = self.pendingcnt
        self._descriptors.feed_all(fd)
        return self.pendingcnt > before

    # --- time

    def now(self) -> float:
        """The stored time, in seconds since 1970."""
        self.check_alive()
        return (self.began.wall + self.stored) / 1e9

    def update_now(self) -> None:
        """Store the current time."""
        self.stored = self.elapsed

    update = update_now

    # --- the rest of gevent's interface

    @property
    def activecnt(self) -> int:
        """How many watchers and callbacks keep the loop running."""
        return self.references + len(self._callbacks)

    @property
    def pendingcnt(self) -> int:
        """The number of pending watchers."""
        return sum(map(len, self._pending))

    @property
    def ptr(self) -> int:
        """Not 0 until it is destroyed."""
        return 0 if self.destroyed else id(self)

    def ref(self) -> None:
        """Count one more reference."""
        self.references += 1

    def unref(self) -> None:
        """Count one reference less."""
        self.references -= 1

    def verify(self) -> None:
        """Do nothing: there are no structures in C to verify."""

    install_sigchld = reset_sigchld = verify

    def fileno(self) -> int | None:
        """The descriptor of its epoll object; None once it is destroyed."""
        return None if self.destroyed else self._descriptors.fileno()

    def check_alive(self) -> None:
        """See `LoopOfWatchers`."""
        if self.destroyed:
            raise ValueError("operation on destroyed loop")

    def break_(self, how: int = _BREAK_ONE) -> None:
        """Make `run` return after this turn."""
        self._done = how

    def reinit(self) -> None:
        """In a forked child: replace what is shared with the parent, and call the fork watchers."""
        if not self.destroyed:
            self._descriptors.reinit()
            self._forked = True

    def destroy(self) -> bool:
        """Close what the system holds for it.  It cannot run any more; destroying twice is fine."""
        self.destroyed = True
        self._callbacks.clear()
        self._signals.close()
        self._descriptors.close()
        return True

    def _format(self) -> str:
        if self.destroyed:
            return "destroyed"
        return f"virtual elapsed={self.elapsed / 1e9:g} pending={self.pendingcnt} ref={self.activecnt}"

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {id(self):#x} {self._format()}>"

    # --- errors

    def handle_error(
        self, context: object, type: type[BaseException] | None, value: Any, tb: TracebackType | None
    ) -> None:
        """Report an error to the hub, which raises one without a `context` in the main greenlet."""
        if type is HubDestroyed:
            self._end_hub(value)
        elif self.error_handler is None:
            traceback.print_exception(type, value, tb)
            self.break_()
        else:
            # Looked up each time, because it may be replaced on the hub.
            handle = getattr(self.error_handler, "handle_error", self.error_handler)
            handle(context, type, value, tb)

    def _report(self, context: object) -> None:
        """Report the exception that is being handled."""
        try:
            self.handle_error(context, *sys.exc_info())
        except HubDestroyed as destroyed:
            # It came while the hub waited in its error handler.
            self._end_hub(destroyed)
        except BaseException:
            try:
                traceback.print_exc()
            except BaseException:
                # Nobody is left to tell, and a hub whose loop ends here could run nothing any more.
                pass

    def _end_hub(self, destroyed: HubDestroyed) -> None:
        """Make `run` raise this, so that the hub ends: left suspended, it would never be freed."""
        self._callbacks.clear()
        self._hub_destroyed = destroyed
        self.break_()

    # --- pending watchers

    def feed(self, watcher: Watcher, events: int) -> None:
        """See `LoopOfWatchers`."""
        if watcher.queued:
            watcher.came |= events
        else:
            queue = self._pending[watcher.priority - MINPRI]
            watcher.came = events
            queue.append(watcher)
            watcher.queued = len(queue)
        self._level = MAXPRI - MINPRI

    def unfeed(self, watcher: Watcher) -> None:
        """See `LoopOfWatchers`."""
        line, position = self._pending[watcher.priority - MINPRI], watcher.queued - 1
        watcher.queued = 0
        # Where an interrupt has struck it may be gone already, and another one there.
        if position < len(line) and line[position] is watcher:
            line[position] = None

    def _feed_all(self, phase: Phase, events: int) -> None:
        for watcher in phase.watchers:
            self.feed(watcher, events)


def _ignore(_func: object) -> None:
    pass


def _no_chance() -> float:
    return 0.0
