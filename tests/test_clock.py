"""The one clock: its timers, and that no other module has one of its own."""

from __future__ import annotations

import ast
import time
from collections.abc import Iterator

import gevent
import pytest
from gevent.hub import Waiter

from helpers import PACKAGE, burn
from ratchet import _clock, thread
from ratchet._loop import loop_of

MODULES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}


def test_a_timer_does_not_ring_early_where_the_loop_is_late() -> None:
    gevent.sleep(0)
    burn(0.05)
    began = time.monotonic()
    waiter: Waiter[None] = Waiter()
    timer = _clock.timer(gevent.get_hub(), 0.04)
    timer.start(waiter.switch, None)
    waiter.get()
    timer.close()
    assert time.monotonic() - began >= 0.04


@pytest.mark.parametrize("seconds", [0, -1, -1e9, float("-inf")])
def test_a_timer_whose_time_is_over_rings_in_the_next_turn(seconds: float) -> None:
    waiter: Waiter[str] = Waiter()
    timer = _clock.timer(gevent.get_hub(), seconds)
    assert not timer.active
    timer.start(waiter.switch, "rang")
    assert timer.active
    assert waiter.get() == "rang"
    assert not timer.active
    timer.close()


def test_a_timer_that_repeats_goes_on() -> None:
    waiter: Waiter[int] = Waiter()
    rings = iter(range(3))

    def ring() -> None:
        if (number := next(rings)) == 2:
            waiter.switch(number)

    timer = _clock.timer(gevent.get_hub(), 0.0, 0.001)
    timer.start(ring)
    assert waiter.get() == 2
    timer.close()


def test_the_time_of_a_turn_stands_still_while_a_thread_runs() -> None:
    gevent.sleep(0.001)
    loop = loop_of(gevent.get_hub())
    before = _clock.turn_time(loop)
    burn(0.01)
    assert _clock.turn_time(loop) == before
    assert _clock.wall_time() - before >= 0.01


def test_time_is_replaced_for_the_whole_package_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = gevent.spawn(gevent.sleep, 1000)
    jumps = iter([0.0, 1e9])
    monkeypatch.setattr(_clock, "monotonic", lambda: next(jumps))
    assert not thread.wait_all([pending], timeout=10)
    pending.kill()


GEVENTS = {"Timeout", "sleep", "spawn_later", "start_later", "wait_read", "wait_write", "with_timeout"}
"""Functions of gevent's that take seconds."""


def own_clocks(source: str) -> Iterator[str]:
    """Each expression or import by which a module asks for the time, or makes a timer, itself."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if {name.name for name in names} & {"time", "datetime"}:
                yield ast.unparse(node)
            case ast.ImportFrom(module="time" | "datetime" | "ratchet._clock"):
                yield ast.unparse(node)
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("gevent"):
                if {name.name for name in names} & GEVENTS:
                    yield ast.unparse(node)
            case ast.keyword(arg="update"):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(value=ast.Name(id="_clock"))):
                pass
            case ast.Call(func=ast.Attribute(attr="sleep"), args=[ast.Constant(value=0)], keywords=[]):
                pass
            case ast.Call(func=ast.Attribute(attr="wait_read" | "wait_write"), args=[_], keywords=[]):
                pass
            case ast.Call(func=ast.Attribute(attr="timer" | "now" | "update_now")):
                yield ast.unparse(node)
            case ast.Call(func=ast.Attribute(attr=name)) if name in GEVENTS:
                yield ast.unparse(node)


MAKERS = {
    "_clock.py",
    "testing/_loop_interface.py",
    "testing/_loop.py",
    "testing/_stateful_watchers.py",
    "testing/_time_functions.py",
}
"""The one clock, and what makes virtual time."""


@pytest.mark.parametrize("name", sorted(set(MODULES) - MAKERS))
def test_no_other_module_asks_for_the_time_or_makes_a_timer(name: str) -> None:
    assert list(own_clocks(MODULES[name])) == []


@pytest.mark.parametrize(
    "source",
    [
        "import time",
        "import os, time as clock",
        "from time import monotonic",
        "from datetime import datetime",
        "from ratchet._clock import monotonic",
        "from gevent import sleep",
        "from gevent.timeout import Timeout",
        "self._hub.loop.timer(1.0)",
        "loop.now()",
        "loop.update_now()",
        "timer.start(callback, update=True)",
        "gevent.sleep(0.1)",
        "gevent.sleep(seconds)",
        "gevent.sleep()",
        "gevent.Timeout(5)",
        "gevent.Timeout(seconds=5)",
        "gevent.with_timeout(5, function)",
        "gevent.spawn_later(5, function)",
        "socket.wait_read(descriptor, timeout=5)",
        "socket.wait_read(descriptor, 5)",
    ],
)
def test_a_clock_of_its_own_is_found(source: str) -> None:
    assert len(list(own_clocks(source))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from ratchet import _clock",
        "_clock.timer(hub, 1.0)",
        "_clock.sleep(0.1)",
        "gevent.sleep(0)",
        "socket.wait_read(descriptor)",
        "isinstance(error, gevent.Timeout)",
    ],
)
def test_what_needs_no_clock_of_its_own_is_let_be(source: str) -> None:
    assert list(own_clocks(source)) == []
