"""Interrupts at every switch point: what they find, where, and what they leave behind."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.lock import Semaphore
from greenlet import GreenletExit

import ratchet
from helpers import active_watchers, in_os_thread
from kernels import anywhere
from ratchet import bus, testing, thread
from ratchet.testing import ScenarioFailed, interrupt_everywhere
from robustness.leaks import live_greenlets

PAUSE = 0.0001  # seconds


@pytest.fixture(params=["real", "virtual"])
def time_of_hub(request: pytest.FixtureRequest) -> Iterator[None]:
    """Either kind of time."""
    with testing.virtual_time() if request.param == "virtual" else nullcontext():
        yield


on_each_time = pytest.mark.usefixtures("time_of_hub")


# Three services that are wrong on purpose, each with one right beside it.


class Gauge:
    """Counts the requests that are being handled."""

    def __init__(self) -> None:
        self.busy = 0

    def handle_wrong(self) -> None:
        thread.timer(PAUSE)
        self.busy += 1
        thread.timer(PAUSE)  # breaks the gauge
        self.busy -= 1
        thread.timer(PAUSE)

    def handle_right(self) -> None:
        thread.timer(PAUSE)
        self.busy += 1
        try:
            thread.timer(PAUSE)
        finally:
            self.busy -= 1
        thread.timer(PAUSE)

    def check(self) -> None:
        busy, self.busy = self.busy, 0
        assert busy == 0


class Pool:
    """Has two slots, which are lent."""

    def __init__(self) -> None:
        self.free = deque(["a", "b"])
        self.lock = Semaphore()

    def use_wrong(self) -> None:
        with self.lock:
            gevent.sleep(0)
            slot = self.free.popleft()
        try:
            Event().wait(timeout=PAUSE)
        finally:
            gevent.sleep(0)  # breaks the pool
            self.free.append(slot)

    def use_right(self) -> None:
        with self.lock:
            gevent.sleep(0)
            slot = self.free.popleft()
        try:
            Event().wait(timeout=PAUSE)
            gevent.sleep(0)
        finally:
            self.free.append(slot)

    def check(self) -> None:
        assert sorted(self.free) == ["a", "b"]


class Bank:
    """Moves money, and asks a bus whether it may."""

    def __init__(self) -> None:
        self.balances = {"a": 100, "b": 0}
        self.server, self.client = bus.new_local()

    def serve(self) -> None:
        thread.attach_background(self.server.serve, lambda amount: amount <= 100)

    def transfer_wrong(self) -> None:
        self.serve()
        if self.client.call(10):
            self.balances["a"] -= 10
            self.client.call(  # breaks the bank
                10,
            )
            self.balances["b"] += 10

    def transfer_right(self) -> None:
        self.serve()
        if self.client.call(10) and self.client.call(10):
            self.balances["a"] -= 10
            self.balances["b"] += 10

    def check(self) -> None:
        assert sum(self.balances.values()) == 100


def line_that(breaks: str) -> int:
    """The line of this file that says it breaks something."""
    lines = inspect.getsource(inspect.getmodule(line_that) or inspect).splitlines()
    return lines.index(next(line for line in lines if line.endswith(f"  # breaks the {breaks}"))) + 1


WRONG = [
    (Gauge, Gauge.handle_wrong, "gauge", "thread.timer(PAUSE)"),
    (Pool, Pool.use_wrong, "pool", "gevent.sleep(0)"),
    (Bank, Bank.transfer_wrong, "bank", "self.client.call( # breaks the bank 10, )"),
]


@on_each_time
@pytest.mark.parametrize(("service", "use", "breaks", "call"), WRONG, ids=["gauge", "pool", "bank"])
@pytest.mark.parametrize("interrupt", [GreenletExit, gevent.Timeout])
def test_it_finds_the_line_at_which_a_service_breaks(
    service: type[Gauge | Pool | Bank],
    use: Callable[..., None],
    breaks: str,
    call: str,
    interrupt: type[BaseException],
) -> None:
    made = service()
    with pytest.raises(ScenarioFailed) as raised:
        interrupt_everywhere(lambda: use(made), made.check, interrupts=[interrupt])
    failed = raised.value
    assert (failed.file, failed.line) == (__file__, line_that(breaks))
    assert failed.function == use.__qualname__
    assert failed.call == call
    assert type(failed.interrupt) is interrupt
    assert failed.run > 2
    assert isinstance(failed.__cause__, AssertionError)
    assert f'"{__file__}", line {line_that(breaks)}, in {use.__qualname__}: {call}' in str(failed)
    assert f"in run {failed.run}" in str(failed)


@on_each_time
@pytest.mark.parametrize(
    ("service", "use"), [(Gauge, Gauge.handle_right), (Pool, Pool.use_right), (Bank, Bank.transfer_right)]
)
def test_a_service_that_is_right_passes(service: type[Gauge | Pool | Bank], use: Callable[..., None]) -> None:
    made = service()
    # Three waits or two, two interrupts, and most of them twice.
    assert interrupt_everywhere(lambda: use(made), made.check) >= 4


# What else fails a run.


@anywhere
def test_a_scenario_that_can_never_end_after_an_interrupt_is_shown(
    call: Callable[[Callable[[], None]], None],
) -> None:
    def scenario() -> None:
        try:
            thread.timer(PAUSE)
        except gevent.Timeout:
            Event().wait()

    def find() -> None:
        with pytest.raises(ScenarioFailed, match="can never run again") as raised:
            interrupt_everywhere(scenario)
        assert raised.value.call == "thread.timer(PAUSE)"
        assert isinstance(raised.value.interrupt, gevent.Timeout)
        # Where it waits now.
        assert "Event().wait()" in str(raised.value)

    call(find)


@on_each_time
def test_a_scenario_that_goes_on_for_ever_after_an_interrupt_is_ended() -> None:
    polls = 0

    def scenario() -> None:
        nonlocal polls
        try:
            thread.timer(PAUSE)
        except gevent.Timeout:
            while True:
                thread.timer(0.01)
                polls += 1

    with pytest.raises(ScenarioFailed, match=r"has not ended within 0\.2 s"):
        interrupt_everywhere(scenario, timeout=0.2)
    ended_at = polls
    thread.timer(0.05)
    assert polls == ended_at > 0


def test_a_scenario_that_hangs_without_an_interrupt_says_so() -> None:
    with pytest.raises(ScenarioFailed, match="in run 1, without an interrupt") as raised:
        interrupt_everywhere(lambda: Event().wait())
    assert raised.value.interrupt is None
    assert (raised.value.file, raised.value.line, raised.value.run) == ("", 0, 1)


def test_a_thread_that_cannot_be_killed_is_named() -> None:
    give_up = Event()

    def stubborn() -> None:
        while not give_up.is_set():
            try:
                give_up.wait()
            except GreenletExit:
                continue

    with testing.virtual_time(), pytest.raises(ScenarioFailed, match="cannot be killed: stubborn-"):
        try:
            interrupt_everywhere(lambda: thread.attach(stubborn))
        finally:
            give_up.set()


def test_another_error_of_the_scenario_fails_the_run() -> None:
    def scenario() -> None:
        try:
            thread.timer(PAUSE)
        except gevent.Timeout as error:
            raise ValueError("late") from error

    with pytest.raises(ScenarioFailed, match=r"the scenario raised ValueError\('late'\)") as raised:
        interrupt_everywhere(scenario)
    assert isinstance(raised.value.__cause__, ValueError)


def test_an_error_of_a_thread_that_it_attached_fails_the_run() -> None:
    def helper() -> None:
        raise ValueError("broken")

    def scenario() -> None:
        thread.wait_all([thread.attach(helper)])

    with pytest.raises(ScenarioFailed, match=r"the thread helper-\d+ raised ValueError\('broken'\)"):
        interrupt_everywhere(scenario)


def test_a_check_that_fails_without_an_interrupt_says_so() -> None:
    def check() -> None:
        raise AssertionError("never right")

    with pytest.raises(ScenarioFailed, match=r"never right.*\nin run 1, without an interrupt"):
        interrupt_everywhere(lambda: None, check)


def test_a_check_that_does_not_return_is_ended() -> None:
    with pytest.raises(ScenarioFailed, match=r"check\(\) has not returned within 60 s"):
        with testing.virtual_time():
            interrupt_everywhere(lambda: None, lambda: Event().wait(), timeout=60)


def test_a_failure_in_a_test_frameworks_own_way_says_in_which_run() -> None:
    with pytest.raises(pytest.fail.Exception, match="not like this") as raised:
        interrupt_everywhere(lambda: None, lambda: pytest.fail("not like this"))
    assert raised.value.__notes__ == ["in run 1, without an interrupt"]


# What is tried.


@on_each_time
def test_each_interrupt_is_raised_at_each_switch_point_and_the_scenario_may_catch_it() -> None:
    seen: list[tuple[int, str]] = []

    def scenario() -> None:
        for point in range(3):
            try:
                thread.timer(PAUSE)
            except (GreenletExit, gevent.Timeout) as error:
                seen.append((point, type(error).__name__))

    tried = interrupt_everywhere(scenario)
    assert tried == len(seen) == 12
    # At once, and at the last moment.
    expected = [(point, name) for name in ("GreenletExit", "Timeout") for point in range(3) for _ in range(2)]
    assert seen == expected


def test_no_more_than_so_many_interrupts_are_tried() -> None:
    for most in range(1, 6):
        assert interrupt_everywhere(lambda: thread.timer(PAUSE), max_interrupts=most) == min(most, 4)


def test_an_interrupt_may_be_made_by_a_function() -> None:
    seen = []

    def scenario() -> None:
        try:
            thread.timer(PAUSE)
        except OSError as error:
            seen.append(error)

    assert interrupt_everywhere(scenario, interrupts=[lambda: OSError("no route")]) == len(seen) == 2
    assert seen[0] is not seen[1]


def test_a_scenario_that_never_waits_is_run_and_checked() -> None:
    checks: list[None] = []
    assert interrupt_everywhere(lambda: None, lambda: checks.append(None)) == 0
    assert len(checks) == 3


@on_each_time
def test_an_interrupt_at_the_last_moment_finds_what_others_have_done_meanwhile() -> None:
    lent = 0

    def lend() -> None:
        nonlocal lent
        thread.timer(PAUSE)
        lent += 1

    def borrow() -> None:
        nonlocal lent
        lender = thread.attach(lend)
        try:
            thread.wait_all([lender])  # too late to kill it
        except BaseException:
            lender.kill()
            raise
        lent -= 1

    def check() -> None:
        assert lent == 0

    with pytest.raises(ScenarioFailed, match="just before it went on") as raised:
        interrupt_everywhere(borrow, check)
    assert raised.value.call == "thread.wait_all([lender])"


class Shop:
    """Serves on a bus, and counts what it has sold."""

    def __init__(self) -> None:
        self.taken = self.sold = 0

    def sell(self, number: int) -> int:
        self.taken += number
        thread.timer(PAUSE)  # breaks the shop
        self.sold += number
        return self.sold

    def play(self) -> None:
        server, client = bus.new_local()
        thread.attach_background(server.serve, self.sell)
        try:
            client.call(1)
        except ratchet.BusError:
            pass
        thread.timer(10 * PAUSE)

    def check(self) -> None:
        assert self.taken == self.sold


def test_threads_of_the_scenario_are_interrupted_if_that_is_wanted() -> None:
    shop = Shop()
    with testing.virtual_time():
        interrupt_everywhere(shop.play, shop.check)
        with pytest.raises(ScenarioFailed) as raised:
            interrupt_everywhere(shop.play, shop.check, every_thread=True)
    assert (raised.value.line, raised.value.function) == (line_that("shop"), "Shop.sell")


def test_greenlets_of_gevents_are_the_scenarios_threads_too() -> None:
    struck: list[str] = []

    def grandchild() -> None:
        try:
            gevent.sleep(1)
        except GreenletExit:
            struck.append("grandchild")

    def child() -> None:
        gevent.spawn(grandchild).join()

    def scenario() -> None:
        gevent.spawn(child).join()

    with testing.virtual_time():
        interrupt_everywhere(scenario, interrupts=[GreenletExit], every_thread=True)
    # At once and at the last moment, and when what waits for it was interrupted, by the clean-up.
    assert struck.count("grandchild") >= 2


@pytest.mark.parametrize("every_thread", [False, True])
@pytest.mark.parametrize("kind", ["local", "tcp", "in memory"])
def test_a_bus_works_after_an_interrupt_of_its_client_or_of_a_handler(kind: str, every_thread: bool) -> None:
    opened: list[tuple[Any, Any]] = []

    def handle(request: bytes) -> bytes:
        thread.timer(PAUSE)
        return request.upper()

    def scenario() -> None:
        if kind == "local":
            server, client = bus.new_local()
            opened.append((server, client))
        else:
            listening = bus.listen("127.0.0.1:0")
            opened.append((listening, bus.connect(listening.address)))
        server, client = opened[-1]
        thread.attach_background(server.serve, handle)
        try:
            assert client.call(b"one", timeout=5) == b"ONE"
            client.call(b"two", timeout=5)
        except ratchet.BusError:
            pass

    def check() -> None:
        server, client = opened[-1]
        with server, client:
            # Its handler waits in the same place, and is not interrupted.
            assert client.call(b"three", timeout=5) == b"THREE"

    with ExitStack() as stack:
        if kind == "in memory":
            stack.enter_context(testing.virtual_time())
            stack.enter_context(testing.network())
        # Two calls, and the handlers of both.
        assert interrupt_everywhere(scenario, check, every_thread=every_thread) >= (12 if every_thread else 6)


# What a run leaves.


@on_each_time
def test_a_check_may_use_what_the_scenario_has_left_running_and_nothing_is_left_then() -> None:
    servers = []

    def scenario() -> None:
        server, client = bus.new_local()
        servers.append((server, client))
        thread.attach_background(server.serve, str.upper)
        gevent.spawn(Event().wait)
        client.call("hello")

    def check() -> None:
        assert servers[-1][1].call("still there?", timeout=5) == "STILL THERE?"

    before, watchers = live_greenlets(), active_watchers()
    assert interrupt_everywhere(scenario, check) >= 2
    servers.clear()
    # Of other tests, some may have ended meanwhile.
    assert [each for each in live_greenlets() if each not in before] == []
    assert active_watchers() <= watchers


def test_whoever_is_interrupted_while_it_runs_leaves_nothing() -> None:
    before, watchers = live_greenlets(), active_watchers()
    started = Event()

    def scenario() -> None:
        started.set()
        thread.timer(60)

    caller = gevent.spawn(interrupt_everywhere, scenario)
    started.wait()
    caller.kill()
    gevent.sleep(0)
    del caller
    # Of other tests, some may have ended meanwhile.
    assert [each for each in live_greenlets() if each not in before] == []
    assert active_watchers() <= watchers


def test_it_may_be_called_within_a_scenario_and_in_another_os_thread() -> None:
    counts: list[int] = []

    def inner() -> None:
        counts.append(interrupt_everywhere(lambda: thread.timer(PAUSE)))

    inner()
    assert in_os_thread(inner) is None
    assert counts == [4, 4]


def test_greenlets_of_another_os_thread_are_not_its_own() -> None:
    stop = threading.Event()

    def busy() -> None:
        while not stop.is_set():
            gevent.spawn(gevent.sleep, 0).join()

    def scenario() -> None:
        for _ in range(3):
            thread.timer(PAUSE)

    other = threading.Thread(target=lambda: in_os_thread(busy))
    other.start()
    try:
        assert interrupt_everywhere(scenario, every_thread=True) == 12
    finally:
        stop.set()
        other.join()


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"scenario": 1}, TypeError, "scenario must be callable, not 1"),
        ({"check": 1}, TypeError, "check must be callable or None, not 1"),
        ({"interrupts": []}, ValueError, "interrupts must not be empty"),
        ({"interrupts": GreenletExit}, TypeError, "interrupts must be a list of exception classes"),
        ({"interrupts": [1]}, TypeError, "interrupts must be exception classes or functions, not 1"),
        ({"interrupts": [dict]}, TypeError, "interrupts must make exceptions"),
        ({"interrupts": [KeyboardInterrupt]}, ValueError, "ends the program from any thread"),
        ({"max_interrupts": 0}, ValueError, "max_interrupts must be at least 1, not 0"),
        ({"max_interrupts": 1.5}, TypeError, "max_interrupts must be a number of interrupts, not 1.5"),
        ({"timeout": "soon"}, TypeError, "timeout must be a number of seconds or None, not 'soon'"),
    ],
)
def test_wrong_arguments_are_refused(arguments: dict[str, object], error: type[Exception], text: str) -> None:
    call: Callable[..., object] = interrupt_everywhere
    with pytest.raises(error, match=text):
        call(**{"scenario": lambda: None, **arguments})


def test_source_that_cannot_be_read_leaves_the_call_empty() -> None:
    namespace: dict[str, Callable[[], object]] = {}
    program = "from ratchet import thread\ndef scenario():\n    thread.timer(0)\n"
    exec(compile(program, "made up", "exec"), namespace)
    checks = iter([True])
    with pytest.raises(ScenarioFailed) as raised:
        interrupt_everywhere(namespace["scenario"], checks.__next__)
    failed = raised.value
    assert (failed.file, failed.line, failed.function, failed.call) == ("made up", 3, "scenario", "")


@pytest.mark.parametrize("make", [gevent.GreenletExit, gevent.Timeout, KeyError])
def test_no_thread_of_a_run_stays_in_memory(make: Callable[[], BaseException]) -> None:
    threads: list[weakref.ref[Any]] = []

    def scenario() -> None:
        threads.append(weakref.ref(gevent.getcurrent()))
        gevent.sleep(0.001)

    with testing.virtual_time():
        testing.interrupt_everywhere(scenario, interrupts=[make])
    gc.collect()
    assert [thread() for thread in threads] == [None] * 4
