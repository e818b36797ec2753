"""A sample of the schedules, and those that once failed; `make sim` has as many as you like."""

from __future__ import annotations

import pytest

from simulation.draw import draw
from simulation.runner import corpus, digests_of_two_processes, failure_of, play_all

pytestmark = [pytest.mark.timeout(120), pytest.mark.uncounted]

SEEDS = 500
PARTS = 5
"""The sample is played in so many parts, which may run side by side."""


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_promised_holds_whatever_goes_wrong(part: int) -> None:
    tally = play_all(range(part, SEEDS, PARTS))
    assert tally.played + tally.left_out == SEEDS // PARTS
    assert tally.played > tally.left_out
    assert not tally.failures, tally.failures


@pytest.mark.parametrize("seed", corpus())
def test_what_once_failed_does_not(seed: int) -> None:
    assert failure_of(seed) is None


def test_the_same_seeds_take_the_same_course_in_every_process() -> None:
    """In those of both builds, where the compiled one is tested."""
    one, other = digests_of_two_processes(0, 30)
    assert one
    assert one == other


def test_schedules_differ() -> None:
    """All that is varied comes up in the sample, and so does each of the usual endings."""
    plans = [draw(seed) for seed in range(SEEDS)]
    assert any(plan.is_calm for plan in plans)
    assert any(plan.strikes for plan in plans)
    assert any(plan.stops for plan in plans)
    assert any(client.plain for plan in plans for client in plan.clients)
    assert any(len(plan.lives) > 1 for plan in plans)
    endings = play_all(range(100)).endings
    for usual in ("answer", "cast", "ConnectionLost, UNKNOWN", "BusTimeout, NOT_SENT", "Abandoned, UNKNOWN"):
        assert endings[usual], endings


def test_a_schedule_makes_the_requests_of_its_plan() -> None:
    calm = next(seed for seed in range(SEEDS) if draw(seed).is_calm and draw(seed).has_one_life)
    assert play_all([calm]).requests == len(draw(calm).asks)
