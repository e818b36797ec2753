"""The questions, one module each: what is compared with what, and what is to be reached.

Each module has `comparisons(scale)`.  What follows from them is the harness's part.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from benchmarks.measure import Comparison, Load, Scale

# Those of one group are measured in the same rounds, and share what they have in common.
GROUPS: tuple[tuple[str, ...], ...] = (
    ("local_one_client",),
    ("local_many_clients",),
    ("one_connection",),
    ("many_connections", "shared_connection", "in_flight", "call_many"),
    ("processes",),
    ("over_a_broker",),
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


Peer = tuple[Load, float | None, float | None]
"""With the targets of a server of ours that answers by hand, and of one that answers with `serve`."""


def both_ways(question: str, by_hand: Load, by_serve: Load, peers: Iterable[Peer]) -> list[Comparison]:
    """Ours against each peer, in both ways of answering."""
    rows = [Comparison(question, by_hand, peer, target=target) for peer, target, _ in peers]
    return rows + [
        Comparison(question, by_serve, peer, target=target, by_serve=True) for peer, _, target in peers
    ]


def comparisons_of(names: tuple[str, ...], scale: Scale) -> list[Comparison]:
    """The rows of some questions."""
    rows: list[Comparison] = []
    for name in names:
        rows += import_module(f"benchmarks.questions.{name}").comparisons(scale)
    return rows
