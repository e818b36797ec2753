"""What holds for every test: whose time it is in, and that it leaves nothing behind on the hub.

A test that waits for time to pass, and for nothing else, is marked `virtual_time`: a
time-out that rings, a pause between two attempts, a stall.  It runs on a hub of its own
whose clock jumps.  Every other test runs on the hub that users have, because that is the one
to be tested, and because the virtual one is slower where nobody waits.  What cannot be
marked is what waits for another process or OS thread, for a signal or for the kernel's own
timers, what forks, and what burns the processor to be late.  Nor is a test marked that
looks for spinning: virtual time stands still meanwhile, and it would hang where it should fail.

Coverage is counted from when a test is set up until it is torn down, and not in between: the
tracer is called for each function, and half of its time went to pytest's own.  A test that
goes the same ways again and again, to find what is wrong there and not to reach lines, is
marked `uncounted`: counting takes three times as long as such a test.

A test that needs what only Python's own functions have, such as lines that can be traced, is
marked `pure`, and is skipped where the compiled modules run.

A test that takes seconds of the processors is marked `slow`, as is all that starts programs by the dozen:
the documentation's, the examples, the benchmarks.  It runs where such tests are asked for, with
`-m slow`, so that the others can be run after each change.

A test that needs a RabbitMQ node is marked `broker`.  It runs where such tests are asked for, with
`-m broker`, and is skipped if RabbitMQ is not installed.
"""

from __future__ import annotations

import gc
import signal
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

# No helper imports these; while pytest collects, they would not be counted.
import ratchet.bus._processes.beside_program
import ratchet.bus._processes.worker
import ratchet.cli
from broker.nodes import MISSING, Cluster, Node, cluster
from helpers import LONG, PACKAGE, active_watchers, wait_until
from ratchet import _pause, _sigwait, _turns, kernel
from ratchet.testing import virtual_time

_QUIET = 0.002
"""Real seconds without a word from the system's sockets before virtual time goes on.

What one end sends over the loopback is nearly always there for the other at once; on a
busy machine the kernel may hand it over a little later.
"""


_BROKER_TIMEOUT = 140
"""Seconds for a test with a broker, nodes that start included; the watchdog in C comes a little later."""


_tracer = pytest.StashKey[Any]()
"""What `sys.settrace()` was given before the tests: nothing, or the tracer of coverage or a debugger."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long whatever the processors do, so that nobody waits for it at the end.

    Skip what the compiled build cannot do, and what needs a broker where there is none.
    """
    items.sort(key=lambda item: item.get_closest_marker("long") is None)
    if ratchet.build_info().compiled:
        for item in items:
            if item.get_closest_marker("pure") is not None:
                item.add_marker(pytest.mark.skip(reason="it needs the pure build"))
    for item in items:
        if item.get_closest_marker("broker") is not None:
            if MISSING:
                item.add_marker(pytest.mark.skip(reason=f"not installed: {', '.join(MISSING)}"))
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(_BROKER_TIMEOUT))


def pytest_report_header() -> str:
    """Which library it is that is tested."""
    return f"ratchet {ratchet.__version__}, {ratchet.build_info()}, in {PACKAGE}"


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Spare the collector what lives as long as the run: thousands of tests, and all modules.

    Many tests collect garbage, to see what it does or that there is none.  What a test makes
    is collected as ever.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, trylast=True)
def _between_tests(session: pytest.Session) -> Generator[None, Any, Any]:
    """Trace nothing of pytest's own."""
    tracer = session.config.stash[_tracer] = sys.gettrace()
    sys.settrace(None)
    try:
        return (yield)
    finally:
        sys.settrace(tracer)


pytest_collection = pytest_runtestloop = _between_tests


@pytest.hookimpl(wrapper=True, trylast=True)
def _within_test(item: pytest.Item) -> Generator[None, Any, Any]:
    """Trace what a test does, unless it is not to be counted."""
    if item.get_closest_marker("uncounted") is None:
        sys.settrace(item.config.stash[_tracer])
    try:
        return (yield)
    finally:
        sys.settrace(None)


pytest_runtest_setup = pytest_runtest_call = pytest_runtest_teardown = _within_test


def leftovers() -> list[str]:
    """The registers that should be empty between two tests, and are not."""
    registers = {
        "paused threads": _pause.paused,
        "waiters for signals": _sigwait.waiters,
        "schedulers that were entered": kernel._entered,
        "loops off the main greenlet": _turns._off_main,
        "threads of the shared scheduler": [
            owned for shared in kernel._shared.values() for owned in shared._scheduler.threads
        ],
    }
    return [f"{name}: {register!r}" for name, register in registers.items() if register]


@pytest.fixture(autouse=True)
def hub_of_the_test(request: pytest.FixtureRequest) -> Iterator[None]:
    """The hub that users have, or one on virtual time for a test that is marked so."""
    if request.node.get_closest_marker("virtual_time") is None:
        yield
        return
    with virtual_time(threshold=_QUIET) as clock:
        yield
        # In real time it would be noticed by how long the test takes.
        assert clock.now < LONG, f"something was waited for in vain: {clock.now:.1f} virtual seconds"


@pytest.fixture(autouse=True)
def nothing_is_left_behind(hub_of_the_test: None) -> Iterator[None]:
    """No watcher keeps the hub alive after the test, and no register of ours has an entry."""
    before = active_watchers()
    known = leftovers()
    yield
    try:
        wait_until(lambda: active_watchers() <= before and leftovers() in ([], known), seconds=5)
    except AssertionError:
        pytest.fail(f"watchers left: {active_watchers() - before}; {leftovers()}")


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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for socket files, and the working one: a socket's path must be short."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def sockets() -> Iterator[Callable[[Any], Any]]:
    """Closes what is passed to it at the end of the test."""
    opened: list[Any] = []

    def remember(opened_socket: Any) -> Any:
        opened_socket.settimeout(LONG)
        opened.append(opened_socket)
        return opened_socket

    yield remember
    for each in opened:
        each.close()


@pytest.fixture(scope="session")
def _node_of_the_run() -> Iterator[Cluster]:
    with cluster(tls=True) as made:
        yield made


@pytest.fixture(scope="session")
def _cluster_of_the_run() -> Iterator[Cluster]:
    with cluster(3) as made:
        yield made


@pytest.fixture
def broker_node(_node_of_the_run: Cluster) -> Node:
    """A RabbitMQ node that all tests of the run share, with TLS, too.

    What a test makes there stays, so each takes names of its own.  It may kill and stop the node: the next
    one gets it running, with the same data.
    """
    _node_of_the_run.heal()
    return _node_of_the_run.nodes[0]


@pytest.fixture
def broker_cluster(_cluster_of_the_run: Cluster) -> Cluster:
    """A cluster of three that all tests of the run share as they do `broker_node`: at first it is whole."""
    _cluster_of_the_run.heal()
    return _cluster_of_the_run
