"""The watches of a connection: what each notices, and that no exception leaves one deaf."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import gevent
import pytest

from helpers import active_watchers, burn, wait_until
from ratchet import _clock
from ratchet.bus._core.watch import Watch
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._transport import acknowledge, delivery
from ratchet.bus._transport.acknowledge import AcknowledgeWatch
from ratchet.bus._transport.delivery import DeliveryWatch


class Interrupt(BaseException):
    """What a signal handler raises."""


class Watched:
    """What is watched, and how often its end was told."""

    def __init__(self) -> None:
        self.over = 0
        self.moving = True
        self.bytes = 1000
        self.tries = 0
        self.broken = False

    def expects_move(self) -> bool:
        return True

    def undelivered(self) -> int:
        self.bytes -= self.moving
        return self.bytes

    def is_broken(self) -> bool:
        return self.broken

    tells_answers = True

    def awaited_answer(self) -> tuple[int, float]:
        self.tries += 1
        return self.tries, 30.0

    def end(self) -> None:
        self.over += 1


@pytest.fixture
def watched() -> Watched:
    return Watched()


def stall_watch(watched: Watched) -> Watch:
    watch = StallWatch(gevent.get_hub(), 0.02, watched.expects_move, watched.end)
    watch.begin()
    return watch


def delivery_watch(watched: Any) -> Watch:
    watch = DeliveryWatch(gevent.get_hub(), watched, watched.end)
    watch.begin()
    watched.moving = False
    return watch


def acknowledge_watch(watched: Any) -> Watch:
    watch = AcknowledgeWatch(gevent.get_hub(), watched, watched.end)
    watch.begin()
    return watch


KINDS = [stall_watch, delivery_watch, acknowledge_watch]
of_each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


@pytest.fixture(autouse=True)
def few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_LOOKS", 3)
    monkeypatch.setattr(acknowledge, "_LOOK", 0.01)


@of_each_kind
def test_the_end_is_told_once_and_nothing_is_left(kind: Any, watched: Watched) -> None:
    before = active_watchers()
    watch = kind(watched)
    wait_until(lambda: watched.over)
    gevent.sleep(0.03)
    assert watched.over == 1
    assert watch.timer is None
    assert active_watchers() <= before


@of_each_kind
def test_nothing_is_told_after_closing(kind: Any, watched: Watched) -> None:
    watch = kind(watched)
    watch.close()
    watch.close()
    watch.settle()
    gevent.sleep(0.1)
    assert not watched.over


@of_each_kind
def test_settling_changes_nothing_where_nothing_is_half_done(kind: Any, watched: Watched) -> None:
    watch = kind(watched)
    timer = watch.timer
    watch.settle()
    assert watch.timer is timer
    wait_until(lambda: watched.over)
    watch.settle()
    assert watch.timer is None


class Hub:
    """A hub whose timers run out when they are told to, one after the other."""

    def __init__(self) -> None:
        self.loop = self
        self.time = 0.0
        self.timers: list[Timer] = []

    def now(self) -> float:
        return self.time

    def update_now(self) -> None:
        """It is never late."""

    def timer(self, seconds: float, repeat: float, ref: bool, priority: int | None) -> Timer:
        return Timer(self, seconds)

    def go_on(self) -> None:
        """Let the timer that was started first run out."""
        timer = self.timers.pop(0)
        self.time += timer.seconds
        timer.callback()


class Timer:
    def __init__(self, hub: Hub, seconds: float) -> None:
        self.hub = hub
        self.seconds = seconds

    def start(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.hub.timers.append(self)

    @property
    def active(self) -> bool:
        return self in self.hub.timers

    def close(self) -> None:
        if self.active:
            self.hub.timers.remove(self)


def lines_of(run: Callable[[], None], strike: int) -> int:
    """How many lines of ours `run` runs; at that of the given number, an exception strikes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if not frame.f_globals["__name__"].startswith("ratchet."):
            return None
        if event == "line":
            count += 1
            if count == strike:
                raise Interrupt
        return trace

    before = sys.gettrace()
    # What other tests have left would be finalized, and struck, in between.
    gc.disable()
    sys.settrace(trace)
    try:
        run()
    except Interrupt:
        pass
    finally:
        sys.settrace(before)
        gc.enable()
    return count


@pytest.mark.pure
@of_each_kind
def test_an_exception_at_any_line_of_a_look_leaves_no_watch_deaf(
    kind: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def whole_life(strike: int) -> int:
        watched, hub = Watched(), Hub()
        monkeypatch.setattr(gevent, "get_hub", lambda: hub)
        monkeypatch.setattr(_clock, "monotonic", hub.now)
        watch = kind(watched)

        def live() -> None:
            while not watched.over:
                hub.go_on()

        lines = lines_of(live, strike)
        watch.settle()
        live()
        # Whoever was told closes the watch.
        watch.close()
        while hub.timers:
            hub.go_on()
        assert watched.over in (1, 2)
        return lines

    lines = whole_life(0)
    assert lines > 10
    for strike in range(1, lines + 1):
        whole_life(strike)


def test_a_late_hub_is_no_stall(watched: Watched) -> None:
    watch = StallWatch(gevent.get_hub(), 0.05, watched.expects_move, watched.end)
    watch.begin()
    # What the peer did meanwhile is seen in the same turn, and after the timer at that.
    moving = gevent.spawn_later(0.06, watch.move)
    burn(0.2)
    moving.join()
    assert not watched.over
    watch.close()


def test_all_that_is_delivered_already_is_told_at_once(watched: Any) -> None:
    watched.bytes = 1
    DeliveryWatch(gevent.get_hub(), watched, watched.end).begin()
    assert watched.over == 1


def test_a_connection_that_was_reset_delivers_nothing_more(watched: Any) -> None:
    watched.broken = True
    DeliveryWatch(gevent.get_hub(), watched, watched.end).begin()
    assert watched.over == 1


def test_a_delivery_that_goes_on_is_not_given_up(watched: Any) -> None:
    watched.bytes = 20
    watch = DeliveryWatch(gevent.get_hub(), watched, watched.end)
    watch.begin()
    wait_until(lambda: watched.over)
    assert watched.bytes == 0
