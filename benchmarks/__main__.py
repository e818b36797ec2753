"""Measure the library side by side with its peers, and print one table.

python -m benchmarks                            everything; writes docs/performance/ and README.rst
python -m benchmarks --quick                    the same in small; compares with the baseline
python -m benchmarks --quick --baseline         the same, and makes that the baseline
python -m benchmarks in_flight latency          these questions alone
python -m benchmarks in_flight --against redis  and these peers alone
python -m benchmarks --before ../older          against the library in another checkout
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks import machine, readme, report
from benchmarks.before import comparisons_with
from benchmarks.common import most_connections
from benchmarks.install import not_installed
from benchmarks.measure import ROOT, Comparison, Measured, Rounds, Scale, loads_of
from benchmarks.questions import GROUPS, comparisons_of, growth
from benchmarks.questions.idle_speed import BUSY

FULL = Scale(
    rounds=7,
    seconds=0.5,
    warm_up=0.2,
    time_limit=540,
    # With the busy ones, no more than the library lets in by default.
    connections=9_900,
    threads=100_000,
    in_flight_steps=(1, 10, 100, 1_000),
    connection_steps=(1, 10, 100, 1_000, 10_000),
    every_overload=True,
    hostile_clients=(1, 10, 1_000),
)
QUICK = Scale(
    rounds=3,
    seconds=0.1,
    warm_up=0.05,
    time_limit=45,
    connections=1_000,
    threads=10_000,
    in_flight_steps=(1, 10, 100),
    connection_steps=(1, 10, 100),
    every_overload=False,
    hostile_clients=(10,),
)

BUSY_MACHINE = 0.5
"""The load from which on others are in the way."""

BASELINE = Path(__file__).with_name("baseline.json")
RESULTS = ROOT / "docs" / "performance"
README = ROOT / "README.rst"


Names = tuple[str, ...]
Group = tuple[Names, list[Comparison]]
"""The names of some questions, and their rows."""


class Progress:
    """One line on stderr that changes; in a log, a line for each group of questions."""

    def __init__(self, groups: int) -> None:
        self._groups = groups
        self._number = 0
        self._names = ""
        self._live = sys.stderr.isatty()
        self._began = time.monotonic()

    def begin(self, names: Sequence[str]) -> None:
        self._number += 1
        self._names = ", ".join(names)
        if not self._live:
            print(self._line(""), file=sys.stderr, flush=True)

    def step(self, what: str) -> None:
        if self._live:
            # A line that wraps could not be written over.
            line = self._line(f": {what}")[: shutil.get_terminal_size().columns - 1]
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self._live:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _line(self, what: str) -> str:
        seconds = time.monotonic() - self._began
        return f"{seconds:3.0f} s, {self._number} of {self._groups}, {self._names}{what}"


def possible(scale: Scale) -> Scale:
    """The scale with no more connections than this machine lets a process have."""
    most = most_connections()
    steps = [step for step in scale.connection_steps if step < most]
    if len(steps) < len(scale.connection_steps):
        steps.append(most)
    return replace(
        scale,
        connections=min(scale.connections, most - BUSY),
        connection_steps=tuple(steps),
        hostile_clients=tuple(dict.fromkeys(min(each, most) for each in scale.hostile_clients)),
    )


def run(groups: Sequence[Group], scale: Scale, cpu: int) -> dict[Names, Measured]:
    """Measure group by group; those that are left share what is left of the time by their loads."""
    measured: dict[Names, Measured] = {}
    progress = Progress(len(groups))
    end = time.monotonic() + scale.time_limit
    left = [loads_of(rows) for _, rows in groups]
    for names, _ in groups:
        progress.begin(names)
        now = time.monotonic()
        loads = left.pop(0)
        share = len(loads) / sum(map(len, [loads, *left]))
        rounds = Rounds(loads, cpu, progress.step)
        rounds.play(scale, until=now + (end - now) * share)
        measured[names] = rounds.measured
    progress.end()
    return measured


def groups_of(chosen: argparse.Namespace, scale: Scale) -> list[Group]:
    """What is asked, without what is not chosen."""
    groups = []
    for group in GROUPS:
        names = tuple(name for name in group if name in (chosen.questions or group))
        rows = [row for row in comparisons_of(names, scale) if chosen.against in row.against]
        if chosen.before is not None:
            rows = comparisons_with(str(chosen.before.resolve()), rows)
        if rows:
            groups.append((names, rows))
    return groups


def compare(rows: Sequence[report.Row], partly: bool) -> None:
    """Say what differs from the baseline; that is a notice, and no failure."""
    if not BASELINE.exists():
        print("There is no baseline to compare with; --quick --baseline makes one.")
        return
    baseline: dict[str, float] = json.loads(BASELINE.read_text(encoding="utf-8"))
    ratios = report.baseline_of(rows)
    if partly:
        baseline = {key: ratio for key, ratio in baseline.items() if key in ratios}
    lines = report.moves(ratios, baseline)
    print("Against the baseline:" if lines else "Nothing has moved from the baseline by more than 20 %.")
    for line in lines:
        print(f"  {line}")


def write_results(rows: Sequence[report.Row], growth_measured: Measured, scale: Scale) -> None:
    """The tables and the plot for the documentation."""
    README.write_text(readme.with_table(README.read_text(encoding="utf-8"), rows), encoding="utf-8")
    RESULTS.mkdir(parents=True, exist_ok=True)
    text = report.rst(rows, machine.describe(), not_installed(), "make bench")
    (RESULTS / "results.rst").write_text(text, encoding="utf-8")
    try:
        from benchmarks.plot import draw
    except ImportError as error:
        print(f"There is no plot: {error}", file=sys.stderr)
    else:
        draw(growth.curves(growth_measured, scale), RESULTS / "growth.svg")


def arguments() -> argparse.Namespace:
    names = [name for group in GROUPS for name in group]
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure the library side by side with its peers, and print one table."
        " A full run of all questions also writes docs/performance/ and README.rst.",
    )
    parser.add_argument(
        "questions", nargs="*", metavar="question", help=f"measure these alone: {', '.join(names)}"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a minute in place of ten, and compare with the baseline",
    )
    parser.add_argument(
        "--against", default="", metavar="NAME", help="only the rows whose peer has this in its name"
    )
    parser.add_argument(
        "--before", type=Path, metavar="FOLDER", help="measure against the library in this checkout instead"
    )
    parser.add_argument("--baseline", action="store_true", help="with --quick: make the outcome the baseline")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything measured to a file")
    parser.add_argument(
        "--cpu",
        type=int,
        default=max(os.sched_getaffinity(0)),
        help="the core for all processes that are measured (default: the last one, %(default)s)",
    )
    parsed = parser.parse_args()
    unknown = set(parsed.questions) - set(names)
    if unknown:
        parser.error(f"no such question: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    parsed.partly = bool(parsed.questions or parsed.against or parsed.before)
    if parsed.baseline and (not parsed.quick or parsed.partly):
        parser.error("--baseline needs --quick and all questions")
    if parsed.before is not None and not (parsed.before / "ratchet").is_dir():
        parser.error(f"there is no library in {parsed.before}")
    if parsed.cpu not in os.sched_getaffinity(0):
        parser.error(f"core {parsed.cpu} is not one of {sorted(os.sched_getaffinity(0))}")
    return parsed


def main() -> int:
    chosen = arguments()
    scale = possible(QUICK if chosen.quick else FULL)
    groups = groups_of(chosen, scale)
    if not groups:
        sys.exit(f"no question has a peer with {chosen.against!r} in its name")
    load_average = os.getloadavg()[0]
    if load_average > BUSY_MACHINE:
        print(f"the machine is busy (load {load_average:.1f}): expect wide spreads", file=sys.stderr)
    measured = run(groups, scale, chosen.cpu)
    rows = [report.row_of(comparison, measured[names]) for names, asked in groups for comparison in asked]
    print(report.text_table(rows))
    print(f"build of the library: {machine.build()}")
    for name, reason in not_installed().items():
        print(f"{name} could not be installed: {reason}")
    if chosen.json is not None:
        chosen.json.write_text(
            json.dumps(report.as_json(rows, machine.describe()), indent=2), encoding="utf-8"
        )
    if chosen.baseline:
        BASELINE.write_text(json.dumps(report.baseline_of(rows), indent=2) + "\n", encoding="utf-8")
    elif chosen.quick:
        if chosen.before is None:
            compare(rows, partly=chosen.partly)
    elif not chosen.partly:
        write_results(rows, measured[("growth",)], scale)
    # A peer may be missing; we may not.
    failed = {load for outcome in measured.values() for load in outcome.failures}
    return 1 if failed & {row.comparison.ours for row in rows} else 0


def stop(*_: object) -> None:
    """SIGTERM ends the run as Ctrl-C does, children and all."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("\ninterrupted; nothing was written")
