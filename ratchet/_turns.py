"""Turns of the event loop: where one ends, and when there will be none any more.

Rules of this room: it knows the hub and its watchers, and nothing of threads.

A turn of libev's loop: prepare watchers (gevent runs its callbacks in one), the
poll, then what the poll found; check watchers are the last of that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from gevent.exceptions import LoopExit
from gevent.hub import Hub, Waiter
from greenlet import getcurrent

from ratchet._wait import suspend

_NOTHING_LEFT: Final = object()

# How many greenlets, other than the main one, are told when nothing is left.
_off_main: Counter[Hub] = Counter()


@contextmanager
def end_of_turn(hub: Hub, noblock: bool) -> Iterator[Any]:
    """A watcher that fires when a turn ends.

    The poll of that turn does not wait if `noblock`, or if something can run
    already: then that is what the turn is for.
    """
    loop: Any = hub.loop
    # MINPRI: everything that this turn's poll found runs before.
    with loop.check(ref=False, priority=loop.MINPRI) as watcher, loop.idle(ref=False) as nudge:
        if noblock or loop._callbacks:
            # An active idle watcher keeps the poll from blocking.
            nudge.start(_do_nothing)
        yield watcher


def suspend_until_nothing_is_left(looper: Waiter[Any], subject: object, turn: Any) -> None:
    """Sleep until `looper` is woken, or `turn` ends if that is given.

    Raises `LoopExit` when nothing is left that could ever wake it.
    """
    hub: Any = looper.hub
    if getcurrent() is not hub.parent:
        _suspend_off_main(looper, subject, turn)
        return
    if turn is not None:
        _end_with_turn(turn, looper)
    suspend(looper, "loop", subject)


def _suspend_off_main(looper: Waiter[Any], subject: object, turn: Any) -> None:
    """Sleep in a greenlet to which the hub does not say by itself that nothing is left.

    gevent raises `LoopExit` in the main greenlet only.  This watcher looks for
    the same thing, last before each poll, and tells this greenlet.  It counts as
    something left itself, or the hub could end before it looks.
    """
    hub: Any = looper.hub
    loop: Any = hub.loop
    with loop.prepare(priority=loop.MINPRI) as before_poll, loop.timer(0.0) as next_turn:
        before_poll.start(_tell_if_nothing_left, hub, next_turn, looper)
        # A prepare watcher that starts in the midst of a turn misses this turn's poll.
        if turn is None:
            next_turn.start(_do_nothing)
        elif loop._callbacks:
            # Something runs in this turn, so it is one that counts.
            _end_with_turn(turn, looper)
            next_turn.start(_do_nothing)
        else:
            next_turn.start(turn.start, looper.switch, None)
        _off_main[hub] += 1
        try:
            if suspend(looper, "loop", subject) is _NOTHING_LEFT:
                raise LoopExit
        finally:
            _off_main[hub] -= 1
            if not _off_main[hub]:
                del _off_main[hub]


def _tell_if_nothing_left(hub: Hub, next_turn: Any, looper: Waiter[Any]) -> None:
    """Hub callback.  It does not switch itself: gevent has run this turn's
    callbacks already, and those that a woken thread adds would wait for an event.
    """
    loop: Any = hub.loop
    if loop.activecnt == _off_main[hub]:
        next_turn.start(looper.switch, _NOTHING_LEFT)


def _end_with_turn(turn: Any, looper: Waiter[Any]) -> None:
    """Wake `looper` when the turn ends and all that can run now has run.

    The last of what is queued says when that is: gevent puts callbacks off to a
    later turn when those of one take long.
    """
    hub: Any = looper.hub
    loop: Any = hub.loop
    last = loop.run_callback(_do_nothing) if loop._callbacks else None

    def wake() -> None:
        if last is None or not last.pending:
            looper.switch(None)

    turn.start(wake)


def _do_nothing() -> None:
    pass
