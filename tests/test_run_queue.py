"""Threads that are woken together: their order, how long they may run, and what an exception leaves."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import pytest
from gevent.hub import get_hub

from helpers import burn, wait_until
from ratchet import build_info, bus, testing
from ratchet._loop import loop_of
from ratchet._run_queue import RunQueue, run_queue_of
from ratchet._wait import new_wait, suspend, waiting_on


@pytest.fixture
def queue() -> RunQueue:
    """That of this hub, in a turn whose slice of time has not begun: an earlier test may have used it up."""
    loop = loop_of(get_hub())
    before = loop.iteration
    wait_until(lambda: loop.iteration > before)
    return run_queue_of(get_hub())


class Sleepers:
    """Threads that sleep, and those that were woken, in order."""

    def __init__(self, count: int, then: Callable[[int], object] = lambda number: None) -> None:
        self.woken: list[int] = []
        self.waits = [new_wait() for _ in range(count)]
        self._then = then
        self.threads = [gevent.spawn(self._sleep, number) for number in range(count)]
        wait_until(lambda: all(map(waiting_on, self.threads)))

    def _sleep(self, number: int) -> None:
        suspend(self.waits[number], "sleep")
        self.woken.append(number)
        self._then(number)

    def wake(self, queue: RunQueue) -> None:
        for wait in self.waits:
            queue.wake(wait)


@pytest.mark.parametrize("count", [1, 2, 7, 8, 9, 10, 100])
def test_threads_run_in_the_order_in_which_they_were_woken(queue: RunQueue, count: int) -> None:
    sleepers = Sleepers(count)
    sleepers.wake(queue)
    assert sleepers.woken == []
    gevent.joinall(sleepers.threads, timeout=20)
    assert sleepers.woken == list(range(count))


def test_a_thread_that_was_killed_meanwhile_is_passed_over(queue: RunQueue) -> None:
    sleepers = Sleepers(5)
    sleepers.wake(queue)
    sleepers.threads[0].kill(block=False)
    sleepers.threads[3].kill(block=False)
    # They were woken first.
    gevent.joinall(sleepers.threads, timeout=20)
    assert sleepers.woken == [0, 1, 2, 3, 4]
    sleepers = Sleepers(5)
    for number in (1, 4):
        sleepers.threads[number].kill(block=False)
    sleepers.wake(queue)
    gevent.joinall(sleepers.threads, timeout=20)
    assert sleepers.woken == [0, 2, 3]


def test_what_is_woken_while_others_run_runs_after_them(queue: RunQueue) -> None:
    late = Sleepers(2)
    counts: list[int] = []

    def wake_others(number: int) -> None:
        if number == 0:
            late.wake(queue)
        counts.append(len(late.woken))

    early = Sleepers(3, wake_others)
    early.wake(queue)
    gevent.joinall([*early.threads, *late.threads], timeout=20)
    assert counts == [0, 0, 0]
    assert late.woken == [0, 1]


def test_the_hub_has_its_turn_while_many_threads_run(queue: RunQueue) -> None:
    sleepers = Sleepers(100, lambda number: burn(0.001))
    looks: list[float] = []
    timer = get_hub().loop.timer(0.001, 0.001)
    timer.start(lambda: looks.append(time.process_time()))
    sleepers.wake(queue)
    gevent.joinall(sleepers.threads, timeout=20)
    timer.close()
    # They take 100 ms in all, in slices of 10 ms and of the threads between two looks at the clock.
    assert len(looks) >= 4
    assert sleepers.woken == list(range(100))


def test_the_hub_has_its_turn_though_time_stands_still() -> None:
    with testing.virtual_time():
        queue = run_queue_of(get_hub())
        sleepers = Sleepers(20_000)
        before = loop_of(get_hub()).iteration
        sleepers.wake(queue)
        gevent.joinall(sleepers.threads)
        assert loop_of(get_hub()).iteration > before + 1
        assert sleepers.woken == list(range(20_000))


def test_each_hub_has_one_queue(queue: RunQueue) -> None:
    assert run_queue_of(get_hub()) is queue
    with testing.virtual_time():
        assert run_queue_of(get_hub()) is not queue


class Feeders:
    """Two threads that wake each other, again and again, until they are stopped."""

    def __init__(self, queue: RunQueue) -> None:
        self.rounds = 0
        self._queue = queue
        self._waits = [new_wait(), new_wait()]
        self._goes_on = True
        self.threads = [gevent.spawn(self._feed, number) for number in range(2)]
        wait_until(lambda: all(map(waiting_on, self.threads)))
        queue.wake(self._waits[0])

    def _feed(self, number: int) -> None:
        while self._goes_on:
            suspend(self._waits[number], "sleep")
            self._waits[number] = new_wait()
            self.rounds += 1
            self._queue.wake(self._waits[1 - number])

    def stop(self) -> None:
        self._goes_on = False
        gevent.joinall(self.threads, timeout=20)


def test_threads_that_feed_each_other_do_not_hold_the_hub(queue: RunQueue) -> None:
    feeders = Feeders(queue)
    for _ in range(20):
        before = feeders.rounds
        gevent.sleep(0)
        assert feeders.rounds - before <= 200
    feeders.stop()


@pytest.mark.skipif(not build_info().compiled, reason="in pure Python, each one goes by way of the hub")
def test_a_thread_that_goes_to_sleep_switches_to_the_next_one(queue: RunQueue) -> None:
    server, client = bus.new_local()
    worker = gevent.spawn(server.serve, str.upper)
    assert client.call("before", timeout=20) == "BEFORE"
    before = loop_of(get_hub()).iteration
    caller = gevent.spawn(lambda: [client.call("x", timeout=20) for _ in range(320)])
    assert caller.get(timeout=20) == ["X"] * 320
    # Each call would have two turns of its own.
    assert loop_of(get_hub()).iteration - before < 40
    server.close()
    worker.join(20)
