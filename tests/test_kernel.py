"""The scheduler: which threads it runs, when `loop()` returns, what becomes of errors."""

from __future__ import annotations

import gc
import logging
import time
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import gevent
import pytest

import ratchet
from helpers import LONG, burn, in_os_thread, output_of, run_program, turns, wait_until
from ratchet import DeadlockError, Ratchet, Thread, WrongThread, thread
from ratchet._context import belongs_to_one_request


def on_main(func: Callable[[], None]) -> None:
    """Call `func` in the main greenlet, as a plain program does."""
    func()


def off_main(func: Callable[[], None]) -> None:
    """Call `func` in a greenlet of its own, as a program that runs gevent already does."""
    caller = gevent.spawn(func)
    # gevent prints the error as well, and a timeout of get() would hide a deadlock.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gevent.get_hub(), "exception_stream", None)
        caller.get()


anywhere = pytest.mark.parametrize("call", [on_main, off_main])


def fail(error: BaseException) -> None:
    """A thread that dies of `error`."""
    raise error


def pause_until_killed(trace: list[str], name: str = "thread") -> None:
    """A thread that waits until it is killed, and says that its `finally` block ran."""
    try:
        thread.pause()
    finally:
        trace.append(name)


# Attaching, and running to the end.


def test_a_thread_starts_on_the_next_turn_and_not_now() -> None:
    started: list[int] = []
    kernel = Ratchet()
    kernel.attach(started.append, 1)
    kernel.attach_background(started.append, 2)
    assert started == []
    kernel.loop_once()
    assert started == [1, 2]


def test_a_thread_that_a_thread_attaches_starts_when_that_one_waits() -> None:
    trace: list[str] = []

    def outer() -> None:
        kernel.attach(trace.append, "inner")
        trace.append("outer")

    kernel = Ratchet(outer)
    kernel.loop()
    assert trace == ["outer", "inner"]


def test_a_thread_is_called_with_its_arguments_whatever_their_names() -> None:
    calls: list[Any] = []

    def record(*args: Any, **kwargs: Any) -> None:
        calls.append((args, kwargs))

    names = {name: name for name in ("self", "run", "func", "kernel", "background", "args", "kwargs")}
    kernel = Ratchet()
    kernel.attach(record, 1, "two", three=3)
    kernel.attach(record, 1, **names)
    kernel.attach_background(record, **names)
    with kernel:
        kernel.attach(turns)
    assert calls == [((1, "two"), {"three": 3}), ((1,), names), ((), names)]


def test_entry_becomes_the_first_thread() -> None:
    threads: list[object] = []
    kernel = Ratchet(lambda: threads.append(thread.current()))
    assert kernel.num_threads == 1
    kernel.loop()
    assert [type(first) for first in threads] == [Thread]


@pytest.mark.parametrize("wrong", [None, 1, "print", object()])
def test_attach_of_what_cannot_be_called_is_a_type_error(wrong: Any) -> None:
    no_handler: Any = 0
    kernel = Ratchet()
    with pytest.raises(TypeError, match="callable"):
        kernel.attach(wrong)
    with pytest.raises(TypeError, match="callable"):
        kernel.attach_background(wrong)
    with pytest.raises(TypeError, match="errh must be a callable or None"):
        Ratchet(errh=wrong if wrong is not None else no_handler)
    assert kernel.num_threads == 0


@anywhere
def test_loop_waits_for_every_attached_thread(call: Callable[[Callable[[], None]], None]) -> None:
    ended: list[int] = []

    def count(number: int) -> None:
        for _ in range(number):
            thread.timer(0)
        ended.append(number)
        if number > 1:
            kernel.attach(count, number - 1)

    kernel = Ratchet(partial(count, 3))
    call(kernel.loop)
    assert ended == [3, 2, 1]
    assert kernel.num_threads == 0


@anywhere
def test_loop_without_a_thread_returns_at_once(call: Callable[[Callable[[], None]], None]) -> None:
    kernel = Ratchet()
    call(kernel.loop)
    call(kernel.loop)
    assert kernel.num_threads == 0


@anywhere
def test_loop_does_not_wait_for_background_threads_and_kills_them_on_its_way_out(
    call: Callable[[Callable[[], None]], None],
) -> None:
    trace: list[str] = []
    kernel = Ratchet(turns)
    background = kernel.attach_background(pause_until_killed, trace)
    call(kernel.loop)
    assert trace == ["thread"]
    assert background.dead
    assert kernel.num_threads == 0


def test_a_background_thread_that_never_started_does_not_hold_loop_up() -> None:
    trace: list[str] = []
    kernel = Ratchet()
    background = kernel.attach_background(trace.append, "ran")
    kernel.loop()
    assert trace == []
    assert background.dead
    assert kernel.num_threads == 0


def test_loop_waits_for_what_a_killed_background_thread_attaches_in_its_finally_block() -> None:
    trace: list[str] = []

    def background() -> None:
        try:
            thread.pause()
        finally:
            kernel.attach(trace.append, "attached late")

    kernel = Ratchet(turns)
    kernel.attach_background(background)
    kernel.loop()
    assert trace == ["attached late"]


def test_loop_can_be_called_again_with_new_threads() -> None:
    trace: list[int] = []
    kernel = Ratchet()
    for number in range(3):
        kernel.attach(trace.append, number)
        kernel.loop()
    assert trace == [0, 1, 2]


def test_loop_that_runs_already_refuses_a_second_caller() -> None:
    errors: list[RuntimeError] = []

    def loop_again() -> None:
        for again in (kernel.loop, kernel.loop_once):
            with pytest.raises(RuntimeError, match="is already run by another greenlet") as caught:
                again()
            errors.append(caught.value)

    kernel = Ratchet(loop_again)
    kernel.loop()
    assert len(errors) == 2


def test_two_schedulers_run_side_by_side() -> None:
    trace: list[str] = []

    def talk(name: str) -> None:
        for _ in range(2):
            trace.append(name)
            thread.timer(0)

    first, second = Ratchet(partial(talk, "first")), Ratchet(partial(talk, "second"))
    loops = [gevent.spawn(first.loop), gevent.spawn(second.loop)]
    gevent.joinall(loops, timeout=LONG, raise_error=True)
    assert trace == ["first", "second"] * 2


def test_a_scheduler_in_a_thread_of_another_runs_to_its_end() -> None:
    trace: list[str] = []

    def outer() -> None:
        with Ratchet() as inner:
            inner.attach(trace.append, "inner")
        trace.append("outer")

    with Ratchet(outer):
        pass
    assert trace == ["inner", "outer"]


def test_the_thread_is_a_greenlet_of_gevent() -> None:
    with Ratchet() as kernel:
        owned = kernel.attach(lambda: "value")
        assert isinstance(owned, gevent.Greenlet)
        assert not owned.ready()
        owned.join()
        assert owned.get() == owned.value == "value"
        assert owned.successful()
        assert gevent.joinall([owned]) == [owned]


def test_a_thread_knows_its_scheduler_and_whether_it_is_in_the_background() -> None:
    kernel = Ratchet()
    attached, background = kernel.attach(turns), kernel.attach_background(turns)
    assert (attached.kernel, attached.background) == (kernel, False)
    assert (background.kernel, background.background) == (kernel, True)
    assert attached.space is attached.space
    assert attached.space is not background.space
    kernel.close()


def test_a_thread_says_what_it_waits_for_and_its_state() -> None:
    states: list[object] = []

    def run() -> None:
        states.append((current.state, current.waiting_on))
        thread.pause()

    kernel = Ratchet()
    current = kernel.attach(run)
    assert (current.state, current.waiting_on) == ("starting", None)
    kernel.loop_once()
    assert states == [("running", None)]
    assert (current.state, current.waiting_on) == ("waiting", "pause")
    thread.unpause(current)
    kernel.loop()
    assert (current.state, current.waiting_on) == ("ended", None)


def test_a_thread_is_named_for_its_function_also_after_its_end() -> None:
    kernel = Ratchet()
    plain = kernel.attach(turns)
    bound = kernel.attach([0].append, 1)
    without = kernel.attach(partial(turns, 1))
    named = kernel.attach(turns)
    named.name = "the counter"
    kernel.loop()
    assert plain.name.startswith("turns-")
    assert bound.name.startswith("append-")
    assert without.name.startswith("partial-")
    assert named.name == "the counter"
    assert len({plain.name, bound.name, without.name}) == 3


def test_a_thread_that_has_ended_is_not_kept_alive() -> None:
    def attach() -> weakref.ref[Thread]:
        return weakref.ref(kernel.attach(turns))

    kernel = Ratchet()
    ended = attach()
    kernel.loop()
    gc.collect()
    assert ended() is None


def test_a_thread_inherits_a_copy_of_its_makers_context() -> None:
    trace_id: ContextVar[str] = ContextVar("trace_id", default="none")
    seen: list[str] = []

    def inherit() -> None:
        seen.append(trace_id.get())
        trace_id.set("changed in the thread")

    kernel = Ratchet()
    token = trace_id.set("the maker's")
    kernel.attach(inherit)
    kernel.attach_background(inherit)
    trace_id.reset(token)
    kernel.attach(inherit)
    kernel.loop_once()
    kernel.loop()
    assert seen == ["the maker's", "the maker's", "none"]
    assert trace_id.get() == "none"


@pytest.mark.parametrize("attach_background", [Ratchet.attach_background, None])
def test_a_background_thread_does_not_inherit_what_belongs_to_one_request(
    attach_background: Callable[..., Thread] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet._context._registered", [])
    deadline: ContextVar[float | None] = ContextVar("deadline", default=None)
    trace_id: ContextVar[str] = ContextVar("trace_id")
    belongs_to_one_request(deadline, None)
    seen: list[object] = []

    def handle() -> None:
        deadline.set(5.0)
        trace_id.set("a trace")
        if attach_background is None:
            thread.attach_background(look, "background")
        else:
            attach_background(thread.kernel(), look, "background")
        thread.attach(look, "attached")
        seen.append(deadline.get())

    def look(name: str) -> None:
        seen.append((name, deadline.get(), trace_id.get()))

    Ratchet(handle).loop()
    assert seen == [5.0, ("background", None, "a trace"), ("attached", 5.0, "a trace")]


# Inside a program that already runs gevent.


def test_an_attached_thread_starts_without_loop() -> None:
    kernel = Ratchet()
    attached = kernel.attach(lambda: "ran")
    assert attached.get(timeout=LONG) == "ran"
    wait_until(lambda: kernel.num_threads == 0)


def test_loop_blocks_only_the_greenlet_that_calls_it() -> None:
    kernel = Ratchet()
    paused = kernel.attach(thread.pause)
    looper = gevent.spawn(kernel.loop)
    others: list[int] = []
    gevent.spawn(others.append, 1).join()
    assert others == [1]
    assert not looper.ready()
    thread.unpause(paused)
    looper.get(timeout=LONG)


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


# Stopping and closing.


@anywhere
def test_stop_makes_loop_return_and_a_later_loop_goes_on(
    call: Callable[[Callable[[], None]], None],
) -> None:
    trace: list[str] = []

    def work() -> None:
        turns()  # off the main greenlet, loop() starts a little later
        trace.append("before")
        kernel.stop()
        thread.pause()
        trace.append("after")

    kernel = Ratchet()
    worker = kernel.attach(work)
    background = kernel.attach_background(pause_until_killed, trace, "background")
    call(kernel.loop)
    assert trace == ["before"]
    assert (worker.state, background.state) == ("waiting", "waiting")
    assert kernel.num_threads == 2
    thread.unpause(worker)
    call(kernel.loop)
    assert trace == ["before", "after", "background"]


def test_stop_lets_the_other_threads_finish_their_turn() -> None:
    trace: list[str] = []
    kernel = Ratchet()
    kernel.attach(kernel.stop)
    kernel.attach(trace.append, "same turn")
    kernel.attach(thread.timer, 0.01)
    kernel.loop()
    assert trace == ["same turn"]
    wait_until(lambda: kernel.num_threads == 1)
    kernel.loop()
    assert kernel.num_threads == 0


def test_stop_without_a_running_loop_does_nothing() -> None:
    trace: list[int] = []
    kernel = Ratchet()
    kernel.attach(trace.append, 1)
    kernel.stop()
    kernel.loop()
    assert trace == [1]


def test_close_kills_every_thread_and_their_finally_blocks_run() -> None:
    trace: list[str] = []
    kernel = Ratchet()
    attached = kernel.attach(pause_until_killed, trace, "attached")
    background = kernel.attach_background(pause_until_killed, trace, "background")
    kernel.loop_once()
    unstarted = kernel.attach(trace.append, "never runs")
    kernel.close()
    assert trace == ["attached", "background"]
    assert attached.dead
    assert background.dead
    assert unstarted.dead
    assert kernel.num_threads == 0
    kernel.close()
    kernel.loop()


def test_close_kills_threads_that_never_started() -> None:
    kernel = Ratchet()
    kernel.attach(turns)
    kernel.attach_background(turns)
    kernel.close()
    assert kernel.num_threads == 0


def test_close_kills_what_a_finally_block_attaches_too() -> None:
    trace: list[str] = []

    def attach_on_the_way_out() -> None:
        try:
            thread.pause()
        finally:
            kernel.attach(pause_until_killed, trace, "attached late")

    kernel = Ratchet()
    kernel.attach(attach_on_the_way_out)
    kernel.loop_once()
    kernel.close()
    assert trace == ["attached late"]
    assert kernel.num_threads == 0


def test_close_tells_the_error_of_a_finally_block() -> None:
    told: list[BaseException] = []

    def fail_on_the_way_out() -> None:
        try:
            thread.pause()
        finally:
            raise KeyError("gone")

    kernel = Ratchet(fail_on_the_way_out, errh=lambda error, thread: told.append(error))
    kernel.loop_once()
    kernel.close()
    assert [type(error) for error in told] == [KeyError]
    assert kernel.num_threads == 0


def test_a_thread_may_close_its_own_scheduler() -> None:
    trace: list[str] = []

    def close() -> None:
        turns()
        try:
            kernel.close()
        finally:
            trace.append("closer")

    kernel = Ratchet(close)
    kernel.attach(pause_until_killed, trace, "other")
    kernel.loop()
    assert sorted(trace) == ["closer", "other"]
    assert kernel.num_threads == 0


def test_a_closed_scheduler_takes_new_threads() -> None:
    trace: list[int] = []
    kernel = Ratchet()
    kernel.close()
    kernel.attach(trace.append, 1)
    kernel.loop()
    assert trace == [1]


# Looking at it.


def test_num_threads_counts_the_living_in_the_background_too() -> None:
    kernel = Ratchet()
    counts = [kernel.num_threads]
    paused = kernel.attach(thread.pause)
    counts.append(kernel.num_threads)
    kernel.attach_background(thread.pause)
    counts.append(kernel.num_threads)
    kernel.loop_once()
    thread.unpause(paused)
    wait_until(paused.ready)
    turns()
    counts.append(kernel.num_threads)
    kernel.close()
    counts.append(kernel.num_threads)
    assert counts == [0, 1, 2, 1, 0]


def test_method_is_the_polling_method_of_the_hub() -> None:
    loop: Any = gevent.get_hub().loop
    assert Ratchet().method == loop.backend
    assert isinstance(Ratchet().method, str)


def here(func: Callable[..., object], line: int) -> str:
    """How a stack names the line that is `line` lines below `def` of `func`."""
    return f'test_kernel.py", line {func.__code__.co_firstlineno + line}, in {func.__name__}'


def wait_for_unpause() -> None:
    thread.pause()


def wait_for_others(others: list[Thread]) -> None:
    thread.wait_all(others)


def test_dump_names_each_thread_its_state_what_it_waits_for_and_its_stack() -> None:
    kernel = Ratchet()
    paused = kernel.attach(wait_for_unpause)
    waiting = kernel.attach_background(wait_for_others, [paused])
    kernel.loop_once()
    unstarted = kernel.attach(turns)
    unstarted.name = "the late one"
    try:
        head, first, second, third = kernel.dump().split("\n\n")
    finally:
        kernel.close()
    assert head == repr(kernel).replace("threads=0, background=0", "threads=2, background=1")
    assert first.startswith(f"{paused.name} (waiting: pause)\n")
    assert here(wait_for_unpause, 1) in first
    assert second.startswith(f"{waiting.name} (background, waiting: wait_all on [<Thread")
    assert here(wait_for_others, 1) in second
    assert third == "the late one (starting)"


def test_dump_from_within_a_thread_shows_that_it_runs() -> None:
    dumps: list[str] = []
    kernel = Ratchet(lambda: dumps.append(kernel.dump()))
    kernel.loop()
    head, running = dumps[0].split("\n\n")
    assert ": looping, threads=1, background=0>" in head
    assert "(running)" in running


# The context manager.


@anywhere
def test_leaving_the_block_normally_runs_loop(call: Callable[[Callable[[], None]], None]) -> None:
    trace: list[str] = []

    def run() -> None:
        with Ratchet() as kernel:
            kernel.attach(trace.append, "attached")
            kernel.attach_background(pause_until_killed, trace, "background")
            kernel.attach(turns)
            assert trace == []
        assert kernel.num_threads == 0

    call(run)
    assert trace == ["attached", "background"]


@pytest.mark.parametrize("error", [KeyError("gone"), gevent.Timeout(1), gevent.GreenletExit()])
def test_leaving_the_block_by_an_exception_kills_the_threads_and_lets_it_go_on(
    error: BaseException,
) -> None:
    trace: list[str] = []
    kernel = Ratchet()
    with pytest.raises(type(error)) as caught:
        with kernel:
            kernel.attach(pause_until_killed, trace, "attached")
            kernel.attach_background(pause_until_killed, trace, "background")
            turns()
            raise error
    assert caught.value is error
    assert trace == ["attached", "background"]
    assert kernel.num_threads == 0


def test_an_error_of_a_thread_comes_out_of_the_block_and_the_other_threads_are_killed() -> None:
    trace: list[str] = []
    with pytest.raises(KeyError, match="gone"):
        with Ratchet() as kernel:
            kernel.attach(pause_until_killed, trace)
            kernel.attach(fail, KeyError("gone"))
    assert trace == ["thread"]
    assert kernel.num_threads == 0


def group_of(errors: list[BaseException]) -> list[BaseException]:
    """What comes out of a block in which a thread dies of each error."""
    with pytest.raises(BaseExceptionGroup) as caught:
        with Ratchet() as kernel:
            kernel.attach(fail, errors[0])
            for error in errors[1:]:
                kernel.attach(wait_and_fail, error)
            thread.timer(0)
    assert str(caught.value).startswith(f"{len(errors)} threads failed")
    assert isinstance(caught.value, ExceptionGroup) is all(isinstance(error, Exception) for error in errors)
    return list(caught.value.exceptions)


@pytest.mark.parametrize(
    "errors",
    [[KeyError(1), ValueError(2)], [KeyError(1), gevent.Timeout(2), OSError(3)]],
    ids=["errors", "and a time-out"],
)
def test_the_errors_of_several_threads_come_out_of_the_block_as_one_group(
    errors: list[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    assert group_of(errors) == errors
    turns()
    assert caplog.records == []


def test_the_block_s_own_exception_goes_on_and_the_errors_of_threads_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(OSError, match="of the block"):
        with Ratchet() as kernel:
            kernel.attach(wait_and_fail, KeyError("of a thread"))
            kernel.attach(wait_and_fail, ValueError("of another"))
            thread.timer(0)
            raise OSError("of the block")
    assert "KeyError('of a thread')" in caplog.text
    assert "ValueError('of another')" in caplog.text


def test_a_deadlock_goes_on_and_the_errors_of_the_killed_threads_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def wait_and_fail_when_killed() -> None:
        try:
            thread.pause()
        finally:
            raise KeyError("of a thread")

    with pytest.raises(DeadlockError):
        with Ratchet() as kernel:
            kernel.attach(wait_and_fail_when_killed)
    assert "KeyError('of a thread')" in caplog.text


@pytest.mark.parametrize("place", ["_leave", "run", "close"])
def test_an_interrupt_on_the_way_out_of_the_block_spares_no_thread(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt() -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    trace: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        with Ratchet() as kernel:
            kernel.attach_background(pause_until_killed, trace)
            thread.timer(0)
            monkeypatch.setattr(kernel._scheduler if place == "run" else kernel, place, interrupt)
    assert trace == ["thread"]
    assert kernel.num_threads == 0


def test_a_thread_that_is_killed_in_a_block_takes_the_threads_of_the_block_with_it() -> None:
    trace: list[str] = []

    def nursery() -> None:
        with Ratchet() as kernel:
            kernel.attach(pause_until_killed, trace)

    outer = gevent.spawn(nursery)
    turns()
    outer.kill()
    assert trace == ["thread"]


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


def wait_and_fail(error: BaseException) -> None:
    """A thread that dies of `error`, when its time is over or when it is killed."""
    try:
        thread.timer(0.01)
    finally:
        raise error


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


class Odd(BaseException):
    """What a library that knows no better raises."""


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


# Other OS threads, and patched programs.


@pytest.mark.parametrize(
    "name", ["attach", "attach_background", "loop", "loop_once", "stop", "close", "__enter__"]
)
@pytest.mark.parametrize("busy", [False, True])
def test_a_call_from_another_os_thread_is_a_clear_error(name: str, busy: bool) -> None:
    kernel = Ratchet(turns if busy else None)
    args = [turns] if name.startswith("attach") else []
    error = in_os_thread(lambda: getattr(kernel, name)(*args))
    assert type(error) is WrongThread
    assert "belongs to another OS thread" in str(error)
    assert kernel.num_threads == busy
    kernel.loop()


@pytest.mark.parametrize(
    "name", ["attach", "attach_background", "loop", "loop_once", "stop", "close", "__enter__"]
)
def test_a_call_on_a_destroyed_hub_says_so(name: str) -> None:
    kernels: list[Ratchet] = []
    assert in_os_thread(lambda: kernels.append(Ratchet())) is None
    args = [turns] if name.startswith("attach") else []
    with pytest.raises(WrongThread, match="belongs to a gevent hub that has been destroyed"):
        getattr(kernels[0], name)(*args)
    assert kernels[0].num_threads == 0


def test_each_os_thread_may_have_a_scheduler_of_its_own() -> None:
    trace: list[int] = []

    def run() -> None:
        with Ratchet() as kernel:
            kernel.attach(trace.append, 1)

    assert in_os_thread(run) is None
    assert trace == [1]


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
def test_it_works_in_a_patched_and_in_an_unpatched_program(patch: str) -> None:
    assert (
        output_of(
            f"""
            {patch or "pass"}
            import os, signal, socket, time
            import ratchet
            from ratchet import thread

            def listen(end):
                print("readable", thread.block_on([end], timeout=20) is end)

            def signalled():
                print("signal", thread.sigwait("USR1", timeout=20))

            def waiter(others):
                print("all ended", thread.wait_all(others, timeout=20))

            def ring():
                with thread.alarm(0.01):
                    try:
                        thread.pause()
                    except ratchet.Alarm:
                        print("alarm")

            def send(end, others):
                thread.timer(0)
                end.send(b"x")
                thread.wait_all(others[:1])
                os.kill(os.getpid(), signal.SIGUSR1)

            ours, theirs = socket.socketpair()
            with ours, theirs, ratchet.Ratchet() as kernel:
                others = [kernel.attach(listen, ours), kernel.attach(signalled)]
                kernel.attach(send, theirs, others)
                thread.wait_all([kernel.attach(waiter, others)])
                kernel.attach(ring)
            """
        )
        == "readable True\nsignal True\nall ended True\nalarm\n"
    )


def test_time_sleep_of_a_patched_program_blocks_only_its_thread() -> None:
    assert (
        output_of(
            """
            from gevent import monkey; monkey.patch_all()
            import time, ratchet

            def slow():
                time.sleep(0.05)
                print("slow")

            with ratchet.Ratchet(slow) as kernel:
                kernel.attach(print, "fast")
            """
        )
        == "fast\nslow\n"
    )


def test_the_package_names_the_scheduler_and_the_thread() -> None:
    assert ratchet.Ratchet is Ratchet
    assert ratchet.Thread is Thread


# run().


@anywhere
def test_run_returns_what_main_returns_when_all_that_it_attached_has_ended(
    call: Callable[[Callable[[], None]], None],
) -> None:
    trace: list[str] = []

    def later() -> None:
        thread.timer(0.01)
        trace.append("later")

    def main(first: str, second: int) -> tuple[str, int]:
        thread.attach(later)
        thread.attach_background(pause_until_killed, trace, "background")
        return first, second

    def program() -> None:
        assert ratchet.run(main, "first", 2) == ("first", 2)

    call(program)
    assert trace == ["later", "background"]


@anywhere
@pytest.mark.parametrize("error", [KeyError("gone"), gevent.Timeout(1)])
def test_run_raises_what_main_raises_and_kills_the_other_threads(
    call: Callable[[Callable[[], None]], None], error: BaseException
) -> None:
    trace: list[str] = []

    def main() -> None:
        thread.attach(pause_until_killed, trace)
        thread.timer(0)
        raise error

    def program() -> None:
        with pytest.raises(type(error)) as caught:
            ratchet.run(main)
        assert caught.value is error

    call(program)
    assert trace == ["thread"]


@pytest.mark.parametrize("end", [lambda: fail(gevent.GreenletExit()), lambda: thread.kernel().stop()])
def test_run_returns_none_when_main_did_not_come_to_its_end(end: Callable[[], object]) -> None:
    def main() -> str:
        end()
        thread.pause()
        return "not reached"

    assert ratchet.run(main) is None


def test_run_refuses_what_cannot_be_called() -> None:
    with pytest.raises(TypeError, match="func must be callable, not 3"):
        ratchet.run(3)  # type: ignore[arg-type]
