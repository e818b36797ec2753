"""The life of a request at its server: every event in every state, and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import gevent
import pytest

from ratchet import AlreadyAnswered, Outcome
from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import ErrorTexts, Reason
from ratchet.bus._core.incoming import IncomingRequest, Route
from ratchet.bus._core.incoming_requests import IncomingRequests
from ratchet.bus._core.incoming_states import (
    ANSWER,
    ANSWERED,
    ANSWERING,
    CANCEL,
    CANCELLED,
    CLAIM,
    FAIL,
    HAND_OVER,
    LATE,
    QUEUED,
    TAKEN,
    TRANSITIONS,
    Event,
    State,
)
from ratchet.bus._core.load import Load
from ratchet.bus._core.stats import Counters
from routes import Owner


class Client(Route):
    """A route that takes everything, and does something in the middle of that if it is told to."""

    def __init__(self) -> None:
        super().__init__(in_process=True, peer=None, flow=Flow())
        self.meanwhile: Callable[[], object] = lambda: None
        self.while_failing: Callable[[], object] = lambda: None
        self.got: list[object] = []

    def is_writable(self, request: IncomingRequest) -> bool:
        return True

    def park(self, request: IncomingRequest) -> None:
        raise AssertionError("it can be written to")

    def send(self, request: IncomingRequest, message: Any) -> bool:
        self.meanwhile()
        if request.state is not ANSWERING:
            return False
        self.got.append(message)
        return True

    def fail(
        self, request: IncomingRequest, reason: Reason, texts: ErrorTexts, outcome: Outcome | None
    ) -> bool:
        self.got.append(reason)
        self.while_failing()
        return True

    def give_up(self, request: IncomingRequest) -> None:
        raise AssertionError("it keeps the time itself")

    def released(self, request: IncomingRequest) -> None:
        """Nothing is kept here."""


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture
def requests() -> IncomingRequests:
    hub = gevent.get_hub()
    return IncomingRequests(hub, Counters(), Load(Owner(), hub), None, None)


New = Callable[[], IncomingRequest]


@pytest.fixture
def new(client: Client, requests: IncomingRequests) -> New:
    return lambda: IncomingRequest(requests, client, "question", False, None)


def refuse(request: IncomingRequest) -> None:
    request.refuse(Reason.DRAINING, ("Rejected", "", ""))


CALLS: dict[Event, Callable[[IncomingRequest], object]] = {
    CLAIM: lambda request: request.claim(()),
    ANSWER: lambda request: request.respond("answer"),
    FAIL: refuse,
    CANCEL: IncomingRequest.cancel,
}

WAYS: dict[State, list[Event]] = {
    QUEUED: [],
    TAKEN: [CLAIM],
    ANSWERED: [CLAIM, ANSWER],
    CANCELLED: [CLAIM, CANCEL],
    LATE: [CLAIM, CANCEL, ANSWER],
}


def after(state: State, event: Event) -> State:
    """Where a call leads from a state, by the table alone."""
    state = TRANSITIONS.get((state, event), state)
    return TRANSITIONS.get((state, HAND_OVER), state) if event is ANSWER else state


def call(request: IncomingRequest, event: Event) -> None:
    """Have it happen; an answer that cannot be is refused."""
    before = request.state
    try:
        CALLS[event](request)
    except AlreadyAnswered:
        assert event is ANSWER
        assert (before, ANSWER) not in TRANSITIONS


@pytest.mark.parametrize(("state", "event"), list(product(WAYS, CALLS)))
def test_every_event_in_every_state_leads_where_the_table_says(new: New, state: State, event: Event) -> None:
    request = new()
    for step in WAYS[state]:
        CALLS[step](request)
    assert request.state is state
    call(request, event)
    assert request.state is after(state, event)


@pytest.mark.parametrize("event", CALLS)
def test_every_event_while_it_is_being_answered(new: New, client: Client, event: Event) -> None:
    request = new()
    request.claim(())
    seen: list[State] = []

    def meanwhile() -> None:
        call(request, event)
        seen.append(request.state)

    client.meanwhile = meanwhile
    assert request.respond("answer") is (event is not CANCEL)
    assert seen == [TRANSITIONS.get((ANSWERING, event), ANSWERING)]
    assert request.state is (LATE if event is CANCEL else ANSWERED)


def test_an_answer_that_cannot_be_made_is_an_error_at_once(new: New, client: Client) -> None:
    request = new()
    request.claim(())

    def meanwhile() -> None:
        raise ValueError("too large")

    client.meanwhile = meanwhile
    with pytest.raises(ValueError, match="too large"):
        request.respond("answer")
    assert request.state is ANSWERED
    assert client.got == [Reason.HANDLER_RAISED]


def test_the_thread_that_began_last_is_its_handler_until_it_ends(new: New) -> None:
    outer, inner = gevent.Greenlet(), gevent.Greenlet()
    request = new()
    assert request.claim(())
    request.begin_handling(outer)
    request.begin_handling(inner)
    assert request.handler is inner
    request.end_handling(1)
    assert request.handler is outer
    request.end_handling(0)
    assert request.handler is None
    request.abandon()


def sequences() -> Iterator[tuple[Event, ...]]:
    return product(CALLS, repeat=4)


def test_whatever_happens_it_is_counted_once_and_answered_once_at_most(
    new: New, client: Client, requests: IncomingRequests
) -> None:
    for events in sequences():
        client.got.clear()
        before = requests.counters.answered + requests.counters.failed + requests.counters.cancelled
        request = new()
        for event in events:
            call(request, event)
        counted = requests.counters.answered + requests.counters.failed + requests.counters.cancelled - before
        assert counted == (request.state not in (QUEUED, TAKEN)), events
        assert len(client.got) == (request.state is ANSWERED), events
        assert (request in requests.in_flight) is (request.state is TAKEN), events
        request.cancel()
    assert not requests.in_flight


def test_a_request_that_is_ended_while_it_is_refused_is_counted_once(new: New, client: Client) -> None:
    """As by a signal handler, which takes it just then."""
    request = new()

    def refuse_again() -> None:
        client.while_failing = lambda: None
        refuse(request)

    client.while_failing = refuse_again
    refuse(request)
    assert request.state is ANSWERED
    assert request.requests.counters.failed == 1
