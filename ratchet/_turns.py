"""Turns of the event loop: where one ends, and when there will be none any more.

It knows the hub and its watchers, and nothing of threads.

A turn of libev's loop: prepare watchers (gevent runs its callbacks in one), the
poll, then what the poll found; check watchers are the last of that.
"""

from __future__ import annotations

from typing import Final

from gevent.exceptions import LoopExit
from gevent.hub import Hub
from greenlet import getcurrent

from ratchet import _clock
from ratchet._loop import Watcher, loop_of
from ratchet._wait import Wait, suspend

_NOTHING_LEFT: Final = object()

# What greenlets other than the main one sleep on that are told when nothing is left.
_off_main: dict[Wait, Hub] = {}


def suspend_until_nothing_is_left(looper: Wait, subject: object) -> None:
    """Sleep until `looper` is woken.

    Raises `LoopExit` when nothing is left that could ever wake it.
    """
    _suspend(looper, subject, None)


def suspend_for_a_turn(looper: Wait, subject: object, *, noblock: bool) -> None:
    """Sleep until `looper` is woken, or the turn ends.

    The poll of that turn does not wait if `noblock`, or if something can run
    already: then that is what the turn is for.  Raises `LoopExit` when nothing is
    left that could ever wake it.
    """
    loop = loop_of(looper.hub)
    # MINPRI: everything that this turn's poll found runs before.
    turn = loop.check(ref=False, priority=loop.MINPRI)
    nudge = loop.idle(ref=False)
    try:
        if noblock or loop._callbacks:
            # An active idle watcher keeps the poll from blocking.
            nudge.start(_do_nothing)
        _suspend(looper, subject, turn)
        _close(turn, nudge)
    except BaseException:
        _close(turn, nudge)
        raise


def _suspend(looper: Wait, subject: object, turn: Watcher | None) -> None:
    hub = looper.hub
    if getcurrent() is not hub.parent:
        _suspend_off_main(looper, subject, turn)
        return
    if turn is not None:
        _end_with_turn(turn, looper)
    suspend(looper, "loop", subject)


def _suspend_off_main(looper: Wait, subject: object, turn: Watcher | None) -> None:
    """Sleep in a greenlet to which the hub does not say by itself that nothing is left.

    gevent raises `LoopExit` in the main greenlet only.  This watcher looks for
    the same thing, last before each poll, and tells this greenlet.  It counts as
    something left itself, or the hub could end before it looks.
    """
    hub = looper.hub
    loop = loop_of(hub)
    before_poll = loop.prepare(priority=loop.MINPRI)
    next_turn = _clock.timer(hub, 0.0)
    try:
        if turn is not None and loop._callbacks:
            # Something runs in this turn, so it is one that counts, whatever is left then.
            _end_with_turn(turn, looper)
            next_turn.start(_do_nothing)
        else:
            before_poll.start(_tell_if_nothing_left, hub, next_turn, looper)
            # A prepare watcher that starts in the midst of a turn misses this turn's poll.
            if turn is None:
                next_turn.start(_do_nothing)
            else:
                next_turn.start(turn.start, looper.switch, None)
            _off_main[looper] = hub
        told = suspend(looper, "loop", subject)
        _off_main.pop(looper, None)
        _close(before_poll, next_turn)
    except BaseException:
        _off_main.pop(looper, None)
        _close(before_poll, next_turn)
        raise
    if told is _NOTHING_LEFT:
        raise LoopExit


def _close(*watchers: Watcher) -> None:
    for watcher in watchers:
        watcher.close()


def _tell_if_nothing_left(hub: Hub, next_turn: Watcher, looper: Wait) -> None:
    """Hub callback.  It does not switch itself: gevent has run this turn's
    callbacks already, and those that a woken thread adds would wait for an event.
    """
    loop = loop_of(hub)
    # A wait without a greenlet is that of one which a forked child has left to its parent.
    told = sum(1 for other, its_hub in _off_main.items() if its_hub is hub and other.greenlet is not None)
    if loop.activecnt == told:
        next_turn.start(looper.switch, _NOTHING_LEFT)


def _end_with_turn(turn: Watcher, looper: Wait) -> None:
    """Wake `looper` when the turn ends and all that can run now has run.

    The last of what is queued says when that is: gevent puts callbacks off to a
    later turn when those of one take long.
    """
    loop = loop_of(looper.hub)
    last = loop.run_callback(_do_nothing) if loop._callbacks else None

    def wake() -> None:
        if last is None or not last.pending:
            looper.switch(None)

    turn.start(wake)


def _do_nothing() -> None:
    pass
