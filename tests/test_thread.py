"""The functions for the current thread: what each returns, refuses, and leaves behind."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest
from greenlet import greenlet

from callers import WRONG_SECONDS, Caller, send_signal
from helpers import LONG, active_watchers, burn, in_os_thread, turns, wait_until
from ratchet import Alarm, Ratchet, Thread, WrongThread, _pause, _sigwait, thread

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
