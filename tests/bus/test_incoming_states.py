"""The table of what may happen to a request at its server."""

from __future__ import annotations

from ratchet.bus._core.incoming_states import (
    ANSWERED,
    LATE,
    QUEUED,
    TRANSITIONS,
    UNANSWERED,
    UNENDED,
    Event,
    State,
)


def test_every_state_is_reached_and_the_last_ones_are_not_left() -> None:
    assert {QUEUED, *TRANSITIONS.values()} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {state for state, _ in TRANSITIONS} == set(State) - {ANSWERED, LATE}


def test_an_open_request_is_one_that_may_still_be_cancelled() -> None:
    assert {state for state, event in TRANSITIONS if event is Event.CANCEL} == set(UNENDED)


def test_an_unanswered_request_is_one_that_its_thread_may_answer() -> None:
    assert {state for state, event in TRANSITIONS if event is Event.ANSWER} == set(UNANSWERED)
