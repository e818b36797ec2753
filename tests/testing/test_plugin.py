"""The plugin for pytest: each of its features, tried by a run of pytest."""

from __future__ import annotations

import os
import re
import sys
from textwrap import dedent

import pytest

from helpers import PACKAGE

pytest_plugins = ["pytester"]
# Each runs processes, some of which wait.
pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run tests with the plugin."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv(
        "PYTHONPATH",
        os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
    )
    return Run(pytester)


class Run:
    """Runs pytest in a process of its own."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        self._pytester = pytester

    def __call__(
        self, tests: str, *options: str, ini: str = "", plugin: bool = True, **counts: int
    ) -> pytest.RunResult:
        """Run `tests`, and see so many of them end in each way."""
        head = """
        import socket, time
        import gevent, pytest, ratchet
        from gevent.event import Event
        from gevent.queue import Queue
        from ratchet import bus, testing, thread
        """
        self._pytester.makepyfile(dedent(head) + dedent(tests))
        self._pytester.makeini("[pytest]\nfilterwarnings = error\n" + dedent(ini))
        use = ["-p", "ratchet.testing.plugin"] if plugin else []
        result = self._pytester.runpytest_subprocess(
            *use, "-p", "no:cacheprovider", "--strict-markers", *options
        )
        if counts:
            result.assert_outcomes(**counts)
        return result


def test_the_fixtures(run: Run) -> None:
    run(
        """
        def test_a_kernel_owns_what_the_test_attaches(kernel):
            sleeper = thread.attach(thread.timer, 60)
            assert sleeper.kernel is kernel
            thread.timer(0)
            test_a_kernel_owns_what_the_test_attaches.sleeper = sleeper

        def test_a_kernel_kills_what_is_left():
            assert test_a_kernel_owns_what_the_test_attaches.sleeper.dead

        def test_a_local_bus_is_strict(local_bus, kernel):
            server, client = local_bus
            kernel.attach_background(server.serve, lambda request: request)
            assert client.call((1, 2), timeout=5) == [1, 2]
            with pytest.raises(TypeError, match="not JSON serializable"):
                client.call({1, 2}, timeout=5)

        def test_a_socket_bus_is_connected(socket_bus, kernel):
            server, client = socket_bus
            kernel.attach_background(server.serve, sum)
            assert client.stats().connections == 1
            assert client.call([1, 2], timeout=5) == 3

        class TestOtherCodec:
            @pytest.fixture
            def bus_codec(self):
                return None

            def test_the_codec_may_be_another(self, socket_bus, kernel):
                server, client = socket_bus
                kernel.attach_background(server.serve, bytes.upper)
                assert client.call(b"hello", timeout=5) == b"HELLO"
        """,
        passed=5,
    )


def test_virtual_time_and_the_network(run: Run) -> None:
    run(
        """
        # Whatever the order of its fixtures, the whole test is on virtual time.
        def test_time_is_virtual(local_bus, socket_bus, kernel, virtual_time):
            began = time.perf_counter()
            for server, client in (local_bus, socket_bus):
                kernel.attach_background(server.serve, lambda seconds: thread.timer(seconds))
                client.call(3600, timeout=7200)
                with pytest.raises(ratchet.BusTimeout):
                    client.call(7200, timeout=3600)
            assert 14_400 <= virtual_time.now < 14_401
            assert 14_400 <= time.perf_counter() - began < 14_401

        def test_time_is_real_again():
            began = time.monotonic()
            gevent.sleep(0.001)
            assert time.monotonic() - began < 60

        @pytest.mark.ratchet_virtual_time(seed=3)
        def test_by_a_marker():
            assert time.time() < 1_600_000_000
            gevent.sleep(3600)

        @pytest.mark.ratchet_virtual_time(seed=3)
        def test_by_both(virtual_time):
            assert time.time() < 1_600_000_000
            assert virtual_time.now < 1

        def test_names_in_place_of_ports(network, kernel):
            with bus.listen("shop:80") as server, bus.connect("shop:80") as client:
                kernel.attach_background(server.serve, bytes.upper)
                assert client.call(b"tea", timeout=5) == b"TEA"

        @pytest.mark.ratchet_network(faults=testing.Faults(latency=1))
        def test_faults_by_a_marker(socket_bus, kernel, virtual_time):
            server, client = socket_bus
            kernel.attach_background(server.serve, sum)
            before = virtual_time.now
            assert client.call([1, 2], timeout=3) == 3
            assert 2 <= virtual_time.now - before < 3
        """,
        passed=6,
    )


def test_a_thread_that_dies_fails_the_test(run: Run) -> None:
    result = run(
        """
        def fail(error):
            raise error

        def test_nobody_is_told():
            kernel = ratchet.Ratchet()
            kernel.attach(fail, ValueError("one"))
            gevent.sleep(0)
            gevent.sleep(0)

        def test_two(kernel):
            kernel.attach(fail, ValueError("first"))
            thread.attach(fail, KeyError("second"))
            gevent.sleep(0)
            gevent.sleep(0)

        def test_a_test_that_fails_anyway(kernel):
            kernel.attach(fail, ValueError("beside"))
            gevent.sleep(0)
            gevent.sleep(0)
            assert False

        def test_in_the_teardown(kernel):
            def last():
                try:
                    thread.timer(60)
                finally:
                    fail(ValueError("at last"))

            kernel.attach(last)
            gevent.sleep(0)

        def test_on_virtual_time(virtual_time):
            thread.attach(fail, ValueError("virtually"))
            gevent.sleep(60)

        def test_loop_tells(kernel):
            kernel.attach(fail, ValueError("told"))
            with pytest.raises(ValueError, match="told"):
                kernel.loop()

        def test_an_error_handler_is_told():
            told = []
            kernel = ratchet.Ratchet(errh=lambda error, thread: told.append(error))
            kernel.attach(fail, ValueError("told"))
            kernel.loop()
            assert len(told) == 1

        def test_a_kill_is_no_error(kernel):
            thread.kill(kernel.attach(thread.timer, 60))
            gevent.sleep(0)
        """,
        failed=4,
        passed=4,
        errors=1,
    )
    result.stdout.re_match_lines_random(
        [
            r"E +ValueError: one",
            r"E +the thread fail-\d+ died of this, with nobody to tell",
            r".*ExceptionGroup: 2 threads died with nobody to tell.*",
            r".*ratchet: a thread died.*",
            r"ValueError: beside",
            r"E +ValueError: at last",
            r"E +ValueError: virtually",
        ]
    )


def test_leaks_are_looked_for_on_request(run: Run) -> None:
    # Most of them on virtual time, where to look again later takes no time.
    tests = """
        kept = []

        def greenlet():
            kept.append(gevent.spawn(lambda: Event().wait()))

        def watcher():
            timer = gevent.get_hub().loop.timer(1000)
            timer.start(print)
            kept.append(timer)

        def descriptor():
            kept.extend(socket.socketpair())

        def in_memory():
            kept.append(bus.listen("shop:80"))

        def test_not_asked_for(virtual_time): greenlet()

        @pytest.mark.ratchet_leaks
        @pytest.mark.parametrize("leak", [greenlet, watcher, descriptor, in_memory])
        def test_marked(network, leak): leak()

        @pytest.mark.ratchet_leaks("greenlets", "watchers")
        def test_of_other_kinds(virtual_time): descriptor()

        @pytest.mark.ratchet_leaks("off")
        def test_off(virtual_time): descriptor()

        @pytest.mark.ratchet_leaks
        def test_real(): descriptor()

        @pytest.mark.ratchet_leaks
        def test_nothing_is_left(socket_bus, local_bus, kernel):
            for server, client in (socket_bus, local_bus):
                kernel.attach_background(server.serve, sum, 4)
                assert client.call([1, 2], timeout=5) == 3
            gevent.spawn(gevent.sleep, 0.01)

        @pytest.mark.ratchet_leaks
        def test_nothing_is_left_in_memory(socket_bus, local_bus, kernel, network):
            test_nothing_is_left(socket_bus, local_bus, kernel)
    """
    result = run(tests, passed=10, errors=5)
    result.stdout.re_match_lines_random(
        [
            r"the test has left behind:",
            r"greenlet: <Greenlet at 0x\w+: .*lambda.*> \(waiting: .*\)",
            r"watchers: 1 more are active",
            r"descriptor: \d+ \(socket:.*\)",
            r"descriptor: \d+ \(in memory\)",
        ]
    )
    run(
        tests,
        "-k",
        "test_not_asked_for or test_off",
        ini="ratchet_leaks = greenlets",
        passed=2,
        errors=1,
        deselected=8,
    )


@pytest.mark.slow
@pytest.mark.long
def test_a_test_that_takes_too_long_is_ended_and_dumped(run: Run) -> None:
    result = run(
        """
        def stuck(client):
            client.call("question")

        def test_waits(local_bus, kernel):
            server, client = local_bus
            kernel.attach(stuck, client)
            gevent.spawn(lambda: Event().wait())
            kernel.attach_background(lambda: [gevent.sleep(0.1) for _ in range(1000)])
            client.call("hello")

        def test_spins_on_virtual_time(virtual_time):
            gevent.sleep(25)
            while True:
                gevent.sleep(0)

        def test_computes_on_virtual_time(virtual_time):
            gevent.sleep(24)
            while True:
                pass

        def test_enters_virtual_time():
            with testing.virtual_time():
                while True:
                    gevent.sleep(1)

        @pytest.mark.ratchet_timeout(0.9)
        def test_swallows_exceptions():
            while True:
                try:
                    gevent.sleep(1)
                except Exception:
                    pass

        def test_computes():
            while True:
                pass

        def test_a_thread_computes(kernel):
            def compute():
                while True:
                    pass

            kernel.attach(compute)
            kernel.loop()

        @pytest.fixture
        def slow():
            gevent.sleep(100)

        def test_sets_up(slow):
            pass

        @pytest.fixture
        def slow_at_last():
            yield
            gevent.sleep(100)

        def test_tears_down(slow_at_last):
            pass

        @pytest.mark.ratchet_timeout(0)
        def test_without_limit():
            gevent.sleep(1.5)

        def test_goes_on():
            gevent.sleep(0.001)
        """,
        ini="ratchet_timeout = 1",
        failed=7,
        errors=2,
        passed=3,
    )
    result.stdout.re_match_lines_random(
        [
            r"E +ratchet\..*TookTooLong: the call of the test took more than 1 s",
            r"E +ratchet\..*TookTooLong: the call of the test took more than 0.9 s",
            r"E +ratchet\..*TookTooLong: .* took more than 1 s, at 25.000000 seconds of virtual time",
            r"E +ratchet\..*TookTooLong: .* took more than 1 s, at 24.000000 seconds of virtual time",
            r"E +ratchet\..*TookTooLong: the setup of the test took more than 1 s",
            r"E +ratchet\..*TookTooLong: the teardown of the test took more than 1 s",
            r".* ratchet: all threads .*",
            r"<Ratchet at 0x\w+: idle, threads=1, background=1>",
            r"stuck-\d+ \(waiting: recv_response on .*",
            r"<Greenlet at 0x\w+: .*lambda.*> \(waiting: .*",
            r"running now:",
        ]
    )


def test_nothing_that_can_ever_run_is_a_deadlock(run: Run) -> None:
    result = run(
        """
        def test_nobody_answers(local_bus):
            server, client = local_bus
            gevent.spawn(lambda: Event().wait())
            client.call("question")

        def test_on_virtual_time(local_bus, virtual_time):
            local_bus[1].call("question")

        @pytest.fixture
        def stuck():
            Event().wait()

        def test_in_the_setup(stuck):
            pass

        @pytest.fixture(scope="module")
        def queue():
            return Queue()

        def test_made_outside(queue, virtual_time):
            gevent.spawn(queue.put, "it")
            queue.get()
        """,
        failed=3,
        errors=1,
    )
    result.stdout.re_match_lines_random(
        [
            r"E +ratchet.errors.DeadlockError: nothing can ever run again; all threads:",
            r"E +<Greenlet at 0x\w+: .*lambda.*> \(waiting: .*",
            r"E +what was made outside of the block on virtual time waits:",
            r"E +.*Queue._unlock.*",
        ]
    )


def test_nobody_is_hurried_in_a_debugger(run: Run, pytester: pytest.Pytester) -> None:
    tests = """
        def test_looks():
            breakpoint()
            gevent.sleep(0.1)
    """
    run(tests, ini="ratchet_timeout = 1", failed=1)
    command = [sys.executable, "-m", "pytest", "-p", "ratchet.testing.plugin", "-p", "no:cacheprovider"]
    looked = pytester.run(*command, stdin=b"import time; time.sleep(1.5)\nc\n")
    looked.assert_outcomes(passed=1)


def test_tests_of_unittest_have_the_limit_and_the_checks_too(run: Run) -> None:
    result = run(
        """
        import unittest

        class Tests(unittest.TestCase):
            def test_slow(self):
                gevent.sleep(10)

            def test_died(self):
                thread.attach(int, "one")
                gevent.sleep(0.01)

            def test_fine(self):
                gevent.sleep(0.01)
        """,
        ini="ratchet_timeout = 1",
        failed=2,
        passed=1,
    )
    result.stdout.re_match_lines_random(
        [r"E +ratchet\..*TookTooLong: the call of the test took more than 1 s", r"E +ValueError: .*'one'"]
    )


def test_tests_that_use_no_hub_have_none(run: Run) -> None:
    run(
        """
        from gevent._hub_local import get_hub_if_exists

        def test_no_hub():
            assert get_hub_if_exists() is None
        """,
        passed=1,
    )


@pytest.mark.parametrize(
    ("ini", "text"),
    [
        ("ratchet_timeout = soon", "ratchet_timeout must be a number of seconds, not 'soon'"),
        ("ratchet_timeout = -1", "ratchet_timeout must be a number of seconds, not '-1'"),
        ("ratchet_leaks = memory", "ratchet_leaks must be some of greenlets, watchers, descriptors, or off"),
    ],
)
def test_wrong_options_are_refused(run: Run, ini: str, text: str) -> None:
    result = run("", ini=ini)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert text in result.stderr.str()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("('soon')", "ratchet_timeout must be a number of seconds, not 'soon'"),
        ("", "write ratchet_timeout(seconds), not ratchet_timeout()"),
        ("(1, 2)", "write ratchet_timeout(seconds), not ratchet_timeout(1, 2)"),
        ("(limit=1)", "write ratchet_timeout(seconds), not ratchet_timeout(limit=1)"),
    ],
)
def test_a_wrong_limit_of_a_test_is_refused(run: Run, arguments: str, text: str) -> None:
    result = run(
        f"""
        @pytest.mark.ratchet_timeout{arguments}
        def test_limited():
            pass
        """
    )
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    assert text in result.stdout.str()


@pytest.mark.slow
def test_a_seed_that_was_drawn_is_shown_where_a_test_fails_and_repeats_it(run: Run) -> None:
    tests = """
        import random

        def fail(server, client, kernel, clock):
            kernel.attach_background(server.serve, sum)
            for _ in range(5):
                client.call([1, 2], timeout=60)
            pytest.fail(f"after {clock.now} seconds, drew {random.random()}")

        faults = testing.Faults(latency=(0, 1), split=0.5)

        @pytest.mark.ratchet_network(SEEDfaults=faults)
        def test_drawn(socket_bus, kernel, virtual_time):
            fail(*socket_bus, kernel, virtual_time)

        @pytest.mark.ratchet_network(seed=7, faults=faults)
        def test_given(socket_bus, kernel, virtual_time):
            fail(*socket_bus, kernel, virtual_time)

        @pytest.mark.ratchet_network(faults=faults)
        @pytest.mark.ratchet_virtual_time(seed=7)
        def test_given_with_the_time(socket_bus, kernel, virtual_time):
            fail(*socket_bus, kernel, virtual_time)

        def test_no_faults(network):
            pytest.fail("for nothing")
    """

    def outcomes(seed: str) -> tuple[list[str], list[str]]:
        text = run(tests.replace("SEED", seed), failed=4).stdout.str()
        ends = re.findall(r"E +Failed: (after .*)", text)
        return ends, re.findall(r"ratchet_network\((seed=\d+, )faults=\.\.\.\)", text)

    ends, (seed,) = outcomes("")
    again, other, same = outcomes(""), outcomes("seed=1, "), outcomes(seed)
    assert again[0][0] != ends[0]
    assert len(again[1]) == 1
    assert other[1] == []
    assert other[0][0] != ends[0]
    assert same == (ends, [])
    # The others had theirs.
    assert again[0][1:] == other[0][1:] == ends[1:]


def test_the_limit_of_a_test_may_be_given_by_name(run: Run) -> None:
    result = run(
        """
        @pytest.mark.ratchet_timeout(seconds=0.2)
        def test_waits():
            gevent.sleep(100)
        """,
        failed=1,
    )
    assert "the call of the test took more than 0.2 s" in result.stdout.str()
    assert "no other thread is alive" in result.stdout.str()


def test_it_may_be_named_in_a_conftest_and_is_never_used_by_itself(
    run: Run, pytester: pytest.Pytester
) -> None:
    tests = """
        def test_fixture(kernel):
            pass
    """
    run(tests, plugin=False, errors=1)
    pytester.makeconftest("pytest_plugins = ['ratchet.testing.plugin']")
    run(tests, plugin=False, passed=1)


def test_the_fixtures_and_markers_say_what_they_are(run: Run) -> None:
    shown = run("", "--fixtures").stdout.str()
    for name in ("kernel", "local_bus", "socket_bus", "bus_codec", "virtual_time", "network"):
        assert f"\n{name} -- " in shown
    markers = run("", "--markers").stdout.str()
    for name in ("timeout", "leaks", "virtual_time", "network"):
        assert f"@pytest.mark.ratchet_{name}(" in markers
