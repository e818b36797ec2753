"""What a server learns of its load, and what it says of that."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

import gevent
import pytest

from helpers import active_watchers, turns
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.load import Load
from routes import Owner


@pytest.fixture
def load() -> Load:
    return Load(Owner(), gevent.get_hub())


def test_as_long_as_nothing_ran_nothing_is_too_late(load: Load) -> None:
    assert load.refusal(99.9, 50.0, 100.0, others_wait=True) is None


@pytest.mark.parametrize("unit", [0.001, 1.0, 100.0])
@pytest.mark.parametrize(
    ("draw", "least", "most"),
    [
        (lambda chance: 1.0, 0.99, 1.15),
        # 95 of 100 take no longer than that.
        (lambda chance: chance.uniform(0.0, 1.0), 0.85, 1.05),
        (lambda chance: chance.expovariate(1.0), 2.2, 4.0),
    ],
    ids=["all the same", "evenly spread", "some take long"],
)
def test_it_learns_what_almost_all_requests_take(
    load: Load, unit: float, draw: Callable[[random.Random], float], least: float, most: float
) -> None:
    chance = random.Random(7)
    for _ in range(3000):
        load.learn(unit * draw(chance))
    assert least * unit < load.time_needed < most * unit


def test_it_unlearns_what_was_once(load: Load) -> None:
    for _ in range(100):
        load.learn(10.0)
    for _ in range(50):
        load.learn(100.0)
    assert 100.0 < load.time_needed < 115.0
    for _ in range(1000):
        load.learn(1.0)
    assert 1.0 <= load.time_needed < 1.15


def test_what_takes_no_time_is_learnt_too(load: Load) -> None:
    for _ in range(10_000):
        load.learn(0.0)
    assert 0 < load.time_needed < 0.001
    for _ in range(100):
        load.learn(1.0)
    assert load.time_needed > 0.9


def reason(load: Load, now: float, *, others_wait: bool = True) -> Reason | None:
    """Why a request that came at 9.0 and has time until 10.0 is not begun."""
    refusal = load.refusal(now, 9.5, 10.0, others_wait)
    return None if refusal is None else refusal[0]


def test_what_has_less_time_left_than_almost_all_need_is_refused_if_others_wait(load: Load) -> None:
    load.learn(0.2)
    assert reason(load, now=9.7) is None
    assert reason(load, now=9.9) is Reason.OVERLOADED
    assert reason(load, now=9.9, others_wait=False) is None


def test_what_has_no_time_left_is_not_begun(load: Load) -> None:
    assert reason(load, now=10.0, others_wait=False) is Reason.OUT_OF_TIME


def test_what_has_waited_next_to_nothing_is_tried_whatever_was_learnt(load: Load) -> None:
    load.learn(100.0)
    assert reason(load, now=9.05) is None
    assert reason(load, now=9.15) is Reason.OVERLOADED


def test_what_a_client_gave_up_took_as_long_as_it_had_if_its_time_was_over(load: Load) -> None:
    for _ in range(200):
        load.learn(0.1)
    needed = load.time_needed
    # Its client changed its mind.
    load.note_given_up(begun=9.95, now=10.0, deadline=11.0)
    # It had less than others need.
    load.note_given_up(begun=9.95, now=10.0, deadline=10.0)
    assert load.time_needed == needed
    load.note_given_up(begun=9.8, now=10.0, deadline=10.05)
    assert load.time_needed > needed


@pytest.mark.virtual_time
def test_the_log_is_told_once_when_it_begins_and_once_when_it_is_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    load = Load(Owner(), gevent.get_hub())
    with caplog.at_level(logging.WARNING, "ratchet.bus"):
        for _ in range(2):
            load.note_refusal("too much work")
            gevent.sleep(3.0)
        assert [record.getMessage() for record in caplog.records] == [
            "the bus begins to refuse: too much work"
        ]
        gevent.sleep(4.5)
        assert [record.getMessage() for record in caplog.records][1:] == [
            "the bus refuses nothing any more; refused: 2"
        ]
        load.note_refusal("too much work")
        gevent.sleep(5.5)
        assert len(caplog.records) == 4
        assert caplog.records[3].getMessage().endswith(": 1")
    load.close()


def test_it_leaves_no_timer_behind_when_it_is_closed(load: Load) -> None:
    before = active_watchers()
    load.note_refusal("too much work")
    assert active_watchers() != before
    load.close()
    load.close()
    # The log is told in a thread of its own.
    turns(2)
    assert active_watchers() == before
