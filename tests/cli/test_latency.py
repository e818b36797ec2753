"""Latencies that are counted in buckets, against the standard library's own statistics."""

from __future__ import annotations

import random
import re
import statistics
from itertools import pairwise

import pytest

from ratchet.cli.latency import Latencies, shown_time


def latencies_of(*seconds: float) -> Latencies:
    latencies = Latencies()
    for value in seconds:
        latencies.add(value)
    return latencies


def many(seed: int) -> list[float]:
    """Some latencies as they are in life: most are short, some are long."""
    draw = random.Random(seed)
    return [draw.lognormvariate(-6.5, 1.0) for _ in range(5000)]


@pytest.mark.parametrize("seed", range(3))
def test_percentiles_are_exact_to_within_a_bucket(seed: int) -> None:
    values = many(seed)
    latencies = latencies_of(*values)
    exact = statistics.quantiles(values, n=1000, method="inclusive")
    for percent, index in ((50, 499), (90, 899), (99, 989), (99.9, 998)):
        assert latencies.percentile(percent) == pytest.approx(exact[index], rel=0.04)


def test_the_mean_and_the_extremes_are_exact() -> None:
    values = many(7)
    latencies = latencies_of(*values)
    assert latencies.count == len(values)
    assert latencies.mean == pytest.approx(statistics.fmean(values))
    assert (latencies.shortest, latencies.longest) == (min(values), max(values))


@pytest.mark.parametrize("percent", [0, 50, 99.9, 100])
def test_the_percentiles_of_a_single_one_are_that_one(percent: float) -> None:
    assert latencies_of(0.00123).percentile(percent) == 0.00123


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 1e-6, 999.0, 1000.0, 1e9])
def test_a_latency_out_of_range_is_counted_all_the_same(seconds: float) -> None:
    latencies = latencies_of(seconds)
    assert latencies.percentile(50) == seconds
    assert len(list(latencies.histogram())) == 1


def test_memory_does_not_grow_with_the_number_of_latencies() -> None:
    latencies = Latencies()
    before = len(latencies._buckets)
    for value in many(1):
        latencies.add(value)
    assert len(latencies._buckets) == before < 1000


ROW = re.compile(r" *(\d[\d.]*) (us|ms|s) - +(\d[\d.]*) (us|ms|s)  +([\d,]+)(?:  (#+))?")


@pytest.mark.parametrize(
    "values",
    [many(0), [1e-9, 1e9], [0.001, 0.0011], [0.0099, 0.0101], [3.0]],
    ids=["lifelike", "extreme", "alike", "across a boundary", "single"],
)
def test_the_histogram_counts_each_latency_in_rows_that_follow_one_another(values: list[float]) -> None:
    rows = [ROW.fullmatch(line) for line in latencies_of(*values).histogram()]
    assert 1 <= len(rows) <= 20
    counts, ends = [], []
    for row in rows:
        assert row is not None
        counts.append(int(row[5].replace(",", "")))
        ends.append((row[1], row[2], row[3], row[4]))
        assert len(row[6] or "") <= 40
        assert bool(row[6]) == bool(counts[-1])
    assert sum(counts) == len(values)
    assert counts[0]
    assert counts[-1]
    assert all(left[2:] == right[:2] for left, right in pairwise(ends))
    fullest = rows[counts.index(max(counts))]
    assert fullest is not None
    assert len(fullest[6]) == 40


def test_the_histogram_of_none_is_empty() -> None:
    assert list(Latencies().histogram()) == []


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.00 us"),
        (1e-6, "1.00 us"),
        (0.0001234, "123 us"),
        (0.0009994, "999 us"),
        (0.0009996, "1.00 ms"),
        (0.01234, "12.3 ms"),
        (0.09996, "100 ms"),
        (1.0, "1.00 s"),
        (59.97, "60.0 s"),
        (12345.0, "12345 s"),
    ],
)
def test_a_time_is_shown_with_three_digits(seconds: float, shown: str) -> None:
    assert shown_time(seconds) == shown
