"""Sockets and peers: what comes of a connection whose other end misbehaves, or is gone."""

from __future__ import annotations

import logging
import socket

import pytest

from certificates import client_context, shaken_hands
from contract.buses import (
    Bus,
    OpenClient,
    Start,
    is_plain,
    on_every_kind,
    on_plain_sockets,
    on_sockets,
    on_sockets_of_each_form,
)
from helpers import LONG, active_watchers, turns, wait_until
from ratchet import (
    BusError,
    BusTimeout,
    Cancelled,
    ConnectionLost,
    Outcome,
    ProtocolError,
    Rejected,
    RemoteError,
)
from ratchet import bus as ratchet_bus
from ratchet.bus._core.address import format_address
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire

PLAIN_REQUEST = bytes.fromhex("0001 00000004") + b"1337"
PLAIN_ANSWER = bytes.fromhex("0001 00000004") + b"7357"


def request_of(kind: str, id: int = 1) -> bytes:
    """A request of the number 1337, in the form of the kind."""
    return PLAIN_REQUEST if is_plain(kind) else wire.encode(wire.REQUEST, 0, id, 0, [b"1337"])


def wait_for_connections(bus: Bus, count: int) -> None:
    wait_until(lambda: bus.server.stats().connections == count, f"{count} connections")


# A peer closes.


@on_sockets_of_each_form
def test_a_peer_closes_between_messages_quietly_and_its_watchers_are_gone(
    bus: Bus, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    start(bus.server.serve, lambda request: 7357)
    wait_for_connections(bus, 1)
    turns()
    watchers = active_watchers()
    with caplog.at_level(logging.INFO, "ratchet"):
        for _ in range(5):
            raw = bus.raw_client()
            raw.send(request_of(bus.kind))
            assert raw.receive_message()[4] == [b"7357"]
            raw.close()
        wait_for_connections(bus, 1)
        turns()
    assert caplog.records == []
    wait_until(lambda: active_watchers() <= watchers)
    assert bus.server.stats()[:5] == (1, 0, 0, 5, 0)


@on_sockets_of_each_form
def test_a_peer_that_closes_without_a_message_is_forgotten(bus: Bus) -> None:
    raw = bus.raw_client()
    wait_for_connections(bus, 2)
    raw.close()
    wait_for_connections(bus, 1)
    bus.check_works()


@on_sockets_of_each_form
def test_a_peer_closes_in_the_middle_of_a_message_which_is_dropped_and_the_connection_closed(
    bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    message = request_of(bus.kind)
    with caplog.at_level(logging.WARNING, "ratchet"):
        for length in range(1, len(message)):
            raw = bus.raw_client()
            raw.send(message[:length])
            raw.close()
        wait_until(lambda: len(caplog.records) == len(message) - 1)
        wait_for_connections(bus, 1)
    assert all("in the middle of a message" in record.getMessage() for record in caplog.records)
    assert bus.server.stats().queued == 0
    bus.check_works()


@on_sockets_of_each_form
def test_what_a_peer_sent_before_it_closed_in_the_middle_of_a_message_is_given_up(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(request_of(bus.kind, 1) + request_of(bus.kind, 2)[:5])
    transaction = bus.take()
    raw.close()
    wait_until(lambda: transaction.cancelled)
    assert transaction.send_response("late") is False
    wait_for_connections(bus, 1)


@on_plain_sockets
def test_a_half_closed_client_is_answered_and_then_the_connection_is_closed(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(request_of(bus.kind, 1) + request_of(bus.kind, 2))
    raw.end_input()
    transactions = [bus.take(), bus.take()]
    turns()
    assert [transaction.cancelled for transaction in transactions] == [False, False]
    for transaction in transactions:
        assert transaction.send_response(7357) is True
    assert [raw.receive_message()[4] for _ in range(2)] == [[b"7357"], [b"7357"]]
    assert raw.receive_rest() == b""
    wait_for_connections(bus, 1)


@on_sockets
def test_an_extended_client_that_sends_no_more_has_gone_and_what_it_cast_is_run(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.request(1)
    raw.request(2)
    raw.request(3, flags=wire.ONE_WAY)
    bus.wait_for_queued(3)
    taken = bus.take()
    raw.end_input()
    assert raw.receive_rest() == b""
    wait_for_connections(bus, 1)
    assert taken.cancelled
    cast = bus.take()
    assert not cast.cancelled
    assert bus.server.stats().queued == 0


@on_plain_sockets
def test_an_answer_of_some_megabytes_reaches_a_half_closed_client_whole(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(request_of(bus.kind))
    raw.end_input()
    bus.take().send_response("x" * 4_000_000)
    assert len(raw.receive_message()[4][0]) == 4_000_002
    assert raw.receive_rest() == b""


# The connection is lost with requests in flight.


@on_sockets_of_each_form
def test_the_connection_is_lost_and_each_request_that_was_written_fails_at_once_as_unknown(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client()
    waiters = [start(client.call, number) for number in range(3)]
    for _ in range(3):
        raw.receive_message()
    raw.close()
    for waiter in waiters:
        with pytest.raises(ConnectionLost) as raised:
            waiter.result()
        assert raised.value.outcome == "UNKNOWN"
    stats = client.stats()
    assert (stats.connections, stats.in_flight, stats.failed) == (0, 0, 3)


@on_sockets_of_each_form
def test_the_connection_is_lost_and_each_request_not_yet_written_fails_as_not_sent(
    open_client: OpenClient,
) -> None:
    client, raw = open_client()
    written = client.send_request("written")
    raw.receive_message()
    partly = client.send_request("x" * 8 * 1024 * 1024)
    raw.close()
    for transaction, outcome in ((written, "UNKNOWN"), (partly, "NOT_SENT")):
        with pytest.raises(ConnectionLost) as raised:
            transaction.recv_response(LONG)
        assert raised.value.outcome == outcome


@on_sockets_of_each_form
def test_after_the_connection_is_lost_a_request_is_not_sent(open_client: OpenClient) -> None:
    client, raw = open_client()
    raw.close()
    wait_until(lambda: client.stats().connections == 0)
    for call in (client.call, client.send_request, client.cast):
        with pytest.raises(ConnectionLost) as raised:
            call("question")
        assert raised.value.outcome == "NOT_SENT"
    client.close()


@on_sockets
def test_an_answer_that_came_before_the_connection_was_lost_counts(open_client: OpenClient) -> None:
    client, raw = open_client()
    sent = [client.send_request(number) for number in range(2)]
    ids = [raw.receive_message()[2] for _ in sent]
    raw.send(wire.encode(wire.RESPONSE, 0, ids[1], 0, [b"7357"]))
    raw.close()
    assert sent[1].recv_response(LONG) == 7357
    with pytest.raises(ConnectionLost):
        sent[0].recv_response(LONG)


@on_sockets
def test_requests_that_a_draining_server_refused_are_rejected_as_not_run(open_client: OpenClient) -> None:
    client, raw = open_client()
    sent = [client.send_request(number) for number in range(3)]
    ids = [raw.receive_message()[2] for _ in sent]
    raw.send(wire.encode(wire.GOAWAY, 0, ids[0], 0, []))
    for transaction in sent[1:]:
        with pytest.raises(Rejected) as rejected:
            transaction.recv_response(LONG)
        assert rejected.value.outcome == "NOT_RUN"
    assert sent[0].done is False
    raw.close()
    with pytest.raises(ConnectionLost) as lost:
        sent[0].recv_response(LONG)
    assert lost.value.outcome == "UNKNOWN"


@on_sockets
def test_a_client_sends_nothing_more_to_a_draining_server(open_client: OpenClient) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.GOAWAY, 0, id, 0, []) + wire.encode(wire.RESPONSE, 0, id, 0, [b"1"]))
    assert sent.recv_response(LONG) == 1
    with pytest.raises(Rejected) as raised:
        client.call("another")
    assert raised.value.outcome == "NOT_RUN"
    client.close()
    assert raw.receive_rest() == b""


@on_sockets_of_each_form
def test_a_server_that_goes_does_not_disturb_the_client_s_other_connections(
    bus: Bus, open_client: OpenClient
) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    raw.close()
    with pytest.raises(ConnectionLost):
        sent.recv_response(LONG)
    bus.check_works()


# Garbage.

BROKEN_REQUESTS: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "0xff": b"\xff" * 64,
    "too many plain parts": bytes.fromhex("7fff"),
    "too many parts": wire.encode(wire.REQUEST, 0, 1, 0, [b""] * 1025),
    "an unknown kind": wire.encode(7, 0, 1, 0, [b"x"]),
    "the last unknown kind": wire.encode(127, 0, 1, 0, []),
    "an unknown flag": wire.encode(wire.REQUEST, 0b0100, 1, 0, [b"x"]),
    "another unknown flag": wire.encode(wire.REQUEST, 0b1000, 1, 0, [b"x"]),
    "an id used twice at once": wire.encode(wire.REQUEST, 0, 1, 0, [b"1"]) * 2,
    "metadata that is no JSON": wire.encode(wire.REQUEST, wire.METADATA, 1, 0, [b"1", b"{"]),
    "metadata that is no UTF-8": wire.encode(wire.REQUEST, wire.METADATA, 1, 0, [b"1", b'{"a":"\xff"}']),
    "metadata that is no object": wire.encode(wire.REQUEST, wire.METADATA, 1, 0, [b"1", b'["a"]']),
    "metadata that is no strings": wire.encode(wire.REQUEST, wire.METADATA, 1, 0, [b"1", b'{"a":1}']),
    "metadata that is missing": wire.encode(wire.REQUEST, wire.METADATA, 1, 0, []),
    "metadata that nests too deep": wire.encode(wire.REQUEST, wire.METADATA, 1, 0, [b"1", b"[" * 60_000]),
    "metadata that is too large": wire.encode(
        wire.REQUEST, wire.METADATA, 1, 0, [b"1", b'{"a":"%s"}' % (b"x" * 65536)]
    ),
    "a response": wire.encode(wire.RESPONSE, 0, 1, 0, [b"1"]),
    "an error": wire.encode(wire.ERROR, 0, 1, 1, [b"", b"", b""]),
    "a GOAWAY": wire.encode(wire.GOAWAY, 0, 1, 0, []),
    "a CANCEL with a part": wire.encode(wire.CANCEL, 0, 1, 0, [b""]),
    "a PING with a part": wire.encode(wire.PING, 0, 1, 0, [b""]),
}


@on_sockets
@pytest.mark.parametrize("garbage", BROKEN_REQUESTS.values(), ids=BROKEN_REQUESTS.keys())
def test_garbage_is_logged_with_the_peer_s_address_and_closes_that_connection_alone(
    bus: Bus, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    bus.check_works()
    raw = bus.raw_client()
    name = raw.name
    with caplog.at_level(logging.WARNING, "ratchet"):
        raw.send(garbage)
        assert raw.receive_rest() == b""
        wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert ("unix:" if bus.kind == "unix" else format_address(name)) in record.getMessage()
    wait_for_connections(bus, 1)
    assert (bus.server.stats().queued, bus.server.stats().in_flight) == (0, 0)
    bus.check_works()


BROKEN_ANSWERS: dict[str, bytes] = {
    "HTTP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "0xff": b"\xff" * 64,
    "too many parts": wire.encode(wire.RESPONSE, 0, 99, 0, [b""] * 1025),
    "an unknown kind": wire.encode(7, 0, 1, 0, [b"x"]),
    "an unknown flag": wire.encode(wire.RESPONSE, 0b0100, 1, 0, [b"x"]),
    "a request": wire.encode(wire.REQUEST, 0, 1, 0, [b"1"]),
    "a plain answer": PLAIN_ANSWER,
    "an error of two parts": wire.encode(wire.ERROR, 0, 1, 1, [b"", b""]),
    "a CANCEL": wire.encode(wire.CANCEL, 0, 1, 0, []),
}


@on_sockets
@pytest.mark.parametrize("garbage", BROKEN_ANSWERS.values(), ids=BROKEN_ANSWERS.keys())
def test_garbage_of_a_server_is_a_protocol_error_for_each_request_on_that_connection(
    open_client: OpenClient, start: Start, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    client, raw = open_client()
    waiters = [start(client.call, number) for number in range(2)]
    assert [raw.receive_message()[2] for _ in waiters] == [1, 2]
    with caplog.at_level(logging.WARNING, "ratchet"):
        raw.send(garbage)
        for id, waiter in enumerate(waiters, 1):
            with pytest.raises(ProtocolError) as raised:
                waiter.result()
            # Whoever answers the first, however badly, has run it.
            answered = id == 1 and garbage[2:3] == bytes([wire.RESPONSE]) and garbage[:1] == b"\x80"
            assert raised.value.outcome == ("RAN" if answered else "UNKNOWN")
        wait_until(lambda: caplog.records)
    assert client.stats().connections == 0
    with pytest.raises(ConnectionLost):
        client.call("another")


@on_plain_sockets
def test_an_extended_answer_to_a_plain_request_is_a_protocol_error(open_client: OpenClient) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    raw.receive_message()
    raw.send(wire.encode(wire.REQUEST, 0, 1, 0, [b"1"]))
    with pytest.raises(ProtocolError):
        sent.recv_response(LONG)


@on_sockets_of_each_form
def test_an_answer_that_nobody_asked_for_is_counted_or_refused(open_client: OpenClient, kind: str) -> None:
    client, raw = open_client()
    if is_plain(kind):
        raw.send(PLAIN_ANSWER)
        wait_until(lambda: client.stats().connections == 0)
        return
    raw.send(wire.encode(wire.RESPONSE, 0, 99, 0, [b"1"]) + wire.encode(wire.ERROR, 0, 98, 1, [b""] * 3))
    wait_until(lambda: client.stats().dropped_late == 2)
    assert client.stats().connections == 1


# What is no error.


@on_sockets
def test_what_is_not_critical_is_skipped(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(wire.encode(128, 0, 1, 0, [b"x", b"y"]) + wire.encode(255, 0b11, 1, 0, []))
    raw.request(1, b"1337", flags=0b1111_0000)
    transaction, request = bus.server.recv_request(LONG)
    assert request == 1337
    transaction.send_response(7357)
    assert raw.receive_message() == (wire.RESPONSE, 0, 1, 0, [b"7357"])


@on_sockets
def test_a_ping_is_answered_by_either_side(bus: Bus, open_client: OpenClient) -> None:
    raw = bus.raw_client()
    raw.send(wire.encode(wire.PING, 0, 5, 0, []))
    assert raw.receive_message()[:3] == (wire.PONG, 0, 5)
    raw.send(wire.encode(wire.PONG, 0, 5, 0, []))
    _, raw_server = open_client()
    raw_server.send(wire.encode(wire.PONG, 0, 6, 0, []) + wire.encode(wire.PING, 0, 7, 0, []))
    assert raw_server.receive_message()[:3] == (wire.PONG, 0, 7)
    wait_for_connections(bus, 2)


@on_sockets
def test_a_cancel_of_an_unknown_id_does_nothing(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(wire.encode(wire.CANCEL, 0, 5, 0, []))
    raw.request(5)
    transaction = bus.take()
    assert transaction.cancelled is False
    transaction.send_response(7357)
    assert raw.receive_message()[2] == 5
    assert bus.server.stats().cancelled == 0


@on_sockets
def test_an_id_may_be_used_again_once_it_was_answered_or_cancelled(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.request(5)
    bus.take().send_response(1)
    assert raw.receive_message()[4] == [b"1"]
    raw.request(5)
    given_up = bus.take()
    raw.send(wire.encode(wire.CANCEL, 0, 5, 0, []))
    assert raw.receive_message()[:4] == (wire.ERROR, 0, 5, Reason.CANCELLED)
    raw.request(5)
    bus.take().send_response(3)
    assert given_up.send_response(2) is False
    assert raw.receive_message()[4] == [b"3"]


@on_sockets
def test_a_one_way_request_may_have_any_id(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.request(5)
    raw.request(5, flags=wire.ONE_WAY)
    transaction, one_way = bus.take(), bus.take()
    assert one_way.send_response("nobody reads this") is False
    assert transaction.send_response(7357) is True
    assert raw.receive_message() == (wire.RESPONSE, 0, 5, 0, [b"7357"])


@on_sockets
@pytest.mark.parametrize(
    ("number", "error_type", "outcome"),
    [
        (1, RemoteError, "RAN"),
        (2, Rejected, "NOT_RUN"),
        (3, Rejected, "NOT_RUN"),
        (4, Rejected, "NOT_RUN"),
        (5, Cancelled, "UNKNOWN"),
        (6, BusError, "UNKNOWN"),
        (7, RemoteError, "NOT_RUN"),
        (8, BusError, "NOT_RUN"),
        (99, BusError, "UNKNOWN"),
    ],
)
def test_the_outcome_of_each_error_that_a_server_tells(
    open_client: OpenClient, number: int, error_type: type[BusError], outcome: str
) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.ERROR, 0, id, number, [b"KeyError", b"\xff text", b"trace"]))
    with pytest.raises(error_type, match="text") as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == outcome
    assert raised.value.outcome is Outcome(outcome)
    if isinstance(raised.value, RemoteError):
        assert raised.value.remote_type == "KeyError"
        assert raised.value.remote_message == "\ufffd text"
        assert raised.value.remote_traceback == "trace"


# A message over the limit.


@on_sockets_of_each_form
def test_a_message_over_the_limit_is_refused_by_its_declared_length(bus: Bus) -> None:
    raw = bus.raw_client()
    other = bus.raw_client()
    head = "0001" if bus.plain else "8001 00 00 00000009 00000000"
    # The length is there, the 4 GiB are not.
    raw.send(bytes.fromhex(head + "ffffffff"))
    if not bus.plain:
        kind, _, id, number, parts = raw.receive_message()
        assert (kind, id, number) == (wire.ERROR, 9, Reason.TOO_LARGE)
        assert b"over the limit of 16777216" in parts[1]
    assert raw.receive_rest() == b""
    other.send(request_of(bus.kind))
    bus.take().send_response(7357)
    assert other.receive_message()[4] == [b"7357"]


# The two forms.


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_one_server_answers_each_client_in_its_own_form(bus: Bus) -> None:
    plain, extended = bus.raw_client(), bus.raw_client()
    plain.send(PLAIN_REQUEST)
    extended.request(3, b"1337")
    for _ in range(2):
        transaction, request = bus.server.recv_request(LONG)
        assert request == 1337
        transaction.send_response(7357)
    assert plain.receive(len(PLAIN_ANSWER)) == PLAIN_ANSWER
    assert extended.receive_message() == (wire.RESPONSE, 0, 3, 0, [b"7357"])


@on_every_kind
def test_a_time_out_of_one_client_leaves_another_alone(bus: Bus, start: Start) -> None:
    other = bus.new_client()
    with pytest.raises(BusTimeout):
        bus.client.call("question", timeout=0.005)
    waiting = start(other.call, "another")
    while (received := bus.server.recv_request(LONG))[1] != "another":
        received[0].send_response("late")
    received[0].send_response("answer")
    assert waiting.result() == "answer"


@on_sockets
def test_metadata_travels_as_the_last_part_in_json(open_client: OpenClient) -> None:
    client, raw = open_client()
    sent = client.send_request("question", metadata={"trace": "1"})
    kind, flags, id, _, parts = raw.receive_message()
    raw.send(wire.encode(wire.RESPONSE, 0, id, 0, [b"7357"]))
    assert (kind, flags, parts) == (wire.REQUEST, wire.METADATA, [b'"question"', b'{"trace":"1"}'])
    assert sent.recv_response(LONG) == 7357


@on_sockets_of_each_form
def test_new_client_takes_a_socket_of_the_standard_library_too(bus: Bus) -> None:
    connected = socket.socket(socket.AF_UNIX if bus.kind.startswith("unix") else socket.AF_INET)
    if isinstance(bus.server.address, tuple):
        connected.connect(bus.server.address)
    else:
        connected.connect(str(bus.server.address).removeprefix("unix:"))
    if bus.kind == "tls":
        connected = shaken_hands(client_context(gevents=False), connected)
    with ratchet_bus.new_client(connected, codec=ratchet_bus.codecs.json, plain=bus.plain) as client:
        sent = client.send_request("question")
        bus.take().send_response("answer")
        assert sent.recv_response(LONG) == "answer"
