"""The functions for the current thread: what each returns, refuses, and leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from greenlet import greenlet

import ratchet
from helpers import LONG, active_watchers, burn, in_os_thread, output_of, turns, wait_until
from ratchet import Alarm, NotPaused, Ratchet, Thread, WrongThread, _pause, _sigwait, thread
from ratchet._wait import waiting_on

WRONG_SECONDS = ["1", True, 1j, b"1", [1]]


class Caller:
    """A thread that calls something, with what came of it.

    It is a thread of `kernel`, or a plain greenlet without one.
    """

    def __init__(self, call: Callable[[], object], kernel: Ratchet | None = None) -> None:
        self.outcome: object = None
        self._call = call
        self.thread: gevent.Greenlet[Any, Any]
        self.thread = gevent.spawn(self._run) if kernel is None else kernel.attach(self._run)

    def _run(self) -> None:
        try:
            self.outcome = self._call()
        except BaseException as error:
            self.outcome = error

    def started(self) -> Caller:
        """Wait until the thread waits in its call."""
        wait_until(lambda: waiting_on(self.thread) or self.thread.ready(), "the thread to wait")
        return self

    def result(self) -> object:
        """Wait until the call is over."""
        wait_until(self.thread.ready, "the call to end")
        return self.outcome


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def hits() -> Iterator[list[int]]:
    """The signals that reached Python's own handler for SIGUSR1 and SIGUSR2."""
    caught: list[int] = []
    before = {
        number: signal.signal(number, lambda number, frame: caught.append(number))
        for number in (signal.SIGUSR1, signal.SIGUSR2)
    }
    yield caught
    for number, handler in before.items():
        signal.signal(number, handler)


def send_signal(number: int = signal.SIGUSR1) -> None:
    os.kill(os.getpid(), number)


# attach, current, space.


def test_attach_uses_the_scheduler_of_the_current_thread() -> None:
    attached: list[Thread] = []

    def outer() -> None:
        attached.append(thread.attach(turns, 1))
        attached.append(thread.attach_background(turns, count=1))

    kernel = Ratchet(outer)
    kernel.loop()
    assert [owned.kernel for owned in attached] == [kernel, kernel]
    assert [owned.background for owned in attached] == [False, True]


def test_attach_uses_the_innermost_scheduler_that_the_thread_has_entered() -> None:
    kernels: list[Ratchet] = []

    def run() -> None:
        kernels.append(thread.attach(turns).kernel)
        with Ratchet() as inner:
            kernels.append(thread.attach(turns).kernel)
            with Ratchet() as innermost:
                kernels.append(thread.attach(turns).kernel)
            kernels.append(thread.attach_background(turns).kernel)
        kernels.append(thread.attach(turns).kernel)
        assert kernels == [outer, inner, innermost, inner, outer]

    outer = Ratchet(run)
    outer.loop()
    assert len(kernels) == 5


def test_a_thread_attached_in_a_block_belongs_to_the_blocks_scheduler_and_so_do_its_own() -> None:
    kernels: list[Ratchet] = []
    with Ratchet() as kernel:
        thread.attach(lambda: kernels.append(thread.attach(turns).kernel))
    assert kernels == [kernel]


def test_a_block_that_was_left_by_an_error_is_no_longer_the_current_scheduler() -> None:
    with pytest.raises(KeyError):
        with Ratchet() as kernel:
            raise KeyError
    attached = thread.attach(turns)
    assert attached.kernel is not kernel
    attached.join()


def test_greenlets_that_no_scheduler_owns_share_one() -> None:
    first = gevent.spawn(thread.attach, turns)
    second = gevent.spawn(thread.attach, turns)
    assert first.get().kernel is second.get().kernel is thread.attach(turns).kernel


def test_each_os_thread_has_a_shared_scheduler_of_its_own() -> None:
    kernels = [thread.attach(turns).kernel]

    def attach() -> None:
        attached = thread.attach(turns)
        kernels.append(attached.kernel)
        attached.join()

    assert in_os_thread(attach) is None
    assert kernels[0] is not kernels[1]


def test_current_is_the_running_greenlet() -> None:
    seen: list[greenlet] = []
    kernel = Ratchet()
    owned = kernel.attach(lambda: seen.append(thread.current()))
    plain = gevent.spawn(lambda: seen.append(thread.current()))
    kernel.loop()
    plain.join()
    assert seen == [owned, plain]
    assert thread.current() is gevent.getcurrent()


def test_kernel_is_the_scheduler_that_attach_attaches_to() -> None:
    seen: list[Ratchet] = []

    def look() -> None:
        seen.append(thread.kernel())

    with Ratchet() as kernel:
        assert thread.kernel() is kernel
        attached = thread.attach(look)
    assert seen == [kernel]
    assert attached.kernel is kernel


def test_kernel_in_a_greenlet_of_gevent_s_own_is_the_one_that_these_share() -> None:
    found = [gevent.spawn(thread.kernel).get() for _ in range(2)]
    assert found == [thread.kernel(), thread.kernel()]
    assert thread.attach(turns).kernel is thread.kernel()
    thread.kernel().loop()


def test_space_is_made_on_first_use_and_stays_the_same() -> None:
    def use() -> bool:
        made = thread.space()
        made.count = 1
        assert isinstance(made, SimpleNamespace)
        return thread.space() is made and thread.space({"not": "used"}) is made

    assert Caller(use).result() is True
    assert Caller(use, Ratchet()).result() is True


@pytest.mark.parametrize("premade", [{"a": 1}, {}, 0, ""])
def test_space_may_be_premade(premade: object) -> None:
    def use() -> bool:
        return thread.space(premade) is premade and thread.space() is premade

    assert Caller(use).result() is True
    assert Caller(use, Ratchet()).result() is True


def test_each_thread_has_a_space_of_its_own_and_others_see_it() -> None:
    spaces: list[object] = []
    kernel = Ratchet()
    first = kernel.attach(lambda: spaces.append(thread.space()))
    second = kernel.attach(lambda: spaces.append(thread.space()))
    kernel.loop()
    assert spaces == [first.space, second.space]
    assert first.space is not second.space


# timer.


def test_timer_sleeps_for_that_time() -> None:
    started = time.monotonic()
    thread.timer(0.02)
    assert time.monotonic() - started >= 0.02


def test_timer_counts_from_now_when_the_hub_is_late() -> None:
    gevent.sleep(0)
    burn(0.05)
    started = time.monotonic()
    thread.timer(0.03)
    assert time.monotonic() - started >= 0.03


@pytest.mark.parametrize("seconds", [0, 0.0, -1])
def test_timer_of_zero_lets_every_other_thread_run_first(seconds: float) -> None:
    trace: list[int] = []
    others = [gevent.spawn(trace.append, number) for number in range(3)]
    thread.timer(seconds)
    assert trace == [0, 1, 2]
    gevent.joinall(others)


def test_timer_for_ever_sleeps_until_it_is_killed() -> None:
    sleeper = Caller(lambda: thread.timer(float("inf"))).started()
    turns()
    assert sleeper.outcome is None
    thread.kill(sleeper.thread)
    assert isinstance(sleeper.outcome, gevent.GreenletExit)


@pytest.mark.parametrize("call", [thread.timer, thread.alarm])
def test_what_is_no_number_of_seconds_is_refused(call: Callable[[Any], object]) -> None:
    for wrong in [None, *WRONG_SECONDS]:
        with pytest.raises(TypeError, match="seconds must be a number of seconds"):
            call(wrong)
    with pytest.raises(ValueError, match="seconds must be a number of seconds"):
        call(float("nan"))


def test_what_is_no_timeout_is_refused(ends: tuple[socket.socket, socket.socket]) -> None:
    calls: list[Callable[[Any], object]] = [
        lambda timeout: thread.wait_all([], timeout),
        lambda timeout: thread.block_on(ends, timeout=timeout),
        lambda timeout: thread.sigwait("USR1", timeout),
    ]
    for call in calls:
        for wrong in WRONG_SECONDS:
            with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
                call(wrong)
        with pytest.raises(ValueError, match="timeout must be a number of seconds or None"):
            call(float("nan"))


# alarm.


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


# pause and unpause.


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


# wait_all.


def test_wait_all_waits_until_all_have_ended_by_return_error_or_kill() -> None:
    def fail() -> None:
        turns()
        raise KeyError

    kernel = Ratchet(errh=lambda error, thread: None)
    returning, failing, killed = kernel.attach(turns, 3), kernel.attach(fail), kernel.attach(thread.pause)
    waiting = Caller(lambda: thread.wait_all([returning, failing, killed]), kernel).started()
    wait_until(lambda: returning.ready() and failing.ready())
    turns()
    assert waiting.outcome is None
    thread.kill(killed)
    assert waiting.result() is True
    kernel.loop()


def test_wait_all_of_threads_that_have_ended_or_of_none_returns_at_once() -> None:
    ended = gevent.spawn(turns)
    ended.join()
    assert thread.wait_all([]) is True
    assert thread.wait_all([ended, ended], timeout=0) is True
    assert thread.wait_all(iter([ended])) is True


def test_wait_all_takes_a_thread_twice() -> None:
    other = gevent.spawn(turns)
    assert thread.wait_all([other, other]) is True


def test_wait_all_is_false_on_timeout_and_leaves_the_threads_alone() -> None:
    paused = Caller(thread.pause).started()
    started = time.monotonic()
    assert thread.wait_all([paused.thread], timeout=0.02) is False
    assert time.monotonic() - started >= 0.02
    assert thread.wait_all([paused.thread], timeout=0) is False
    assert not paused.thread.has_links()
    thread.unpause(paused.thread)
    assert thread.wait_all([paused.thread], timeout=LONG) is True


def test_wait_all_of_a_thread_that_never_starts_ends_when_it_is_killed() -> None:
    unstarted = gevent.Greenlet(turns)
    waiting = Caller(lambda: thread.wait_all([unstarted])).started()
    thread.kill(unstarted)
    assert waiting.result() is True


def test_several_threads_may_wait_for_the_same_ones() -> None:
    paused = Caller(thread.pause).started()
    waiting = [Caller(lambda: thread.wait_all([paused.thread])).started() for _ in range(3)]
    thread.kill(waiting[0].thread)
    thread.unpause(paused.thread)
    assert [caller.result() for caller in waiting[1:]] == [True, True]


@pytest.mark.parametrize("wrong", [None, 1, "thread", greenlet(turns)])
def test_wait_all_of_what_is_no_thread_is_a_type_error(wrong: Any) -> None:
    other = gevent.spawn(turns)
    with pytest.raises(TypeError, match="expected a thread"):
        thread.wait_all([other, wrong])
    assert not other.has_links()
    other.join()


def test_a_thread_that_waits_for_itself_is_refused() -> None:
    caller = Caller(lambda: thread.wait_all([gevent.getcurrent()]))  # type: ignore[list-item]
    assert isinstance(caller.result(), ValueError)
    assert "cannot wait for itself" in str(caller.outcome)


@pytest.mark.parametrize("call", [thread.wait_all, thread.kill_all])
def test_threads_of_another_os_thread_are_refused(
    call: Callable[[list[gevent.Greenlet[Any, Any]]], object],
) -> None:
    paused = Caller(thread.pause).started()
    error = in_os_thread(lambda: call([paused.thread]))
    assert type(error) is WrongThread
    assert "belongs to another OS thread" in str(error)
    assert not paused.thread.has_links()
    thread.unpause(paused.thread, "value")
    assert paused.result() == "value"


# block_on.


def test_block_on_returns_the_object_that_is_readable(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    reading = Caller(lambda: thread.block_on([ours])).started()
    turns()
    assert reading.outcome is None
    theirs.send(b"x")
    assert reading.result() is ours


def test_block_on_returns_the_object_that_is_writable(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    ours.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            ours.send(bytes(65536))
    writing = Caller(lambda: thread.block_on([], [ours])).started()
    turns()
    assert writing.outcome is None
    theirs.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while theirs.recv(65536):
            pass
    assert writing.result() is ours


def test_block_on_returns_the_one_of_several_that_is_ready() -> None:
    with contextlib.ExitStack() as sockets:
        pairs = [socket.socketpair() for _ in range(3)]
        for pair in pairs:
            for end in pair:
                sockets.enter_context(end)
        blocked = Caller(lambda: thread.block_on(ours for ours, _ in pairs)).started()
        pairs[1][1].send(b"x")
        assert blocked.result() is pairs[1][0]
        # The end of the stream is something to read, too.
        pairs[1][0].recv(1)
        pairs[2][1].close()
        assert thread.block_on([ours for ours, _ in pairs]) is pairs[2][0]


def test_block_on_returns_one_object_when_several_are_ready_at_once(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    ours.send(b"x")
    theirs.send(b"x")
    assert thread.block_on([ours, theirs], [ours, theirs]) in ends


def test_block_on_takes_pipes_files_and_descriptors() -> None:
    reads, writes = os.pipe()
    with open(reads, "rb") as reader, open(writes, "wb", buffering=0) as writer:
        assert thread.block_on([reader], timeout=0) is None
        assert thread.block_on([], [writer]) is writer
        writer.write(b"x")
        assert thread.block_on([reader]) is reader
        assert thread.block_on([reads]) == reads


def test_block_on_takes_gevents_sockets() -> None:
    ours, theirs = gevent.socket.socketpair()
    with ours, theirs:
        blocked = Caller(lambda: thread.block_on([ours])).started()
        theirs.send(b"x")
        assert blocked.result() is ours


def test_block_on_takes_the_same_object_to_read_and_to_write(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, _ = ends
    assert thread.block_on([ours], [ours], timeout=LONG) is ours


def test_block_on_is_none_on_timeout(ends: tuple[socket.socket, socket.socket]) -> None:
    started = time.monotonic()
    assert thread.block_on(ends, timeout=0.02) is None
    assert time.monotonic() - started >= 0.02
    assert thread.block_on(ends, timeout=0) is None


def test_block_on_of_what_is_ready_does_not_time_out_even_at_zero_or_when_the_hub_is_late(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    theirs.send(b"x")
    assert thread.block_on([ours], timeout=0) is ours
    assert thread.block_on([], [ours], timeout=0) is ours
    busy = gevent.spawn(burn, 0.05)
    assert thread.block_on([ours], timeout=0.01) is ours
    assert busy.ready()


def test_block_on_of_a_closed_object_is_a_value_error(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    before = active_watchers()
    ours.close()
    with pytest.raises(ValueError, match="is closed"):
        thread.block_on([theirs, ours])
    reads, writes = os.pipe()
    with open(reads, "rb") as reader:
        os.close(writes)
    with pytest.raises(ValueError, match="closed"):
        thread.block_on([reader])
    with pytest.raises(ValueError, match="is closed"):
        thread.block_on([], [-1])
    assert active_watchers() == before


def test_block_on_nothing_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least one object"):
        thread.block_on([])
    with pytest.raises(ValueError, match="at least one object"):
        thread.block_on([], [], timeout=0)


@pytest.mark.parametrize("wrong", [None, "file", object(), True, SimpleNamespace(fileno=lambda: "1")])
def test_block_on_of_what_has_no_fileno_is_a_type_error(
    wrong: object, ends: tuple[socket.socket, socket.socket]
) -> None:
    before = active_watchers()
    for reads, writes in ([[*ends, wrong], []], [[], [*ends, wrong]]):
        with pytest.raises(TypeError, match=r"objects with fileno\(\)"):
            thread.block_on(reads, writes)
    assert active_watchers() == before


def test_several_threads_may_wait_for_one_object(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    blocked = [Caller(lambda: thread.block_on([ours])).started() for _ in range(3)]
    thread.kill(blocked[0].thread)
    theirs.send(b"x")
    assert [caller.result() for caller in blocked[1:]] == [ours, ours]


# sigwait.


@pytest.mark.parametrize("name", [signal.SIGUSR1, int(signal.SIGUSR1), "SIGUSR1", "USR1", "sigusr1", "usr1"])
def test_sigwait_takes_a_number_or_a_name(name: int | str, hits: list[int]) -> None:
    waiting = Caller(lambda: thread.sigwait(name)).started()
    assert waiting_on(waiting.thread) == "sigwait(SIGUSR1)"
    send_signal()
    assert waiting.result() is True
    assert hits == []


def test_sigwait_is_false_on_timeout(hits: list[int]) -> None:
    started = time.monotonic()
    assert thread.sigwait("USR1", timeout=0.02) is False
    assert time.monotonic() - started >= 0.02
    assert thread.sigwait("USR1", timeout=0) is False
    assert hits == []


@pytest.mark.parametrize("end", ["signal", "timeout", "kill"])
def test_pythons_handler_works_again_after_sigwait(end: str, hits: list[int]) -> None:
    waiting = Caller(lambda: thread.sigwait("USR1", 0.01 if end == "timeout" else None)).started()
    if end == "signal":
        send_signal()
    if end == "kill":
        thread.kill(waiting.thread)
    waiting.result()
    assert hits == []
    send_signal()
    wait_until(lambda: hits, "Python's handler")
    assert hits == [signal.SIGUSR1]


def test_all_threads_that_wait_for_a_signal_get_it_and_no_other_does(hits: list[int]) -> None:
    waiting = [Caller(lambda: thread.sigwait("USR1")).started() for _ in range(3)]
    other = Caller(lambda: thread.sigwait("USR2")).started()
    send_signal()
    assert [caller.result() for caller in waiting] == [True] * 3
    assert other.outcome is None
    send_signal(signal.SIGUSR2)
    assert other.result() is True
    assert hits == []


def test_a_waiter_that_is_killed_does_not_disturb_the_others(hits: list[int]) -> None:
    killed, waiting = (Caller(lambda: thread.sigwait("USR1")).started() for _ in range(2))
    thread.kill(killed.thread)
    send_signal()
    assert waiting.result() is True
    assert hits == []


def test_a_thread_that_waits_for_a_signal_keeps_the_loop_alive(hits: list[int]) -> None:
    kernel = Ratchet()
    waiting = kernel.attach(thread.sigwait, "USR1")
    looper = gevent.spawn(kernel.loop)
    turns(20)
    assert waiting.state == "waiting"
    send_signal()
    looper.get()
    assert waiting.value is True


@pytest.mark.parametrize("wrong", ["SIGNOTHING", "", "SIG", 0, -1, 1000])
def test_a_signal_that_does_not_exist_is_a_value_error(wrong: int | str) -> None:
    with pytest.raises(ValueError, match="there is no signal"):
        thread.sigwait(wrong, timeout=0)


@pytest.mark.parametrize("wrong", [None, True, 1.0, b"USR1"])
def test_what_is_no_signal_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="signal must be a number or a name"):
        thread.sigwait(wrong, timeout=0)


@pytest.mark.parametrize("name", ["SIGKILL", "kill", signal.SIGKILL, "STOP"])
def test_a_signal_that_cannot_be_caught_is_a_value_error(name: int | str) -> None:
    with pytest.raises(ValueError, match="cannot be waited for"):
        thread.sigwait(name, timeout=0)


def test_sigwait_in_another_os_thread_is_a_clear_error() -> None:
    error = in_os_thread(lambda: thread.sigwait("USR1", timeout=0))
    assert type(error) is WrongThread
    assert "main OS thread" in str(error)


def test_a_signal_that_is_ignored_is_ignored_again_afterwards() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        waiting = Caller(lambda: thread.sigwait("USR1")).started()
        send_signal()
        assert waiting.result() is True
        send_signal()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_sigwait_leaves_gevents_own_handlers_in_force() -> None:
    assert (
        output_of(
            """
            import os, signal, gevent, gevent.subprocess
            from ratchet import thread

            caught = gevent.event.AsyncResult()
            handler = gevent.signal_handler(signal.SIGUSR1, caught.set, "caught")
            print(thread.sigwait("USR1", timeout=0))
            os.kill(os.getpid(), signal.SIGUSR1)
            print(caught.get(timeout=10))

            gevent.subprocess.check_call(["true"])
            print(thread.sigwait("CHLD", timeout=0))
            print(gevent.subprocess.check_output(["echo", "child"], text=True).strip())
            """
        )
        == "False\ncaught\nFalse\nchild\n"
    )


def test_sigwait_for_ctrl_c_takes_it_and_gives_it_back() -> None:
    assert (
        output_of(
            """
            import os, signal, gevent
            from ratchet import Ratchet, thread

            waiting = gevent.spawn(thread.sigwait, "INT")
            gevent.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            print(waiting.get())
            try:
                os.kill(os.getpid(), signal.SIGINT)
                gevent.sleep(10)
            except KeyboardInterrupt:
                print("interrupted")
            """
        )
        == "True\ninterrupted\n"
    )


# kill and kill_all.


def test_kill_waits_for_the_end_and_the_finally_blocks() -> None:
    trace: list[str] = []

    def clean_up_slowly() -> None:
        try:
            thread.pause()
        finally:
            thread.timer(0.01)
            trace.append("cleaned up")

    victims: list[gevent.Greenlet[Any, Any]]
    victims = [gevent.spawn(clean_up_slowly), Ratchet().attach(clean_up_slowly)]
    turns()
    for victim in victims:
        thread.kill(victim)
        assert victim.dead
        assert isinstance(victim.value, gevent.GreenletExit)
    assert trace == ["cleaned up"] * 2


def test_kill_of_a_thread_that_has_not_started_keeps_it_from_starting() -> None:
    trace: list[int] = []
    victims = [gevent.spawn(trace.append, 1), Ratchet().attach(trace.append, 1)]
    for victim in victims:
        thread.kill(victim)
        assert victim.ready()
    turns()
    assert trace == []


def test_kill_of_a_thread_that_has_ended_leaves_it_alone() -> None:
    ended = gevent.spawn(lambda: "value")
    ended.join()
    thread.kill(ended)
    thread.kill_all([ended, ended])
    assert ended.value == "value"


def test_a_thread_may_kill_itself() -> None:
    trace: list[str] = []

    def kill_itself(kill: Callable[[Any], None], victim: Callable[[], object]) -> None:
        try:
            kill(victim())
            trace.append("not reached")
        finally:
            trace.append("finally")

    kernel = Ratchet()
    kernel.attach(kill_itself, thread.kill, thread.current)
    kernel.attach(kill_itself, thread.kill_all, lambda: [thread.current()])
    kernel.loop()
    assert trace == ["finally", "finally"]


def test_kill_all_kills_all_at_once() -> None:
    trace: list[int] = []

    def clean_up(number: int) -> None:
        try:
            thread.pause()
        finally:
            trace.append(number)

    victims: list[gevent.Greenlet[Any, Any]] = [gevent.spawn(clean_up, number) for number in range(3)]
    turns()
    victims.append(gevent.spawn(trace.append, 3))  # has not started
    thread.kill_all(iter(victims))
    assert trace == [0, 1, 2]
    assert all(victim.dead for victim in victims)
    thread.kill_all([])


def test_kill_all_with_the_caller_among_them_kills_all() -> None:
    victim = Caller(thread.pause).started()
    killer = Caller(lambda: thread.kill_all([gevent.getcurrent(), victim.thread]))  # type: ignore[list-item]
    assert isinstance(killer.result(), gevent.GreenletExit)
    assert isinstance(victim.result(), gevent.GreenletExit)


def test_a_timeout_in_kill_leaves_the_victim_to_end_in_its_own_time() -> None:
    trace: list[object] = []

    def linger() -> None:
        try:
            thread.pause()
        finally:
            trace.append(thread.pause())

    victim = Caller(linger).started()
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        thread.kill(victim.thread)
    assert not victim.thread.has_links()
    thread.unpause(victim.thread, "cleaned up")
    assert isinstance(victim.result(), gevent.GreenletExit)
    assert trace == ["cleaned up"]


@pytest.mark.parametrize("wrong", [None, 1, "thread", greenlet(turns)])
def test_kill_of_what_is_no_thread_is_a_type_error_and_kills_nobody(wrong: Any) -> None:
    other = Caller(thread.pause).started()
    with pytest.raises(TypeError, match="expected a thread"):
        thread.kill(wrong)
    with pytest.raises(TypeError, match="expected a thread"):
        thread.kill_all([other.thread, wrong])
    thread.unpause(other.thread, "alive")
    assert other.result() == "alive"


# What is left behind: nothing.


class Scene:
    """What the blocking calls need."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.other = gevent.spawn(thread.pause)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()
        thread.kill(self.other)


BLOCKING: dict[str, Callable[[Scene], object]] = {
    "timer": lambda scene: thread.timer(2 * LONG),
    "pause": lambda scene: thread.pause(),
    "wait_all": lambda scene: thread.wait_all([scene.other]),
    "wait_all with a timeout": lambda scene: thread.wait_all([scene.other], 2 * LONG),
    "block_on": lambda scene: thread.block_on([scene.ours]),
    "block_on with a timeout": lambda scene: thread.block_on([scene.ours], [], 2 * LONG),
    "block_on of several": lambda scene: thread.block_on([scene.ours, scene.theirs]),
    "sigwait": lambda scene: thread.sigwait("USR1"),
    "sigwait with a timeout": lambda scene: thread.sigwait("USR1", 2 * LONG),
}


@pytest.fixture
def scene(hits: list[int]) -> Iterator[Scene]:
    """The scene, and afterwards Python's handler for the signal, which must work."""
    made = Scene()
    turns()
    yield made
    made.close()
    send_signal()
    wait_until(lambda: hits, "Python's handler")


def end_by_kill(call: Callable[[], object]) -> object:
    caller = Caller(call).started()
    thread.kill(caller.thread)
    return caller.outcome


def end_by_timeout(call: Callable[[], object]) -> object:
    def run() -> None:
        with gevent.Timeout(0.005):
            call()

    return Caller(run).result()


def end_by_alarm(call: Callable[[], object]) -> object:
    def run() -> None:
        with thread.alarm(0.005):
            call()

    return Caller(run, Ratchet()).result()


def end_by_alarm_with_callback(call: Callable[[], object]) -> object:
    def run() -> None:
        thread.alarm(0, turns)
        call()

    return Caller(run, Ratchet()).result()


def end_by_close(call: Callable[[], object]) -> object:
    kernel = Ratchet()
    caller = Caller(call, kernel).started()
    kernel.close()
    return caller.outcome


@pytest.mark.parametrize("name", BLOCKING)
@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (end_by_kill, gevent.GreenletExit),
        (end_by_timeout, gevent.Timeout),
        (end_by_alarm, Alarm),
        (end_by_alarm_with_callback, Alarm),
        (end_by_close, gevent.GreenletExit),
    ],
)
def test_a_call_that_is_ended_from_outside_leaves_nothing_behind_and_disturbs_no_other(
    name: str,
    end: Callable[[Callable[[], object]], object],
    expected: type[BaseException],
    scene: Scene,
) -> None:
    def call() -> object:
        return BLOCKING[name](scene)

    before = active_watchers()
    assert type(end(call)) is expected
    wait_until(lambda: active_watchers() <= before, "the watchers to go")
    assert not scene.other.has_links()
    assert _sigwait.waiters == {}
    assert list(_pause.paused) == [scene.other]

    bystander = Caller(call).started()
    end(call)
    turns()
    assert bystander.outcome is None
    thread.kill(bystander.thread)
    wait_until(lambda: active_watchers() <= before, "the watchers to go")


@pytest.mark.parametrize("name", [name for name in BLOCKING if name != "timer"])
def test_a_call_that_ends_by_itself_leaves_nothing_behind(name: str, scene: Scene) -> None:
    before = active_watchers()
    caller = Caller(lambda: BLOCKING[name](scene)).started()
    if name == "pause":
        thread.unpause(caller.thread)
    scene.theirs.send(b"x")
    if name.startswith("sigwait"):
        send_signal()
    if name.startswith("wait_all"):
        thread.unpause(scene.other)
    assert not isinstance(caller.result(), BaseException)
    wait_until(lambda: active_watchers() <= before, "the watchers to go")
    assert caller.thread not in _pause.paused
    assert _sigwait.waiters == {}
    assert not scene.other.has_links()


def test_a_timeout_of_the_callers_own_passes_through_untouched(scene: Scene) -> None:
    for call in BLOCKING.values():
        timeout = gevent.Timeout(0)
        with pytest.raises(gevent.Timeout) as caught, timeout:
            call(scene)
        assert caught.value is timeout


def test_the_functions_work_in_another_os_thread(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    theirs.send(b"x")
    got: list[object] = []

    def run() -> None:
        assert threading.current_thread() is not threading.main_thread()
        with Ratchet() as kernel:
            paused = kernel.attach(lambda: got.append(thread.pause()))
            thread.timer(0)
            thread.unpause(paused, "value")
            got.append(thread.block_on([ours]))
            thread.wait_all([paused])
            with pytest.raises(Alarm), thread.alarm(0):
                thread.pause()

    assert in_os_thread(run) is None
    assert got in ([ours, "value"], ["value", ours])
