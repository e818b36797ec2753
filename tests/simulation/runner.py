"""Many schedules, on all processors: what `make sim` runs.

Each process takes a few seeds at a time, and tells of those that fail.  Schedules depend
on their seeds alone, so it makes no difference which process plays them, or after which.

Bugs are planted in the pure build alone, and so are strikes in the library's methods.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import itertools
import math
import os
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

from helpers import PACKAGE
from ratchet import build_info
from simulation.draw import draw, draw_retrying
from simulation.mutants import MUTANTS
from simulation.plan import Plan
from simulation.play import play, trace_of

CORPUS: Final = Path(__file__).with_name("corpus.txt")
"""Seeds that once failed, one a line, with what they found."""
AGAIN: Final = 'make sim ARGS="{options}--seed {seed}"'

_COMMAND: Final = (sys.executable, "-m", "simulation")
_AT_ONCE: Final = 50
# Real seconds, after which a schedule hangs; it takes a hundredth of one.
_PATIENCE: Final = 60
_FAILURES_SHOWN: Final = 50


Drawing = Callable[[int], Plan]
"""Draws the plan of a seed."""


class Hang(BaseException):
    """A schedule does not end in real time."""


@dataclass
class Tally:
    """What became of some schedules.

    Attributes:
        played: how many there were.
        left_out: how many more there were that need the pure build, where that is not in use.
        requests: how many requests were made in them.
        seconds: of the processor's time.
        endings: how often a request ended in what.
        failures: the seeds of those that failed, each with why.
    """

    played: int = 0
    left_out: int = 0
    requests: int = 0
    seconds: float = 0.0
    endings: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)

    def add(self, other: Tally) -> None:
        """Count in those of another one."""
        self.played += other.played
        self.left_out += other.left_out
        self.requests += other.requests
        self.seconds += other.seconds
        self.endings += other.endings
        self.failures |= other.failures

    def __str__(self) -> str:
        rate = self.played / self.seconds if self.seconds else 0.0
        return (
            f"{self.played} schedules, {len(self.failures)} failed; {self.requests} requests;"
            f" {rate:.0f} schedules in a second of a processor"
            + (f"; {self.left_out} need RATCHET_PURE_PYTHON=1, and were left out" if self.left_out else "")
        )


def is_played_here(plan: Plan) -> bool:
    """Whether the build in use can play it."""
    return not (plan.needs_pure_build and build_info().compiled)


def failure_of(seed: int, drawing: Drawing = draw) -> str | None:
    """Why the schedule of a seed fails; None if it does not.

    One that needs the pure build is played by it, in another process.
    """
    if is_played_here(drawing(seed)):
        return play_all([seed], drawing=drawing).failures.get(seed)
    command = [*_COMMAND, *_options(drawing), "--seed", str(seed)]
    program = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=False)
    return program.stdout + program.stderr if program.returncode else None


def play_all(seeds: Iterable[int], most: float = math.inf, drawing: Drawing = draw) -> Tally:
    """Play the schedules of some seeds, one after the other, until so many have failed."""
    tally = Tally()
    began = time.process_time()
    with _watched() as start_to_watch:
        for seed in seeds:
            plan = drawing(seed)
            if not is_played_here(plan):
                tally.left_out += 1
                continue
            start_to_watch()
            try:
                journal = play(plan)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                tally.failures[seed] = f"{type(error).__name__}: {error}"
            else:
                tally.requests += len(journal.endings)
                tally.endings.update(
                    f"{ending.kind}, {ending.outcome}" if ending.outcome else str(ending.kind)
                    for ending in journal.endings.values()
                )
            tally.played += 1
            if len(tally.failures) >= most:
                break
        gc.collect()
    tally.seconds = time.process_time() - began
    return tally


@contextmanager
def _watched() -> Iterator[Callable[[], object]]:
    """Have what hangs in real time fail, and leave to the collector what a strike has made nobody's.

    Gives what is to be called before each schedule.  Where somebody watches already, as
    pytest does, that does nothing.
    """

    def on_alarm(number: int, frame: FrameType | None) -> None:
        raise Hang(f"it hangs at {frame}")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        if signal.getsignal(signal.SIGALRM) is not signal.SIG_DFL:
            yield lambda: None
            return
        signal.signal(signal.SIGALRM, on_alarm)
        try:
            yield lambda: signal.alarm(_PATIENCE)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)


def first_failure(name: str, seeds: int) -> tuple[str, int | None, str]:
    """The first seed of so many that finds a planted bug, if one does, and how."""
    with MUTANTS[name].planted():
        for first in range(0, seeds, _AT_ONCE):
            failures = play_all(range(first, min(first + _AT_ONCE, seeds)), most=1).failures
            for seed, failure in failures.items():
                return name, seed, failure.splitlines()[0]
    return name, None, ""


def digest_of(plans: Iterable[Plan]) -> str:
    """What tells the courses of some schedules from others."""
    digest = hashlib.blake2b(digest_size=8)
    for plan in plans:
        digest.update(trace_of(plan).encode())
    return digest.hexdigest()


def digests_of_two_processes(first: int, seeds: int, drawing: Drawing = draw) -> list[str]:
    """The digests of the same schedules in two processes that hash in different ways.

    In the compiled build, the other process has the pure one; so both leave out what needs that.
    """
    command = [*_COMMAND, *_options(drawing), "--first", str(first), "--seeds", str(seeds), "--digest"]
    other = {"PYTHONHASHSEED": "2"}
    if build_info().compiled:
        command.append("--any-build")
        other["RATCHET_PURE_PYTHON"] = "1"
    programs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=_environment(**variables))
        for variables in ({"PYTHONHASHSEED": "1"}, other)
    ]
    return [program.communicate()[0] for program in programs]


def _options(drawing: Drawing) -> list[str]:
    """The options of this program by which it draws so."""
    return ["--retry"] if drawing is draw_retrying else []


def _environment(**variables: str) -> dict[str, str]:
    """The environment of another process that plays."""
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])])
    return {**os.environ, "PYTHONPATH": path, **variables}


def _begin_again_on_pure_build() -> NoReturn:
    os.environ["RATCHET_PURE_PYTHON"] = "1"
    os.execv(sys.executable, sys.orig_argv)


def corpus() -> dict[int, str]:
    """The seeds that once failed, each with what it found."""
    lines = (line.split("#", 1)[0].strip() for line in CORPUS.read_text().splitlines())
    return {int(seed): found for seed, _, found in (line.partition(" ") for line in lines if line)}


def _play_side_by_side(seeds: Iterable[int], count: int, jobs: int, drawing: Drawing) -> Tally:
    """Play them in so many processes, and say how it goes on."""
    total = Tally()
    began = time.monotonic()
    with get_context("fork").Pool(jobs) as pool:
        remaining = iter(seeds)
        parts: Iterator[list[int]] = iter(lambda: list(itertools.islice(remaining, _AT_ONCE)), [])
        for tally in pool.imap(partial(play_all, drawing=drawing), parts):
            total.add(tally)
            for seed, failure in tally.failures.items():
                if len(total.failures) <= _FAILURES_SHOWN:
                    first = failure.splitlines()[0][:200]
                    options = "".join(f"{option} " for option in _options(drawing))
                    again = AGAIN.format(options=options, seed=seed)
                    print(f"\nseed {seed} failed; {again} replays it: {first}", flush=True)
            if sys.stderr.isatty() or total.played % 10_000 < _AT_ONCE:
                rate = total.played / (time.monotonic() - began)
                text = f"{total.played} of {count}, {len(total.failures)} failed, {rate:.0f} in a second"
                end = "\r" if sys.stderr.isatty() else "\n"
                print(f"{text:70}", end=end, file=sys.stderr, flush=True)
    return total


def _find_mutants(seeds: int, jobs: int) -> int:
    """Look which of the planted bugs are found; returns how many are not."""
    missed = 0
    with get_context("fork").Pool(jobs, maxtasksperchild=1) as pool:
        tasks = [(name, seeds) for name in MUTANTS]
        for name, seed, how in pool.starmap(first_failure, tasks, chunksize=1):
            missed += seed is None
            found = f"not found in {seeds}" if seed is None else f"seed {seed}"
            print(f"{name:24} {found:18} {MUTANTS[name].slip}\n{'':43} {how[:110]}", flush=True)
    print(f"{len(MUTANTS) - missed} of {len(MUTANTS)} planted bugs found")
    return missed


def _show(seed: int, drawing: Drawing) -> bool:
    """Play one schedule and print its plan, and what became of it; whether it failed."""
    plan = drawing(seed)
    if not is_played_here(plan):
        _begin_again_on_pure_build()
    print(plan.faults, plan.limits, *plan.lives, sep="\n")
    for client in plan.clients:
        print(client)
    print(f"stops={plan.stops}, cuts={plan.cuts}, strikes={plan.strikes}, calm={plan.is_calm}")
    failure = failure_of(seed, drawing)
    print(f"seed {seed} failed: {failure}" if failure else f"seed {seed} is fine")
    return failure is not None


def main() -> None:
    """See `make sim`."""
    parser = argparse.ArgumentParser(description="Play simulated schedules of the whole stack.")
    parser.add_argument("--seeds", type=int, default=10_000, help="how many schedules")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many processes play")
    parser.add_argument("--seed", type=int, help="play this one, and show its plan")
    parser.add_argument("--retry", action="store_true", help="have some clients send requests again")
    parser.add_argument(
        "--mutants", action="store_true", help="find the planted bugs, with so many seeds each"
    )
    parser.add_argument(
        "--determinism", action="store_true", help="compare two processes, and builds if there are two"
    )
    parser.add_argument("--digest", action="store_true", help="print what tells the courses from others")
    parser.add_argument("--any-build", action="store_true", help="digest only what each build can play")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    drawing = draw_retrying if options.retry else draw
    if options.seed is not None:
        sys.exit(_show(options.seed, drawing))
    if options.digest:
        plans = filter(is_played_here, map(drawing, seeds))
        print(digest_of(plan for plan in plans if not (options.any_build and plan.needs_pure_build)))
    elif options.determinism:
        one, other = digests_of_two_processes(options.first, options.seeds, drawing)
        print(f"{options.seeds} schedules: {'the same' if one == other else 'different'} in two processes")
        sys.exit(one != other)
    elif options.mutants:
        if build_info().compiled:
            _begin_again_on_pure_build()
        sys.exit(_find_mutants(options.seeds, options.jobs) > len(MUTANTS) // 10)
    else:
        total = _play_side_by_side(seeds, options.seeds, options.jobs, drawing)
        for kind, count in total.endings.most_common():
            print(f"{count:10} {kind}")
        print(total)
        sys.exit(bool(total.failures))
