"""Rounds, ratios, and the child processes that are measured.

A load is a program that makes requests and says how many, or how much, it
managed.  Each runs in a child process, and so does the server that it asks.
Loads that are compared are played in turn, round after round, so that what
slows the machine for a while strikes all of them.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.common import BY_THE_CLOCK, EXCHANGES, RATES, Figures, Server

ROOT = Path(__file__).parent.parent

# Seconds in which a child must have answered, beyond what it was told to take.
PATIENCE = 60.0


@dataclass(frozen=True)
class Scale:
    """How long to measure, and how large.

    Attributes:
        rounds: how often each load is played, at most.
        seconds: how long each time.
        warm_up: how long before the first round.
        time_limit: seconds for everything.
        connections: how many idle ones.
        threads: how many are attached.
        in_flight_steps, connection_steps: the points of the curves of growth.
        every_overload: whether servers are overloaded in every way, or in a few that tell most,
            and polite clients measured in every round, or in the first alone.
        hostile_clients: how many there are.
    """

    rounds: int
    seconds: float
    warm_up: float
    time_limit: float
    connections: int
    threads: int
    in_flight_steps: tuple[int, ...]
    connection_steps: tuple[int, ...]
    every_overload: bool
    hostile_clients: tuple[int, ...]


@dataclass(frozen=True)
class Program:
    """A function that a child process runs, as `module:function`, and its arguments.

    Attributes:
        library: the folder with the library that it runs on; this checkout if it is empty.
    """

    function: str
    arguments: tuple[tuple[str, int], ...]
    library: str = ""


def program(function: str, **arguments: int) -> Program:
    return Program(f"benchmarks.{function}", tuple(sorted(arguments.items())))


@dataclass(frozen=True)
class Load:
    """A client's program and the server that it asks, if there is one.

    Attributes:
        name: what it is, as the table says it.
        fresh: new processes for each round, because memory is measured, or what
            is left of a round would slow the next.
        half_of: a load that is played before; this one is told half of its rate.
        once: in the first round alone, because it takes long, or as long as it takes.
    """

    name: str
    client: Program
    server: Program | None = None
    fresh: bool = False
    half_of: Load | None = None
    once: bool = False

    @property
    def programs(self) -> list[Program]:
        return [self.client] if self.server is None else [self.client, self.server]


@dataclass(frozen=True)
class Comparison:
    """A row of the table.

    Attributes:
        peer: None where the figure is not compared, but held against the target as it is.
        figure: the unit in which both are measured.
        target: what the ratio, ours over the peer's, is to reach: at least for
            a rate, at most for a cost.
        by_serve: whether our server answers with `serve`, or by hand.
    """

    question: str
    ours: Load
    peer: Load | None
    figure: str = EXCHANGES
    target: float | None = None
    by_serve: bool = False

    @property
    def asked(self) -> str:
        """The question, as the table says it."""
        return f"{self.question}, answered by serve()" if self.by_serve else self.question

    @property
    def key(self) -> str:
        return f"{self.asked} ({self.figure}) | {self.against}"

    @property
    def against(self) -> str:
        """What it is compared with."""
        return "" if self.peer is None else self.peer.name

    @property
    def loads(self) -> list[Load]:
        """Those that it needs to be played."""
        return [self.ours] if self.peer is None else [self.ours, self.peer]

    @property
    def more_is_better(self) -> bool:
        return self.figure in RATES

    def reached_by(self, ratio: float) -> bool | None:
        """Whether this ratio is good enough; None if there is no target."""
        if self.target is None:
            return None
        return ratio >= self.target if self.more_is_better else ratio <= self.target


@dataclass
class Measured:
    """What the loads of some rounds have shown."""

    rounds: list[dict[Load, Figures]] = field(default_factory=list)
    failures: dict[Load, str] = field(default_factory=dict)

    def figures(self, load: Load, unit: str) -> list[float]:
        return [figures[load][unit] for figures in self.rounds if load in figures]

    def ratios(self, comparison: Comparison) -> list[float]:
        """Ours over the peer's, in each round that has both; over nothing, there is no ratio.

        The figures themselves, if there is no peer.
        """
        return self._ratios(comparison, comparison.figure)

    def ratios_by_the_clock(self, comparison: Comparison) -> list[float]:
        """The same, of what passed by the clock, where CPU time is what counts."""
        unit = BY_THE_CLOCK.get(comparison.figure)
        return [] if unit is None else self._ratios(comparison, unit)

    def _ratios(self, comparison: Comparison, unit: str) -> list[float]:
        ours, peer = comparison.ours, comparison.peer
        if peer is None:
            return self.figures(ours, unit)
        return [
            figures[ours][unit] / figures[peer][unit]
            for figures in self.rounds
            if ours in figures and peer in figures and figures[peer][unit]
        ]


class ChildFailed(Exception):
    """A child could not do what it was asked."""


class Child:
    """A process that does what it is asked, one task after the other."""

    def __init__(self, program: Program, cpu: int, folder: str) -> None:
        self._program = program
        module, self._function = program.function.split(":")
        # In a session of its own: Ctrl-C is for the parent, which then ends its children.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.child", module, str(cpu), *filter(None, [program.library])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, more: dict[str, object], serves: bool = False, patience: float = PATIENCE) -> Any:
        """Run the program with these arguments as well, and return its answer; blocks.

        Raises `ChildFailed`.
        """
        task = {
            "function": self._function,
            "serves": serves,
            "arguments": {**dict(self._program.arguments), **more},
        }
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps(task).encode() + b"\n")
            stdin.flush()
        except BrokenPipeError:
            pass  # its standard output has ended as well
        if not select.select([stdout], [], [], patience)[0]:
            # Its answer to this would be taken for that to the next task.
            self._process.kill()
            raise ChildFailed(f"no answer within {patience:.0f} s")
        line = stdout.readline()
        if not line:
            raise ChildFailed(f"the process ended with {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildFailed(answer["error"])
        return answer["value"]

    def close(self) -> None:
        """End it.  It has nothing to finish, and may have a lot to tidy up for nothing."""
        self._process.kill()
        with self._process:
            pass


class Stage:
    """The child processes of some loads; a server's program runs once for all of them."""

    def __init__(self, cpu: int, folder: str, loads: Iterable[Load]) -> None:
        self.cpu = cpu
        self.folder = folder
        self._children: dict[Program, Child] = {}
        self._servers: dict[Program, Server] = {}
        # All at once: most of the time that one takes to start is a wait.
        for load in loads:
            for program in load.programs:
                if program not in self._children:
                    self._children[program] = Child(program, cpu, folder)

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for child in self._children.values():
            child.close()

    def play(self, load: Load, seconds: float, rate: float | None = None) -> Figures:
        """One round of one load.  Raises `ChildFailed`."""
        arguments: dict[str, object] = {"seconds": seconds}
        if load.server is not None:
            arguments["server"] = self._server(load.server)
        if rate is not None:
            arguments["rate"] = rate
        figures: Figures = self._children[load.client].ask(arguments, patience=seconds + PATIENCE)
        return figures

    def _server(self, program: Program) -> Server:
        if program not in self._servers:
            child = self._children[program]
            self._servers[program] = child.ask({}, serves=True)
        return self._servers[program]


def loads_of(comparisons: Iterable[Comparison]) -> list[Load]:
    """Each load once, ours and its peer's next to each other, each after those that it needs."""
    loads: dict[Load, None] = {}
    for comparison in comparisons:
        for load in comparison.loads:
            if load.half_of is not None:
                loads[load.half_of] = None
            loads[load] = None
    return list(loads)


class Rounds:
    """Loads that are played in turn."""

    def __init__(self, loads: Sequence[Load], cpu: int, progress: Callable[[str], None]) -> None:
        self._loads = loads
        self._cpu = cpu
        self._progress = progress
        self.measured = Measured()

    def play(self, scale: Scale, until: float) -> None:
        """Play until there are enough rounds, or the time `until` has passed; two rounds at least."""
        lasting = [load for load in self._loads if not load.fresh]
        with tempfile.TemporaryDirectory() as folder, Stage(self._cpu, folder, lasting) as stage:
            self._play_each("warming up", stage, lasting, scale.warm_up)
            for number in range(1, scale.rounds + 1):
                if number > 2 and time.monotonic() > until:
                    break
                what = f"round {number} of {scale.rounds}"
                self.measured.rounds.append(self._play_each(what, stage, self._loads, scale.seconds))

    def _play_each(
        self, what: str, stage: Stage, loads: Iterable[Load], seconds: float
    ) -> dict[Load, Figures]:
        """Each load once.  One that fails is left out from then on."""
        played: dict[Load, Figures] = {}
        for load in loads:
            if load in self.measured.failures or (load.once and self.measured.rounds):
                continue
            self._progress(f"{what}: {load.name}")
            try:
                played[load] = self._play(stage, load, seconds, played)
            except ChildFailed as failure:
                self.measured.failures[load] = str(failure)
        return played

    def _play(self, stage: Stage, load: Load, seconds: float, played: dict[Load, Figures]) -> Figures:
        rate = None
        if load.half_of is not None:
            if load.half_of not in played:
                raise ChildFailed(f"it needs the rate of {load.half_of.name}")
            rate = played[load.half_of][BY_THE_CLOCK[EXCHANGES]] / 2
        if not load.fresh:
            return stage.play(load, seconds, rate)
        with Stage(stage.cpu, stage.folder, [load]) as fresh:
            return fresh.play(load, seconds, rate)
