"""The checkout's `benchmarks`, importable once this is imported, and made-up comparisons."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent


def load_benchmarks() -> None:
    """Make `benchmarks` importable without the checkout's other packages, which may be installed."""
    if "benchmarks" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location("benchmarks", CHECKOUT / "benchmarks" / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    sys.modules["benchmarks"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["benchmarks"])


load_benchmarks()

from benchmarks import questions  # noqa: E402
from benchmarks.common import BY_THE_CLOCK  # noqa: E402
from benchmarks.measure import Comparison, Load, Measured, Scale, program  # noqa: E402

OURS = Load("ours", program("ours:one"))
PEER = Load("a peer", program("peers.one:one"))
OTHER = Load("another peer", program("peers.other:one"))


def rows_of(scale: Scale) -> list[Comparison]:
    return [row for group in questions.GROUPS for row in questions.comparisons_of(group, scale)]


def measured(unit: str, *rounds: tuple[float | None, float | None]) -> Measured:
    """The outcome of rounds of ours and the peer's; None where one did not play.

    By the clock, ours had half as much.
    """
    outcome = Measured()
    for ours, peer in rounds:
        both = ((OURS, ours, 0.5), (PEER, peer, 1))
        outcome.rounds.append(
            {
                load: {unit: figure, BY_THE_CLOCK.get(unit, "nothing"): figure * share}
                for load, figure, share in both
                if figure is not None
            }
        )
    return outcome
