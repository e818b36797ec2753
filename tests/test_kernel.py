"""The scheduler: which threads it runs, when `loop()` returns, how a block is left."""

from __future__ import annotations

import copy
import gc
import pickle
import weakref
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any

import gevent
import pytest

import ratchet
from helpers import LONG, in_os_thread, output_of, turns, wait_until
from kernels import (
    anywhere,
    fail,
    here,
    pause_until_killed,
    wait_and_fail,
    wait_for_others,
    wait_for_unpause,
)
from ratchet import DeadlockError, Ratchet, Thread, WrongThread, thread
from ratchet._context import belongs_to_one_request

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


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_scheduler_cannot_be_copied_or_pickled(duplicate: Callable[[object], object]) -> None:
    kernel = Ratchet()
    with pytest.raises(TypeError, match=r"<Ratchet at .*> cannot be copied or pickled"):
        duplicate(kernel)


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


def test_a_block_may_be_left_that_was_never_entered() -> None:
    trace: list[str] = []
    kernel = Ratchet()
    kernel.attach(trace.append, "ran to its end")
    kernel.__exit__(None, None, None)
    assert trace == ["ran to its end"]
    kernel.attach(pause_until_killed, trace)
    turns()
    error = ValueError("of the block")
    kernel.__exit__(ValueError, error, None)
    assert trace == ["ran to its end", "thread"]
    assert kernel.num_threads == 0


def test_a_block_may_be_left_twice() -> None:
    with Ratchet() as outer:
        with Ratchet() as inner:
            pass
        inner.__exit__(None, None, None)
        assert thread.kernel() is outer


def test_a_thread_that_is_killed_in_a_block_takes_the_threads_of_the_block_with_it() -> None:
    trace: list[str] = []

    def nursery() -> None:
        with Ratchet() as kernel:
            kernel.attach(pause_until_killed, trace)

    outer = gevent.spawn(nursery)
    turns()
    outer.kill()
    assert trace == ["thread"]


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


def test_the_polling_method_of_a_destroyed_hub_is_not_known() -> None:
    kernels: list[Ratchet] = []
    assert in_os_thread(lambda: kernels.append(Ratchet())) is None
    with pytest.raises(WrongThread, match="belongs to a gevent hub that has been destroyed"):
        print(kernels[0].method)


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
