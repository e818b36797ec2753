"""A block of code on virtual time: its hub, and the functions that read the time.

`virtual_time` gives the OS thread a hub of its own, whose loop is a `VirtualLoop`, until
the block is left.  Greenlets that are still alive on it then are killed, in virtual time.

While any such block is open in the process, the functions that read the time are
replaced by ones that look at the hub of their OS thread; after the last block they are
restored.  A replacement that somebody has imported by name keeps working, in real time too.

An interrupt may strike at any line.  So everything that a block changes is restored by
`_Block.leave`, which may be called twice, and is called again if it is interrupted itself.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
import weakref
from _thread import get_ident
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gevent
from gevent import monkey
from gevent._hub_local import get_hub_class, get_hub_if_exists, set_hub
from gevent.exceptions import LoopExit
from gevent.hub import Hub
from greenlet import getcurrent, greenlet

from ratchet import _clock
from ratchet._loop import AnyGreenlet
from ratchet.bus._core.side import close_all
from ratchet.errors import DeadlockError
from ratchet.testing._base import Beginning
from ratchet.testing._dump import describe
from ratchet.testing._kill import is_over, kill_all
from ratchet.testing._loop import Livelock, VirtualLoop
from ratchet.testing._outside import Outside
from ratchet.testing._shown import Shown
from ratchet.testing._undo import undoing

# The time that a reading takes, so that a loop which spins on the clock ends.
_TICK = 1000  # nanoseconds

# Where time begins with a seed, so that a run repeats: in the first second of 2020, some hours after boot.
_FIXED = Beginning(1_577_836_800 * 10**9, 10_000 * 10**9, 10_000 * 10**9)

# On leaving a block: how long its greenlets may take to end when they are killed, in virtual time and,
# where that stands still, in steps.
_KILL_SECONDS = 3600.0
_KILL_STEPS = 100_000

Module = Any
"""A module, some of whose attributes are replaced."""


class Clock(Shown):
    """The clock of a block on virtual time."""

    _shown = ("advance", "now")

    def __init__(self, loop: VirtualLoop) -> None:
        # The loop of the block's hub.
        self.loop = loop

    @property
    def now(self) -> float:
        """Seconds since the block began.  Reading it does not move the time."""
        return self.loop.elapsed / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass, and run everything that falls due meanwhile; blocks.

        On return the time is `seconds` later, and everything that was due by then has run.
        A thread that can always run, because it polls with `sleep(0)`, does not keep it from
        returning: once threads have taken 100,000 steps without a pause, time passes although
        they could go on.

        Args:
            seconds: how long, in virtual time; 0 runs only what can run now.

        Raises `TypeError` or `ValueError` unless `seconds` is a finite number that is not
        negative, and `RuntimeError` outside of the block.
        """
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"seconds must be a number of seconds, not {seconds!r}")
        if not 0 <= seconds < math.inf:
            raise ValueError(f"seconds must be a number of seconds from 0 on, not {seconds!r}")
        loop = self.loop
        if virtual_loop() is not loop:
            raise RuntimeError("advance() must be called in the block of its clock, and in its OS thread")
        mark = object()
        with undoing(partial(loop.advances.discard, mark)):
            loop.advances.add(mark)
            _clock.sleep(seconds)
            gevent.idle(priority=loop.MINPRI)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} at {self.now:.6f} seconds>"


@contextmanager
def virtual_time(seed: int | None = None, threshold: float = 0.0) -> Iterator[Clock]:
    """Run a block of code on virtual time: waits of hours take milliseconds.

    In the block this OS thread has a hub of its own.  When nothing can run there, and the
    system's sockets have been quiet for `threshold` real seconds, time jumps to the next
    timer.  So `gevent.sleep`, `gevent.Timeout`, `time.sleep`, time-outs of any kind,
    deadlines and back-offs are exact, and `time.time`, `time.monotonic` and
    `time.perf_counter` return virtual time; each reading moves it by a microsecond.  Other
    OS threads keep real time.

    Greenlets and buses from outside stand still during the block, and waiting for anything
    that belongs to the hub outside is refused.  What is made in the block and has not ended is
    ended with it.  Blocks may be nested; leaving one leaves those within it too.

    Args:
        seed: shuffles the order of what can run at the same instant, and starts the clocks
            at a fixed time, so that the same seed gives the same run; None for the usual
            order, starting at the real time.
        threshold: real seconds for which the system's sockets must be quiet before time
            jumps.  0 is right for everything within the process.

    Returns:
        A context manager, which yields the `Clock`.

    Raises `WrongThread` in the block, where something waits for what was made outside;
    `Livelock` if something survives being killed at the end of the block;
    `TypeError` for a seed that is not an `int` or a `threshold` that is not a number,
    and `ValueError` for a `threshold` that is negative or not finite; and `RuntimeError`
    when the block is left in another OS thread than it was entered in, by one of its own
    greenlets, or after a block around it.

    .. code-block:: python

        import gevent
        from ratchet import testing

        with testing.virtual_time() as clock:
            gevent.sleep(3600)
            print(clock.now)

    .. code-block:: text

        3600.0
    """
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise TypeError(f"seed must be an int or None, not {seed!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number of seconds, not {threshold!r}")
    if not 0 <= threshold < math.inf:
        raise ValueError(f"threshold must be a number of seconds from 0 on, not {threshold!r}")
    block = _Block(VirtualLoop(seed, threshold, began=_now() if seed is None else _FIXED))
    try:
        yield block.enter()
        block.leave()
    except BaseException as error:
        if isinstance(error, (LoopExit, DeadlockError)) and (late := block.late_callbacks()):
            error.add_note(late)
        # Once more: it may have been interrupted itself.
        block.leave()
        raise


class _Block:
    """What one block changes, and how that is undone."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._ident = get_ident()
        self._before = get_hub_if_exists()
        self._outside = None if self._before is None else Outside(self._before)
        self._around = _innermost()
        self._hub: Hub | None = None
        loop.block = self

    def enter(self) -> Clock:
        _replace_for(self._loop)
        # The class that gevent would use, which may be the program's own.
        new_hub: Any = get_hub_class()
        self._hub = new_hub(loop=self._loop)
        self._loop.note_builtin = _note_started
        set_hub(self._hub)
        if self._outside is not None:
            self._outside.close()
        return Clock(self._loop)

    def leave(self) -> None:
        """Restore what was there before; doing so twice is fine."""
        self._check_place()
        if self._around is not None and self._around.is_over:
            # It has taken this one along, unless an interrupt has struck.
            self._close()
            raise RuntimeError("a block on virtual time must be left before the block around it")
        try:
            while (innermost := _innermost()) is not None and innermost.is_within(self):
                innermost.leave()
        finally:
            self._give_back()

    @property
    def is_over(self) -> bool:
        """Whether it has been left."""
        return self._loop.destroyed

    def is_within(self, block: _Block) -> bool:
        """Whether it was entered in that other one."""
        around = self._around
        return around is not None and (around is block or around.is_within(block))

    def late_callbacks(self) -> str:
        """A text that shows the callbacks for what was made outside; empty if there are none."""
        late = [] if self._outside is None else self._outside.late_callbacks()
        return (
            "\n  ".join(["what was made outside of the block on virtual time waits:", *late]) if late else ""
        )

    def _check_place(self) -> None:
        """Refuse to be left from where nobody could go on afterwards."""
        if get_ident() != self._ident:
            raise RuntimeError("a block on virtual time must be left in the OS thread that has entered it")
        current: greenlet | None = getcurrent()
        while current is not None:
            if current is self._hub:
                raise RuntimeError("a block on virtual time must not be left from a greenlet of its own")
            current = current.parent

    def _give_back(self) -> None:
        hub = self._hub
        try:
            if hub is not None and not self._loop.destroyed:
                set_hub(hub)
                try:
                    # An interrupt in the first lines of a hub ends it, and nothing can run on it any more.
                    if not hub.dead:
                        _end_greenlets(self._loop)
                    close_all()
                finally:
                    hub.destroy(destroy_loop=True)
        finally:
            set_hub(self._before)  # type: ignore[arg-type]
            self._close()

    def _close(self) -> None:
        if self._outside is not None:
            self._outside.reopen()
        self._loop.destroy()
        _restore_after(self._loop)


def _innermost() -> _Block | None:
    """The block that this OS thread is in."""
    loop = virtual_loop()
    return None if loop is None else loop.block


def late_callbacks() -> str:
    """What this OS thread's block has to say of things from outside when nothing can ever run again."""
    block = _innermost()
    return "" if block is None else block.late_callbacks()


def _end_greenlets(loop: VirtualLoop) -> None:
    """Kill the greenlets that are still alive, and those they start; raises `Livelock` if one survives."""
    loop.allow(_KILL_STEPS)
    try:
        living = kill_all(partial(_living_on, loop), _KILL_SECONDS)
    except Livelock:
        # It says how long that took, which is not what to look for.
        living = _living_on(loop)
    if living:
        threads = "\n\n".join(map(describe, living))
        raise Livelock(f"what still runs when a block on virtual time is left cannot be killed:\n\n{threads}")


def _living_on(loop: VirtualLoop) -> list[AnyGreenlet]:
    return [each for each in _spawned_on(loop) if not is_over(each)]


# --- the functions that read the time

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


def _now() -> Beginning:
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


def _replace_for(loop: VirtualLoop) -> None:
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


def _restore_after(loop: VirtualLoop) -> None:
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


def _note_started(method: Any) -> None:
    """Callback of a loop: a method in C was queued, with which `gevent.spawn_raw` starts a greenlet."""
    thread = method.__self__
    raw = isinstance(thread, greenlet) and not isinstance(thread, gevent.Greenlet)
    if raw and thread.parent is get_hub_if_exists():
        _note_spawned(thread)


def _spawned_on(loop: VirtualLoop) -> list[AnyGreenlet]:
    """The greenlets that were spawned on a loop and still exist, in order, without the current one."""
    return [each for _, each in sorted(_open.get(loop, {}).items()) if each is not getcurrent()]
