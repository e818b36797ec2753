"""What one exchange may cost, and what it costs today.

    PYTHONPATH=tests python -m costs.figures

prints each figure with its bound.  Each group is measured in a process of its
own, where nothing else runs, and nothing else looks on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import cache, partial
from pathlib import Path

import gevent

from costs import measure
from costs.measure import (
    MEASURING_TIME,
    MOST_RUNS,
    RUNS,
    STYLES,
    WAYS,
    Count,
    Counts,
    Figures,
    Run,
    Style,
    Way,
    costs_of_an_exchange,
    per_exchange,
)
from costs.pair import ALONE, IN_FLIGHT, THREADS, system_calls
from helpers import PACKAGE
from ratchet import bus as ratchet_bus
from ratchet.bus import LocalBus


def _each(names: Iterable[str], bounds: Figures) -> Figures:
    return {f"{name}: {kind}": bound for name in names for kind, bound in bounds.items()}


# Functions that are called: a new one or two are fine, a new layer of them is not.
_SLACK = 1.15
# The share in those blocks of lists and dicts that grow with what they hold.
_CONTAINERS = 0.1
# After how many exchanges it is looked at what they left.
LEFT_BY = 100
# No cycle is made, so that the collector never has anything to free.  No block
# stays of an exchange; up to five may stay of a run, which wait for its peer.
_NOTHING: Figures = {"garbage": 1 / LEFT_BY, "blocks": 5 / LEFT_BY}
_STYLED_WAYS = [f"{way}, {style}" for way in WAYS for style in STYLES]

BOUNDS: dict[str, Figures] = {
    "system calls": {
        # It waits, reads and writes, and a lone exchange cannot do with less.
        **_each([f"client, {ALONE}", f"server, {ALONE}"], {"poll": 1, "recv": 1, "send": 1}),
        # Many exchanges share one.  Today it is 0.01 to 0.08, as the two processes
        # happen to take turns; without sharing it would be 1.
        **_each(
            [f"{side}, {load}" for side in ("client", "server") for load in (THREADS, IN_FLIGHT)],
            {"poll": 0.2, "recv": 0.2, "send": 0.2},
        ),
    },
    # 64 messages come in one piece, and are read in one.  Of those that go out in
    # one turn of the loop, the first is sent at once and the others together.
    "system calls, 64 at a time": _each(["client", "server"], {"recv": 1 / 64, "send": 2 / 64}),
    # Nobody runs but those who have something to do, and the hub in between.
    "switches": {
        # client, hub, server, hub, and the client again
        "local, 1 client": 4,
        "local, serve()": 4,
        # client, hub, and the client again; for all 64 together the server and the hub
        "local, 64 clients": 2 + 2 / 64,
        # thread, hub, and the thread again
        "client, 1 thread": 2,
        "client, 64 threads": 2,
        "server, 1 at a time": 2,
        # What is queued is taken without one.
        "server, 64 at a time": 2 / 64,
    },
    # What was counted when it was last looked at, and the slack.  The function
    # that asks and the handler are among them, which are the measurement's own.
    "calls": {
        "local, 1 client": 45 * _SLACK,
        "local, serve()": 52 * _SLACK,
        "local, 64 clients": 38 * _SLACK,
        "client, 1 thread": 59 * _SLACK,
        "client, 64 threads": 50 * _SLACK,
        "server, 1 at a time": 78 * _SLACK,
        "server, 64 at a time": 70 * _SLACK,
    },
    # What a reader who follows one call has to look at: the functions of the library on
    # both sides, and how often the next one is in another module.
    "one call": {
        "local: functions": 36 * _SLACK,
        "local: changes of module": 29 * _SLACK,
        "TCP: functions": 78 * _SLACK,
        "TCP: changes of module": 58 * _SLACK,
        "TCP with a time-out: functions": 96 * _SLACK,
        "TCP with a time-out: changes of module": 73 * _SLACK,
    },
    # Blocks of memory that a request keeps from its sending to its response.
    "blocks in flight": {
        # its two sides
        # One of them in the queue, from which it can be taken at once wherever it is.
        "local": 3 + _CONTAINERS,
        # its transaction, its id and the number of its frame; and the pair of frame and
        # number that it went out as, which stays in a pool of the interpreter's
        "client": 4 + _CONTAINERS,
    },
    "left by a local bus": _each(_STYLED_WAYS, _NOTHING),
    "left by a client": _each(WAYS, _NOTHING),
    "left by a server": _each(_STYLED_WAYS, _NOTHING),
}

Sides = dict[str, Callable[[], AbstractContextManager[Run]]]

SIDES: Sides = {
    "local, 1 client": measure.local_bus,
    "local, serve()": partial(measure.local_bus, style=measure.serve),
    "local, 64 clients": partial(measure.local_bus, threads=64),
    "client, 1 thread": measure.client_bus,
    "client, 64 threads": partial(measure.client_bus, threads=64),
    "server, 1 at a time": measure.server_bus,
    "server, 64 at a time": partial(measure.server_bus, batch=64),
}


EXCHANGES = 128
"""In the shorter run, of which the busiest side has 64 at a time."""


def of_sides(counts: Counts, sides: Sides, runs: int = RUNS) -> dict[str, Figures]:
    """The costs of an exchange on each side."""
    figures = {}
    for name, side in sides.items():
        with side() as run:
            figures[name] = costs_of_an_exchange(counts, run, EXCHANGES, runs)
    return figures


def flat(figures: dict[str, Figures]) -> Figures:
    return {f"{side}: {name}": figure for side, of in figures.items() for name, figure in of.items()}


def of_one_count(count: Count) -> Figures:
    return {side: cost for side, costs in of_sides({"": count}, SIDES).items() for cost in costs.values()}


def of_batches() -> Figures:
    calls = measure.count_calls()
    counts: Counts = {call: partial(calls.__getitem__, ("c_call", call)) for call in ("recv", "send")}
    sides = {"client": SIDES["client, 64 threads"], "server": SIDES["server, 64 at a time"]}
    # On a busy machine a piece comes in two now and then.
    return flat(of_sides(counts, sides, MOST_RUNS))


def switches() -> Figures:
    with measure.switches() as count:
        return of_one_count(count)


def one_call() -> Figures:
    sides: Sides = {
        "local": partial(measure.local_bus, style=measure.serve),
        "TCP": measure.tcp_bus,
        "TCP with a time-out": partial(measure.tcp_bus, WAYS["call with a time-out"]),
    }
    seen = measure.trail()
    counts: Counts = {what: partial(seen.__getitem__, what) for what in ("functions", "changes of module")}
    return flat(of_sides(counts, sides))


def blocks_in_flight() -> Figures:
    local: LocalBus[bytes, bytes] = ratchet_bus.new_local()[0]
    # A peer that does not answer.
    with local, measure.connected_client(batch=sys.maxsize) as client:
        return {
            name: per_exchange(sys.getallocatedblocks, measure.leaving_open(bus), 500)
            for name, bus in (("local", local), ("client", client))
        }


def left_by(sides: Sides) -> Figures:
    """What an exchange leaves behind on each side."""
    figures = {}
    garbage = measure.Garbage()
    for name, side in sides.items():
        with side() as run:
            run(LEFT_BY)
            figures[f"{name}: garbage"] = measure.growth(garbage, run, LEFT_BY)
            figures[f"{name}: blocks"] = measure.growth(sys.getallocatedblocks, run, LEFT_BY)
    return figures


def styled(side: Callable[[Way, Style], AbstractContextManager[Run]]) -> Sides:
    """A side in every way to ask and every style to answer."""
    return {f"{way}, {style}": partial(side, WAYS[way], STYLES[style]) for way in WAYS for style in STYLES}


def known() -> Figures:
    """What is known beforehand, for a look at whether the counters count."""
    calls = measure.count_calls()
    kept: list[object] = []

    def marked() -> None:
        """Called in each kind of greenlet."""

    def call(count: int) -> None:
        for _ in range(count):
            marked()
            gevent.get_hub().loop.run_callback(marked)
            gevent.spawn(marked).join()

    def sleep(count: int) -> None:
        for _ in range(count):
            gevent.sleep(0)

    def leak(count: int) -> None:
        kept.extend(object() for _ in range(count))

    def make_cycles(count: int) -> None:
        for _ in range(count):
            cycle: list[object] = []
            cycle.append(cycle)

    figures = {
        "calls": per_exchange(partial(calls.__getitem__, ("call", "marked")), call, 200),
        "garbage": measure.growth(measure.Garbage(), make_cycles, 200),
        "blocks": measure.growth(sys.getallocatedblocks, leak, 200),
    }
    with measure.switches() as count:
        figures["switches"] = per_exchange(count, sleep, 200)
    return figures


KNOWN: Figures = {"calls": 3, "garbage": 1, "blocks": 1, "switches": 2}

MEASURED: dict[str, Callable[[], Figures]] = {
    "known": known,
    "system calls": lambda: flat(system_calls()),
    "system calls, 64 at a time": of_batches,
    "switches": switches,
    "calls": lambda: of_one_count(measure.count_calls().total),
    "one call": one_call,
    "blocks in flight": blocks_in_flight,
    "left by a local bus": partial(left_by, styled(measure.local_bus)),
    "left by a client": partial(left_by, {way: partial(measure.client_bus, WAYS[way]) for way in WAYS}),
    "left by a server": partial(left_by, styled(measure.server_bus)),
}


def command(group: str) -> list[str]:
    """The program that measures one group, and prints its figures as JSON."""
    return [sys.executable, "-W", "error", "-m", "costs.figures", group]


def run_alone(arguments: list[str]) -> str:
    """What a program prints that imports what is tested here, and these helpers."""
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])])
    environment = {**os.environ, "PYTHONPATH": path}
    program = subprocess.run(
        arguments, env=environment, stdout=subprocess.PIPE, text=True, timeout=MEASURING_TIME, check=True
    )
    return program.stdout


@cache
def figures_of(group: str) -> Figures:
    """The figures of one group, measured in a process of its own."""
    figures: Figures = json.loads(run_alone(command(group)))
    return figures


def main() -> None:
    if len(sys.argv) == 2:
        print(json.dumps(MEASURED[sys.argv[1]]()))
        return
    for group, bounds in BOUNDS.items():
        print(f"{group}, per exchange")
        for name, figure in figures_of(group).items():
            print(f"  {name:55} {figure:8.3f}   at most {bounds[name]:8.3f}")


if __name__ == "__main__":
    main()
