"""What one exchange costs is no more than the table in `figures` allows."""

from __future__ import annotations

import pytest

from costs.figures import BOUNDS, KNOWN, figures_of
from costs.measure import MEASURING_TIME

pytestmark = pytest.mark.timeout(MEASURING_TIME + 5)

LEFT = [group for group in BOUNDS if group.startswith("left by")]
COUNTED = [group for group in BOUNDS if group not in LEFT]


def over_bounds(group: str) -> dict[str, tuple[float, float]]:
    """The figures of a group that are too high, each with its bound."""
    figures, bounds = figures_of(group), BOUNDS[group]
    assert figures.keys() == bounds.keys()
    return {name: (figure, bounds[name]) for name, figure in figures.items() if figure > bounds[name]}


@pytest.mark.pure
@pytest.mark.parametrize("group", COUNTED)
def test_an_exchange_costs_no_more_than_its_bounds(group: str) -> None:
    assert over_bounds(group) == {}
    # Of 64 at a time, the longer of two runs may take no more calls than the shorter one.
    least = sum if group == "system calls, 64 at a time" else min
    assert least(figures_of(group).values()) > 0, "a counter that does not count"


@pytest.mark.parametrize("group", LEFT)
def test_an_exchange_leaves_nothing_behind(group: str) -> None:
    assert over_bounds(group) == {}


def test_the_counters_count_what_is_known() -> None:
    assert figures_of("known") == pytest.approx(KNOWN, abs=0.05)
