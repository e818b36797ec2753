"""One run of a scenario, whose threads are watched, and one of them interrupted if asked.

A run begins with `play` and ends with `end`, which leaves none of its threads alive.
gevent reports each greenlet that is spawned in the process; those that a thread of the run
spawns, and all threads of its scheduler, belong to the run.  `switch_out` of a watched thread
is called when it gives up control: that is a switch point.  Two watchers count how long a
thread waits, in half turns: one is called before the callbacks of a turn, the other after
them, before the watchers that the poll has found.  Whatever resumes a thread is one of these.

Which interrupts are tried, and in which order, is decided in `_interrupt`.
"""

from __future__ import annotations

import linecache
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from types import FrameType
from typing import Any, NamedTuple

import gevent
from gevent.exceptions import LoopExit
from gevent.hub import Hub, get_hub
from greenlet import GreenletExit, getcurrent

from ratchet import _clock, _sleep
from ratchet._loop import AnyGreenlet, loop_of
from ratchet._thread import described
from ratchet._turns import suspend_until_nothing_is_left
from ratchet._wait import new_wait
from ratchet.kernel import Ratchet, Thread
from ratchet.testing._kill import kill_all

# How long its threads may take to end when they are killed.
_KILL_SECONDS = 1.0

# Code of others: the author of a scenario looks for switch points in code of their own.
_LIBRARIES = {"gevent", "greenlet", "ratchet"} | sys.stdlib_module_names


class Hangs(Exception):
    """The scenario, its check, or one of its threads does not end."""


class Place(NamedTuple):
    """The call in which a thread gives up control."""

    file: str
    line: int
    function: str
    call: str

    def __str__(self) -> str:
        return f'"{self.file}", line {self.line}, in {self.function}: {self.call}'


class Strike:
    """An interrupt, and the moment at which it is raised.

    Attributes:
        point: the number of the switch point, counted from 1.
        halves: half turns of the loop that have begun while the thread waited there.
        error: the exception.
        place: the call at the switch point, once it is reached.
        struck: whether it was raised.
    """

    def __init__(self, point: int, halves: int, error: BaseException) -> None:
        self.point = point
        self.halves = halves
        self.error = error
        self.place: Place | None = None
        self.struck = False

    def __str__(self) -> str:
        name = "a kill" if type(self.error) is GreenletExit else type(self.error).__name__
        moment = "just before it went on" if self.halves else "as soon as it waited"
        return f"{name} at switch point {self.point}, {moment}:\n  {self.place}"


class Run:
    """One run of a scenario.

    Attributes:
        lasted: the half turns that began while a thread waited, by the number of the switch
            point.
    """

    def __init__(self, scenario: Callable[[], object], strike: Strike | None, *, every_thread: bool) -> None:
        self._scenario = scenario
        self._strike = strike
        self._every_thread = every_thread
        # The handler does nothing: `errors` asks the threads.
        self._kernel = Ratchet(errh=_leave_error)
        self._hub: Hub = get_hub()
        # The thread that runs the scenario.
        self._first: AnyGreenlet | None = None
        self._threads: dict[AnyGreenlet, None] = {}
        # Whether the scenario is running: its threads are not interrupted in what they do for the check.
        self._playing = False
        self._points = 0
        self._halves = 0
        # The last switch point of each thread, and the half turn in which it began to wait.
        self._waits: dict[AnyGreenlet, tuple[int, int]] = {}
        self.lasted: dict[int, int] = {}
        loop = loop_of(self._hub)
        self._turns = [make(ref=False, priority=loop.MAXPRI) for make in (loop.prepare, loop.check)]

    def play(self, timeout: float) -> None:
        """Run the scenario to its end; blocks.

        Raises `Hangs` if it has not ended within `timeout` seconds, or can never end.
        """
        gevent.Greenlet.add_spawn_callback(self._on_spawn)
        _sleep.askers.add(self)
        for half in self._turns:
            half.start(self._on_half_turn)
        self._playing = True
        try:
            self._join(self._kernel.attach(self._scenario), timeout)
        finally:
            self._playing = False

    def _join(self, thread: Thread, timeout: float) -> None:
        wait = new_wait()
        # Without a reference to the loop, so that it is noticed when nothing else can run.
        limit = _clock.timer(self._hub, timeout, ref=False)
        why = f"has not ended within {timeout:g} s"
        try:
            limit.start(wait.switch, None)
            thread.rawlink(wait.switch)
            suspend_until_nothing_is_left(wait, self._kernel)
        except LoopExit:
            why = "can never run again"
        finally:
            limit.close()
            thread.unlink(wait.switch)
        if not thread.ready():
            raise Hangs(f"the scenario {why}:\n\n{described(thread)}\n")

    def errors(self) -> Iterator[tuple[str, BaseException]]:
        """The errors of its threads, each with the name of the thread, except for the interrupt itself."""
        for thread in self._threads:
            error = thread.exception
            interrupt = self._strike is not None and error is self._strike.error
            if isinstance(thread, Thread) and error is not None and not interrupt:
                yield "the scenario" if thread is self._first else f"the thread {thread.name}", error

    def end(self) -> None:
        """Kill the threads that are left, and those that they start; blocks.

        Raises `Hangs` if a thread survives all kills.
        """
        try:
            living = kill_all(self._living, _KILL_SECONDS)
        finally:
            gevent.Greenlet.remove_spawn_callback(self._on_spawn)
            _sleep.askers.discard(self)
            for half in self._turns:
                half.close()
            for thread in self._threads:
                vars(thread).pop("switch_out", None)
        if living:
            names = ", ".join(str(thread.name) for thread in living)
            raise Hangs(f"it cannot be killed: {names}")
        self._kernel.close()

    def _living(self) -> list[AnyGreenlet]:
        current = getcurrent()
        return [thread for thread in self._threads if thread is not current and not thread.ready()]

    def _on_spawn(self, thread: AnyGreenlet) -> None:
        """Callback of gevent's: a greenlet was spawned, in this OS thread or in another one."""
        if getcurrent() in self._threads or getattr(thread, "kernel", None) is self._kernel:
            if self._first is None:
                self._first = thread
            if self._every_thread or thread is self._first:
                watched: Any = thread
                watched.switch_out = partial(self._on_switch_out, thread)
            self._threads[thread] = None

    def _on_switch_out(self, thread: AnyGreenlet) -> None:
        """Called by gevent in a thread that gives up control."""
        strike = self._strike
        if not self._playing or (strike is not None and strike.struck):
            return
        # A thread in which compiled code alone runs has no other frame than this one.
        here = sys._getframe()
        frame = here.f_back or here
        if thread is not self._first and own_code(frame) is None:
            # It waits in the library alone, as an idle worker does.
            self._waits.pop(thread, None)
            return
        self._points += 1
        self._waits[thread] = (self._points, self._halves)
        if strike is not None and self._points == strike.point:
            strike.place = place_of(own_code(frame) or frame)
            if strike.halves == 0:
                strike.struck = True
                raise strike.error

    def _on_half_turn(self) -> None:
        """Hub callback: next come the callbacks of a turn, or the watchers that the poll has found."""
        self._halves += 1
        strike = self._strike
        if not self._playing or (strike is not None and strike.struck):
            return
        for thread, (point, began) in list(self._waits.items()):
            halves = self._halves - began
            if thread.dead:
                del self._waits[thread]
            elif strike is not None and (point, halves) == (strike.point, strike.halves):
                strike.struck = True
                thread.throw(strike.error)
                return
            else:
                self.lasted[point] = halves


def _leave_error(error: BaseException, thread: Thread) -> None:
    """Error handler that does nothing, and so leaves the error to `Run.errors`."""


def own_code(frame: FrameType) -> FrameType | None:
    """The innermost frame that is in the program's own code: this one or a caller; None if there is none."""
    own: FrameType | None = frame
    while own is not None and _is_of_library(own):
        own = own.f_back
    return own


def place_of(frame: FrameType) -> Place:
    """The call that a frame is in."""
    code = frame.f_code
    return Place(code.co_filename, frame.f_lineno, code.co_qualname, _call_in(frame))


def _is_of_library(frame: FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in _LIBRARIES


def _call_in(frame: FrameType) -> str:
    """The source text of the call that a frame is in, on one line; empty if there is none."""
    positions = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), (None,) * 4)
    first, last, start, end = positions
    if first is None or last is None:
        first = last = frame.f_lineno
    lines = [
        linecache.getline(frame.f_code.co_filename, line, frame.f_globals) for line in range(first, last + 1)
    ]
    if first == last and start is not None and end is not None:
        # They count bytes.
        return lines[0].encode()[start:end].decode(errors="replace")
    return " ".join("".join(lines).split())
