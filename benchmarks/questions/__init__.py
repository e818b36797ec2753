"""The questions, one module each: what is compared with what, and what is to be reached.

Each module has `comparisons(scale)`.  What follows from them is the harness's part.
"""

from __future__ import annotations

from importlib import import_module

from benchmarks.measure import Comparison, Scale

# Those of one group are measured in the same rounds, and share what they have in common.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("local_one_client",),
    ("local_many_clients",),
    ("one_connection",),
    ("many_connections", "shared_connection", "in_flight"),
    ("connect_and_close",),
    ("big_messages",),
    ("idle_memory",),
    ("idle_speed",),
    ("latency",),
    ("attach",),
    ("growth",),
    ("overload",),
    ("polite_client",),
    ("hostile_clients",),
)


def comparisons_of(names: tuple[str, ...], scale: Scale) -> list[Comparison]:
    """The rows of some questions."""
    rows: list[Comparison] = []
    for name in names:
        rows += import_module(f"benchmarks.questions.{name}").comparisons(scale)
    return rows
