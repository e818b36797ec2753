"""The requests of a server, and the threads that take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

from helpers import turns
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.handle import ServerTransaction, receive
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_states import ANSWERED, CANCELLED, QUEUED, TAKEN
from ratchet.bus._core.intake import Intake
from routes import Client, Owner


@pytest.fixture
def intake() -> Intake:
    return Intake(Owner(), gevent.get_hub(), None, None, None, None)


@pytest.fixture
def client() -> Client:
    return Client()


Put = Callable[[bool], IncomingRequest]


@pytest.fixture
def put(intake: Intake, client: Client) -> Put:
    """Put a request into the inbox, or a cast."""

    def put(one_way: bool) -> IncomingRequest:
        request = IncomingRequest(intake.requests, client, "question", one_way, None)
        intake.inbox.put(request)
        return request

    return put


def test_a_drain_refuses_the_queued_requests_and_keeps_the_casts(
    intake: Intake, client: Client, put: Put
) -> None:
    request, cast = put(False), put(True)
    intake.refuse_queued()
    assert (request.state, cast.state) == (ANSWERED, QUEUED)
    assert client.reasons == [Reason.DRAINING]
    assert list(intake.inbox) == [cast]
    assert intake.inbox.closed


def test_what_was_given_up_and_interrupted_is_taken_out_of_the_inbox(intake: Intake, put: Put) -> None:
    given_up, waiting = put(False), put(False)
    given_up.cancel()
    intake.settle()
    assert list(intake.inbox) == [waiting]


def test_dropped_casts_are_counted_as_failed_and_requests_stay(intake: Intake, put: Put) -> None:
    taken, request, _ = put(True), put(False), put(True)
    received = receive(intake.inbox, intake.inbox.first(None))
    assert received is not None
    assert intake.drop_casts() == 1
    assert list(intake.inbox) == [request]
    assert taken.state is TAKEN
    assert intake.stats(connections=0).failed == 1


def test_the_snapshot_counts_what_waits_anywhere(intake: Intake, put: Put) -> None:
    for _ in range(3):
        put(False)
    received = receive(intake.inbox, intake.inbox.first(None))
    assert received is not None
    stats = intake.stats(connections=2, parked=4)
    assert (stats.connections, stats.queued, stats.in_flight) == (2, 6, 1)


def test_a_forked_child_leaves_what_was_taken_to_its_parent(intake: Intake, client: Client, put: Put) -> None:
    request, _ = put(False), put(False)
    received = receive(intake.inbox, intake.inbox.first(None))
    assert received is not None
    intake.leave_to_parent()
    del received
    turns()
    assert request.state is CANCELLED
    assert client.reasons == []
    assert len(intake.inbox) == len(intake.requests.in_flight) == 0


def test_what_a_thread_that_is_watched_held_when_it_died_is_abandoned(
    intake: Intake, client: Client, put: Put
) -> None:
    put(False)
    held: list[ServerTransaction[Any, Any]] = []

    def take() -> None:
        received = receive(intake.inbox, intake.inbox.first(None))
        assert received is not None
        held.append(received[0])
        del received
        transaction = held.pop()
        raise gevent.GreenletExit(transaction.cancelled)

    taker = gevent.spawn(take)
    intake.watch(taker)
    assert list(intake.takers) == [taker]
    taker.join()
    turns()
    assert client.reasons == [Reason.ABANDONED]
    assert not intake.takers


def test_no_thread_keeps_a_closed_bus_in_memory(intake: Intake) -> None:
    taker = gevent.spawn(gevent.sleep, 60)
    intake.watch(taker)
    intake.let_go()
    assert not intake.takers
    taker.kill()
