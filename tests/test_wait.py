"""How a greenlet is suspended and resumed, and what is left when it ends otherwise."""

from __future__ import annotations

import time
from decimal import Decimal
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from helpers import active_watchers, burn, in_os_thread, turns, wait_until
from ratchet import testing
from ratchet._wait import TIMED_OUT, Wait, WaitQueue, check_hub, check_timeout, new_wait, suspend, waiting_on
from ratchet.errors import WrongThread


def wake(wait: Wait, value: object) -> None:
    """Wake the thread that sleeps on `wait` on the next turn."""
    get_hub().loop.run_callback(wait.switch, value)


def test_suspend_returns_the_value_that_the_waiter_is_woken_with() -> None:
    wait = new_wait()
    wake(wait, "value")
    assert suspend(wait, "a call") == "value"


@pytest.mark.parametrize("value", [None, 0, False, ""])
def test_suspend_with_a_timeout_returns_a_false_value_as_it_is(value: object) -> None:
    wait = new_wait()
    wake(wait, value)
    assert suspend(wait, "a call", timeout=60) is value


def test_suspend_returns_timed_out_when_the_time_is_over() -> None:
    started = time.monotonic()
    assert suspend(new_wait(), "a call", timeout=0.02) is TIMED_OUT
    assert time.monotonic() - started >= 0.02


@pytest.mark.parametrize("timeout", [0, 0.0, -1, -0.5])
def test_a_time_that_is_over_already_is_zero(timeout: float) -> None:
    assert suspend(new_wait(), "a call", timeout=timeout) is TIMED_OUT


def test_a_timeout_counts_from_now_when_the_hub_is_late() -> None:
    gevent.sleep(0)
    burn(0.05)
    started = time.monotonic()
    assert suspend(new_wait(), "a call", timeout=0.03) is TIMED_OUT
    assert time.monotonic() - started >= 0.03


@pytest.mark.parametrize("timeout", [None, 60])
@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout(60), ValueError])
def test_an_error_comes_out_of_suspend_and_its_timer_is_gone(error: Any, timeout: float | None) -> None:
    before = active_watchers()
    raised = []

    def sleep() -> None:
        try:
            suspend(new_wait(), "a call", timeout=timeout)
        except BaseException as caught:
            raised.append(caught)

    sleeper = gevent.spawn(sleep)
    wait_until(lambda: waiting_on(sleeper))
    sleeper.kill(error)
    expected = error if isinstance(error, type) else type(error)
    assert [type(caught) for caught in raised] == [expected]
    wait_until(lambda: active_watchers() <= before)


def test_a_wake_that_comes_too_late_does_nothing() -> None:
    wait = new_wait()
    second = new_wait()
    trace = []

    def sleep() -> None:
        assert suspend(wait, "first", timeout=0) is TIMED_OUT
        trace.append(suspend(second, "second"))

    sleeper = gevent.spawn(sleep)
    wait_until(lambda: waiting_on(sleeper) == "second")
    wake(wait, "too late")
    turns()
    assert trace == []
    wake(second, "in time")
    sleeper.get()
    assert trace == ["in time"]


def test_waiting_on_names_the_call_and_its_subject() -> None:
    with_subject: gevent.Greenlet[..., object] = gevent.spawn(suspend, new_wait(), "recv", ["a bus"])
    without: gevent.Greenlet[..., object] = gevent.spawn(suspend, new_wait(), "pause", None, 60)
    turns()
    try:
        assert waiting_on(with_subject) == "recv on ['a bus']"
        assert waiting_on(without) == "pause"
    finally:
        gevent.killall([with_subject, without])


def test_waiting_on_names_the_function_of_any_other_wait() -> None:
    sleeper = gevent.spawn(gevent.sleep, 60)
    turns()
    try:
        assert waiting_on(sleeper) == "gevent.hub.sleep"
    finally:
        sleeper.kill()


def test_a_greenlet_that_is_not_suspended_waits_for_nothing() -> None:
    def look_at_itself() -> None:
        assert waiting_on(gevent.getcurrent()) is None

    looker = gevent.spawn(look_at_itself)
    assert waiting_on(looker) is None
    looker.get()
    assert waiting_on(looker) is None


class Queuers:
    """Threads in one `WaitQueue`, and what each got, in the order of waking."""

    def __init__(self, count: int, timeout: float | None = None) -> None:
        self.queue = WaitQueue()
        self.woken: list[tuple[int, bool]] = []
        self.threads = [gevent.spawn(self.wait, number, timeout) for number in range(count)]
        if timeout is None:
            wait_until(lambda: len(self.queue) == count)

    def wait(self, number: int, timeout: float | None) -> None:
        self.woken.append((number, self.queue.wait("a turn", self, timeout)))


def test_threads_in_a_wait_queue_are_woken_first_come_first_served() -> None:
    queuers = Queuers(3)
    for count in (1, 2, 3):
        get_hub().loop.run_callback(queuers.queue.wake_next)
        turns()
        assert len(queuers.woken) == count
    assert queuers.woken == [(0, True), (1, True), (2, True)]
    assert len(queuers.queue) == 0


def test_wake_next_runs_the_thread_before_it_returns() -> None:
    queuers = Queuers(2)
    seen = []

    def wake_and_look() -> None:
        queuers.queue.wake_next()
        seen.append(list(queuers.woken))
        queuers.queue.wake_next()

    get_hub().loop.run_callback(wake_and_look)
    gevent.joinall(queuers.threads, timeout=20)
    assert seen == [[(0, True)]]


def test_a_thread_that_times_out_leaves_the_wait_queue() -> None:
    queuers = Queuers(2, timeout=0.01)
    gevent.joinall(queuers.threads, timeout=20)
    assert sorted(queuers.woken) == [(0, False), (1, False)]
    assert len(queuers.queue) == 0


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout])
def test_a_thread_that_is_ended_in_a_wait_queue_leaves_it_and_disturbs_no_other(
    error: type[BaseException],
) -> None:
    queuers = Queuers(3)
    with pytest.MonkeyPatch.context() as patch:
        # gevent prints the errors of greenlets that are nobody's.
        patch.setattr(gevent.get_hub(), "exception_stream", None)
        queuers.threads[0].kill(error)
    assert len(queuers.queue) == 2
    get_hub().loop.run_callback(queuers.queue.wake_next)
    wait_until(lambda: queuers.woken)
    assert queuers.woken == [(1, True)]
    queuers.threads[2].kill()


def test_wake_all_wakes_each_thread_that_waits_now_and_no_later_one() -> None:
    queue = WaitQueue()
    woken = []

    def wait_again_and_again() -> None:
        while True:
            queue.wait("a turn", None)
            woken.append(gevent.getcurrent())

    threads = [gevent.spawn(wait_again_and_again) for _ in range(3)]
    wait_until(lambda: len(queue) == 3)
    get_hub().loop.run_callback(queue.wake_all)
    wait_until(lambda: len(woken) == 3)
    turns()
    assert woken == threads
    gevent.killall(threads)


def test_wake_all_goes_on_when_a_woken_thread_throws_another_out() -> None:
    queue = WaitQueue()
    ended = []

    def throw_out_the_second() -> None:
        queue.wait("a turn", None)
        # A bare throw() does not come back by itself: it ends in the hub.
        get_hub().loop.run_callback(gevent.getcurrent().switch)
        second.throw(gevent.GreenletExit)

    def wait() -> None:
        try:
            queue.wait("a turn", None)
        finally:
            ended.append(gevent.getcurrent())

    first = gevent.spawn(throw_out_the_second)
    second, third = gevent.spawn(wait), gevent.spawn(wait)
    wait_until(lambda: len(queue) == 3)
    get_hub().loop.run_callback(queue.wake_all)
    gevent.joinall([first, second, third], timeout=20)
    assert ended == [second, third]
    assert len(queue) == 0


def test_check_hub_lets_the_own_os_thread_pass_and_refuses_another() -> None:
    hub = get_hub()
    check_hub(hub, "the bus")
    error = in_os_thread(lambda: check_hub(hub, "the bus"))
    assert type(error) is WrongThread
    assert "this str belongs to another OS thread" in str(error)


def test_check_hub_says_so_when_the_hub_was_put_aside_by_virtual_time() -> None:
    hub = gevent.get_hub()
    with testing.virtual_time():
        with pytest.raises(WrongThread, match="this str belongs to another gevent hub of this OS thread"):
            check_hub(hub, "the bus")


def test_check_hub_says_so_when_the_hub_has_been_destroyed() -> None:
    hubs = []
    assert in_os_thread(lambda: hubs.append(get_hub())) is None
    with pytest.raises(WrongThread, match="this str belongs to a gevent hub that has been destroyed"):
        check_hub(hubs[0], "the bus")


@pytest.mark.parametrize("timeout", [None, 0, 1, -1, 0.5, -0.5, float("inf")])
def test_a_number_of_seconds_is_a_timeout(timeout: float | None) -> None:
    before = active_watchers()
    check_timeout(timeout)
    assert active_watchers() == before


@pytest.mark.parametrize("timeout", ["1", True, False, b"1", [], 1j, Decimal(1)])
def test_what_is_no_number_of_seconds_is_a_type_error(timeout: Any) -> None:
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None, not"):
        check_timeout(timeout)


class Seconds(float):
    """A number of its own type."""


@pytest.mark.parametrize("timeout", [float("nan"), Seconds("nan")])
def test_not_a_number_is_a_value_error(timeout: float) -> None:
    with pytest.raises(ValueError, match="patience must be a number of seconds or None, not"):
        check_timeout(timeout, "patience")


def test_a_number_of_a_type_of_its_own_is_a_timeout() -> None:
    check_timeout(Seconds(1))
    assert suspend(new_wait(), "a call", timeout=Seconds(0)) is TIMED_OUT
