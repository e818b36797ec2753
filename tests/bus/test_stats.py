"""The counters, and the snapshot of them."""

from __future__ import annotations

from ratchet.bus._core.stats import Counters, Stats


def test_each_count_is_in_the_snapshot_under_its_own_name() -> None:
    counters = Counters()
    for number, name in enumerate(("answered", "failed", "cancelled", "dropped_late", "broken"), 1):
        setattr(counters, name, number)
    stats = counters.snapshot(connections=6, queued=7, in_flight=8)
    assert stats == Stats(
        connections=6, queued=7, in_flight=8, answered=1, failed=2, cancelled=3, dropped_late=4, broken=5
    )


def test_a_snapshot_stays_as_it_was() -> None:
    counters = Counters()
    before = counters.snapshot(connections=0, queued=0, in_flight=0)
    counters.answered += 1
    assert before.answered == 0
    assert counters.snapshot(connections=0, queued=0, in_flight=0).answered == 1
