"""What the benchmarks say: ratios, the tables, the baseline."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from benchmarking import CHECKOUT, OTHER, OURS, PEER, measured
from benchmarks import readme, report
from benchmarks.common import CPU, EXCHANGES, SPACE
from benchmarks.measure import Comparison


@pytest.fixture
def rate_row() -> report.Row:
    comparison = Comparison("how many?", OURS, PEER, EXCHANGES, 0.9)
    return report.row_of(comparison, measured(EXCHANGES, (1000, 1000), (3000, 2000), (1200, 1000)))


def test_a_ratio_is_taken_within_each_round_and_its_median_counts(rate_row: report.Row) -> None:
    assert rate_row.ratios == (1.0, 1.5, 1.2)
    assert rate_row.ratio == 1.2
    assert rate_row.by_the_clock == (0.5, 0.75, 0.6)
    assert (rate_row.ours, rate_row.peer) == (1200, 1000)


def test_a_round_that_lacks_one_of_the_two_has_no_ratio() -> None:
    comparison = Comparison("how many?", OURS, PEER)
    assert measured(EXCHANGES, (1, 2), (1, None), (None, 2), (1, 0)).ratios(comparison) == [0.5]


@pytest.mark.parametrize(
    ("unit", "target", "ratio", "verdict"),
    [
        (EXCHANGES, 0.9, 0.9, "yes"),
        (EXCHANGES, 0.9, 0.89, "no"),
        (CPU, 1.5, 1.5, "yes"),
        (CPU, 1.5, 1.51, "no"),
        (CPU, None, 7.0, ""),
    ],
)
def test_a_rate_must_be_as_high_as_its_target_and_a_cost_as_low(
    unit: str, target: float | None, ratio: float, verdict: str
) -> None:
    row = report.row_of(Comparison("?", OURS, PEER, unit, target), measured(unit, (ratio, 1)))
    assert row.verdict == verdict


def test_what_has_no_peer_is_held_against_its_target_as_it_is() -> None:
    comparison = Comparison("how much?", OURS, None, SPACE, 150)
    row = report.row_of(comparison, measured(SPACE, (100, None), (200, None), (140, None)))
    assert (row.ratios, row.verdict) == ((100, 200, 140), "yes")
    assert report.cells(row) == ("how much?", "", "≤ 150", "", "100-200", "", "140", "", SPACE, "yes")
    # It has its target, and needs no baseline.
    assert report.baseline_of([row]) == {}


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.654, "0.65"), (9.994, "9.99"), (12.34, "12.3"), (1234.5, "1,234")]
)
def test_ratios_are_shown_with_three_digits(ratio: float, shown: str) -> None:
    assert report.shown_ratio(ratio) == shown


def test_the_table_names_a_question_once_and_says_why_a_peer_is_missing(rate_row: report.Row) -> None:
    absent = Comparison("how many?", OURS, OTHER, EXCHANGES, 2)
    outcome = measured(EXCHANGES, (1000, None))
    outcome.failures[OTHER] = "ModuleNotFoundError: No module named 'other'"
    heading, question, present, missing = report.text_table(
        [rate_row, report.row_of(absent, outcome)]
    ).splitlines()
    assert heading.split() == " ".join(report.HEADINGS[1:]).split()
    assert question == "how many?"
    assert present.startswith("  a peer       ")
    assert present.split()[2:] == [
        *("≥", "0.9", "1.20", "1.00-1.50", "0.60", "1,200", "1,000"),
        *(*EXCHANGES.split(), "yes"),
    ]
    assert missing.startswith("  another peer     ≥ 2  ")
    assert missing.endswith("missing: ModuleNotFoundError: No module named 'other'")


def test_the_page_has_every_cell_the_machine_and_what_could_not_be_installed(rate_row: report.Row) -> None:
    machine = {
        "processor": "A chip",
        "cores": "2",
        "kernel": "Linux 6",
        "Python": "CPython 3",
        "build": "pure Python",
        "gevent": "26",
    }
    page = report.rst([rate_row], machine, {"other": "no `such` thing"}, "make bench")
    assert (
        "``make bench`` on A chip, 2 cores,\nLinux 6, CPython 3, build: pure Python, with gevent 26." in page
    )
    assert "other could not be installed: ``no 'such' thing``" in page
    table = page.partition(".. list-table::")[2]
    assert table.count("* - ") == 2
    assert table.count("\n     -") == 2 * (len(report.HEADINGS) - 1)
    assert "* - how many?\n     - a peer\n     - ≥ 0.9\n     - 1.20\n     - 1.00-1.50\n     - 0.60\n" in table


def test_json_has_the_figures_unrounded(rate_row: report.Row) -> None:
    everything = report.as_json([rate_row], {"cores": "2"})
    assert everything == {
        "machine": {"cores": "2"},
        "rows": [
            {
                "question": "how many?",
                "against": "a peer",
                "unit": EXCHANGES,
                "target": 0.9,
                "more_is_better": True,
                "ratio": 1.2,
                "ratios": (1.0, 1.5, 1.2),
                "by_the_clock": (0.5, 0.75, 0.6),
                "ours": 1200,
                "peer": 1000,
                "reached": True,
                "missing": None,
            }
        ],
    }


def test_a_move_of_more_than_a_fifth_is_named_either_way(rate_row: report.Row) -> None:
    key = rate_row.comparison.key
    assert report.baseline_of([rate_row]) == {key: 1.2}
    baseline = {"up": 1.0, "down": 1.0, "a bit up": 1.0, "a bit down": 1.0, "gone": 1.0}
    ratios = {"up": 1.21, "down": 0.79, "a bit up": 1.19, "a bit down": 0.81, "new": 1.0}
    assert report.moves(ratios, baseline) == [
        "up: 1.00 in the baseline, now 1.21 (+21%)",
        "down: 1.00 in the baseline, now 0.79 (-21%)",
        "new: not in the baseline",
        "gone: in the baseline only",
    ]


@pytest.fixture
def rows_for_the_readme(rate_row: report.Row) -> list[report.Row]:
    by_serve = replace(rate_row, comparison=replace(rate_row.comparison, by_serve=True), ratios=(0.7,))
    absent = Comparison("how many?", OURS, OTHER)
    cost = report.row_of(Comparison("how dear?", OURS, PEER, SPACE), measured(SPACE, (1, 4)))
    not_compared = [
        Comparison("how much?", OURS, None, SPACE, 150),
        Comparison("how steep?", OURS, replace(OURS, name="itself")),
    ]
    return [rate_row, by_serve, *(report.Row(each) for each in [absent, *not_compared]), cost]


def test_the_readme_has_a_line_for_each_peer_of_others(rows_for_the_readme: list[report.Row]) -> None:
    rule, heading, _, *lines, end = readme.table(rows_for_the_readme).splitlines()
    assert set(rule) == {"=", " "}
    assert end == rule
    assert [re.split(" {2,}", line) for line in (heading, *lines)] == [
        ["against", "by hand", "``serve``"],
        ["**how many?**"],
        ["a peer", "1.20", "0.70"],
        ["another peer", "missing"],
        ["**how dear? (less is better)**"],
        ["a peer", "0.25"],
    ]


def test_only_the_figures_in_the_readme_are_replaced(rows_for_the_readme: list[report.Row]) -> None:
    text = (CHECKOUT / "README.rst").read_text(encoding="utf-8")
    assert text.count(readme.BEGIN) == text.count(readme.END) == 1
    changed = readme.with_table(text, rows_for_the_readme)
    assert readme.table(rows_for_the_readme) in changed
    for end, part in ((readme.BEGIN, 0), (readme.END, -1)):
        assert changed.split(end)[part] == text.split(end)[part]
    assert readme.with_table(changed, rows_for_the_readme) == changed
