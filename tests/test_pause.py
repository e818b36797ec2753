"""Pausing, and waking what is paused."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from callers import Caller
from helpers import in_os_thread, turns, wait_until
from ratchet import NotPaused, WrongThread, _pause, thread


@pytest.mark.parametrize(
    ("values", "returned"),
    [
        ((), None),
        ((1,), 1),
        ((1, "two"), (1, "two")),
        ((None,), None),
        ((0,), 0),
        ((False,), False),
        (("",), ""),
        (((),), ()),
        (((1, 2),), (1, 2)),
        ((None, None), (None, None)),
    ],
)
def test_pause_returns_what_unpause_passes(values: tuple[object, ...], returned: object) -> None:
    paused = Caller(thread.pause).started()
    thread.unpause(paused.thread, *values)
    assert paused.thread in gevent.joinall([paused.thread])
    assert (type(paused.outcome), paused.outcome) == (type(returned), returned)


def test_unpause_wakes_on_the_next_turn_and_not_now() -> None:
    paused = Caller(thread.pause).started()
    thread.unpause(paused.thread, "value")
    assert paused.outcome is None
    turns(1)
    assert paused.outcome == "value"


def test_unpause_wakes_the_main_greenlet_too() -> None:
    gevent.spawn(thread.unpause, thread.current(), "value")
    assert thread.pause() == "value"


def test_a_thread_may_pause_again_and_again() -> None:
    got: list[object] = []

    def pause_thrice() -> None:
        for _ in range(3):
            got.append(thread.pause())

    paused = Caller(pause_thrice)
    for number in range(3):
        wait_until(lambda: paused.thread in _pause.paused)
        thread.unpause(paused.thread, number)
    paused.result()
    assert got == [0, 1, 2]


def test_unpause_of_a_thread_that_is_not_paused_is_an_error() -> None:
    unstarted, ended = gevent.spawn(turns), gevent.spawn(turns)
    ended.join()
    sleeping = Caller(lambda: thread.timer(60)).started()
    for not_paused in (unstarted, ended, sleeping.thread, thread.current()):
        with pytest.raises(NotPaused, match="is not paused"):
            thread.unpause(not_paused)
    thread.kill(sleeping.thread)


def test_a_second_unpause_is_an_error_and_the_first_one_holds() -> None:
    paused = Caller(thread.pause).started()
    thread.unpause(paused.thread, "first")
    with pytest.raises(NotPaused):
        thread.unpause(paused.thread, "second")
    assert paused.result() == "first"


@pytest.mark.parametrize("wrong", [None, 1, "thread", object()])
def test_unpause_of_what_is_no_thread_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="must be a thread"):
        thread.unpause(wrong)


def test_unpause_of_a_killed_thread_is_an_error() -> None:
    paused = Caller(thread.pause).started()
    thread.kill(paused.thread)
    with pytest.raises(NotPaused):
        thread.unpause(paused.thread)
    assert isinstance(paused.outcome, gevent.GreenletExit)


def test_a_thread_killed_between_unpause_and_its_wake_leaves_nothing() -> None:
    trace: list[object] = []

    def pause_twice() -> None:
        trace.append(thread.pause())
        trace.append(thread.pause())

    paused = Caller(pause_twice).started()
    thread.unpause(paused.thread, "value")
    paused.thread.kill(block=False)
    assert isinstance(paused.result(), gevent.GreenletExit)
    # It was woken first, then killed where it waited next.
    assert trace == ["value"]


def test_a_thread_unpaused_between_its_kill_and_its_end_leaves_nothing() -> None:
    trace: list[object] = []

    def pause_and_clean_up() -> None:
        try:
            thread.pause()
        finally:
            trace.append(thread.pause())

    paused = Caller(pause_and_clean_up).started()
    paused.thread.kill(block=False)
    thread.unpause(paused.thread, "too late")
    wait_until(lambda: paused.thread in _pause.paused)
    turns()
    assert trace == []
    thread.unpause(paused.thread, "in time")
    assert isinstance(paused.result(), gevent.GreenletExit)
    assert trace == ["in time"]


def test_unpause_from_another_os_thread_is_a_clear_error_and_the_thread_stays_paused() -> None:
    paused = Caller(thread.pause).started()
    error = in_os_thread(lambda: thread.unpause(paused.thread))
    assert type(error) is WrongThread
    assert "belongs to another OS thread" in str(error)
    thread.unpause(paused.thread, "value")
    assert paused.result() == "value"
