"""Codecs at work: how objects cross a bus, and whom their errors reach.

A local bus has no codecs, so these tests are about sockets.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import gevent
import pytest

from contract.buses import OpenBus, Start, on_plain_sockets, on_sockets, on_sockets_of_each_form
from helpers import LONG
from ratchet import ConnectionLost, MessageTooLarge, RemoteError
from ratchet.bus import Codec, Limits, codecs


class CodecError(Exception):
    """What the codecs here raise."""


def checked(body: bytes) -> bytes:
    """A function of a codec that takes and gives bytes, and refuses some."""
    if body == b"bad":
        raise CodecError("this one is bad")
    return body


def codec_with(**functions: Any) -> Codec[Any, Any]:
    """A codec of bytes, but for the given functions."""

    def unchanged(body: bytes) -> bytes:
        return body

    names = ("request_to_bus", "request_from_bus", "response_to_bus", "response_from_bus")
    return Codec(**{name: functions.get(name, unchanged) for name in names})


def echo(request: Any) -> Any:
    return request


@on_sockets_of_each_form
def test_request_to_bus_raises_and_that_error_comes_at_the_call_with_nothing_sent(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=codec_with(request_to_bus=checked))
    start(bus.server.serve, echo)
    for call in (bus.client.call, bus.client.send_request, bus.client.cast):
        with pytest.raises(CodecError):
            call(b"bad")
    assert bus.client.call(b"good") == b"good"
    assert bus.server.stats().answered == 1
    assert bus.client.stats().in_flight == 0


class Body(bytes):
    """Bytes of a type of its own, which is wrong about its length."""

    def __len__(self) -> int:
        return 1


@on_sockets_of_each_form
@pytest.mark.parametrize("codec", [None, codec_with()])
def test_bytes_of_a_type_of_their_own_are_sent_as_what_is_in_them(
    open_bus: OpenBus, start: Start, codec: Codec[Any, Any] | None
) -> None:
    bus = open_bus(codec=codec)
    start(bus.server.serve, lambda request: Body(request + b"!"))
    assert bus.client.call(Body(b"question"), timeout=LONG) == b"question!"
    assert bus.client.call_many([Body(b"one"), Body(b"two")], timeout=LONG) == [b"one!", b"two!"]
    bus.client.cast(Body(b"cast"))
    assert bus.client.call(b"last", timeout=LONG) == b"last!"


@on_sockets_of_each_form
@pytest.mark.parametrize(
    "returned",
    [
        None,
        "text",
        1,
        bytearray(b"x"),
        [b"list"],
        (b"x", b"y"),
        (b"x", ["y"]),
        ("x", []),
        (b"x",),
        (b"x", [], 1),
    ],
)
def test_request_to_bus_returns_no_bytes_and_that_is_a_type_error_with_nothing_sent(
    open_bus: OpenBus, start: Start, returned: object
) -> None:
    bus = open_bus(
        codec=codec_with(request_to_bus=lambda request: returned if request == b"bad" else request)
    )
    start(bus.server.serve, echo)
    with pytest.raises(TypeError, match="request_to_bus"):
        bus.client.call(b"bad")
    assert bus.client.call(b"good") == b"good"
    assert bus.server.stats().answered == 1


@on_sockets_of_each_form
@pytest.mark.parametrize("request_", ["text", None, 0, bytearray(b"x"), (b"x", [])])
def test_without_a_codec_what_is_not_bytes_is_a_type_error_at_the_call(
    open_bus: OpenBus, start: Start, request_: object
) -> None:
    bus = open_bus(codec=None)
    start(bus.server.serve, echo)
    with pytest.raises(TypeError, match="must be bytes"):
        bus.client.call(request_)
    assert bus.client.call(b"good") == b"good"


class Blob(bytes):
    """Bytes of a class of its own."""


@on_sockets_of_each_form
@pytest.mark.parametrize("size", [1, 100_000])
def test_without_a_codec_what_is_derived_from_bytes_is_bytes(
    open_bus: OpenBus, start: Start, size: int
) -> None:
    bus = open_bus(codec=None)
    start(bus.server.serve, Blob)
    request = Blob(b"x" * size)
    assert bus.client.call(request, LONG) == request
    assert bus.client.call_many([request, request], LONG) == [request, request]


@on_sockets
def test_without_a_codec_a_response_that_is_not_bytes_is_an_error_on_both_sides(open_bus: OpenBus) -> None:
    bus = open_bus(codec=None)
    sent = bus.client.send_request(b"question")
    with pytest.raises(TypeError, match="must be bytes"):
        bus.take().send_response("text")
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "TypeError"


@on_sockets
def test_request_from_bus_raises_and_recv_request_logs_it_and_goes_on_to_the_next(
    open_bus: OpenBus, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(codec=codec_with(request_from_bus=checked))
    receiver = start(bus.server.recv_request)
    with caplog.at_level(logging.WARNING, "ratchet"):
        bad, good = bus.client.send_request(b"bad"), bus.client.send_request(b"good")
        transaction, request = receiver.result()
    assert request == b"good"
    with pytest.raises(RemoteError) as raised:
        bad.recv_response(LONG)
    assert raised.value.remote_type == "CodecError"
    assert raised.value.remote_message == "this one is bad"
    assert raised.value.outcome == "NOT_RUN"
    transaction.send_response(b"answer")
    assert good.recv_response(LONG) == b"answer"
    (record,) = caplog.records
    assert "could not be decoded" in record.getMessage()
    assert bus.server.stats()[:5] == (1, 0, 0, 1, 1)


@on_plain_sockets
def test_request_from_bus_raises_for_a_plain_request_and_its_connection_is_closed(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=codec_with(request_from_bus=checked))
    receiver = start(bus.server.recv_request)
    with pytest.raises(ConnectionLost):
        bus.client.call(b"bad")
    good = bus.new_client().send_request(b"good")
    transaction, request = receiver.result()
    assert request == b"good"
    transaction.send_response(b"answer")
    assert good.recv_response(LONG) == b"answer"


@on_sockets
def test_response_to_bus_raises_and_both_sides_are_told(open_bus: OpenBus) -> None:
    bus = open_bus(codec=codec_with(response_to_bus=checked))
    sent = bus.client.send_request(b"question")
    with pytest.raises(CodecError):
        bus.take().send_response(b"bad")
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "CodecError"
    assert raised.value.outcome == "RAN"
    assert bus.server.stats()[:5] == (1, 0, 0, 0, 1)


@on_sockets
def test_response_to_bus_raises_in_serve_and_the_worker_goes_on(
    open_bus: OpenBus, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(codec=codec_with(response_to_bus=checked))
    start(bus.server.serve, echo, workers=1)
    with caplog.at_level(logging.WARNING, "ratchet"):
        with pytest.raises(RemoteError):
            bus.client.call(b"bad")
        assert bus.client.call(b"good") == b"good"
    assert len(caplog.records) == 1


@on_sockets_of_each_form
def test_response_from_bus_raises_in_that_recv_response_alone(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=codec_with(response_from_bus=checked))
    start(bus.server.serve, echo)
    bad, good = bus.client.send_request(b"bad"), bus.client.send_request(b"good")
    for _ in range(2):
        with pytest.raises(CodecError):
            bad.recv_response(LONG)
    assert good.recv_response(LONG) == b"good"
    assert bus.client.call(b"next") == b"next"


@on_sockets_of_each_form
def test_codecs_may_block(open_bus: OpenBus, start: Start) -> None:
    def slowly(body: bytes) -> bytes:
        gevent.sleep(0.001)
        return body

    slow = Codec(slowly, slowly, slowly, slowly)
    bus = open_bus(codec=slow)
    start(bus.server.serve, echo)
    calls = [start(bus.client.call, b"%d" % number) for number in range(10)]
    assert [call.result() for call in calls] == [b"%d" % number for number in range(10)]


# Attachments.


@on_sockets_of_each_form
@pytest.mark.parametrize("attachments", [[], [b""], [b"important", b""], [b"", b"", b"x"]])
def test_attachments_cross_the_bus_both_ways(
    open_bus: OpenBus, start: Start, attachments: list[bytes]
) -> None:
    def load(body: bytes, attachments: list[bytes]) -> tuple[bytes, list[bytes]]:
        return body, attachments

    parts = Codec(request_to_bus=echo, request_from_bus=load, response_to_bus=echo, response_from_bus=load)
    bus = open_bus(codec=parts)
    start(bus.server.serve, lambda request: (request[0].upper(), [*request[1], b"seen"]))
    assert bus.client.call((b"falcon", attachments)) == (b"FALCON", [*attachments, b"seen"])


@on_sockets
def test_metadata_is_no_attachment(open_bus: OpenBus) -> None:
    def load(body: bytes, attachments: list[bytes]) -> list[bytes]:
        return [body, *attachments]

    bus = open_bus(
        codec=codec_with(request_to_bus=lambda parts: (parts[0], parts[1:]), request_from_bus=load)
    )
    bus.client.send_request([b"body", b"attached"], metadata={"trace": "1"})
    transaction, request = bus.server.recv_request(LONG)
    assert request == [b"body", b"attached"]
    assert dict(transaction.metadata) == {"trace": "1"}


@on_sockets_of_each_form
def test_a_function_that_requires_three_arguments_is_given_the_peer_s_address(
    open_bus: OpenBus, start: Start
) -> None:
    seen: list[Any] = []

    def load(body: bytes, attachments: list[bytes], address: Any) -> bytes:
        seen.append(address)
        return body

    bus = open_bus(codec=codec_with(request_from_bus=load, response_from_bus=load))
    start(bus.server.serve, lambda request, transaction: b"%r" % (transaction.from_,))
    from_ = bus.client.call(b"question")
    assert [repr(seen[0]).encode(), seen[1]] == [from_, bus.server.address]


@on_sockets_of_each_form
def test_a_function_whose_second_argument_is_not_required_is_given_the_body_alone(
    open_bus: OpenBus, start: Start
) -> None:
    def load(body: bytes, encoding: str = "utf-8") -> str:
        return body.decode(encoding)

    bus = open_bus(codec=codec_with(request_from_bus=load))
    start(bus.server.serve, lambda request: request.encode())
    assert bus.client.call("Zoë".encode()) == "Zoë".encode()


# The codecs of the library.


@on_sockets_of_each_form
def test_the_text_codec_carries_strings(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=codecs.text)
    start(bus.server.serve, echo)
    for text in ("", "Zoë ☃", "a\0b"):
        assert bus.client.call(text) == text
    with pytest.raises(TypeError, match="takes a str"):
        bus.client.call(b"bytes")


@on_sockets_of_each_form
def test_the_json_codec_carries_what_json_can_say(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=codecs.json)
    start(bus.server.serve, echo)
    value = {"list": [1, 2.5, None, True], "text": "Zoë", "nested": {"": []}}
    assert bus.client.call(value) == value
    for refused in (float("nan"), object(), b"bytes"):
        with pytest.raises((TypeError, ValueError)):
            bus.client.call(refused)
    assert bus.client.call(0) == 0


@dataclass
class Order:
    item: str
    count: int


@on_sockets_of_each_form
def test_the_msgpack_codec_carries_typed_messages(open_bus: OpenBus, start: Start) -> None:
    pytest.importorskip("msgspec")
    bus = open_bus(codec=codecs.msgpack(Order, int))
    start(bus.server.serve, lambda order: order.count * len(order.item))
    assert bus.client.call(Order("bolt", 3)) == 12


@on_sockets
def test_the_msgpack_codec_refuses_a_message_of_another_type(open_bus: OpenBus, start: Start) -> None:
    pytest.importorskip("msgspec")
    bus = open_bus(codec=codecs.msgpack(Order, int))
    start(bus.server.serve, lambda order: "not a number" if order.count else 0)
    with pytest.raises(RemoteError) as raised:
        bus.client.call({"item": "bolt", "count": "many"})
    assert raised.value.remote_type == "ValidationError"
    assert raised.value.outcome == "NOT_RUN"
    with pytest.raises(Exception, match="Expected `int`"):
        bus.client.call(Order("bolt", 1))
    assert bus.client.call(Order("bolt", 0)) == 0


# Messages over the limit.


@on_sockets_of_each_form
def test_a_request_over_the_client_s_limit_is_refused_before_a_byte_of_it_is_sent(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=None, limits=Limits(max_message=10))
    start(bus.server.serve, echo)
    for call in (bus.client.call, bus.client.send_request, bus.client.cast):
        with pytest.raises(MessageTooLarge, match=r"11 .* 10") as raised:
            call(b"x" * 11)
        assert raised.value.outcome == "NOT_SENT"
    assert bus.client.call(b"x" * 10) == b"x" * 10
    assert bus.server.stats().connections == 1


@on_sockets_of_each_form
def test_a_request_of_too_many_parts_is_refused_before_a_byte_of_it_is_sent(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(
        codec=codec_with(request_to_bus=lambda count: (b"", [b""] * (count - 1))), limits=Limits(max_parts=3)
    )
    start(bus.server.serve, echo)
    with pytest.raises(MessageTooLarge, match=r"4 parts .* 3"):
        bus.client.call(4)
    assert bus.client.call(3) == b""


@on_sockets
def test_a_request_over_the_server_s_limit_is_told_to_its_sender_and_touches_no_other_connection(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=None, server_limits=Limits(max_message=10))
    other = bus.new_client()
    start(bus.server.serve, echo)
    # Before the server has told its limit, and after.
    for outcome in ("NOT_RUN", "NOT_SENT"):
        client = bus.new_client() if outcome == "NOT_RUN" else other
        with pytest.raises(MessageTooLarge) as raised:
            client.call(b"x" * 11)
        assert raised.value.outcome == outcome
        assert other.call(b"x" * 10) == b"x" * 10
    assert bus.server.stats().broken == 1


@on_sockets
def test_a_response_over_the_server_s_limit_is_an_error_on_both_sides(open_bus: OpenBus) -> None:
    bus = open_bus(codec=None, server_limits=Limits(max_message=10))
    sent = bus.client.send_request(b"question")
    with pytest.raises(MessageTooLarge):
        bus.take().send_response(b"x" * 11)
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "MessageTooLarge"
    assert raised.value.outcome == "RAN"
    assert bus.server.stats().connections == 1


@on_sockets
def test_a_response_over_the_client_s_limit_is_refused_by_the_server_and_has_run(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=None, limits=Limits(max_message=10), server_limits=Limits())
    start(bus.server.serve, lambda request: request * 2)
    with pytest.raises(RemoteError, match="over the limit of 10") as raised:
        bus.client.call(b"x" * 10)
    assert raised.value.outcome == "RAN"
    assert bus.client.call(b"x" * 5) == b"x" * 10
