"""`recv_requests`: a server that takes several requests at once, on every kind of bus."""

from __future__ import annotations

from typing import Any

import pytest
from gevent.event import Event

from contract.buses import Bus, OpenBus, Start, on_each_with_codec, on_every_kind, on_local
from helpers import LONG, active_watchers, wait_until
from ratchet import Abandoned, Alarm, BusClosed, BusTimeout, Ratchet, RemoteError
from ratchet.bus import Codec, codecs


def requests_of(batch: list[Any]) -> list[Any]:
    return [request for _, request in batch]


def answer(batch: list[Any]) -> None:
    for transaction, request in batch:
        assert transaction.send_response(request) is True


@on_every_kind
def test_what_is_there_is_taken_in_order_up_to_so_many(bus: Bus) -> None:
    sent = [bus.client.send_request(number) for number in range(7)]
    bus.wait_for_queued(7)
    batches = [bus.server.recv_requests(3, LONG) for _ in range(3)]
    assert [requests_of(batch) for batch in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert bus.server.stats()[1:3] == (0, 7)
    for batch in reversed(batches):
        answer(batch)
    assert [transaction.recv_response(LONG) for transaction in sent] == list(range(7))
    assert bus.server.stats()[1:4] == (0, 0, 7)


@on_every_kind
def test_the_first_is_waited_for_and_no_other(bus: Bus, start: Start) -> None:
    taking = start(bus.server.recv_requests, 100)
    taking.wait_until_blocked()
    bus.client.send_request("only")
    assert requests_of(taking.result()) == ["only"]


@on_every_kind
def test_each_is_a_transaction_of_its_own(bus: Bus) -> None:
    sent = [bus.client.send_request(number, LONG) for number in range(2)]
    bus.wait_for_queued(2)
    (first, zero), (second, one) = bus.server.recv_requests(2)
    assert (first.request, second.request) == (zero, one) == (0, 1)
    if not bus.plain:
        assert 0 < (first.remaining or 0) <= LONG + 0.001
    assert second.send_response("second") is True
    with first:
        assert first.send_response("first") is True
    assert [transaction.recv_response(LONG) for transaction in sent] == ["first", "second"]


@pytest.mark.virtual_time
@on_every_kind
def test_nothing_in_time_is_a_time_out_that_leaves_nothing_behind(bus: Bus) -> None:
    # On a plain connection, only a request tells that the server has accepted it.
    bus.check_works()
    watchers = active_watchers()
    with pytest.raises(BusTimeout, match="no request came"):
        bus.server.recv_requests(10, 0.01)
    bus.check_works()
    wait_until(lambda: active_watchers() <= watchers, "its watchers to be gone")


@on_every_kind
def test_a_closed_bus_has_no_more(bus: Bus, start: Start) -> None:
    taking = start(bus.server.recv_requests, 10)
    taking.wait_until_blocked()
    bus.server.close()
    with pytest.raises(BusClosed):
        taking.result()
    with pytest.raises(BusClosed):
        bus.server.recv_requests(10)


@on_every_kind
@pytest.mark.parametrize(
    ("most", "error"), [(0, ValueError), (-1, ValueError), (True, TypeError), (2.0, TypeError)]
)
def test_another_number_is_refused_before_anything_is_taken(
    bus: Bus, most: Any, error: type[Exception]
) -> None:
    bus.client.send_request("question")
    bus.wait_for_queued()
    with pytest.raises(error, match="most"):
        bus.server.recv_requests(most)
    assert bus.server.stats().queued == 1


@pytest.mark.parametrize("given_up", [{0}, {1, 3}, {0, 1, 4}])
def test_one_that_was_given_up_is_passed_over(bus: Bus, given_up: set[int]) -> None:
    sent = [bus.client.send_request(number) for number in range(5)]
    bus.wait_for_queued(5)
    for number in given_up:
        sent[number].cancel()
    bus.wait_for_queued(5 - len(given_up))
    assert requests_of(bus.server.recv_requests(5)) == [n for n in range(5) if n not in given_up]


@on_every_kind
def test_threads_that_wait_are_served_first_come_first_served(bus: Bus, start: Start) -> None:
    first, second = start(bus.server.recv_requests, 2), start(bus.server.recv_requests, 2)
    second.wait_until_blocked()
    bus.client.send_request(0)
    assert requests_of(first.result()) == [0]
    assert not second.ended
    third = start(bus.server.recv_requests, 2)
    third.wait_until_blocked()
    for number in range(1, 4):
        bus.client.send_request(number)
    received = [*requests_of(second.result()), *requests_of(third.result())]
    assert received == list(range(1, 1 + len(received)))
    rest = 3 - len(received)
    if rest:
        assert requests_of(bus.server.recv_requests(rest)) == list(range(4 - rest, 4))


@on_local
def test_who_is_first_in_line_takes_as_many_as_it_may(bus: Bus, start: Start) -> None:
    first, second = start(bus.server.recv_requests, 3), start(bus.server.recv_request)
    second.wait_until_blocked()
    for number in range(4):
        bus.client.send_request(number)
    assert requests_of(first.result()) == [0, 1, 2]
    assert second.result()[1] == 3


@on_every_kind
def test_what_is_dropped_is_abandoned(bus: Bus) -> None:
    sent = [bus.client.send_request(number) for number in range(3)]
    bus.wait_for_queued(3)
    batch = bus.server.recv_requests(3)
    batch.pop()[0].send_response("answer")
    if not bus.plain:
        batch.clear()
        for transaction in sent[:2]:
            with pytest.raises(Abandoned):
                transaction.recv_response(LONG)
        assert sent[2].recv_response(LONG) == "answer"
    assert bus.server.stats().queued == 0


def test_casts_that_are_left_when_a_server_drains_are_taken_too(bus: Bus, start: Start) -> None:
    for number in range(3):
        bus.client.cast(number)
    bus.wait_for_queued(3)
    draining = start(bus.server.drain, LONG)
    draining.wait_until_blocked()
    batch = bus.server.recv_requests(10)
    assert requests_of(batch) == [0, 1, 2]
    for transaction, _ in batch:
        transaction.send_response(None)
    assert draining.result() is True


# Codecs.


def refuse_odd(body: bytes) -> Any:
    number = codecs.json.request_from_bus(body)
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


ODD = Codec(codecs.json.request_to_bus, refuse_odd, bytes, bytes)


@on_each_with_codec
def test_what_cannot_be_decoded_is_answered_and_passed_over(open_bus: OpenBus) -> None:
    bus = open_bus(codec=ODD)
    sent = [bus.client.send_request(number) for number in range(6)]
    bus.wait_for_queued(6)
    assert requests_of(bus.server.recv_requests(4)) == [0, 2, 4]
    for transaction in sent[1::2]:
        with pytest.raises(RemoteError, match="is odd") as raised:
            transaction.recv_response(LONG)
        assert raised.value.outcome == "NOT_RUN"
    bus.client.send_request(7)
    with pytest.raises(BusTimeout):
        bus.server.recv_requests(4, 0.01)


def blocking_at(number: int, blocked: Event) -> Codec[Any, Any]:
    """A codec that blocks for ever at one request."""

    def from_bus(body: bytes) -> Any:
        if body == b"%d" % number:
            blocked.set()
            Event().wait()
        return codecs.json.request_from_bus(body)

    return Codec(codecs.json.request_to_bus, from_bus, bytes, bytes)


@on_each_with_codec
@pytest.mark.parametrize("how", ["kill", "alarm"])
def test_a_thread_interrupted_before_it_has_all_abandons_what_it_has(
    open_bus: OpenBus, start: Start, how: str
) -> None:
    blocked = Event()
    bus = open_bus(codec=blocking_at(2, blocked))
    sent = [bus.client.send_request(number) for number in range(4)]
    bus.wait_for_queued(4)
    kept: list[BaseException] = []

    def take() -> None:
        try:
            bus.server.recv_requests(4)
        except BaseException as error:
            # With its traceback, and all that is in its frames.
            kept.append(error)
            raise

    taking = start(take)
    assert blocked.wait(LONG)
    if how == "kill":
        taking.kill()
    else:
        alarm = Alarm()
        taking.thread.kill(alarm)
        with pytest.raises(Alarm):
            taking.result()
    for transaction in sent[:3]:
        with pytest.raises(Abandoned):
            transaction.recv_response(LONG)
    assert kept
    assert requests_of(bus.server.recv_requests(4)) == [3]


@on_each_with_codec
def test_a_client_that_gives_up_while_its_request_is_decoded_costs_no_other_one(
    open_bus: OpenBus, start: Start
) -> None:
    blocked = Event()
    bus = open_bus(codec=blocking_at(1, blocked))
    sent = [bus.client.send_request(number) for number in range(3)]
    bus.wait_for_queued(3)
    taking = start(bus.server.recv_requests, 3)
    assert blocked.wait(LONG)
    sent[1].cancel()
    assert requests_of(taking.result()) == [0, 2]


def test_a_thread_that_dies_abandons_its_batch(bus: Bus) -> None:
    sent = [bus.client.send_request(number) for number in range(3)]
    bus.wait_for_queued(3)

    def take() -> None:
        batch = bus.server.recv_requests(3)
        raise ValueError(len(batch))

    kernel = Ratchet(errh=lambda error, thread: None)
    kernel.attach(take)
    for transaction in sent:
        with pytest.raises(Abandoned):
            transaction.recv_response(LONG)
    kernel.loop()
