"""The cost of growing as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure

Curve = Mapping[int, list[float]]
"""What an exchange costs in each round, by how many there are at once."""


def draw(curves: Mapping[str, Curve], path: Path) -> None:
    """A line for each curve, with the range of its rounds, as an SVG that is the same each time."""
    # Text stays text, which is small, and ids do not change from one run to the next.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ratchet"}):
        figure = Figure(figsize=(6.4, 3.6), layout="constrained")
        axes = figure.subplots()
        for (name, curve), marker in zip(curves.items(), "os", strict=True):
            middles = [statistics.median(costs) for costs in curve.values()]
            low = [middle - min(costs) for middle, costs in zip(middles, curve.values(), strict=True)]
            high = [max(costs) - middle for middle, costs in zip(middles, curve.values(), strict=True)]
            axes.errorbar(list(curve), middles, (low, high), marker=marker, capsize=3, label=name)
        axes.set_xscale("log")
        axes.set_xlabel("how many at once")
        axes.set_ylabel("CPU time of both sides\nper exchange (µs)")
        axes.set_ylim(bottom=0)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
