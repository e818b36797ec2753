"""`Ratchet.submit`: calls from other OS threads, and the futures that have their outcomes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import gevent
import pytest
from gevent.event import Event

import ratchet
from helpers import LONG, output_of, turns, wait_until
from kernels import Odd, fail
from ratchet import Abandoned, DeadlockError, Ratchet, WrongThread, bus, thread
from ratchet.bus._core.deadline import _scope


@contextmanager
def os_thread(func: Callable[[], object]) -> Iterator[list[object]]:
    """`func` in another OS thread; the list is what it returned, or its error, once it has ended."""
    ended: list[object] = []

    def run() -> None:
        try:
            ended.append(func())
        except BaseException as error:
            ended.append(error)

    started = threading.Thread(target=run)
    started.start()
    try:
        yield ended
    finally:
        wait_until(lambda: not started.is_alive(), "the other OS thread's end")
        started.join()


def told_by(func: Callable[[], object]) -> object:
    """What `func` returns or raises in another OS thread, while the greenlets of this one run."""
    with os_thread(func) as ended:
        pass
    return ended[0]


# The outcome.


def test_any_os_thread_may_submit_and_gets_the_result() -> None:
    kernel = Ratchet()
    assert told_by(lambda: kernel.submit(divmod, 7, 2).result(LONG)) == (3, 1)
    assert told_by(lambda: kernel.submit(dict, self=1, func=2, run=3).result(LONG)) == {
        "self": 1,
        "func": 2,
        "run": 3,
    }


def test_the_function_runs_in_a_thread_of_the_scheduler_that_is_named_for_it() -> None:
    kernel = Ratchet()

    def which() -> tuple[Ratchet, bool, str]:
        current = thread.current()
        assert isinstance(current, ratchet.Thread)
        return thread.kernel(), current.background, current.name.split("-")[0]

    assert told_by(lambda: kernel.submit(which).result(LONG)) == (kernel, False, "which")


def test_it_may_block_and_loop_waits_for_it() -> None:
    trace: list[str] = []

    def work() -> str:
        thread.timer(0.01)
        trace.append("worked")
        return "done"

    with Ratchet() as kernel:
        future = kernel.submit(work)
        assert (trace, future.done()) == ([], False)
    assert (trace, future.result()) == (["worked"], "done")


def test_an_error_is_the_futures_alone() -> None:
    reported: list[BaseException] = []
    error = KeyError("gone")
    with Ratchet(errh=lambda error, dead: reported.append(error)) as kernel:
        future = kernel.submit(fail, error)
    assert future.exception() is error
    assert reported == []
    with Ratchet() as kernel:
        future = kernel.submit(fail, Odd())
    with pytest.raises(Odd):
        future.result()


def test_an_error_shows_where_the_function_raised_it_and_nothing_of_ours() -> None:
    with Ratchet() as kernel:
        future = kernel.submit(fail, KeyError("gone"))
    with pytest.raises(KeyError) as caught:
        future.result()
    assert caught.traceback[-1].name == "fail"
    assert not any("/ratchet/_submit" in str(entry.path) for entry in caught.traceback)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_what_ends_the_program_comes_out_of_loop_alone(kind: type[BaseException]) -> None:
    kernel = Ratchet()
    future = kernel.submit(fail, kind())
    with pytest.raises(kind):
        kernel.loop()
    assert future.cancelled()
    assert kernel.submit(int).done() is False
    kernel.loop()


def test_a_request_that_the_function_drops_is_abandoned_though_the_future_keeps_its_error() -> None:
    server, client = bus.new_local()

    def take_and_fail() -> None:
        taken = server.recv_request()
        raise KeyError(taken[1])

    with server:
        request = client.send_request("question")
        with Ratchet() as kernel:
            future = kernel.submit(take_and_fail)
        with pytest.raises(Abandoned):
            request.recv_response(LONG)
    assert type(future.exception()) is KeyError


@pytest.mark.parametrize("wrong", [None, 1, "print"])
def test_what_cannot_be_called_is_refused_at_the_call(wrong: Any) -> None:
    kernel = Ratchet()
    with pytest.raises(TypeError, match="func must be callable, not"):
        kernel.submit(wrong)
    assert kernel.num_threads == 0


def test_wrong_arguments_are_the_futures_error() -> None:
    with Ratchet() as kernel:
        future = kernel.submit(divmod, 1)  # type: ignore[arg-type]
    assert type(future.exception()) is TypeError


def test_nothing_crosses() -> None:
    variable: ContextVar[str] = ContextVar("variable")
    server, client = bus.new_local()

    def seen() -> tuple[str, object]:
        return variable.get("nothing"), _scope.get()

    def handle(request: str) -> object:
        variable.set("of the handler")
        return kernel.submit(seen).result()

    kernel = Ratchet()
    variable.set("of the test")
    with server:
        thread.attach_background(server.serve, handle)
        assert client.call("question", timeout=LONG) == ("nothing", None)
        future = kernel.submit(seen)
        kernel.loop()
    assert future.result() == ("nothing", None)
    thread.kernel().close()


def test_nothing_is_kept_of_a_call_that_has_ended() -> None:
    class Argument:
        def method(self, *, other: object) -> None:
            pass

    kernel = Ratchet()
    argument, other, cancelled = Argument(), Argument(), Argument()
    gone = [weakref.ref(thing) for thing in (argument, other, cancelled)]
    futures: list[Future[None]] = [
        kernel.submit(argument.method, other=other),
        kernel.submit(cancelled.method, other=None),
    ]
    futures[1].cancel()
    del argument, other, cancelled
    kernel.loop()
    turns()
    assert [reference() for reference in gone] == [None, None, None]
    kernel = Ratchet()
    future = weakref.ref(kernel.submit(fail, KeyError()))
    gc.disable()
    try:
        kernel.loop()
        turns()
        assert future() is None
    finally:
        gc.enable()


# Waiting for it.


def test_waiting_in_the_schedulers_own_os_thread_lets_its_threads_run() -> None:
    kernel = Ratchet()

    def work() -> int:
        thread.timer(0.01)
        return 1

    def nested() -> int:
        return kernel.submit(work).result() + 1

    assert kernel.submit(nested).result(LONG) == 2
    slow = kernel.submit(thread.pause)
    with pytest.raises(TimeoutError):
        slow.result(0.01)
    with pytest.raises(TimeoutError):
        slow.exception(0)
    slow.cancel()
    kernel.loop()


def test_a_wait_that_is_killed_leaves_nothing_behind() -> None:
    kernel = Ratchet()
    slow = kernel.submit(thread.pause)
    waiter = gevent.spawn(slow.result)
    turns()
    waiter.kill()
    with pytest.raises(ratchet.Alarm), thread.alarm(0.01):
        slow.result()
    slow.cancel()
    kernel.loop()
    assert waiter.ready()


def test_waiting_in_the_hub_is_refused() -> None:
    kernel = Ratchet()
    slow = kernel.submit(thread.pause)
    told: list[BaseException] = []

    def wait() -> None:
        try:
            slow.result()
        except RuntimeError as error:
            told.append(error)

    gevent.get_hub().loop.run_callback(wait)
    turns()
    assert "would have to wait in gevent's hub" in str(told[0])
    slow.cancel()
    kernel.loop()


def test_threads_that_wait_for_each_others_futures_are_a_deadlock() -> None:
    futures: list[Future[object]] = []
    kernel = Ratchet()
    futures.append(kernel.submit(lambda: futures[1].result()))
    futures.append(kernel.submit(lambda: futures[0].result()))
    with pytest.raises(DeadlockError, match="result on <SubmittedFuture state=pending>"):
        kernel.loop()
    kernel.close()
    assert [future.cancelled() for future in futures] == [True, True]


def test_a_hub_of_another_os_thread_runs_meanwhile() -> None:
    kernel = Ratchet()
    trace: list[str] = []

    def work() -> str:
        thread.timer(0.01)
        return "done"

    def program() -> object:
        try:
            gevent.spawn_later(0, trace.append, "ran")
            return kernel.submit(work).result(LONG)
        finally:
            gevent.get_hub().destroy(destroy_loop=True)

    assert told_by(program) == "done"
    assert trace == ["ran"]


def test_an_asyncio_program_awaits_it() -> None:
    kernel = Ratchet()
    released: list[str] = []

    def wait_until_killed() -> None:
        try:
            thread.pause()
        finally:
            released.append("killed")

    async def program() -> list[int]:
        slow = asyncio.wrap_future(kernel.submit(wait_until_killed))
        answers = await asyncio.gather(
            *(asyncio.wrap_future(kernel.submit(abs, -number)) for number in range(10))
        )
        slow.cancel()
        return answers

    assert told_by(lambda: asyncio.run(program())) == list(range(10))
    kernel.loop()
    assert released == ["killed"]


def test_the_functions_of_concurrent_futures_wait_for_it() -> None:
    kernel = Ratchet()

    def program() -> bool:
        futures = [kernel.submit(abs, number) for number in range(5)]
        cancelled = kernel.submit(thread.pause)
        assert cancelled.cancel()
        done = concurrent.futures.wait([*futures, cancelled], LONG).done
        return done == {*futures, cancelled} and len(list(concurrent.futures.as_completed(futures))) == 5

    assert told_by(program) is True


# Cancelling.


def test_cancelled_before_it_begins_it_never_runs() -> None:
    ran: list[int] = []
    kernel = Ratchet()
    future = kernel.submit(ran.append, 1)
    assert future.cancel()
    kernel.loop()
    assert (ran, future.cancelled(), kernel.num_threads) == ([], True, 0)


@pytest.mark.parametrize("elsewhere", [False, True])
def test_cancelled_while_it_runs_its_thread_is_killed(elsewhere: bool) -> None:
    released: list[str] = []
    begun, kernel = Event(), Ratchet()

    def work() -> None:
        try:
            begun.set()
            thread.pause()
        finally:
            released.append("finally")

    future = kernel.submit(work)
    assert begun.wait(LONG)
    assert not future.running()
    assert (told_by(future.cancel) if elsewhere else future.cancel()) is True
    with pytest.raises(CancelledError):
        future.result()
    kernel.loop()
    assert released == ["finally"]
    assert future.cancel()


def test_cancelled_after_the_end_it_keeps_its_result() -> None:
    with Ratchet() as kernel:
        future = kernel.submit(abs, -1)
    assert not future.cancel()
    assert future.result() == 1


def test_a_function_that_survives_being_cancelled_runs_to_its_end_and_its_result_is_dropped() -> None:
    trace: list[str] = []

    def stubborn() -> str:
        try:
            thread.pause()
        except gevent.GreenletExit:
            thread.timer(0)
            trace.append("went on")
        return "result"

    kernel = Ratchet()
    future = kernel.submit(stubborn)
    turns()
    future.cancel()
    kernel.loop()
    assert (trace, future.cancelled()) == (["went on"], True)


def test_an_error_after_cancelling_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def work() -> None:
        try:
            thread.pause()
        finally:
            raise KeyError("gone")

    kernel = Ratchet()
    future = kernel.submit(work)
    turns()
    future.cancel()
    kernel.loop()
    assert future.cancelled()
    assert caplog.messages == ["work died after its future was cancelled: KeyError('gone')"]


def test_a_function_may_cancel_its_own_future() -> None:
    futures: list[Future[str]] = []

    def work() -> str:
        futures[0].cancel()
        thread.timer(LONG)
        return "not killed"

    kernel = Ratchet()
    futures.append(kernel.submit(work))
    kernel.loop()
    assert futures[0].cancelled()


def test_a_thread_that_is_killed_cancels_its_future() -> None:
    kernel = Ratchet()
    threads: list[Any] = []

    def work() -> None:
        threads.append(thread.current())
        thread.pause()

    future = kernel.submit(work)
    wait_until(lambda: threads)
    thread.kill(threads[0])
    assert future.cancelled()
    kernel.loop()


def test_its_callbacks_run_in_the_thread_and_may_submit() -> None:
    kernel = Ratchet()
    trace: list[str] = []

    def work() -> None:
        thread.timer(0)

    def again(future: Future[None]) -> None:
        trace.append(getattr(thread.current(), "name", "").split("-")[0])
        kernel.submit(trace.append, "again")

    kernel.submit(work).add_done_callback(again)
    kernel.loop()
    assert trace == ["work", "again"]


# Who may submit, and until when.


def test_the_same_os_thread_and_a_hub_callback_may_submit() -> None:
    kernel = Ratchet()
    futures: list[Future[int]] = []
    gevent.get_hub().loop.run_callback(lambda: futures.append(kernel.submit(abs, -1)))
    turns()
    assert futures[0].result() == 1
    assert kernel.submit(abs, -2).result() == 2


@pytest.mark.parametrize("end", [Ratchet.close, Ratchet.loop], ids=["close", "loop"])
def test_a_scheduler_that_nobody_runs_any_more_refuses_until_it_is_run_again(
    end: Callable[[Ratchet], None],
) -> None:
    kernel = Ratchet()
    end(kernel)
    told = told_by(lambda: kernel.submit(int))
    assert type(told) is RuntimeError
    assert "takes no submissions: it has been closed, or its loop() has ended" in str(told)
    with kernel:
        future = kernel.submit(int)
    assert future.result() == 0
    kernel.attach(lambda: futures.append(kernel.submit(int)))
    futures: list[Future[int]] = []
    kernel.loop()
    assert futures[0].result() == 0


def test_loop_that_stop_or_an_error_ended_goes_on_with_submissions() -> None:
    kernel = Ratchet()
    kernel.attach(fail, KeyError())
    with pytest.raises(KeyError):
        kernel.loop()
    future = kernel.submit(abs, -1)
    while kernel.loop_once():
        assert kernel.num_threads > 0
    assert future.result() == 1


def test_loop_once_takes_what_was_submitted() -> None:
    kernel = Ratchet()
    future = kernel.submit(thread.timer, 0.01)
    assert kernel.loop_once(noblock=True) is True
    while kernel.loop_once():
        assert kernel.num_threads == 1
    assert future.done()


def test_closing_cancels_what_has_not_begun_and_what_runs() -> None:
    kernel = Ratchet()
    running = kernel.submit(thread.pause)
    turns()
    started, queued = kernel.submit(int), kernel.submit(int)
    kernel.close()
    assert [future.cancelled() for future in (running, started, queued)] == [True, True, True]
    assert concurrent.futures.wait([running, started, queued], 0).not_done == set()


def test_a_submitted_function_may_close_its_scheduler() -> None:
    kernel = Ratchet()
    futures: list[Future[None]] = []

    def close() -> None:
        futures.append(kernel.submit(int))  # type: ignore[arg-type]
        kernel.close()

    futures.append(kernel.submit(close))
    kernel.loop()
    assert all(future.cancelled() for future in futures)


def test_a_block_that_is_left_by_an_error_cancels_the_futures() -> None:
    with pytest.raises(KeyError), Ratchet() as kernel:
        future = kernel.submit(thread.pause)
        turns()
        raise KeyError
    assert future.cancelled()


@pytest.mark.parametrize("destroy", [False, True])
@pytest.mark.parametrize("ran", [False, True])
def test_the_end_of_its_os_thread_ends_what_is_submitted(destroy: bool, ran: bool) -> None:
    futures: list[Future[object]] = []
    kernels: list[Ratchet] = []

    def program() -> None:
        kernel = Ratchet()
        kernels.append(kernel)
        futures.append(kernel.submit(thread.timer, 2 * LONG))
        if ran:
            turns()
        futures.append(kernel.submit(int))
        if destroy:
            gevent.get_hub().destroy(destroy_loop=True)

    os_thread = threading.Thread(target=program)
    os_thread.start()
    os_thread.join(LONG)
    for future in futures:
        with pytest.raises(
            WrongThread, match="hub that has been destroyed, or to an OS thread that has ended"
        ):
            future.result(LONG)
    with pytest.raises(WrongThread, match="this Ratchet belongs to"):
        kernels[0].submit(int)


def test_another_os_thread_s_wait_ends_with_the_hub() -> None:
    published: list[Any] = []
    submitted = threading.Event()

    def program() -> None:
        kernel = Ratchet()
        published.append(kernel)
        thread.timer(0)
        while not submitted.is_set():
            thread.timer(0.001)
        gevent.get_hub().destroy(destroy_loop=True)

    def wait() -> object:
        future = published[0].submit(thread.timer, 2 * LONG)
        submitted.set()
        return future.result(LONG)

    with os_thread(program):
        wait_until(lambda: published)
        assert type(told_by(wait)) is WrongThread


# Interrupts, and many at once.


def test_an_interrupt_while_a_submission_is_taken_loses_none_and_runs_none_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[int] = []
    kernel = Ratchet()
    attach = kernel.attach
    struck: list[object] = []

    def interrupted(func: Any) -> Any:
        attached = attach(func)
        if len(struck) < 2:
            struck.append(attached)
            raise KeyboardInterrupt
        return attached

    monkeypatch.setattr(kernel, "attach", interrupted)
    futures = [kernel.submit(ran.append, number) for number in range(3)]
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            kernel.loop()
    kernel.loop()
    assert sorted(ran) == [0, 1, 2]
    assert all(future.done() for future in futures)


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()"])
@pytest.mark.parametrize("way", ["one by one", "all at once"])
def test_ten_thousand_from_eight_os_threads(patch: str, way: str) -> None:
    assert (
        output_of(
            f"""
            {patch or "pass"}
            from gevent.monkey import get_original
            import ratchet
            from ratchet import thread

            OS_THREADS, EACH = 8, 1250
            start_os_thread = get_original("_thread", "start_new_thread")
            told = []

            def work(number):
                if number % 3 == 0:
                    thread.timer(0)
                return number

            def ask():
                right = 0
                try:
                    if {way == "one by one"}:
                        for number in range(EACH):
                            right += kernel.submit(work, number).result({LONG}) == number
                    else:
                        futures = [kernel.submit(work, number) for number in range(EACH)]
                        right = sum(future.result({LONG}) == n for n, future in enumerate(futures))
                finally:
                    told.append(right)

            def stay():
                while len(told) < OS_THREADS:
                    thread.timer(0.01)

            with ratchet.Ratchet(stay) as kernel:
                for _ in range(OS_THREADS):
                    start_os_thread(ask, ())
            print(sum(told))
            """
        )
        == "10000\n"
    )


def test_greenlets_of_a_patched_program_wait_side_by_side() -> None:
    assert (
        output_of(
            """
            from gevent import monkey; monkey.patch_all()
            import threading
            import ratchet
            from ratchet import thread

            def ask():
                print(kernel.submit(thread.timer, 0.01).result())

            with ratchet.Ratchet() as kernel:
                asking = [threading.Thread(target=ask) for _ in range(2)]
                for greenlet in asking:
                    greenlet.start()
                for greenlet in asking:
                    greenlet.join()
            """
        )
        == "None\nNone\n"
    )
