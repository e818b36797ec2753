"""The README's table: what the library costs next to others, in the two ways to answer."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.measure import Comparison
from benchmarks.report import Row, shown_ratio

BEGIN = ".. What follows is written by make bench.\n\n"
END = "\n.. What was written by make bench ends here.\n"

HEADINGS = ("against", "by hand", "``serve``")
NOT_MEASURED = "missing"


def with_table(text: str, rows: Iterable[Row]) -> str:
    """The README with these figures in the place of those that it has."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}{table(rows)}{END}{after}"


def table(rows: Iterable[Row]) -> str:
    """Each question, and below it a line for each peer that is somebody else's."""
    ratios: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        if is_of_others(row.comparison):
            peers = ratios.setdefault(question(row), {})
            by_hand_and_by_serve = peers.setdefault(row.comparison.against, ["", ""])
            shown = NOT_MEASURED if row.ratio is None else shown_ratio(row.ratio)
            by_hand_and_by_serve[row.comparison.by_serve] = shown
    lines: list[tuple[str, ...]] = [HEADINGS]
    for asked, peers in ratios.items():
        lines.append((f"**{asked}**", "", ""))
        lines += [(against, *each) for against, each in peers.items()]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rule = "  ".join("=" * width for width in widths)
    heading, *body = ("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
    return "\n".join([rule, heading, rule, *body, rule, ""])


def question(row: Row) -> str:
    asked = row.comparison.question
    return asked if row.comparison.more_is_better else f"{asked} (less is better)"


def is_of_others(comparison: Comparison) -> bool:
    """Whether the peer is not a part of the library."""
    programs = comparison.peer.programs if comparison.peer else []
    return any(program.function.startswith("benchmarks.peers.") for program in programs)
