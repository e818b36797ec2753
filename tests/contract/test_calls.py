"""Requests and their answers: the calls of both sides, on every kind of bus."""

from __future__ import annotations

import re
from typing import Any

import pytest

from contract.buses import Bus, OpenBus, Start, client_tls, on_every_kind, on_local, on_sockets_of_each_form
from helpers import LONG, wait_until
from ratchet import BusTimeout, ConnectionLost, RemoteError
from ratchet import bus as ratchet_bus

FALSY: list[Any] = [None, 0, False, "", [], {}]


def test_new_local_is_one_object_returned_twice() -> None:
    buses: tuple[object, object] = ratchet_bus.new_local()
    assert buses[0] is buses[1]


@on_every_kind
def test_the_four_calls_carry_a_request_and_its_response(bus: Bus) -> None:
    sent = bus.client.send_request({"data": "important question!"})
    transaction, request = bus.server.recv_request(LONG)
    assert request == transaction.request == {"data": "important question!"}
    assert transaction.send_response({"data": "important answer!"}) is True
    assert sent.recv_response(LONG) == {"data": "important answer!"}


@on_every_kind
def test_call_sends_and_waits_for_the_response(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request + 1)
    assert bus.client.call(1) == 2


@on_every_kind
def test_the_client_s_transaction_holds_the_very_object_that_was_sent(bus: Bus) -> None:
    request = {"name": "falcon"}
    assert bus.client.send_request(request).request is request


@on_every_kind
def test_a_transaction_is_done_when_its_response_is_there(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    assert sent.done is False
    bus.take().send_response("answer")
    wait_until(lambda: sent.done)
    assert sent.recv_response(0) == "answer"
    assert sent.done is True


@on_every_kind
def test_requests_are_delivered_in_order(bus: Bus) -> None:
    sent = [bus.client.send_request(number) for number in range(100)]
    received = [bus.server.recv_request(LONG) for _ in sent]
    assert [request for _, request in received] == list(range(100))
    for transaction, request in received:
        transaction.send_response(request)
    assert [transaction.recv_response(LONG) for transaction in sent] == list(range(100))


@on_every_kind
def test_requests_may_be_answered_in_any_order(bus: Bus) -> None:
    sent = [bus.client.send_request(number) for number in range(5)]
    received = [bus.server.recv_request(LONG) for _ in sent]
    for transaction, request in reversed(received):
        assert transaction.send_response(request * 10) is True
    assert [transaction.recv_response(LONG) for transaction in sent] == [0, 10, 20, 30, 40]


@on_every_kind
def test_several_clients_each_get_their_own_answers(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    clients = [bus.client, bus.new_client(), bus.new_client()]
    calls = [
        start(client.call, [number, turn]) for turn in range(10) for number, client in enumerate(clients)
    ]
    assert [call.result() for call in calls] == [[number, turn] for turn in range(10) for number in range(3)]


@on_every_kind
@pytest.mark.parametrize("value", FALSY)
def test_falsy_values_are_ordinary_requests_and_responses(bus: Bus, value: Any) -> None:
    sent = bus.client.send_request(value)
    transaction, request = bus.server.recv_request(LONG)
    assert request == value
    assert type(request) is type(value)
    assert transaction.send_response(value) is True
    for _ in range(2):
        response = sent.recv_response(LONG)
        assert response == value
        assert type(response) is type(value)
    assert sent.done


@on_every_kind
@pytest.mark.parametrize("value", FALSY)
def test_falsy_values_are_ordinary_results_of_a_handler(bus: Bus, start: Start, value: Any) -> None:
    start(bus.server.serve, lambda request: request)
    response = bus.client.call(value)
    assert response == value
    assert type(response) is type(value)


@on_every_kind
@pytest.mark.parametrize("value", [b"", b"\0", b"\xff\x00" * 1000], ids=len)
def test_bytes_without_a_codec_arrive_as_they_are(open_bus: OpenBus, value: bytes) -> None:
    bus = open_bus(codec=None)
    sent = bus.client.send_request(value)
    transaction, request = bus.server.recv_request(LONG)
    assert request == value
    transaction.send_response(request)
    assert sent.recv_response(LONG) == value


@on_every_kind
def test_a_message_of_some_megabytes_arrives_whole_both_ways(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=None)
    start(bus.server.serve, lambda request: request[::-1])
    big = bytes(range(256)) * (12 * 1024)
    assert bus.client.call(big) == big[::-1]


@on_every_kind
def test_a_cast_is_run_and_its_answer_is_not_kept(bus: Bus) -> None:
    bus.client.cast("notice")
    transaction, request = bus.server.recv_request(LONG)
    assert request == "notice"
    transaction.send_response("nobody reads this")
    bus.check_works()
    assert bus.client.stats().in_flight == 0


def test_the_answer_of_a_cast_is_wanted_by_nobody(bus: Bus) -> None:
    bus.client.cast("notice")
    assert bus.take().send_response("nobody reads this") is False
    bus.client.cast("notice")
    assert bus.take().send_error(ValueError("nor this")) is False


def test_a_cast_whose_handler_raises_disturbs_nobody(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: 1 / request, workers=1)
    bus.client.cast(0)
    assert bus.client.call(2) == 0.5


def test_metadata_goes_along_with_a_request(bus: Bus) -> None:
    given = {"trace": "1f", "tenant": "Zoë"}
    bus.client.send_request("question", metadata=given)
    given["trace"] = "changed later"
    assert dict(bus.take().metadata) == {"trace": "1f", "tenant": "Zoë"}


@on_every_kind
def test_metadata_is_empty_if_none_was_sent(bus: Bus) -> None:
    bus.client.send_request("question")
    assert dict(bus.take().metadata) == {}


def test_call_takes_metadata_and_a_timeout(bus: Bus, start: Start) -> None:
    def handler(request: Any, transaction: Any) -> Any:
        return [dict(transaction.metadata), transaction.remaining]

    start(bus.server.serve, handler)
    metadata, remaining = bus.client.call("question", timeout=LONG, metadata={"a": "b"})
    assert metadata == {"a": "b"}
    assert 0 < remaining <= LONG + 0.001  # over a socket in whole milliseconds, rounded up


@on_every_kind
def test_no_time_is_remaining_to_speak_of_if_the_client_set_none(bus: Bus) -> None:
    bus.client.send_request("question")
    assert bus.take().remaining is None


def test_the_time_remaining_is_what_is_left_of_the_client_s_timeout(bus: Bus) -> None:
    sent = bus.client.send_request("question", timeout=LONG)
    transaction = bus.take()
    first = transaction.remaining
    assert 0 < first <= LONG + 0.001
    wait_until(lambda: transaction.remaining < first)
    sent.cancel()


@pytest.mark.virtual_time
def test_the_time_remaining_is_never_below_zero(bus: Bus) -> None:
    sent = bus.client.send_request("question", timeout=0.3)
    transaction = bus.take()
    with pytest.raises(BusTimeout):
        sent.recv_response(LONG)
    wait_until(lambda: transaction.remaining == 0)
    assert transaction.remaining == 0


@on_local
def test_from_is_none_on_a_local_bus(bus: Bus) -> None:
    bus.client.send_request("question")
    assert bus.take().from_ is None


@on_sockets_of_each_form
def test_from_is_the_peer_s_address(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(bytes.fromhex("0001 00000002") + b"12")
    from_ = bus.take().from_
    assert from_ == ("unix:" if bus.kind.startswith("unix") else raw.name)


@on_sockets_of_each_form
def test_the_address_says_where_a_server_listens(bus: Bus) -> None:
    address = bus.server.address
    if bus.kind.startswith("unix"):
        assert isinstance(address, str)
        assert address.startswith("unix:/")
    else:
        assert isinstance(address, tuple)
        assert address[0] == "127.0.0.1"
        assert address[1] > 0
    # `connect` takes it as it is.
    with ratchet_bus.connect(
        address, codec=ratchet_bus.codecs.json, plain=bus.plain, ssl_context=client_tls(bus.kind)
    ) as client:
        sent = client.send_request("question")
        bus.take().send_response("answer")
        assert sent.recv_response(LONG) == "answer"


@on_sockets_of_each_form
def test_the_address_stays_when_the_server_is_closed(bus: Bus) -> None:
    address = bus.server.address
    bus.server.close()
    assert bus.server.address == address


def test_send_error_reaches_the_client_as_a_remote_error(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    with pytest.raises(KeyError) as raised_here:
        raise KeyError("no such thing")
    assert bus.take().send_error(raised_here.value) is True
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "KeyError"
    assert raised.value.remote_message == "'no such thing'"
    assert 'raise KeyError("no such thing")' in raised.value.remote_traceback
    assert raised.value.outcome == "RAN"


@pytest.mark.parametrize("kind", ["tcp-plain", "unix-plain"])
def test_send_error_closes_a_plain_connection_without_an_answer(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    assert bus.take().send_error(KeyError("no such thing")) is True
    with pytest.raises(ConnectionLost):
        sent.recv_response(LONG)


def test_stats_say_what_a_bus_does_right_now(bus: Bus) -> None:
    clients = 0 if bus.kind == "local" else 1
    wait_until(lambda: bus.server.stats().connections == clients)
    for _ in range(3):
        bus.client.send_request("question")
    bus.wait_for_queued(3)
    assert bus.server.stats()[:8] == (clients, 3, 0, 0, 0, 0, 0, 0)
    transaction = bus.take()
    assert bus.server.stats()[:8] == (clients, 2, 1, 0, 0, 0, 0, 0)
    transaction.send_response("answer")
    assert bus.server.stats()[:8] == (clients, 2, 0, 1, 0, 0, 0, 0)


def test_stats_of_the_client_count_its_own_requests(bus: Bus) -> None:
    first, second, third = (bus.client.send_request(number) for number in range(3))
    bus.take().send_response("answer")
    bus.take().send_error(ValueError("no"))
    third.cancel()
    assert first.recv_response(LONG) == "answer"
    with pytest.raises(RemoteError):
        second.recv_response(LONG)
    stats = bus.client.stats()
    assert (stats.in_flight, stats.answered, stats.failed, stats.cancelled) == (0, 1, 1, 1)


def test_every_request_is_counted_once_where_it_ended(bus: Bus, start: Start) -> None:
    def handler(request: Any, transaction: Any) -> Any:
        if request == "raise":
            raise ValueError(request)
        if request == "wait":
            wait_until(lambda: transaction.cancelled)
        return request

    requests = ["answer", "raise", "wait", "answer", "wait", "raise", "answer"]
    start(bus.server.serve, handler)
    sent = [bus.client.send_request(request) for request in requests]
    bus.wait_for_in_flight(2)
    for transaction in sent:
        if transaction.request == "wait":
            transaction.cancel()
    bus.wait_for_in_flight(0)
    wait_until(lambda: all(transaction.done for transaction in sent))
    for side in (bus.server, bus.client):
        stats = side.stats()
        assert (stats.answered, stats.failed, stats.cancelled) == (3, 2, 2)
        assert (stats.queued, stats.in_flight) == (0, 0)


@on_every_kind
def test_a_repr_says_the_state(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    assert "waiting" in repr(sent)
    transaction = bus.take()
    assert "taken" in repr(transaction)
    assert re.search(r"open.*in_flight=1", repr(bus.server))
    transaction.send_response("answer")
    assert "answered" in repr(transaction)
    sent.recv_response(LONG)
    assert "answered" in repr(sent)
    bus.server.close()
    assert "closed" in repr(bus.server)
