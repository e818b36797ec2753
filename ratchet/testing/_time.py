"""A block of code on virtual time: its clock and its hub.

`virtual_time` gives the OS thread a hub of its own, whose loop is a `VirtualLoop`, until
the block is left.  Greenlets that are still alive on it then are killed, in virtual time.

An interrupt may strike at any line.  So everything that a block changes is restored by
`_Block.leave`, which may be called twice, and is called again if it is interrupted itself.
"""

from __future__ import annotations

import math
from _thread import get_ident
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import gevent
from gevent._hub_local import get_hub_class, get_hub_if_exists, set_hub
from gevent.exceptions import LoopExit
from gevent.hub import Hub
from greenlet import getcurrent, greenlet

from ratchet import _clock, _sleep
from ratchet._loop import AnyGreenlet
from ratchet.bus._core.side import close_all
from ratchet.errors import DeadlockError
from ratchet.testing._dump import describe
from ratchet.testing._kill import is_over, kill_all
from ratchet.testing._loop import Livelock, VirtualLoop
from ratchet.testing._loop_interface import Beginning
from ratchet.testing._outside import Outside, reopen
from ratchet.testing._shown import Shown
from ratchet.testing._time_functions import (
    note_started,
    readings,
    replace_for,
    restore_after,
    spawned_on,
    virtual_loop,
)
from ratchet.testing._undo import undoing

# Where time begins with a seed, so that a run repeats: in the first second of 2020, some hours after boot.
_FIXED = Beginning(1_577_836_800 * 10**9, 10_000 * 10**9, 10_000 * 10**9)

# On leaving a block: how long its greenlets may take to end when they are killed, in virtual time and,
# where that stands still, in steps.
_KILL_SECONDS = 3600.0
_KILL_STEPS = 100_000

# The least by which time can pass, in seconds.
_INSTANT = 1e-9


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
    block = _Block(VirtualLoop(seed, threshold, began=readings() if seed is None else _FIXED))
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
        replace_for(self._loop)
        # The class that gevent would use, which may be the program's own.
        new_hub: Any = get_hub_class()
        self._hub = new_hub(loop=self._loop)
        self._loop.note_builtin = note_started
        _sleep.expect_other_hubs()
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
                # Where leaving a block within this one was interrupted.
                reopen(hub)
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
        restore_after(self._loop)


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
        # Whoever is told of their ends is told in a later turn: before time can pass.
        _clock.sleep(_INSTANT)
    except Livelock:
        # It says how long that took, which is not what to look for.
        living = _living_on(loop)
    if living:
        threads = "\n\n".join(map(describe, living))
        raise Livelock(f"what still runs when a block on virtual time is left cannot be killed:\n\n{threads}")


def _living_on(loop: VirtualLoop) -> list[AnyGreenlet]:
    return [each for each in spawned_on(loop) if not is_over(each)]
