"""A thread that dies of an error: when `loop()` raises it, and what an `errh` that raises does."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from greenlet import GreenletExit

from helpers import LONG, turns
from ratchet import Ratchet, Thread, thread


class Odd(BaseException):
    """What only a signal handler, or a library that knows no better, raises."""


def fail(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize("error_type", [ValueError, Odd, gevent.Timeout, SystemExit, KeyboardInterrupt])
def test_what_errh_raises_comes_out_of_loop_and_is_not_reported_to_it_again(
    error_type: type[BaseException],
) -> None:
    calls: list[BaseException] = []
    raised_by_errh = error_type()

    def errh(error: BaseException, thread: Thread) -> None:
        calls.append(error)
        raise raised_by_errh

    died_of = ZeroDivisionError()
    kernel = Ratchet(errh=errh)
    kernel.attach(fail, died_of)
    with pytest.raises(error_type) as raised:
        kernel.loop()
    assert raised.value is raised_by_errh
    assert calls == [died_of]
    kernel.loop()
    assert calls == [died_of]
    assert kernel.num_threads == 0


def test_an_errh_that_is_killed_is_no_error() -> None:
    def errh(error: BaseException, thread: Thread) -> None:
        raise GreenletExit

    kernel = Ratchet(errh=errh)
    kernel.attach(fail, ZeroDivisionError())
    kernel.loop()
    assert kernel.num_threads == 0


def by_join(dying: Any) -> None:
    dying.join()


def by_get(dying: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        dying.get()


def by_wait_all(dying: Any) -> None:
    thread.wait_all([dying])


def by_gevent_wait(dying: Any) -> None:
    gevent.wait([dying])


def by_joinall(dying: Any) -> None:
    gevent.joinall([dying])


@pytest.mark.parametrize("wait", [by_join, by_get, by_wait_all, by_gevent_wait, by_joinall])
@pytest.mark.parametrize("waits_first", [True, False])
def test_loop_raises_before_a_thread_that_waited_for_the_dead_one_runs_on(
    wait: Callable[[Any], None], waits_first: bool
) -> None:
    ran_on: list[str] = []
    kernel = Ratchet()

    def waiter() -> None:
        while not dying:
            gevent.sleep(0)
        wait(dying[0])
        ran_on.append("the waiter")

    def die() -> None:
        turns(2)
        raise ZeroDivisionError

    dying: list[Thread] = []
    if waits_first:
        kernel.attach(waiter)
        dying.append(kernel.attach(die))
    else:
        dying.append(kernel.attach(die))
        kernel.attach(waiter)
    with pytest.raises(ZeroDivisionError):
        kernel.loop()
    assert ran_on == []
    kernel.loop()
    assert ran_on == ["the waiter"]


def test_of_a_chain_of_threads_that_die_of_each_other_loop_raises_one_after_the_other() -> None:
    kernel = Ratchet()
    threads: list[Thread] = []

    def die(number: int) -> None:
        if number:
            threads[number - 1].join()
        raise LookupError(number)

    for number in range(3):
        threads.append(kernel.attach(die, number))
    for number in range(3):
        with pytest.raises(LookupError) as raised:
            kernel.loop()
        assert raised.value.args == (number,)
    kernel.loop()


@pytest.mark.parametrize("error_type", [KeyboardInterrupt, Odd, ValueError])
@pytest.mark.parametrize("busy", [False, True])
def test_what_a_signal_handler_raises_comes_out_of_loop_and_the_scheduler_goes_on(
    error_type: type[BaseException], busy: bool
) -> None:
    came: list[int] = []

    def raise_it(number: int, frame: object) -> None:
        came.append(number)
        raise error_type

    def work() -> None:
        while not came:
            gevent.sleep(0 if busy else LONG)

    ended: list[str] = []
    kernel = Ratchet()
    before = signal.signal(signal.SIGALRM, raise_it)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        kernel.attach(work)
        with pytest.raises(error_type):
            kernel.loop()
            while sys.gettrace() is not None:
                # What strikes within the tracer that measures coverage is lost: once more.
                came.clear()
                signal.setitimer(signal.ITIMER_REAL, 0.02)
                kernel.attach(work)
                kernel.loop()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    kernel.close()
    kernel.attach(ended.append, "after it")
    kernel.loop()
    assert ended == ["after it"]
