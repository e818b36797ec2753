"""The loop of a scheduler: its turns, what it does about errors, and deadlocks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial

import gevent
import pytest

from helpers import LONG, burn, output_of, run_program, turns, wait_until
from kernels import (
    Odd,
    anywhere,
    fail,
    here,
    pause_until_killed,
    wait_and_fail,
    wait_for_others,
    wait_for_unpause,
)
from ratchet import DeadlockError, Ratchet, Thread, thread

# One turn.


@pytest.mark.parametrize("noblock", [False, True])
def test_loop_once_says_whether_an_attached_thread_is_left(noblock: bool) -> None:
    kernel = Ratchet()
    assert kernel.loop_once(noblock) is False
    paused = kernel.attach(thread.pause)
    kernel.attach(turns, 1)
    assert kernel.loop_once(noblock) is True
    thread.unpause(paused)
    while kernel.loop_once(noblock):
        assert kernel.num_threads > 0
    assert kernel.num_threads == 0


def test_loop_once_does_not_count_and_does_not_kill_background_threads() -> None:
    trace: list[str] = []
    kernel = Ratchet()
    kernel.attach_background(pause_until_killed, trace)
    assert kernel.loop_once() is False
    kernel.attach(turns, 1)
    while kernel.loop_once():
        pass
    assert (trace, kernel.num_threads) == ([], 1)
    kernel.close()


@anywhere
def test_loop_once_waits_for_an_event(call: Callable[[Callable[[], None]], None]) -> None:
    kernel = Ratchet()
    kernel.attach(thread.timer, 0.05)
    kernel.loop_once()
    count = 0

    def run() -> None:
        nonlocal count
        while kernel.loop_once():
            count += 1

    call(run)
    assert count < 5


@anywhere
def test_loop_once_counts_a_turn_in_which_a_thread_starts(
    call: Callable[[Callable[[], None]], None],
) -> None:
    kernel = Ratchet()

    def run() -> None:
        started: list[int] = []

        def start() -> None:
            started.append(1)
            thread.pause()

        attached = kernel.attach(start)
        assert kernel.loop_once() is True
        assert started == [1]
        with thread.alarm(LONG):
            # Something else that is far off does not hold the turn up.
            thread.unpause(attached)
            while kernel.loop_once():
                assert kernel.num_threads == 1

    call(run)
    assert kernel.num_threads == 0


@pytest.mark.parametrize("noblock", [False, True])
@anywhere
def test_loop_once_starts_what_was_attached_also_when_the_hub_is_late(
    call: Callable[[Callable[[], None]], None], noblock: bool
) -> None:
    started: list[int] = []
    kernel = Ratchet()

    def run() -> None:
        for number in range(200):
            kernel.attach(started.append, number)
        # gevent puts callbacks off when those of one turn take long.
        burn(0.02)
        kernel.loop_once(noblock)
        assert len(started) == 200

    gevent.sleep(0)
    call(run)
    kernel.loop()


@anywhere
def test_loop_once_with_noblock_does_not_wait_for_an_event(
    call: Callable[[Callable[[], None]], None],
) -> None:
    kernel = Ratchet()
    sleeper = kernel.attach(thread.timer, 2 * LONG)

    def run() -> None:
        started = time.monotonic()
        for _ in range(10):
            assert kernel.loop_once(noblock=True) is True
        assert time.monotonic() - started < LONG

    call(run)
    assert sleeper.state == "waiting"
    kernel.close()


@pytest.mark.parametrize("noblock", [False, True])
@anywhere
def test_loop_once_raises_the_error_of_a_thread(
    call: Callable[[Callable[[], None]], None], noblock: bool
) -> None:
    kernel = Ratchet()
    kernel.attach(fail, KeyError("gone"))
    kernel.attach(turns)

    def run() -> None:
        with pytest.raises(KeyError, match="gone"):
            while kernel.loop_once(noblock):
                pass

    call(run)
    kernel.loop()


@pytest.mark.parametrize("noblock", [False, True])
@anywhere
def test_loop_once_finds_a_deadlock(call: Callable[[Callable[[], None]], None], noblock: bool) -> None:
    kernel = Ratchet()
    kernel.attach(thread.pause)

    def run() -> None:
        with pytest.raises(DeadlockError):
            for _ in range(100):
                kernel.loop_once(noblock)

    call(run)
    kernel.close()


# Errors.


@anywhere
def test_loop_raises_the_error_of_a_thread_at_once_and_may_be_called_again(
    call: Callable[[Callable[[], None]], None],
) -> None:
    error = KeyError("gone")
    kernel = Ratchet()
    other = kernel.attach(thread.pause)
    kernel.attach(fail, error)

    def run() -> None:
        with pytest.raises(KeyError) as caught:
            kernel.loop()
        assert caught.value is error
        assert other.state == "waiting"
        assert kernel.num_threads == 1
        thread.unpause(other)
        kernel.loop()

    call(run)
    assert other.successful()


def test_the_error_that_loop_raises_has_the_traceback_of_its_thread() -> None:
    kernel = Ratchet(partial(fail, KeyError("gone")))
    with pytest.raises(KeyError) as caught:
        kernel.loop()
    assert caught.traceback[-1].name == "fail"


WAYS_TO_WAIT: dict[str, Callable[[Thread], object]] = {
    "join": lambda dying: dying.join(),
    "join in time": lambda dying: dying.join(LONG),
    "wait_all": lambda dying: thread.wait_all([dying]),
    "wait_all in time": lambda dying: thread.wait_all([dying], LONG),
    "joinall": lambda dying: gevent.joinall([dying]),
    "wait": lambda dying: gevent.wait([dying]),
    "kill": lambda dying: thread.kill(dying),
}


@anywhere
@pytest.mark.parametrize("way", WAYS_TO_WAIT.values(), ids=WAYS_TO_WAIT)
def test_loop_raises_an_error_before_any_thread_that_waited_for_the_dead_one_runs_on(
    call: Callable[[Callable[[], None]], None], way: Callable[[Thread], object]
) -> None:
    trace: list[int] = []

    def wait(number: int) -> None:
        way(dying)
        trace.append(number)

    def run() -> None:
        with pytest.raises(KeyError):
            kernel.loop()
        assert trace == []
        kernel.loop()
        assert sorted(trace) == [0, 1, 2]
        assert kernel.num_threads == 0

    kernel = Ratchet()
    dying = kernel.attach(wait_and_fail, KeyError("gone"))
    for number in range(3):
        kernel.attach(wait, number)
    call(run)


def test_loop_once_raises_an_error_before_a_thread_that_waited_for_the_dead_one_runs_on() -> None:
    trace: list[str] = []

    def wait() -> None:
        dying.join()
        trace.append("ran on")

    kernel = Ratchet()
    dying = kernel.attach(wait_and_fail, KeyError("gone"))
    kernel.attach(wait)
    with pytest.raises(KeyError):
        while kernel.loop_once():
            pass
    assert trace == []
    kernel.loop()
    assert trace == ["ran on"]


def test_each_error_is_raised_by_a_loop_of_its_own() -> None:
    kernel = Ratchet()
    for number in range(3):
        kernel.attach(fail, KeyError(number))
    for number in range(3):
        with pytest.raises(KeyError, match=str(number)):
            kernel.loop()
    kernel.loop()
    assert kernel.num_threads == 0


def test_loop_raises_the_error_of_a_background_thread() -> None:
    kernel = Ratchet(turns)
    kernel.attach_background(fail, KeyError("gone"))
    with pytest.raises(KeyError, match="gone"):
        kernel.loop()
    kernel.loop()


def test_loop_raises_the_error_of_a_background_thread_that_it_kills() -> None:
    def fail_on_the_way_out() -> None:
        try:
            thread.pause()
        finally:
            raise KeyError("gone")

    kernel = Ratchet(turns)
    kernel.attach_background(fail_on_the_way_out)
    with pytest.raises(KeyError, match="gone"):
        kernel.loop()
    assert kernel.num_threads == 0


def test_a_timeout_that_nobody_catches_is_an_error_of_its_thread() -> None:
    timeout = gevent.Timeout(1)
    kernel = Ratchet(partial(fail, timeout))
    with pytest.raises(gevent.Timeout) as caught:
        kernel.loop()
    assert caught.value is timeout


def test_a_killed_thread_is_no_error() -> None:
    told: list[BaseException] = []
    for kernel in (Ratchet(), Ratchet(errh=lambda error, thread: told.append(error))):
        killed = kernel.attach(thread.pause)
        kernel.attach(fail, gevent.GreenletExit())
        kernel.attach(thread.kill, killed)
        kernel.loop()
        assert killed.dead
    assert told == []


def test_errh_is_called_with_each_error_and_its_thread() -> None:
    told: list[tuple[BaseException, Thread]] = []
    kernel = Ratchet(errh=lambda error, thread: told.append((error, thread)))
    errors = [KeyError(1), ValueError(2)]
    threads = [kernel.attach(fail, errors[0]), kernel.attach_background(fail, errors[1])]
    kernel.attach(turns)
    kernel.loop()
    assert told == list(zip(errors, threads, strict=True))
    assert told[0][1].name.startswith("fail-")


def test_errh_may_block_and_loop_waits_for_it() -> None:
    told: list[BaseException] = []

    def handle(error: BaseException, thread_: Thread) -> None:
        thread.timer(0.01)
        told.append(error)

    error = KeyError("gone")
    Ratchet(partial(fail, error), handle).loop()
    assert told == [error]


@pytest.mark.parametrize("failure", [ValueError("errh is broken"), gevent.Timeout(1), Odd(), SystemExit(3)])
def test_an_error_of_errh_comes_out_of_loop_and_not_back_to_errh(failure: BaseException) -> None:
    told: list[BaseException] = []

    def handle(error: BaseException, thread_: Thread) -> None:
        told.append(error)
        raise failure

    error = KeyError("gone")
    kernel = Ratchet(partial(fail, error), handle)
    with pytest.raises(type(failure)) as caught:
        kernel.loop()
    assert caught.value is failure
    assert told == [error]
    kernel.loop()


def test_an_error_is_logged_when_nobody_runs_loop_and_a_later_loop_raises_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    error = KeyError("gone")
    kernel = Ratchet()
    died = kernel.attach(fail, error)
    wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("ratchet.kernel", logging.ERROR)
    assert f"thread {died.name} died" in record.getMessage()
    assert record.exc_info
    assert record.exc_info[1] is error
    with pytest.raises(KeyError):
        kernel.loop()


def test_an_error_that_loop_raises_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    kernel = Ratchet(partial(fail, KeyError("gone")))
    with pytest.raises(KeyError):
        kernel.loop()
    turns()
    assert caplog.records == []


def test_an_error_of_errh_is_logged_when_nobody_runs_loop(caplog: pytest.LogCaptureFixture) -> None:
    def handle(error: BaseException, thread_: Thread) -> None:
        raise ValueError("errh is broken")

    kernel = Ratchet(partial(fail, KeyError("gone")), handle)
    wait_until(lambda: caplog.records)
    assert "errh is broken" in caplog.text
    with pytest.raises(ValueError, match="errh is broken"):
        kernel.loop()


def test_errors_that_nobody_takes_do_not_grow_without_bound() -> None:
    kernel = Ratchet()
    for number in range(1000):
        kernel.attach(fail, KeyError(number))
    wait_until(lambda: kernel.num_threads == 0)
    count = 0
    while True:
        try:
            kernel.loop()
        except KeyError:
            count += 1
        else:
            break
    assert 0 < count < 1000


def test_nothing_is_printed_whatever_becomes_of_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    Ratchet(partial(fail, KeyError()), lambda error, thread: None).loop()
    with pytest.raises(KeyError):
        Ratchet(partial(fail, KeyError())).loop()
    killed = Ratchet()
    killed.attach(thread.pause)
    killed.loop_once()
    killed.close()
    assert capfd.readouterr() == ("", "")


def test_nothing_is_printed_of_an_error_that_is_logged_where_logging_was_never_set_up() -> None:
    assert (
        output_of(
            """
            import gevent, ratchet
            kernel = ratchet.Ratchet(lambda: 1 / 0)
            while kernel.num_threads:
                gevent.sleep(0)
            """
        )
        == ""
    )


def test_errors_of_other_greenlets_are_printed_as_ever(capfd: pytest.CaptureFixture[str]) -> None:
    Ratchet()
    gevent.spawn(fail, KeyError("of a plain greenlet")).join()
    assert "of a plain greenlet" in capfd.readouterr().err


def test_system_exit_in_a_thread_comes_out_of_loop_and_the_scheduler_stays_usable() -> None:
    trace: list[int] = []
    kernel = Ratchet(partial(fail, SystemExit(3)))
    with pytest.raises(SystemExit) as caught:
        kernel.loop()
    assert caught.value.code == 3
    kernel.attach(trace.append, 1)
    kernel.loop()
    assert trace == [1]


def test_system_exit_in_a_thread_ends_the_program_and_prints_nothing() -> None:
    program = run_program(
        """
        import sys, ratchet
        ratchet.Ratchet(lambda: sys.exit(3)).loop()
        """
    )
    assert (program.returncode, program.stdout, program.stderr) == (3, "", "")


@pytest.mark.parametrize("where", ["in a thread", "in the hub"])
def test_ctrl_c_comes_out_of_loop_and_the_scheduler_stays_usable(where: str) -> None:
    interrupt = "os.kill(os.getpid(), signal.SIGINT)"
    from_outside = "processes.append(subprocess.Popen(['sh', '-c', 'kill -INT $PPID']))"
    assert (
        output_of(
            f"""
            import os, signal, subprocess
            from ratchet import Ratchet, thread

            processes = []

            def work():
                thread.timer(0)
                {interrupt if where == "in a thread" else from_outside}
                thread.pause()

            def other():
                print("unpaused with", thread.pause())

            kernel = Ratchet(work)
            paused = kernel.attach(other)
            kernel.attach(thread.timer, 60)
            try:
                kernel.loop()
            except KeyboardInterrupt:
                print("interrupted")
            thread.unpause(paused, "a value")
            while paused.state != "ended":
                kernel.loop_once()
            kernel.close()
            kernel.attach(print, "goes on")
            kernel.loop()
            for process in processes:
                process.wait()
            """
        )
        == "interrupted\nunpaused with a value\ngoes on\n"
    )


def fail_in_the_hub(error: BaseException) -> None:
    """Have a callback of the hub raise `error` in the next turn."""
    gevent.get_hub().loop.run_callback(fail, error)


@pytest.mark.parametrize("where", [fail_in_the_hub, lambda error: thread.attach(fail, error)])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Odd, KeyError])
def test_what_strikes_in_the_hub_or_a_thread_comes_out_of_loop_and_is_not_printed(
    kind: type[BaseException], where: Callable[[BaseException], object], capfd: pytest.CaptureFixture[str]
) -> None:
    error = kind("struck")
    kernel = Ratchet(partial(where, error))
    paused = kernel.attach(thread.pause)
    with pytest.raises(kind) as caught:
        kernel.loop()
    assert caught.value is error
    assert paused.state == "waiting"
    thread.unpause(paused, "on")
    kernel.loop()
    assert paused.value == "on"
    assert capfd.readouterr() == ("", "")


def test_what_strikes_in_the_hub_comes_out_of_a_loop_in_a_greenlet_of_its_own(
    capfd: pytest.CaptureFixture[str],
) -> None:
    caught: list[BaseException] = []

    def loop() -> None:
        try:
            Ratchet(partial(fail_in_the_hub, error)).loop()
        except Odd as odd:
            caught.append(odd)

    error = Odd("struck")
    gevent.spawn(loop).join()
    assert caught == [error]
    assert capfd.readouterr() == ("", "")


def test_what_strikes_in_the_hub_while_no_loop_runs_is_printed_as_ever(
    capfd: pytest.CaptureFixture[str],
) -> None:
    Ratchet()
    fail_in_the_hub(KeyError("in a callback"))
    turns()
    assert "in a callback" in capfd.readouterr().err


@pytest.mark.parametrize("place", ["_on_end", "_forget", "_wake_loop", "_keep_error"])
def test_a_thread_s_end_that_was_noted_by_half_is_noted_in_full(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*args: object) -> None:
        monkeypatch.undo()
        raise Odd

    kernel = Ratchet()
    dying = kernel.attach(wait_and_fail, KeyError("gone"))
    joined = kernel.attach(dying.join)
    kernel.loop_once()
    if place == "_on_end":
        # The kernel's link, which is interrupted at its first line.
        monkeypatch.setattr("ratchet._scheduler.on_thread_end", interrupt)
    else:
        monkeypatch.setattr(kernel._scheduler, place, interrupt)
    raised = []
    while kernel.num_threads:
        try:
            kernel.loop()
        except (Odd, KeyError) as error:
            raised.append(type(error))
    assert raised.count(KeyError) == 1
    assert joined.ready()


# Deadlock.


@anywhere
def test_a_deadlock_names_every_attached_thread_what_it_waits_for_and_where(
    call: Callable[[Callable[[], None]], None],
) -> None:
    kernel = Ratchet()
    paused = kernel.attach(wait_for_unpause)
    waiting = kernel.attach(wait_for_others, [paused])
    background = kernel.attach_background(thread.pause)

    def run() -> None:
        with pytest.raises(DeadlockError) as caught:
            kernel.loop()
        text = str(caught.value)
        assert " at 0x" not in text
        head, first, second = text.split("\n\n")
        assert head == "2 threads can never run again:"
        assert first.startswith(f"{paused.name} (waiting: pause)")
        assert here(wait_for_unpause, 1) in first
        assert second.startswith(f"{waiting.name} (waiting: wait_all on [<Thread")
        assert here(wait_for_others, 1) in second
        assert background.name not in text
        assert caught.value.__cause__ is None

    call(run)
    kernel.close()


@anywhere
def test_after_a_deadlock_the_threads_are_as_they_were_and_loop_may_go_on(
    call: Callable[[Callable[[], None]], None],
) -> None:
    results: list[object] = []
    kernel = Ratchet(lambda: results.append(thread.pause()))
    paused = kernel.attach(lambda: results.append(thread.pause()))

    def run() -> None:
        for value in (1, 2):
            with pytest.raises(DeadlockError):
                kernel.loop()
            if value == 1:
                thread.unpause(paused, value)
        kernel.close()

    call(run)
    assert results == [1]


@anywhere
def test_a_thread_that_something_on_the_hub_can_still_wake_is_no_deadlock(
    call: Callable[[Callable[[], None]], None],
) -> None:
    kernel = Ratchet()
    paused = kernel.attach(thread.pause)

    def unpause_later() -> None:
        thread.timer(0.02)
        thread.unpause(paused, "woken")

    gevent.spawn(unpause_later)
    call(kernel.loop)
    assert paused.value == "woken"


def test_a_deadlock_in_a_scheduler_inside_a_thread_is_an_error_of_that_thread() -> None:
    def nursery() -> None:
        with Ratchet() as inner:
            inner.attach(wait_for_unpause)

    outer = Ratchet(nursery)
    with pytest.raises(DeadlockError, match="wait_for_unpause"):
        outer.loop()
    outer.loop()


def test_two_schedulers_off_the_main_greenlet_both_find_their_deadlock() -> None:
    kernels = [Ratchet(wait_for_unpause), Ratchet(wait_for_unpause)]
    found: list[Ratchet] = []

    def loop(kernel: Ratchet) -> None:
        with pytest.raises(DeadlockError):
            kernel.loop()
        found.append(kernel)

    gevent.joinall([gevent.spawn(loop, kernel) for kernel in kernels], raise_error=True)
    assert set(found) == set(kernels)
    for kernel in kernels:
        kernel.close()


def test_a_thread_that_loops_its_own_scheduler_waits_for_itself_and_is_told() -> None:
    kernel = Ratchet()
    looper = kernel.attach(kernel.loop)
    with pytest.raises(DeadlockError, match=r"^1 thread can never run again:"):
        looper.get()
    with pytest.raises(DeadlockError):
        kernel.loop()


def test_loop_that_is_killed_leaves_its_threads_as_they_are() -> None:
    kernel = Ratchet()
    paused = kernel.attach(thread.pause)
    looper = gevent.spawn(kernel.loop)
    turns()
    looper.kill()
    assert paused.state == "waiting"
    thread.unpause(paused)
    kernel.loop()
    assert paused.successful()


@anywhere
def test_a_timeout_of_the_callers_own_passes_through_loop_untouched(
    call: Callable[[Callable[[], None]], None],
) -> None:
    kernel = Ratchet()
    paused = kernel.attach(thread.pause)

    def run() -> None:
        timeout = gevent.Timeout(0.01)
        with pytest.raises(gevent.Timeout) as caught, timeout:
            kernel.loop()
        assert caught.value is timeout

    call(run)
    assert paused.state == "waiting"
    kernel.close()
