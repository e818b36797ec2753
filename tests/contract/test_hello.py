"""HELLO: what each side says first, and what the other makes of it."""

from __future__ import annotations

import json
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contract.buses import (
    Bus,
    OpenBus,
    OpenClient,
    Start,
    client_tls,
    listening,
    on_sockets,
    server_tls,
)
from helpers import LONG, turns, wait_until
from ratchet import BusError, BusTimeout, MessageTooLarge
from ratchet import bus as ratchet_bus
from ratchet.bus import Codec, Limits
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire
from raw_peer import HELLO, RawPeer

PARTS: Codec[Any, Any] = Codec(
    lambda parts: (parts[0], parts[1:]),
    lambda body, parts: [body, *parts],
    lambda parts: (parts[0], parts[1:]),
    lambda body, parts: [body, *parts],
)


def hello_of(body: bytes) -> bytes:
    return wire.encode(HELLO, 0, 1, 0, [body])


def answer_next(raw: RawPeer) -> None:
    """Answer the next request with its own body."""
    kind, _, id, _, parts = raw.receive_message()
    assert kind == wire.REQUEST
    raw.send(wire.encode(wire.RESPONSE, 0, id, 0, parts))


# The client's word.


@on_sockets
def test_a_client_says_hello_first_and_what_it_takes(open_client: OpenClient) -> None:
    _, raw = open_client(limits=Limits(max_message=5000, max_parts=7))
    members = raw.receive_hello()
    assert members.get("max_message", 5000) == 5000
    assert members.get("max_parts", 7) == 7
    assert isinstance(members.get("features", []), list)


@on_sockets
def test_a_client_waits_for_no_hello_before_it_asks(open_client: OpenClient) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    raw.receive_hello()
    answer_next(raw)
    assert sent.recv_response(LONG) == "question"


@on_sockets
def test_a_server_that_never_says_hello_is_an_older_one_and_is_asked_all_the_same(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client()
    raw.receive_hello()
    calls = [start(client.call, number, LONG) for number in range(20)]
    for _ in calls:
        answer_next(raw)
    assert [call.result() for call in calls] == list(range(20))


# The server's word.


@on_sockets
def test_a_server_answers_a_hello_at_once_with_what_it_takes(open_bus: OpenBus) -> None:
    bus = open_bus(server_limits=Limits(max_message=5000, max_parts=7, max_in_flight=3))
    raw = bus.raw_client()
    raw.say_hello()
    members = raw.receive_hello()
    assert (members["max_message"], members["max_parts"], members["max_in_flight"]) == (5000, 7, 3)


@on_sockets
def test_a_server_has_one_name_for_all_its_clients(bus: Bus) -> None:
    names = []
    for _ in range(2):
        raw = bus.raw_client()
        raw.say_hello()
        names.append(raw.receive_hello()["server"])
    assert names[0] == names[1]
    assert isinstance(names[0], str)
    assert names[0]


@on_sockets
def test_a_client_that_never_says_hello_is_an_older_one_and_gets_none(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.request(1)
    bus.take().send_response("answer")
    assert raw.receive_message()[0] == wire.RESPONSE


# What is obeyed at home.


@on_sockets
@pytest.mark.parametrize(
    ("limits", "parts"),
    [({"max_message": 10}, [b"x" * 11]), ({"max_parts": 2}, [b"x"] * 3)],
    ids=["max_message", "max_parts"],
)
def test_what_is_over_the_server_s_limit_is_refused_at_home(
    open_client: OpenClient, limits: dict[str, int], parts: list[bytes]
) -> None:
    opened: Any = open_client(codec=PARTS)
    client, raw = opened
    raw.receive_hello()
    raw.say_hello(**limits)
    client.wait_connected(LONG)
    with pytest.raises(MessageTooLarge) as raised:
        client.send_request(parts)
    assert raised.value.outcome == "NOT_SENT"
    sent = client.send_request([b"small"])
    answer_next(raw)
    assert sent.recv_response(LONG) == [b"small"]


@on_sockets
def test_a_request_that_is_too_large_for_the_server_costs_no_connection(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=None, server_limits=Limits(max_message=1000))
    start(bus.server.serve, lambda request: request)
    client: Any = bus.client
    client.wait_connected(LONG)
    with pytest.raises(MessageTooLarge, match=r"1001.*1000") as raised:
        client.call(b"x" * 1001, LONG)
    assert raised.value.outcome == "NOT_SENT"
    assert client.call(b"x" * 1000, LONG) == b"x" * 1000
    assert bus.server.stats().broken == 0


@on_sockets
def test_more_requests_than_the_server_takes_at_once_wait_at_home(
    open_client: OpenClient, start: Start
) -> None:
    opened: Any = open_client()
    client, raw = opened
    raw.receive_hello()
    raw.say_hello(max_in_flight=2)
    client.wait_connected(LONG)
    first = [client.send_request(number) for number in range(2)]
    with pytest.raises(BusTimeout) as raised:
        client.send_request("in vain", timeout=0.02)
    assert raised.value.outcome == "NOT_SENT"
    waiting = [start(client.call, f"waiting {number}", LONG) for number in range(2)]
    for call in waiting:
        call.wait_until_blocked()
    for _ in range(4):
        answer_next(raw)
    assert [sent.recv_response(LONG) for sent in first] == [0, 1]
    assert [call.result() for call in waiting] == ["waiting 0", "waiting 1"]


@on_sockets
def test_a_request_that_is_given_up_makes_room_for_one_that_waits_at_home(
    open_client: OpenClient, start: Start
) -> None:
    opened: Any = open_client()
    client, raw = opened
    raw.receive_hello()
    raw.say_hello(max_in_flight=1)
    client.wait_connected(LONG)
    first = client.send_request("first")
    waiting = start(client.call, "second", LONG)
    waiting.wait_until_blocked()
    id, parts = raw.receive_message()[2::2]
    assert parts == [b'"first"']
    first.cancel()
    assert raw.receive_message()[0] == wire.CANCEL
    raw.send(wire.encode_error(id, Reason.CANCELLED, ("Cancelled", "", "")))
    answer_next(raw)
    assert waiting.result() == "second"


# What a HELLO may hold.


@on_sockets
def test_more_than_there_can_be_of_anything_is_no_limit(open_client: OpenClient, start: Start) -> None:
    client, raw = open_client()
    raw.receive_hello()
    raw.say_hello(max_message=1 << 64, max_parts=1 << 64, max_in_flight=1 << 64)
    client.wait_connected(LONG)
    call = start(client.call, "question", LONG)
    answer_next(raw)
    assert call.result() == "question"


@on_sockets
def test_unknown_members_are_ignored(bus: Bus, open_client: OpenClient, start: Start) -> None:
    raw = bus.raw_client()
    raw.say_hello(colour="red", features=["of tomorrow"], nested={"max_message": 1})
    assert raw.receive_hello()
    raw.request(1)
    bus.take().send_response("answer")
    assert raw.receive_message()[0] == wire.RESPONSE
    client, raw_server = open_client()
    raw_server.receive_hello()
    raw_server.say_hello(colour="red", features=["of tomorrow"])
    call = start(client.call, "question", LONG)
    answer_next(raw_server)
    assert call.result() == "question"


WRONG_HELLOS = {
    "no JSON": b"hello",
    "no object": b"[]",
    "no UTF-8": b'{"server": "\xff"}',
    "no number": b'{"max_message": "many"}',
    "below zero": b'{"max_in_flight": -1}',
    "too large": json.dumps({"server": "x" * 65536}).encode(),
    "nested too deep": b'{"server": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}
each_wrong_hello = pytest.mark.parametrize("body", WRONG_HELLOS.values(), ids=WRONG_HELLOS.keys())


@on_sockets
@each_wrong_hello
def test_a_client_s_hello_that_is_wrong_closes_its_connection_alone(
    bus: Bus, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    with caplog.at_level(logging.WARNING, "ratchet"):
        raw = bus.raw_client()
        raw.send(hello_of(body))
        raw.receive_rest()
        wait_until(lambda: caplog.records, "a line in the log")
    assert bus.server.stats().broken == 1
    bus.check_works()


@on_sockets
@each_wrong_hello
def test_a_server_s_hello_that_is_wrong_closes_the_connection(
    open_client: OpenClient, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    with caplog.at_level(logging.WARNING, "ratchet"):
        client, raw = open_client()
        raw.receive_hello()
        sent = client.send_request("question")
        raw.send(hello_of(body))
        with pytest.raises(BusError) as raised:
            sent.recv_response(LONG)
        assert raised.value.code == "protocol_error"
        assert raised.value.outcome == "UNKNOWN"
        wait_until(lambda: caplog.records, "a line in the log")
    assert client.stats().broken == 1


# GOAWAY.


@on_sockets
def test_a_client_that_has_never_asked_is_told_that_the_server_drains(bus: Bus, start: Start) -> None:
    raw = bus.raw_client()
    raw.say_hello()
    raw.receive_hello()
    draining = start(bus.server.drain, LONG)
    kind, _, id, _, _ = raw.receive_message()
    assert (kind, id) == (wire.GOAWAY, 0)
    assert raw.receive_rest() == b""
    assert draining.result() is True


@on_sockets
def test_a_plain_client_that_has_never_asked_is_told_nothing(bus: Bus, start: Start) -> None:
    raw = bus.raw_client()
    wait_until(lambda: bus.server.stats().connections == 2)
    turns()
    draining = start(bus.server.drain, LONG)
    assert raw.receive_rest() == b""
    assert draining.result() is True


@on_sockets
def test_a_client_that_has_never_asked_goes_over_to_another_server(
    kind: str, tmp_path: Path, start: Start
) -> None:
    with ExitStack() as stack:
        listener = stack.enter_context(listening(kind, tmp_path))
        name = listener.getsockname()
        first = stack.enter_context(ratchet_bus.new_server(listener.dup(), ssl_context=server_tls(kind)))
        client: Any = stack.enter_context(
            ratchet_bus.connect(f"unix:{name}" if kind == "unix" else name, ssl_context=client_tls(kind))
        )
        client.wait_connected(LONG)
        assert first.drain(LONG) is True
        wait_until(lambda: client.stats().connections == 0, "the client to hear of it")
        second = stack.enter_context(ratchet_bus.new_server(listener, ssl_context=server_tls(kind)))
        start(second.serve, lambda request: request)
        calls = [start(client.call, b"question", LONG) for _ in range(3)]
        assert [call.result() for call in calls] == [b"question"] * 3


@on_sockets
def test_a_last_word_that_is_too_large_ends_its_connection_and_no_more(open_client: OpenClient) -> None:
    client, raw = open_client(codec=None, limits=Limits(max_message=1_000))
    sent = client.send_request(b"question", timeout=0.05)
    raw.receive_hello()
    raw.send(hello_of(b"{}"))
    kind = id = None
    while kind != wire.CANCEL:
        kind, _, id, _, _ = raw.receive_message()
    raw.send(wire.encode(wire.RESPONSE, 0, id or 0, 0, [b"x" * 1_001]))
    with pytest.raises(BusTimeout) as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == "RAN"
    assert client.stats().in_flight == 0
