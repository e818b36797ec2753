"""`call_many`: many requests of one call, on every kind of bus."""

from __future__ import annotations

import random
from typing import Any

import gevent
import pytest

from contract.buses import (
    Bus,
    OpenBus,
    OpenClient,
    Start,
    is_plain,
    on_each_with_codec,
    on_every_kind,
    on_local,
    on_sockets,
    on_sockets_of_each_form,
    outcomes,
)
from helpers import LONG, turns, wait_until
from ratchet import (
    BusClosed,
    MessageTooLarge,
    RemoteError,
)
from ratchet import (
    bus as ratchet_bus,
)
from ratchet.bus import Codec, Limits
from ratchet.bus._socket import wire

# Responses.


@on_every_kind
@pytest.mark.parametrize("count", [1, 2, 300])
@pytest.mark.parametrize("timeout", [None, LONG])
def test_the_responses_come_in_the_order_of_the_requests(
    bus: Bus, start: Start, count: int, timeout: float | None
) -> None:
    start(bus.server.serve, lambda number: number * 2)
    assert bus.client.call_many(range(count), timeout) == list(range(0, 2 * count, 2))
    assert bus.is_quiet
    assert bus.server.stats().answered == bus.client.stats().answered == count


@on_every_kind
@pytest.mark.parametrize("order", ["last first", "random"])
def test_in_whatever_order_they_are_answered(bus: Bus, start: Start, order: str) -> None:
    calling = start(bus.client.call_many, range(50))
    bus.wait_for_queued(50)
    batch = bus.server.recv_requests(50)
    if order == "random":
        random.Random(7).shuffle(batch)
    else:
        batch.reverse()
    for transaction, number in batch:
        assert not calling.ended
        transaction.send_response(number)
        turns(1)
    assert calling.result() == list(range(50))


@on_every_kind
def test_no_requests_have_no_responses(bus: Bus) -> None:
    assert bus.client.call_many([]) == []
    assert bus.client.call_many(iter(()), timeout=0, metadata=None) == []
    bus.client.close()
    assert bus.client.call_many([]) == []


@on_every_kind
def test_any_iterable_will_do(bus: Bus, start: Start) -> None:
    start(bus.server.serve, str.upper)
    assert bus.client.call_many(word for word in ("one", "two")) == ["ONE", "TWO"]


@on_every_kind
def test_falsy_values_are_ordinary_ones(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    values: list[Any] = [None, 0, False, "", [], {}]
    results = bus.client.call_many(values)
    assert [(type(each), each) for each in results] == [(type(each), each) for each in values]


@on_every_kind
def test_large_and_small_ones_go_together(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=None)
    start(bus.server.serve, lambda request: request)
    requests = [bytes([number]) * size for number, size in enumerate((1, 600_000, 0, 70_000, 3_000_000, 5))]
    assert bus.client.call_many(requests, LONG) == requests


@on_each_with_codec
def test_requests_and_responses_may_have_attachments(open_bus: OpenBus, start: Start) -> None:
    def to_bus(letter: Any) -> Any:
        return letter[0], letter[1:]

    def from_bus(body: bytes, attachments: list[bytes]) -> Any:
        return [body, *attachments]

    bus = open_bus(codec=Codec(to_bus, from_bus, to_bus, from_bus))
    start(bus.server.serve, lambda letter: letter)
    letters = [[b"body", *[b"x" * number] * number] for number in range(5)]
    assert bus.client.call_many(letters, LONG) == letters


def test_metadata_goes_along_with_each(bus: Bus, start: Start) -> None:
    def handle(request: Any, transaction: Any) -> Any:
        return dict(transaction.metadata)

    start(bus.server.serve, handle)
    assert bus.client.call_many("ab", LONG, {"trace": "1f"}) == [{"trace": "1f"}] * 2


def test_one_that_raises_costs_no_other_one(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda number: 100 // number)
    results = bus.client.call_many([8, 0, 5], LONG)
    assert outcomes(results) == [12, (RemoteError, "RAN"), 20]
    assert "ZeroDivisionError" in str(results[1])


@on_every_kind
def test_several_threads_may_call_at_once(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    calls = [start(bus.client.call_many, [[number, turn] for turn in range(40)]) for number in range(5)]
    single = start(bus.client.call, "single")
    assert single.result() == "single"
    for number, call in enumerate(calls):
        assert call.result() == [[number, turn] for turn in range(40)]


def test_a_handler_may_call_with_no_more_time_than_is_left_of_its_request(bus: Bus, start: Start) -> None:
    other, other_client = ratchet_bus.new_local()

    def remaining(request: object, transaction: Any) -> object:
        return transaction.remaining

    start(other.serve, remaining)
    start(bus.server.serve, lambda request: other_client.call_many([1, 2]))
    for left in bus.client.call("question", timeout=LONG):
        assert 0 < left <= LONG + 0.001
    assert bus.client.call("question") == [None, None]
    other.close()


# Room.


@on_local
def test_those_for_which_a_bounded_bus_has_no_place_wait_for_one(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(maxsize=3)
    calling = start(bus.client.call_many, range(20))
    calling.wait_until_blocked()
    assert bus.server.stats().queued == 3
    start(bus.server.serve, lambda request: request, workers=2)
    assert calling.result() == list(range(20))


@on_sockets_of_each_form
@pytest.mark.parametrize("high_water", [1, 1_000, 100_000])
def test_those_that_a_connection_does_not_take_wait_until_it_does(
    open_client: OpenClient, start: Start, kind: str, high_water: int
) -> None:
    client, raw = open_client(codec=None, limits=Limits(high_water=high_water))
    requests = [b"%04d" % number + b"x" * 100_000 for number in range(100)]
    calling = start(client.call_many, requests, LONG)
    wait_until(lambda: client.stats().queued == 0 and client.stats().in_flight, "the first to be sent")
    calling.wait_until_blocked()
    assert client.stats().in_flight < 100
    assert client._servers.places[0].current is not None
    assert client._servers.places[0].current.stream.output.unsent <= high_water + 100_100
    for request in requests:
        _, _, id, _, parts = raw.receive_message()
        assert parts == [request]
        form = (wire.PLAIN, 0, 0) if is_plain(kind) else (wire.RESPONSE, 0, id)
        raw.send(wire.encode(*form, 0, [request[:4]]))
    assert calling.result() == [request[:4] for request in requests]


@on_sockets
@pytest.mark.parametrize("most", [1, 2, 7])
def test_no_more_are_in_flight_than_the_server_takes(open_bus: OpenBus, start: Start, most: int) -> None:
    bus = open_bus(server_limits=Limits(max_in_flight=most))
    assert isinstance(bus.client, ratchet_bus.ClientBus)
    bus.client.wait_connected(LONG)
    calling = start(bus.client.call_many, range(30))
    calling.wait_until_blocked()
    assert bus.client.stats().in_flight == most
    start(bus.server.serve, lambda request: request, workers=3)
    assert calling.result() == list(range(30))


@on_sockets
def test_who_waits_for_a_place_beside_it_is_served_too(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=Limits(max_in_flight=2))
    assert isinstance(bus.client, ratchet_bus.ClientBus)
    bus.client.wait_connected(LONG)
    calls = [start(bus.client.call_many, range(10)), start(bus.client.call, "one")]
    calls.append(start(bus.client.call_many, range(10, 20)))
    start(bus.server.serve, lambda request: request, workers=1)
    assert [call.result() for call in calls] == [list(range(10)), "one", list(range(10, 20))]


@on_sockets
def test_one_that_the_server_would_refuse_as_too_large_is_an_error_among_the_results(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client(codec=None)
    raw.say_hello(max_message=10, server="narrow")
    client.wait_connected(LONG)
    raw.receive_hello()
    calling = start(client.call_many, [b"x" * 11, b"1", b"x" * 12, b"2", b"x" * 13], LONG)
    for body in (b"1", b"2"):
        _, _, id, _, parts = raw.receive_message()
        assert parts == [body]
        raw.send(wire.encode(wire.RESPONSE, 0, id, 0, [body]))
    too_large = (MessageTooLarge, "NOT_SENT")
    assert outcomes(calling.result()) == [too_large, b"1", too_large, b"2", too_large]


@on_sockets
def test_what_is_sent_leaves_in_one_piece(open_client: OpenClient, start: Start) -> None:
    client, raw = open_client(codec=None)
    raw.receive_hello()
    start(client.call_many, [b"1", b"2", b"3"])
    frames = b"".join(wire.encode(wire.REQUEST, 0, id, 0, [b"%d" % id]) for id in (1, 2, 3))
    received: bytes = raw._socket.recv(1000)
    assert received == frames


# What is wrong is refused, and nothing is sent.


@on_every_kind
@pytest.mark.parametrize("position", [0, 1, 5])
def test_one_that_cannot_be_encoded_is_refused_and_nothing_is_sent(
    open_bus: OpenBus, start: Start, position: int
) -> None:
    bus = open_bus()
    requests: list[Any] = [*range(5)]
    requests.insert(position, object())
    if bus.kind == "local":
        bus.client.close()
        assert outcomes(bus.client.call_many(requests)) == [(BusClosed, "NOT_SENT")] * 6
        return
    with pytest.raises(TypeError, match="object"):
        bus.client.call_many(requests)
    assert bus.is_quiet
    bus.check_works()


@on_sockets_of_each_form
def test_one_over_this_side_s_limit_is_refused_and_nothing_is_sent(open_bus: OpenBus) -> None:
    bus = open_bus(limits=Limits(max_message=1000))
    with pytest.raises(MessageTooLarge):
        bus.client.call_many(["small", "x" * 1000])
    assert bus.is_quiet
    bus.check_works()


@on_every_kind
@pytest.mark.parametrize("timeout", ["1", True, float("nan")])
def test_a_wrong_time_out_is_refused(bus: Bus, timeout: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="timeout"):
        bus.client.call_many(["question"], timeout)
    assert bus.is_quiet


@on_every_kind
@pytest.mark.parametrize("metadata", [{"a": 1}, ["a"], {"a": "x" * 70_000}])
def test_wrong_metadata_is_refused(bus: Bus, metadata: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="metadata"):
        bus.client.call_many(["question"], metadata=metadata)
    assert bus.is_quiet


@on_sockets_of_each_form
def test_metadata_in_the_plain_form_is_refused(bus: Bus, start: Start) -> None:
    if bus.plain:
        with pytest.raises(ValueError, match="plain"):
            bus.client.call_many(["question"], metadata={"a": "b"})
    else:
        start(bus.server.serve, lambda request: request)
        assert bus.client.call_many(["question"], metadata={"a": "b"}) == ["question"]


@on_every_kind
def test_requests_that_cannot_be_counted_out_are_refused(bus: Bus) -> None:
    def failing() -> Any:
        yield "first"
        raise KeyError("second")

    with pytest.raises(KeyError):
        bus.client.call_many(failing())
    wrong: Any = 5
    with pytest.raises(TypeError):
        bus.client.call_many(wrong)
    assert bus.is_quiet


@on_every_kind
def test_a_call_in_the_hub_is_refused_before_anything_is_sent(bus: Bus) -> None:
    raised: list[BaseException] = []

    def call() -> None:
        try:
            bus.client.call_many(["question"])
        except RuntimeError as error:
            raised.append(error)

    gevent.get_hub().loop.run_callback(call)
    wait_until(lambda: raised)
    assert "call_many" in str(raised[0])
    assert bus.is_quiet
