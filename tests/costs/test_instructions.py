"""That `make instructions` runs every case, and notices when one takes more."""

from __future__ import annotations

import pytest

from costs import exchanges, instructions
from costs.exchanges import CASES
from costs.instructions import COMPILED, PURE, compare, per_exchange

pytestmark = pytest.mark.uncounted


def test_each_case_is_marked_before_between_and_after_its_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[None] = []
    monkeypatch.setattr(exchanges, "mark", lambda: marks.append(None))
    exchanges.main(256)
    assert len(marks) == 3 * len(CASES)


def test_what_a_run_costs_whatever_its_length_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "EXCHANGES", 10)
    counts = [count for _ in CASES for count in (5_000, 700 + 10 * 20, 700 + 30 * 20)]
    assert per_exchange(counts) == dict.fromkeys(CASES, 20)


@pytest.mark.parametrize(
    ("figure", "said", "fails"),
    [(1029, "", False), (1031, "too many", True), (971, "", False), (969, "to be kept", False)],
)
def test_growth_is_noticed(figure: int, said: str, fails: bool) -> None:
    (line,), grown = compare({PURE: {"case": 1000}}, {PURE: {"case": figure}})
    assert line.endswith("%") if not said else said in line
    assert grown is fails


def test_what_was_never_counted_is_only_shown() -> None:
    (line,), grown = compare({PURE: {"case": 1000}}, {COMPILED: {"case": 12_345}})
    assert "12,345" in line
    assert not grown
