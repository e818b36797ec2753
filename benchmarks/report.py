"""The outcome as a table: for the terminal, for the documentation, for other programs.

Rules of this room: it measures nothing and runs nothing.  Everything here is a
function of what was measured.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.measure import Comparison, Measured

HEADINGS = (
    "question",
    "against",
    "target",
    "ratio",
    "spread",
    "by the clock",
    "ours",
    "theirs",
    "unit",
    "reached",
)

NOTABLE_MOVE = 0.2
"""The part of a ratio by which it may differ from the baseline unnoticed."""

METHOD = """\
Each ratio is ours over the peer's, the median of several rounds, and both were
measured in each round, in turn.  The spread is the lowest and the highest ratio
of a round.  CPU seconds are those of all processes that take part, the servers'
and the clients', because a machine may have other work; the ratio by the clock is
that of the same rounds.  Messages have 100 bytes unless the question says
otherwise, in the extended form, with every check and limit on and, but for JSON
calls, no codec.  All processes, those of servers and those of clients, were
pinned to the same core; what is said to be local, or to attach threads, is one
process.  Our server answers by hand, in one thread, unless the question says that
it answers with serve() and 64 workers.  A Protocol is asyncio's, bare: a length
and an id before the body, and a future for each request; it writes each frame by
itself or joins those of a turn of the loop.  JSON calls go to two worker
processes, on that same core too; their supervisor counts as the server with them,
as gunicorn's master does.  Both have the same handler, which returns what it
gets, and gunicorn is asked over HTTP/1.1 on connections that are kept alive.  The
load generator sends the same bytes over and over, and looks only at the size of
each answer; geventhttpclient, and our client, make and read the JSON of each
call.  NATS has a broker between both ends, whose CPU time counts as well.  Idle
connections have made one exchange each.  Latency is measured at a fixed rate,
over whichever connection is free, and counts from when each request was due, in
bursts every 0.5 ms.  What has no peer is held against its target as it is.  In an
overload, requests have time-outs of 0.5 s and are sent when they are due,
whatever became of those before; what could be answered is what the workers can
do, if each handler takes as long as it did; and what happens in the first second
does not count."""


@dataclass(frozen=True)
class Row:
    """A comparison and what was measured for it.

    Attributes:
        ratios: ours over the peer's, one for each round; without a peer, the figures.
        by_the_clock: the same ratios of what passed by the clock, where CPU time is what counts.
        ours, peer: the medians of the figures themselves.
        missing: why there are no ratios, if there are none.
    """

    comparison: Comparison
    ratios: tuple[float, ...] = ()
    by_the_clock: tuple[float, ...] = ()
    ours: float | None = None
    peer: float | None = None
    missing: str | None = None

    @property
    def ratio(self) -> float | None:
        return median(self.ratios)

    @property
    def verdict(self) -> str:
        """What the last column says."""
        if self.ratio is None:
            return f"missing: {self.missing}"
        reached = self.comparison.reached_by(self.ratio)
        return "" if reached is None else "yes" if reached else "no"


def median(figures: Sequence[float]) -> float | None:
    return statistics.median(figures) if figures else None


def row_of(comparison: Comparison, measured: Measured) -> Row:
    """What was measured, as far as it was."""
    missing = [measured.failures[load] for load in comparison.loads if load in measured.failures]
    return Row(
        comparison,
        tuple(measured.ratios(comparison)),
        tuple(measured.ratios_by_the_clock(comparison)),
        median(measured.figures(comparison.ours, comparison.figure)),
        None if comparison.peer is None else median(measured.figures(comparison.peer, comparison.figure)),
        "; ".join(missing) or None,
    )


def shown_ratio(ratio: float) -> str:
    """Three digits, or all there are in front of the point."""
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:.1f}" if ratio < 100 else f"{ratio:,.0f}"


def shown_median(ratios: Sequence[float]) -> str:
    return shown_ratio(statistics.median(ratios)) if ratios else ""


def shown_figure(figure: float | None) -> str:
    return "" if figure is None else f"{figure:,.1f}" if figure < 100 else f"{figure:,.0f}"


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table, as texts in the order of `HEADINGS`."""
    comparison = row.comparison
    target = comparison.target
    sign = "≥" if comparison.more_is_better else "≤"
    return (
        comparison.asked,
        comparison.against,
        "" if target is None else f"{sign} {target:g}",
        "" if comparison.peer is None else shown_median(row.ratios),
        f"{shown_ratio(min(row.ratios))}-{shown_ratio(max(row.ratios))}" if row.ratios else "",
        "" if comparison.peer is None else shown_median(row.by_the_clock),
        shown_figure(row.ours),
        shown_figure(row.peer),
        comparison.figure,
        row.verdict,
    )


def text_table(rows: Iterable[Row]) -> str:
    """The table for a terminal: a question and, below it, its rows."""
    lines = [("", *HEADINGS[1:]), *map(cells, rows)]
    # Nothing follows the last column, so it may be as long as a reason is.
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)][1:-1]
    table: list[str] = []
    question = ""
    for asked, against, *numbers, unit, verdict in lines:
        if asked != question:
            table.append(asked)
            question = asked
        right = (number.rjust(width) for number, width in zip(numbers, widths[1:-1], strict=True))
        cells_of_row = ["", against.ljust(widths[0]), *right, unit.ljust(widths[-1]), verdict]
        table.append("  ".join(cells_of_row).rstrip())
    return "\n".join(table)


def rst(rows: Iterable[Row], machine: Mapping[str, str], notes: Mapping[str, str], command: str) -> str:
    """The table and what is to be known about it, to be included in a page."""
    versions = [f"{name} {version}" for name, version in machine.items() if name not in _MACHINE]
    lines = [
        f"Measured with ``{command}`` on {machine['processor']}, {machine['cores']} cores,",
        f"{machine['kernel']}, {machine['Python']}, build: {machine['build']}, with {', '.join(versions)}.",
        "",
        METHOD,
        "",
        *(f"{name} could not be installed: {literal(reason)}\n" for name, reason in notes.items()),
        ".. list-table::",
        "   :header-rows: 1",
        "",
    ]
    for line in (HEADINGS, *map(cells, rows)):
        first, *others = line
        lines += [f"   * - {first}", *(f"     - {cell}".rstrip() for cell in others)]
    return "\n".join(lines) + "\n"


def literal(text: str) -> str:
    """What another program said, with no mark-up in it."""
    return f"``{text.replace('`', chr(39))}``"


_MACHINE = ("processor", "cores", "kernel", "Python", "build")


def as_json(rows: Iterable[Row], machine: Mapping[str, str]) -> dict[str, object]:
    """Everything, for other programs."""
    return {
        "machine": dict(machine),
        "rows": [
            {
                "question": row.comparison.asked,
                "against": row.comparison.against,
                "unit": row.comparison.figure,
                "target": row.comparison.target,
                "more_is_better": row.comparison.more_is_better,
                "ratio": row.ratio,
                "ratios": row.ratios,
                "by_the_clock": row.by_the_clock,
                "ours": row.ours,
                "peer": row.peer,
                "reached": None if row.ratio is None else row.comparison.reached_by(row.ratio),
                "missing": row.missing,
            }
            for row in rows
        ],
    }


def baseline_of(rows: Iterable[Row]) -> dict[str, float]:
    """The ratios, to be compared with those of a later run; what has no peer has a target instead."""
    return {
        row.comparison.key: round(row.ratio, 3)
        for row in rows
        if row.ratio is not None and row.comparison.peer is not None
    }


def moves(ratios: Mapping[str, float], baseline: Mapping[str, float]) -> list[str]:
    """What differs from the baseline by more than `NOTABLE_MOVE`, or is only in one of the two."""
    lines = []
    for key, ratio in ratios.items():
        if key not in baseline:
            lines.append(f"{key}: not in the baseline")
        elif abs(change := ratio / baseline[key] - 1) > NOTABLE_MOVE:
            was, now = shown_ratio(baseline[key]), shown_ratio(ratio)
            lines.append(f"{key}: {was} in the baseline, now {now} ({change:+.0%})")
    return lines + [f"{key}: in the baseline only" for key in baseline if key not in ratios]
