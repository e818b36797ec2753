"""A sample of the schedules, and those that once failed; `make sim` has as many as you like."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulation.draw import draw, draw_retrying
from simulation.play import play
from simulation.runner import corpus, digests_of_two_processes, failure_of, is_played_here, play_all

pytestmark = [pytest.mark.timeout(120), pytest.mark.uncounted]

SEEDS = 500
RETRYING_SEEDS = 200
PARTS = 5
"""The samples are played in so many parts, which may run side by side."""


@pytest.mark.parametrize("part", range(PARTS))
def test_what_is_promised_holds_whatever_goes_wrong(part: int) -> None:
    tally = play_all(range(part, SEEDS, PARTS))
    assert tally.played + tally.left_out == SEEDS // PARTS
    assert tally.played > tally.left_out
    assert not tally.failures, tally.failures


@pytest.mark.parametrize("part", range(PARTS))
def test_it_holds_as_well_for_clients_that_send_again(part: int) -> None:
    tally = play_all(range(part, RETRYING_SEEDS, PARTS), drawing=draw_retrying)
    assert tally.played > tally.left_out
    assert not tally.failures, tally.failures


@pytest.mark.parametrize("seed", corpus())
def test_what_once_failed_does_not(seed: int) -> None:
    assert failure_of(seed) is None


@pytest.mark.slow
def test_the_same_seeds_take_the_same_course_in_every_process() -> None:
    """In those of both builds, where the compiled one is tested."""
    for drawing in (draw, draw_retrying):
        one, other = digests_of_two_processes(0, 30, drawing)
        assert one
        assert one == other


@pytest.mark.slow
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


def test_requests_are_sent_again() -> None:
    """Some that may run twice do, and some of the others are sent more than once."""
    journals = [play(draw_retrying(seed)) for seed in range(60) if is_played_here(draw_retrying(seed))]
    assert any(record.retries for journal in journals for record in journal.clients)
    assert any(count > 1 for journal in journals for count in journal.ran.values())
    assert any(
        not ask.idempotent and getattr(transaction, "attempts", 1) > 1
        for journal in journals
        for record in journal.clients
        for ask, transaction in record.transactions
    )


def test_the_same_seed_asks_for_the_same_whether_it_is_sent_again_or_not() -> None:
    for seed in range(50):
        plan, retrying = draw(seed), draw_retrying(seed)
        assert replace(retrying, clients=()) == replace(plan, clients=())
        assert {number: replace(ask, idempotent=False) for number, ask in retrying.asks.items()} == plan.asks
