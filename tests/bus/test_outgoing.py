"""The life of a request at its client: every event in every state, and what is counted."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import gevent
import pytest

from helpers import LONG, active_watchers, wait_until
from ratchet import BusError, BusTimeout, Cancelled, Outcome, _clock
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.outgoing import (
    ENDED,
    EXPIRE,
    EXPIRED,
    FAIL,
    FAILED,
    GIVE_UP,
    GIVEN_UP,
    SUCCEED,
    SUCCEEDED,
    TRANSITIONS,
    WAITING,
    ClientRoute,
    Event,
    OutgoingRequest,
    State,
)
from ratchet.bus._core.stats import Counters


class Server(ClientRoute):
    """A route to a server that is asked for its last word, and never has one."""

    server_name = "the server"

    def __init__(self) -> None:
        super().__init__(gevent.get_hub(), Counters(), None)
        self.forgotten: list[object] = []

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        return Outcome.UNKNOWN

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        return True

    def forget(self, transaction: OutgoingRequest) -> None:
        self.forgotten.append(transaction)


@pytest.fixture
def server() -> Server:
    return Server()


Transaction = ClientTransaction[str, str]
New = Callable[[], Transaction]


@pytest.fixture
def new(server: Server) -> New:
    return lambda: ClientTransaction(None, server, "question", None)


def expire(transaction: Transaction) -> None:
    """Let its time be over, and its client ask for the last word."""
    if transaction.state is WAITING:
        transaction.end_at(0.0)
        wait_until(lambda: transaction.state is not WAITING)


CALLS: dict[Event, Callable[[Transaction], object]] = {
    EXPIRE: expire,
    SUCCEED: lambda transaction: transaction.succeed("answer"),
    FAIL: lambda transaction: transaction.fail(BusError("an error")),
    GIVE_UP: lambda transaction: transaction.give_up(Cancelled, "given up"),
}

WAYS: dict[State, list[Event]] = {
    WAITING: [],
    EXPIRED: [EXPIRE],
    SUCCEEDED: [SUCCEED],
    FAILED: [FAIL],
    GIVEN_UP: [GIVE_UP],
}


@pytest.mark.parametrize(("state", "event"), list(product(WAYS, CALLS)))
def test_every_event_in_every_state_leads_where_the_table_says(
    new: New, server: Server, state: State, event: Event
) -> None:
    transaction = new()
    for step in WAYS[state]:
        CALLS[step](transaction)
    assert transaction.state is state
    if (state, event) in TRANSITIONS:
        CALLS[event](transaction)
        assert transaction.state is TRANSITIONS[state, event]
    elif (state, event) == (EXPIRED, FAIL):
        # Its time is its error then, whatever else has failed.
        CALLS[event](transaction)
        assert transaction.state is GIVEN_UP
    elif event is EXPIRE or (state in ENDED and event is not SUCCEED):
        CALLS[event](transaction)
        assert transaction.state is state
    else:
        # Who tells it of a response looks first; a signal handler may come in between.
        CALLS[event](transaction)
        assert transaction.state is state
    transaction.give_up(Cancelled, "given up")
    assert transaction.done
    counters = server.counters
    assert counters.answered + counters.failed + counters.cancelled == 1


def test_its_time_is_over_after_the_last_word_was_waited_for(new: New, server: Server) -> None:
    transaction = new()
    transaction.end_at(0.0)
    with pytest.raises(BusTimeout) as raised:
        transaction.recv_response(LONG)
    assert raised.value.outcome == "UNKNOWN"
    assert transaction.state is GIVEN_UP
    assert server.forgotten == [transaction]


def test_one_whose_caller_sees_to_its_time_ends_when_that_says_so(new: New, server: Server) -> None:
    watchers = active_watchers()
    transaction = new()
    transaction.leave_time_to_caller(0.3, _clock.monotonic() + 0.3)
    transaction.expire()
    assert transaction.state is EXPIRED
    assert active_watchers() == watchers
    transaction.expire()
    assert transaction.state is GIVEN_UP
    with pytest.raises(BusTimeout, match=r"within 0\.3 s"):
        transaction.recv_response(0)


def test_every_state_is_reached_and_the_last_ones_are_not_left() -> None:
    assert {WAITING, *TRANSITIONS.values()} == set(State)
    assert {event for _, event in TRANSITIONS} == set(Event)
    assert {state for state, _ in TRANSITIONS} == set(State) - set(ENDED)
