"""`virtual_time`: what is exact in it, and what is there again after it."""

from __future__ import annotations

import gc
import logging
import os
import queue
import random
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.lock import Semaphore
from gevent.queue import Channel, Empty, Queue

import ratchet
from helpers import in_os_thread, run_program, wait_until
from ratchet import _clock, _log, bus, testing, thread
from ratchet._chance import chance
from ratchet.testing import (
    _descriptors,
    _loop,
    _loop_interface,
    _network,
    _outside,
    _owner,
    _places,
    _repeatable,
    _simulate,
    _time,
    _time_functions,
    _undo,
)
from ratchet.testing._loop import VirtualLoop

TICKS = 1e-4  # seconds; more than what is read from the clock moves it by

TIME = ("time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep")


def state() -> list[object]:
    """What a block must give back."""
    functions = [getattr(time, name) for name in TIME]
    hub = gevent.get_hub()
    return [hub, hub.switch.__name__, *functions, _clock.monotonic, _clock.wall_time]


@pytest.fixture(autouse=True)
def everything_is_given_back() -> Any:
    before = state()
    yield
    assert state() == before


def wait_for_timeout() -> None:
    with pytest.raises(gevent.Timeout), gevent.Timeout(3600):
        Event().wait()


def wait_for_queue() -> None:
    with pytest.raises(Empty):
        Queue().get(timeout=3600)


@pytest.mark.parametrize(
    "wait",
    [
        lambda: gevent.sleep(3600),
        lambda: time.sleep(3600),
        lambda: thread.timer(3600),
        lambda: Event().wait(3600),
        lambda: Semaphore(0).acquire(timeout=3600),
        lambda: gevent.spawn_later(3600, int).join(),
        wait_for_timeout,
        wait_for_queue,
    ],
)
def test_an_hour_passes_at_once(wait: Callable[[], object]) -> None:
    began = time.perf_counter()
    with testing.virtual_time() as clock:
        wall, monotonic, performance = time.time(), time.monotonic(), time.perf_counter()
        wait()
        assert clock.now == pytest.approx(3600, abs=TICKS)
        assert time.time() - wall == pytest.approx(3600, abs=TICKS)
        assert time.monotonic() - monotonic == pytest.approx(3600, abs=TICKS)
        assert time.perf_counter() - performance == pytest.approx(3600, abs=TICKS)
    assert time.perf_counter() - began < 10


def test_a_sum_of_waits_is_exact() -> None:
    with testing.virtual_time() as clock:
        for _ in range(10):
            gevent.sleep(0.1)
        assert clock.now == 1.0


def test_reading_the_time_moves_it_by_a_microsecond() -> None:
    with testing.virtual_time() as clock:
        for name in TIME[:-1]:
            before = clock.now
            getattr(time, name)()
            assert clock.now - before == pytest.approx(1e-6)
        end = time.monotonic() + 0.01
        while time.monotonic() < end:
            pass


def test_time_goes_on_from_the_real_one_without_a_seed_and_from_a_fixed_one_with_it() -> None:
    real = time.time()
    with testing.virtual_time():
        assert real <= time.time() < real + 60
    with testing.virtual_time(seed=1):
        first = time.time(), time.monotonic(), time.perf_counter()
    with testing.virtual_time(seed=2):
        assert (time.time(), time.monotonic(), time.perf_counter()) == first


def test_advance_runs_what_falls_due_meanwhile() -> None:
    ran = []
    with testing.virtual_time() as clock:

        def ring(seconds: float) -> None:
            gevent.sleep(seconds)
            gevent.sleep(0)
            ran.append(clock.now)

        for seconds in (1, 2, 3, 4):
            gevent.spawn(ring, seconds)
        clock.advance(3)
        assert ran == [1.0, 2.0, 3.0]
        assert clock.now == 3.0
        clock.advance(0)
        assert len(ran) == 3


@pytest.mark.uncounted  # hundreds of thousands of turns
@pytest.mark.parametrize(("pause", "seed"), [(0, None), (0, 1), (1e-12, None)])
def test_advance_returns_beside_a_thread_that_can_always_run(pause: float, seed: int | None) -> None:
    ran = []

    def ring(seconds: float) -> None:
        gevent.sleep(seconds)
        gevent.sleep(0)
        ran.append(clock.now)

    def spin() -> None:
        while True:
            gevent.sleep(pause)

    with testing.virtual_time(seed) as clock:
        clock.loop.max_steps = 120_000
        gevent.spawn(spin)
        clock.advance(0)
        assert clock.now == 0
        for seconds in (1, 2, 3, 4):
            gevent.spawn(ring, seconds)
        clock.advance(3)
        assert (ran, clock.now) == ([1.0, 2.0, 3.0], 3.0)
        clock.advance(0.5)
        assert clock.now == 3.5
        # Where nobody asks for it, time stands still beside such a thread.
        with pytest.raises(testing.Livelock, match=r"at 3\.5"):
            gevent.sleep(1)


def test_advance_lets_threads_do_as_much_as_they_like_at_an_instant() -> None:
    done = []

    def work(steps: int) -> None:
        with gevent.Timeout(2):
            for _ in range(steps):
                gevent.sleep(0)
        done.append(clock.now)

    with testing.virtual_time() as clock:
        for _ in range(10):
            gevent.spawn(work, 1000)
            gevent.spawn_later(1, work, 5000)
        clock.advance(3)
    assert done == [*[0.0] * 10, *[1.0] * 10]


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_advance_refuses_what_is_no_span(seconds: float) -> None:
    with testing.virtual_time() as clock, pytest.raises(ValueError, match="seconds must be"):
        clock.advance(seconds)


def test_bad_arguments_are_named() -> None:
    wrong: Any = "1"
    with pytest.raises(TypeError, match="seed must be an int or None, not '1'"), testing.virtual_time(wrong):
        pass
    with pytest.raises(ValueError, match=r"threshold .* not -1"), testing.virtual_time(threshold=-1):
        pass
    with testing.virtual_time() as clock, pytest.raises(TypeError, match=r"seconds .* not '1'"):
        clock.advance(wrong)
    with pytest.raises(RuntimeError, match="in the block of its clock"):
        clock.advance(1)


def test_a_seed_shuffles_what_can_run_and_repeats_it() -> None:
    def order(seed: int | None) -> list[int]:
        ran: list[int] = []
        with testing.virtual_time(seed):
            for number in range(8):
                gevent.spawn(ran.append, number)
                gevent.spawn_later(5, ran.append, 10 + number)
            gevent.sleep(10)
        return ran

    usual = order(None)
    assert usual == [*range(8), *range(10, 18)]
    orders = [order(seed) for seed in range(20)]
    assert orders == [order(seed) for seed in range(20)]
    assert len({tuple(ran) for ran in orders}) > 15
    for ran in orders:
        assert sorted(ran[:8]) == usual[:8]
        assert sorted(ran[8:]) == usual[8:]


def test_blocks_are_nested() -> None:
    with testing.virtual_time() as outer:
        gevent.sleep(5)
        with testing.virtual_time() as inner:
            gevent.sleep(100)
            assert inner.now == 100.0
        assert outer.now < 5.1
        gevent.sleep(5)
        assert outer.now == pytest.approx(10, abs=TICKS)


def test_a_block_that_is_left_takes_those_within_it_along() -> None:
    outer, inner, innermost = testing.virtual_time(), testing.virtual_time(), testing.virtual_time()
    before = state()
    outer.__enter__()
    inner.__enter__()
    innermost.__enter__()
    outer.__exit__(None, None, None)
    assert state() == before
    for late in (inner, innermost):
        with pytest.raises(RuntimeError, match="before the block around it"):
            late.__exit__(None, None, None)
        assert state() == before


def test_a_block_is_left_where_it_was_entered() -> None:
    around, block = testing.virtual_time(), testing.virtual_time()
    around.__enter__()
    block.__enter__()
    hub = gevent.get_hub()

    def leave() -> None:
        with pytest.raises(RuntimeError, match="OS thread that has entered it"):
            block.__exit__(None, None, None)
        gevent.sleep(0.001)

    assert in_os_thread(leave) is None
    assert gevent.get_hub() is hub
    gevent.sleep(1)

    for wrong in (testing.virtual_time(), testing.virtual_time()):
        wrong.__enter__()
        leaving = gevent.spawn(wrong.__exit__, None, None, None)
        leaving.join()
        assert isinstance(leaving.exception, RuntimeError)
        assert "greenlet of its own" in str(leaving.exception)
        gevent.sleep(1)

    # What could not be left before goes with the one around it.
    around.__exit__(None, None, None)


def test_another_os_thread_has_its_own_time() -> None:
    def own_block() -> None:
        with testing.virtual_time() as clock:
            gevent.sleep(1000)
            assert clock.now == 1000.0

    def no_block() -> None:
        assert abs(time.monotonic() - real()) < 60

    real = time.monotonic
    with testing.virtual_time() as clock:
        gevent.sleep(10_000)
        assert in_os_thread(own_block) is None
        assert in_os_thread(no_block) is None
        assert clock.now == 10_000.0


def test_time_stands_still_while_an_os_thread_works() -> None:
    finish = threading.Event()
    with testing.virtual_time() as clock:
        gevent.spawn_later(1, finish.set)
        threading.Timer(0.05, finish.set).start()
        gevent.get_hub().threadpool.apply(finish.wait)
        assert clock.now < 1


def test_another_os_thread_wakes_the_loop() -> None:
    ours, theirs = socket.socketpair()
    woken = Event()
    with ours, theirs, testing.virtual_time():
        # The socket is what the loop waits for, in real time.
        waiting = gevent.spawn(gevent.socket.wait_read, ours.fileno())
        loop: Any = gevent.get_hub().loop
        threading.Timer(0.05, loop.run_callback_threadsafe, (woken.set,)).start()
        woken.wait()
        assert not waiting.ready()


def test_nothing_left_to_run_is_a_deadlock() -> None:
    with testing.virtual_time():
        with pytest.raises(gevent.exceptions.LoopExit):
            Event().wait()
        with pytest.raises(ratchet.DeadlockError), ratchet.Ratchet(thread.pause):
            pass
        gevent.sleep(1)


def test_a_virtual_descriptor_that_nobody_can_make_ready_is_a_deadlock() -> None:
    with testing.virtual_time() as clock:
        fd = clock.loop.open_descriptor(lambda: 0)
        with pytest.raises(gevent.exceptions.LoopExit):
            gevent.socket.wait_read(fd)
        clock.loop.close_descriptor(fd)


def test_a_livelock_is_found() -> None:
    with testing.virtual_time() as clock:
        clock.loop.max_steps = 5000
        for _ in range(2):
            with pytest.raises(testing.Livelock, match="more than"):
                while True:
                    gevent.sleep(0)
        gevent.sleep(1)


def test_what_still_runs_is_ended() -> None:
    ended = []

    def run() -> None:
        try:
            gevent.sleep(1e6)
        finally:
            gevent.sleep(60)
            ended.append("it")

    def stubborn() -> None:
        for _ in range(3):
            try:
                gevent.sleep(1e6)
            except gevent.GreenletExit:
                pass
        ended.append("the stubborn one")

    with testing.virtual_time() as clock:
        gevent.spawn(run)
        gevent.spawn(stubborn)
        server, client = bus.new_local()
        gevent.sleep(1)
    assert sorted(ended) == ["it", "the stubborn one"]
    assert clock.loop.destroyed
    with pytest.raises(ratchet.WrongThread, match="destroyed"):
        client.cast("x")
    assert server


def an_event() -> Callable[[], object]:
    event = Event()
    gevent.spawn(event.set)
    event.wait()
    event.clear()
    return event.wait


def a_semaphore() -> Callable[[], object]:
    semaphore = Semaphore(0)
    gevent.spawn(semaphore.release)
    semaphore.acquire()
    return lambda: semaphore.acquire(timeout=5)


def a_greenlet() -> Callable[[], object]:
    return gevent.spawn(int).join


def a_socket() -> Callable[[], object]:
    one, other = gevent.socket.socketpair()

    def receive() -> None:
        with one, other:
            one.recv(1)

    return receive


@pytest.mark.parametrize("make", [an_event, a_semaphore, a_greenlet, a_socket])
def test_to_wait_for_what_was_made_outside_is_refused(make: Callable[[], Callable[[], object]]) -> None:
    wait = make()
    outside = gevent.spawn(gevent.sleep, 0)
    with testing.virtual_time(), testing.virtual_time():
        with pytest.raises(ratchet.WrongThread, match="made outside of the block on virtual time"):
            wait()
        gevent.sleep(1)
        assert not outside.ready()
        inside = make()
        with testing.virtual_time(), pytest.raises(ratchet.WrongThread, match="made outside"):
            inside()
    outside.join()


def a_queue() -> tuple[Callable[[], object], Callable[[], object], str]:
    numbers: Queue[int] = Queue()
    return lambda: numbers.put(1), numbers.get, "Queue.*unlock"


def a_channel() -> tuple[Callable[[], object], Callable[[], object], str]:
    channel: Channel[int] = Channel()
    return lambda: channel.put(1), channel.get, "Channel.*unlock"


def an_endless_one() -> tuple[Callable[[], object], Callable[[], object], str]:
    endless = gevent.spawn(gevent.sleep, 1000)
    gevent.sleep(0)
    return int, endless.kill, r"_kill.*args=\(<Greenlet"


@pytest.mark.parametrize("make", [a_queue, a_channel, an_endless_one])
def test_what_was_made_outside_is_named_when_nothing_can_run(
    make: Callable[[], tuple[Callable[[], object], Callable[[], object], str]],
) -> None:
    tell, wait, name = make()
    gevent.get_hub().loop.run_callback(str)
    with pytest.raises(gevent.exceptions.LoopExit) as raised, testing.virtual_time():
        gevent.spawn_later(1, tell)
        wait()
    (note,) = raised.value.__notes__
    head, line = note.splitlines()
    assert head == "what was made outside of the block on virtual time waits:"
    assert re.search(name, line)
    gevent.sleep(0)
    with pytest.raises(gevent.exceptions.LoopExit) as raised, testing.virtual_time():
        Event().wait()
    assert not hasattr(raised.value, "__notes__")


def test_what_was_made_inside_may_be_told_from_outside_of_a_block_within() -> None:
    with testing.virtual_time():
        numbers: Queue[int] = Queue()
        waiting = gevent.spawn(numbers.get)
        gevent.sleep(0)
        with testing.virtual_time():
            numbers.put(1)
        assert waiting.get() == 1


def test_the_end_of_a_greenlet_is_told_before_the_block_is_left() -> None:
    told: list[str] = []
    with testing.virtual_time():
        endless = gevent.spawn(gevent.sleep, 1000)
        endless.rawlink(lambda _: told.append("endless"))
        brief = gevent.spawn(int)
        brief.rawlink(lambda _: told.append("brief"))
        gevent.get_hub().loop.run_callback(told.append, "later")
    assert sorted(told) == ["brief", "endless", "later"]


def test_a_raw_greenlet_is_ended_too() -> None:
    ended = []

    def run() -> None:
        try:
            gevent.sleep(1e6)
        finally:
            gevent.sleep(60)
            ended.append(clock.now)

    def begin_more() -> None:
        try:
            gevent.sleep(1e6)
        finally:
            gevent.spawn_raw(run)

    before = state()
    with testing.virtual_time() as clock:
        gevent.spawn_raw(run)
        gevent.spawn_raw(lambda seconds: gevent.sleep(seconds), seconds=2)
        gevent.spawn_raw(begin_more)
        gevent.sleep(10)
    assert ended == [70.0, pytest.approx(130, abs=10)]
    assert state() == before


def test_signals_are_given_back_with_the_block(hits: list[int]) -> None:
    came: list[int] = []
    with testing.virtual_time():
        watching = gevent.signal_handler(signal.SIGUSR1, came.append, 1)
        signal.raise_signal(signal.SIGUSR1)
        gevent.sleep(1)
        assert (came, hits) == ([1], [])
    signal.raise_signal(signal.SIGUSR1)
    assert (came, hits) == ([1], [signal.SIGUSR1])
    watching.cancel()


@pytest.mark.uncounted
@pytest.mark.parametrize("seconds", [0, 1])
@pytest.mark.parametrize("spawn", [gevent.spawn, gevent.spawn_raw])
def test_what_cannot_be_killed_is_named(seconds: float, spawn: Callable[..., object]) -> None:
    def undying() -> None:
        while True:
            try:
                gevent.sleep(seconds)
            except gevent.GreenletExit:
                pass

    with pytest.raises(testing.Livelock, match=r"cannot be killed:(.|\n)*undying"), testing.virtual_time():
        spawn(undying)
        gevent.sleep(0)


def hour(server: Any, client: Any) -> list[object]:
    """900 calls in about an hour, of which a third is late."""
    outcomes: list[object] = []

    def handle(number: int) -> int:
        thread.timer(1.0)
        return number

    with ratchet.Ratchet() as kernel, server, client:
        kernel.attach_background(server.serve, handle, workers=4)
        for number in range(900):
            try:
                outcomes.append(client.call(number, timeout=0.5 if number % 3 == 0 else 5))
            except ratchet.BusTimeout:
                outcomes.append(None)
            thread.timer(3.0)
    return outcomes


def sockets(address: str) -> tuple[Any, Any]:
    server = bus.listen(address, codec=bus.codecs.json)
    return server, bus.connect(server.address, codec=bus.codecs.json)


@pytest.mark.uncounted
@pytest.mark.parametrize(("kind", "seconds"), [("local", 0.1), ("tcp", 0.3), ("unix", 0.3)])
def test_an_hour_of_calls_takes_no_time(kind: str, seconds: float, tmp_path: Path) -> None:
    spent = []
    for _ in range(3):
        began = time.process_time()
        with testing.virtual_time() as clock:
            address = {"local": "", "tcp": "127.0.0.1:0", "unix": f"unix:{tmp_path}/bus"}[kind]
            outcomes = hour(*(sockets(address) if address else bus.new_local()))
            assert clock.now > 3400
        spent.append(time.process_time() - began)
        assert outcomes == [None if number % 3 == 0 else number for number in range(900)]
        # As measured, and as much again for a machine that is busy or measures what is covered.
        if spent[-1] < 4 * seconds:
            return
    pytest.fail(f"it took {spent} s")


def test_an_error_leaves_the_block_as_it_is() -> None:
    with pytest.raises(KeyError, match="it"), testing.virtual_time():
        gevent.spawn(gevent.sleep, 1000)
        raise KeyError("it")


def test_a_hub_that_there_was_not_is_not_there_again() -> None:
    program = run_program(
        """
        import gevent
        from gevent._hub_local import get_hub_if_exists
        from ratchet import testing
        with testing.virtual_time():
            gevent.sleep(1000)
        assert get_hub_if_exists() is None
        gevent.sleep(0.001)
        """
    )
    assert (program.returncode, program.stderr) == (0, "")


def test_a_program_that_is_monkey_patched_waits_on_virtual_time() -> None:
    program = run_program(
        """
        from gevent import monkey
        monkey.patch_all()
        import queue, threading, time
        from ratchet import testing

        def notify():
            for _ in range(3):
                time.sleep(1000)
                with condition:
                    condition.notify_all()

        def get():
            try:
                queue.Queue().get(timeout=3600)
            except queue.Empty:
                pass

        def meet():
            try:
                threading.Barrier(2).wait(3600)
            except threading.BrokenBarrierError:
                pass

        def sleep():
            sleeper = threading.Thread(target=time.sleep, args=(5000,))
            sleeper.start()
            sleeper.join(3600)

        bound = threading._time, queue.time
        with testing.virtual_time() as clock:
            condition = threading.Condition()
            for wait in (
                lambda: condition.wait_for(bool, timeout=3600),
                get,
                meet,
                lambda: threading.Event().wait(3600),
                lambda: threading.Semaphore(0).acquire(timeout=3600),
                sleep,
            ):
                notifier = threading.Thread(target=notify)
                notifier.start()
                began = clock.now
                with condition:
                    wait()
                assert abs(clock.now - began - 3600) < 0.001, clock.now - began
                notifier.join()
            time.sleep(5000)
        assert bound == (threading._time, queue.time)
        """
    )
    assert (program.returncode, program.stderr) == (0, "")


def test_what_waits_for_an_os_thread_waits_in_real_time() -> None:
    with testing.virtual_time() as clock:
        condition = threading.Condition()
        with condition:
            assert not condition.wait_for(bool, timeout=0.01)
        with pytest.raises(queue.Empty):
            queue.Queue[int]().get(timeout=0.01)
        assert clock.now < 0.01


def wait_in_a_block() -> None:
    with testing.virtual_time():
        gevent.spawn(gevent.sleep, 10)
        time.sleep(1)


def leave_in_the_wrong_order() -> None:
    outer, inner = testing.virtual_time(), testing.virtual_time()
    try:
        outer.__enter__()
        gevent.spawn(gevent.sleep, 10)
        inner.__enter__()
    finally:
        try:
            outer.__exit__(None, None, None)
        finally:
            with suppress(RuntimeError):
                inner.__exit__(None, None, None)


def simulate_something() -> None:
    def main(world: testing.World) -> None:
        world.process("sleeper", gevent.sleep, 10)
        gevent.sleep(1)

    testing.simulate(main, seeds=1)


def everything() -> list[object]:
    """What is given back, and what is shared by all."""
    chances = random.getstate(), chance.getstate()
    logs = _log.later, logging.getLogRecordFactory()
    return [*state(), *chances, *logs, gc.isenabled(), os.listdir("/proc/self/fd")]


STEP = 3
"""One line of so many is struck: each time others, so that in the end it is all of them."""


@pytest.mark.parametrize(
    ("use", "modules"),
    [
        (wait_in_a_block, (_time, _time_functions, _loop, _loop_interface, _descriptors, _places, _outside)),
        (leave_in_the_wrong_order, (_time, _time_functions, _outside)),
        (simulate_something, (_simulate, _repeatable, _owner, _undo, _network)),
    ],
)
def test_an_interrupt_at_any_line_gives_everything_back(
    use: Callable[[], None], modules: tuple[Any, ...]
) -> None:
    number, reached = -random.randrange(STEP), 0
    files = {module.__file__ for module in modules}

    def strike(frame: FrameType, event: str, _: object) -> Any:
        nonlocal reached
        if frame.f_code.co_filename not in files:
            return None
        if event == "line":
            reached += 1
            if reached == number:
                raise KeyboardInterrupt
        return strike

    gevent.sleep(0)
    before, tracer = everything(), sys.gettrace()
    done = False
    while not done:
        number += STEP
        reached = 0
        sys.settrace(strike)
        with suppress(KeyboardInterrupt):
            try:
                use()
            finally:
                # That of who measures coverage, perhaps, for the tests that come next.
                sys.settrace(tracer)
        done = reached < number
        if everything() != before:
            gc.collect()
        assert everything() == before, f"after an interrupt at line {number}"
    assert number > 50
    gc.collect()


@pytest.mark.parametrize("number", range(6))
def test_an_interrupt_as_the_hub_begins_comes_out(number: int) -> None:
    events = 0

    def strike(frame: FrameType, event: str, _: object) -> Any:
        nonlocal events
        if frame.f_code is not VirtualLoop.run.__code__:
            return None
        events += 1
        if events == number + 1:
            raise KeyboardInterrupt
        return strike

    before, tracer = state(), sys.gettrace()
    with pytest.raises(KeyboardInterrupt):
        try:
            with testing.virtual_time():
                gevent.spawn(gevent.sleep, 10)
                sys.settrace(strike)
                gevent.sleep(1)
        finally:
            sys.settrace(tracer)
    assert state() == before


def test_nothing_is_left_of_a_block() -> None:
    def loops() -> int:
        gc.collect()
        return sum(type(thing) is VirtualLoop for thing in gc.get_objects())

    before = loops()
    for _ in range(3):
        with testing.virtual_time(seed=1):
            gevent.joinall([gevent.spawn(gevent.sleep, 1) for _ in range(3)])
    wait_until(lambda: loops() <= before)
