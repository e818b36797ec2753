"""A plugin for pytest: fixtures, and hooks that fail a test for what its threads do.

It is loaded by `-p ratchet.testing.plugin`, or by `pytest_plugins = ["ratchet.testing.plugin"]`
in the topmost `conftest.py`, and never automatically.

In each of a test's three phases, setup, call and teardown:

- An error of a ratchet thread that was reported nowhere is raised.
- A phase that takes too long is ended, with a dump of all threads in the report.
- `LoopExit` becomes `DeadlockError`, whose text has that dump.

An autouse fixture, which is set up before the other fixtures of a test and torn down after
them, starts virtual time and the network, so that whatever they open is on these, and checks
for leaks in the end.
"""

from __future__ import annotations

import inspect
import random
import sys
import traceback
from _thread import get_ident
from collections.abc import Callable, Generator, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from gevent.exceptions import LoopExit

from ratchet import Ratchet, _alive, bus, testing
from ratchet.bus import codecs
from ratchet.errors import DeadlockError
from ratchet.testing._dump import dump
from ratchet.testing._leaks import KINDS, Baseline
from ratchet.testing._repeatable import seeded
from ratchet.testing._time import late_callbacks
from ratchet.testing._time_limit import TimeLimit, TookTooLong

_MARKERS = """
ratchet_timeout(seconds): real seconds for each phase of the test; 0 for no limit
ratchet_leaks(*kinds): look for these kinds of leaks, or all; "off" for none
ratchet_virtual_time(seed=None, threshold=0.0): run the test on virtual time
ratchet_network(seed=None, faults=None): run the test on a network in memory, and on virtual time
"""

_SECTION = "ratchet: all threads"

# Enough for no two failures to share one by chance, and short enough to type.
_MOST_SEEDS = 1_000_000

_kept = pytest.StashKey[list[_alive.LivingScheduler]]()
_limit = pytest.StashKey[TimeLimit]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addini(
        "ratchet_timeout",
        "real seconds after which a phase of a test is ended and dumped; 0 for never",
        default="60",
    )
    parser.addini(
        "ratchet_leaks",
        f"what a test may not leave behind, of {', '.join(KINDS)}",
        type="args",
        default=[],
    )


def pytest_configure(config: pytest.Config) -> None:
    for line in _MARKERS.strip().splitlines():
        config.addinivalue_line("markers", line)
    _seconds(config.getini("ratchet_timeout"))
    _kinds(config.getini("ratchet_leaks"))


def _seconds(given: Any) -> float:
    """Check a limit from the configuration or a marker."""
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = -1.0
    if not seconds >= 0:
        raise pytest.UsageError(f"ratchet_timeout must be a number of seconds, not {given!r}")
    return seconds


def _limit_of(item: pytest.Item) -> float:
    """The limit of each phase of a test."""
    marker = item.get_closest_marker("ratchet_timeout")
    if marker is None:
        return _seconds(item.config.getini("ratchet_timeout"))
    given = [*marker.args, *marker.kwargs.values()]
    if len(given) != 1 or not marker.kwargs.keys() <= {"seconds"}:
        raise pytest.UsageError(f"write ratchet_timeout(seconds), not {_as_written(marker)}")
    return _seconds(given[0])


def _as_written(marker: pytest.Mark) -> str:
    arguments = [*map(repr, marker.args), *(f"{name}={value!r}" for name, value in marker.kwargs.items())]
    return f"{marker.name}({', '.join(arguments)})"


def _kinds(given: Any) -> tuple[str, ...]:
    """Check the kinds of leaks from the configuration or a marker."""
    if list(given) == ["off"]:
        return ()
    for kind in given:
        if kind not in KINDS:
            raise pytest.UsageError(f"ratchet_leaks must be some of {', '.join(KINDS)}, or off; not {kind!r}")
    return tuple(given)


# --- the phases of a test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    # Otherwise the errors of a scheduler in a local variable of the test would be freed with it.
    with _alive.schedulers.keep() as item.stash[_kept]:
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item, "setup"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item, "call"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, Any, Any]:
    return (yield from _phase(item, "teardown"))


def _phase(item: pytest.Item, when: str) -> Generator[None, Any, Any]:
    """Wrap one phase: enforce its limit, and report its errors and those of its threads."""
    seconds = _limit_of(item)

    def tell(text: str) -> None:
        item.add_report_section(when, _SECTION, text)

    try:
        with TimeLimit(
            0.0 if _is_debugged() else seconds, f"the {when} of the test", tell
        ) as item.config.stash[_limit]:
            result = yield
    except LoopExit as error:
        _add_untold(item, when)
        text = f"nothing can ever run again; all threads:\n\n{dump(get_ident())}"
        raise DeadlockError("\n\n".join(filter(None, [text, late_callbacks()]))) from error
    except BaseException:
        _add_untold(item, when)
        raise
    _raise_untold(item)
    return result


def pytest_enter_pdb(config: pytest.Config, pdb: Any) -> None:
    """Lift the limit while somebody is debugging the test."""
    if _limit in config.stash:
        config.stash[_limit].cancel()


def _is_debugged() -> bool:
    """Whether a debugger traces this OS thread; coverage tools do not count."""
    module = getattr(sys.gettrace(), "__module__", None) or ""
    return module.partition(".")[0] in ("bdb", "pdb") or module.startswith("pydevd")


# --- threads that died


def _untold(item: pytest.Item) -> list[BaseException]:
    """Take the errors of threads that were reported nowhere, each with a note that names the thread."""
    schedulers = dict.fromkeys([*_alive.schedulers.living(), *item.stash[_kept]])
    errors = []
    for name, error in [entry for scheduler in schedulers for entry in scheduler.take_untold_errors()]:
        # The limit's own error, raised in a thread that was computing when the time was over.
        if not isinstance(error, TookTooLong):
            error.add_note(f"the thread {name} died of this, with nobody to tell")
            errors.append(error)
    return errors


def _raise_untold(item: pytest.Item) -> None:
    errors = _untold(item)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise BaseExceptionGroup(f"{len(errors)} threads died with nobody to tell", errors)


def _add_untold(item: pytest.Item, when: str) -> None:
    """Add the untold errors to the report of a test that has failed anyway."""
    for error in _untold(item):
        item.add_report_section(when, "ratchet: a thread died", "".join(traceback.format_exception(error)))


# --- fixtures


@pytest.fixture(autouse=True)
def _ratchet_first(request: pytest.FixtureRequest) -> Iterator[None]:
    """Start virtual time and the network before a test's other fixtures, and check for leaks after them."""
    node = request.node
    for name in ("virtual_time", "network"):
        if name in request.fixturenames or node.get_closest_marker(f"ratchet_{name}"):
            request.getfixturevalue(name)
    marker = node.get_closest_marker("ratchet_leaks")
    kinds = _kinds((marker.args or KINDS) if marker else request.config.getini("ratchet_leaks"))
    if not kinds:
        yield
        return
    baseline = Baseline(kinds)
    yield
    left = baseline.left_behind()
    if left:
        pytest.fail("the test has left behind:\n" + "\n".join(left), pytrace=False)


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> Iterator[testing.Clock]:
    """Run the whole test on virtual time; gives its clock.  See `ratchet.testing.virtual_time`."""
    with testing.virtual_time(**_arguments(request, testing.virtual_time)) as clock:
        yield clock


@pytest.fixture
def network(request: pytest.FixtureRequest, virtual_time: testing.Clock) -> Iterator[testing.Network]:
    """A network in memory, on virtual time.  See `ratchet.testing.network`.

    If it has faults and nothing gives a seed, one is drawn, and shown if the test fails.
    """
    arguments = _arguments(request, testing.network)
    seed = arguments.get("seed")
    if seed is None:
        seed = _arguments(request, testing.virtual_time).get("seed")
    if seed is None and arguments.get("faults") is not None:
        seed = arguments["seed"] = random.SystemRandom().randrange(_MOST_SEEDS)
        text = f"drawn; @pytest.mark.ratchet_network(seed={seed}, faults=...) gives the test the same one"
        request.node.add_report_section("setup", "ratchet: the seed of the network", text)
    # What the library and the test draw themselves depends on the seed as well.
    with nullcontext() if seed is None else seeded(seed), testing.network(**arguments) as net:
        yield net


def _arguments(request: pytest.FixtureRequest, func: Callable[..., object]) -> dict[str, Any]:
    """The arguments that the marker of a fixture gives to the function of the same name."""
    marker = request.node.get_closest_marker(f"ratchet_{func.__name__}")
    if marker is None:
        return {}
    return dict(inspect.signature(func).bind(*marker.args, **marker.kwargs).arguments)


class _Left(Exception):
    """Ends a scheduler's block without waiting for its threads."""


@pytest.fixture
def kernel() -> Iterator[Ratchet]:
    """A `Ratchet` for the test to attach threads to; those that are left are killed afterwards."""
    try:
        with Ratchet() as kernel:
            yield kernel
            raise _Left
    except _Left:
        pass


@pytest.fixture
def bus_codec() -> Any:
    """The codec of `local_bus` and `socket_bus`; override it to use another one, or None."""
    return codecs.json


@pytest.fixture
def local_bus(bus_codec: Any) -> Iterator[tuple[Any, Any]]:
    """Server and client of a local bus that encodes and decodes each message, as over a socket."""
    server, client = bus.new_local(codec=bus_codec)
    with server:
        yield server, client


@pytest.fixture
def socket_bus(bus_codec: Any) -> Iterator[tuple[Any, Any]]:
    """Server and client of a bus over TCP, connected; in memory if the test has a `network`."""
    with bus.listen("127.0.0.1:0", codec=bus_codec) as server:
        with bus.connect(server.address, codec=bus_codec) as client:
            client.wait_connected(timeout=60)
            yield server, client
