"""Alarms: when they ring, in whom, and when they do not."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

import ratchet
from callers import Caller
from helpers import LONG, active_watchers, burn, in_os_thread, turns, wait_until
from ratchet import Alarm, Ratchet, _pause, thread


@pytest.mark.parametrize("owner", [Ratchet, lambda: None])
def test_an_alarm_rings_in_its_thread_where_that_blocks(owner: Callable[[], Ratchet | None]) -> None:
    def call() -> None:
        alarms.append(thread.alarm(0.02))
        thread.pause()

    alarms: list[Alarm] = []
    started = time.monotonic()
    caller = Caller(call, owner())
    assert caller.result() is alarms[0]
    assert time.monotonic() - started >= 0.02


def test_an_alarm_rings_in_the_main_greenlet_too() -> None:
    alarm = thread.alarm(0.01)
    with pytest.raises(Alarm) as caught:
        thread.pause()
    assert caught.value is alarm


def test_an_alarm_is_a_timeout_with_its_seconds() -> None:
    with thread.alarm(1.5) as alarm:
        assert type(alarm) is Alarm
        assert isinstance(alarm, gevent.Timeout)
        assert alarm.seconds == 1.5
        assert "1.5 seconds" in str(alarm)


@pytest.mark.parametrize("seconds", [0, 0.0, -1])
def test_an_alarm_whose_time_is_over_rings_at_the_next_wait(seconds: float) -> None:
    trace: list[str] = []

    def call() -> None:
        thread.alarm(seconds)
        trace.append("goes on")
        thread.pause()

    assert type(Caller(call).result()) is Alarm
    assert trace == ["goes on"]


def test_an_alarm_counts_from_now_when_the_hub_is_late() -> None:
    gevent.sleep(0)
    burn(0.05)
    started = time.monotonic()
    thread.alarm(0.03)
    with pytest.raises(Alarm):
        thread.pause()
    assert time.monotonic() - started >= 0.03


def test_a_cancelled_alarm_does_not_ring_and_does_not_hold_loop_up() -> None:
    before = active_watchers()
    alarm = thread.alarm(2 * LONG)
    alarm.cancel()
    alarm.cancel()
    assert active_watchers() == before
    short = thread.alarm(0)
    short.cancel()
    thread.timer(0.01)
    assert active_watchers() <= before


def test_leaving_the_block_of_an_alarm_cancels_it() -> None:
    before = active_watchers()
    with thread.alarm(0.01):
        pass
    assert active_watchers() == before
    thread.timer(0.02)
    with pytest.raises(KeyError), thread.alarm(2 * LONG):
        raise KeyError
    assert active_watchers() <= before


def test_the_block_of_an_alarm_does_not_swallow_it() -> None:
    with pytest.raises(Alarm), thread.alarm(0.01):
        thread.pause()


def test_entering_the_block_of_an_alarm_that_was_cancelled_or_has_rung_does_not_start_it_again() -> None:
    cancelled, rung = thread.alarm(0), thread.alarm(0)
    cancelled.cancel()
    with pytest.raises(Alarm):
        thread.pause()
    for alarm in (cancelled, rung):
        before = active_watchers()
        with alarm:
            assert active_watchers() == before
            thread.timer(0.01)


@pytest.mark.parametrize("seconds", [(0, 2 * LONG), (2 * LONG, 0)])
def test_of_two_alarms_in_one_thread_the_one_whose_time_has_come_rings(seconds: tuple[float, float]) -> None:
    with thread.alarm(seconds[0]) as outer, thread.alarm(seconds[1]) as inner:
        with pytest.raises(Alarm) as caught:
            thread.pause()
    assert caught.value is (outer if seconds[0] == 0 else inner)


def test_the_callback_of_an_alarm_is_called_first_and_may_block() -> None:
    trace: list[object] = []

    def ring() -> None:
        trace.append("callback")
        thread.timer(0.01)
        trace.append(thread.current() is not caller.thread)

    def call() -> None:
        try:
            with thread.alarm(0.01, ring):
                thread.pause()
        finally:
            trace.append("raised")

    caller = Caller(call, Ratchet())
    assert type(caller.result()) is Alarm
    assert trace == ["callback", True, "raised"]


@pytest.mark.parametrize("error", [KeyError("gone"), gevent.Timeout(1)])
def test_an_error_of_the_callback_is_raised_in_the_alarms_place(error: BaseException) -> None:
    def fail() -> None:
        raise error

    def call() -> None:
        with thread.alarm(0, fail):
            thread.pause()

    kernel = Ratchet()
    caller = Caller(call, kernel)
    kernel.loop()
    assert caller.result() is error


def test_an_alarm_that_is_cancelled_while_its_callback_runs_does_not_ring() -> None:
    trace: list[str] = []

    def call() -> str:
        alarm = thread.alarm(0, lambda: trace.append(str(thread.pause())))
        wait_until(lambda: _pause.paused)
        alarm.cancel()
        thread.unpause(next(iter(_pause.paused)), "callback goes on")
        turns()
        return "not disturbed"

    assert Caller(call).result() == "not disturbed"
    assert trace == ["callback goes on"]


def test_an_alarm_does_not_ring_in_a_thread_that_ended_while_its_callback_ran() -> None:
    trace: list[str] = []

    def ring() -> None:
        trace.append("callback")
        turns()

    def call() -> None:
        thread.alarm(0, ring)
        # Turn by turn, to end while the callback still runs.
        while not trace:
            turns(1)

    caller = Caller(call)
    assert caller.result() is None
    turns(10)
    assert trace == ["callback"]


@pytest.mark.parametrize("callback", [1, "callback", object()])
def test_a_callback_that_cannot_be_called_is_refused(callback: Any) -> None:
    before = active_watchers()
    with pytest.raises(TypeError, match="callback must be a callable or None"):
        thread.alarm(1, callback)
    assert active_watchers() == before


@pytest.mark.parametrize("callback", [None, turns])
def test_an_alarm_of_a_thread_that_ended_before_does_not_hold_loop_up(
    callback: Callable[[], object] | None,
) -> None:
    before = active_watchers()
    kernel = Ratchet()
    kernel.attach(thread.alarm, 2 * LONG, callback)
    started = time.monotonic()
    kernel.loop()
    wait_until(lambda: active_watchers() <= before)
    assert time.monotonic() - started < LONG


def test_an_alarm_does_not_keep_a_deadlock_from_being_found_when_its_thread_has_ended() -> None:
    kernel = Ratchet()
    kernel.attach(thread.alarm, 2 * LONG)
    kernel.attach(thread.pause)
    with pytest.raises(ratchet.DeadlockError):
        kernel.loop()
    kernel.close()


@pytest.mark.parametrize("destroy_loop", [False, True])
def test_an_alarm_whose_hub_has_been_destroyed_may_be_cancelled(destroy_loop: bool) -> None:
    def run() -> None:
        alarm = thread.alarm(60)
        gevent.get_hub().destroy(destroy_loop)
        alarm.cancel()
        alarm.cancel()
        assert not alarm.pending

    assert in_os_thread(run) is None
