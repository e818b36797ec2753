"""Frames of AMQP: bytes to methods and messages and back, with pamqp on the other side."""

from __future__ import annotations

import struct
import tracemalloc
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base, body, frame, header, heartbeat
from pamqp.commands import Basic, Channel, Connection, Queue

from ratchet.bus._broker import frames
from ratchet.bus._broker.frames import Decoder, Delivery, Event, Heartbeat, Returned
from ratchet.bus._broker.properties import Properties
from ratchet.errors import MessageTooLarge, ProtocolError

MAX_MESSAGE = 1000
PROPERTIES = Properties(correlation_id="7", headers={"deadline": 2**40, "metadata": {"a": "b"}})
# The same as pamqp has them.
SENT = Basic.Properties(correlation_id="7", headers={"deadline": 2**40, "metadata": {"a": "b"}})
DELIVER = Basic.Deliver("requests", 2**40, True, "ratchet.requests", "a.b")


def header_frame(size: int) -> bytes:
    return frame.marshal(header.ContentHeader(0, size, SENT), 1)


def body_frame(piece: bytes) -> bytes:
    return frame.marshal(body.ContentBody(piece), 1)


def message(method: base.Frame, *pieces: bytes) -> bytes:
    """What pamqp makes of a message whose body comes in these pieces."""
    head = frame.marshal(method, 1) + header_frame(sum(map(len, pieces)))
    return head + b"".join(map(body_frame, pieces))


def raw(kind: int, channel: int, payload: bytes, end: bytes = b"\xce") -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + end


def plain(event: Event) -> Any:
    """An event that can be compared."""
    return (event.name, dict(event)) if isinstance(event, base.Frame) else (type(event).__name__, event)


def delivery(content: bytes | None, size: int | None = None) -> Delivery:
    known = len(content or b"") if size is None else size
    return Delivery("requests", 2**40, True, "ratchet.requests", PROPERTIES, content, known)


BEAT = heartbeat.Heartbeat.marshal()
BLOCKED = frame.marshal(Connection.Blocked("memory"), 0)
SAMPLES: list[tuple[bytes, list[Event]]] = [
    (BEAT, [Heartbeat()]),
    (BLOCKED, [Connection.Blocked("memory")]),
    (frame.marshal(Queue.DeclareOk("q", 1, 2), 1), [Queue.DeclareOk("q", 1, 2)]),
    (frame.marshal(Basic.Ack(5, True), 1), [Basic.Ack(5, True)]),
    (message(DELIVER), [delivery(b"")]),
    (message(DELIVER, b"body"), [delivery(b"body")]),
    (message(DELIVER, b"bo", b"", b"d", b"y"), [delivery(b"body")]),
    (message(DELIVER, b"x" * MAX_MESSAGE), [delivery(b"x" * MAX_MESSAGE)]),
    # Over the limit: read to its end, and dropped.
    (message(DELIVER, b"x" * (MAX_MESSAGE + 1)), [delivery(None, MAX_MESSAGE + 1)]),
    (message(DELIVER, *[b"x" * 300] * 4), [delivery(None, 1200)]),
    (
        message(Basic.Return(312, "NO_ROUTE", "ratchet.requests", "a.b"), b"body"),
        [Returned(312, "NO_ROUTE", PROPERTIES)],
    ),
    # What is about the connection may come in the middle of a message.
    (
        frame.marshal(DELIVER, 1)
        + BEAT
        + header_frame(4)
        + BLOCKED
        + body_frame(b"bo")
        + BEAT
        + body_frame(b"dy"),
        [Heartbeat(), Connection.Blocked("memory"), Heartbeat(), delivery(b"body")],
    ),
]
ALL = b"".join(data for data, _ in SAMPLES)
ALL_EVENTS = [plain(event) for _, events in SAMPLES for event in events]


def fed(data: bytes, *cuts: int) -> tuple[list[Any], Decoder]:
    """The events of bytes that come in pieces."""
    decoder = Decoder(MAX_MESSAGE)
    events: list[Any] = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        events += map(plain, decoder.feed(data[start:stop]))
    return events, decoder


@pytest.mark.parametrize(("data", "events"), SAMPLES)
def test_whole(data: bytes, events: list[Event]) -> None:
    decoded, decoder = fed(data)
    assert decoded == [plain(event) for event in events]
    assert (decoder.error, decoder.partial) == (None, False)


@pytest.mark.parametrize(("data", "events"), SAMPLES)
def test_byte_by_byte(data: bytes, events: list[Event]) -> None:
    decoded, decoder = fed(data, *range(1, len(data)))
    assert decoded == [plain(event) for event in events]
    assert (decoder.error, decoder.partial) == (None, False)


@pytest.mark.parametrize(("data", "events"), SAMPLES)
def test_with_trailing_bytes(data: bytes, events: list[Event]) -> None:
    rest = SAMPLES[5][0]
    for size in range(1, len(rest)):
        decoded, decoder = fed(data + rest[:size])
        assert decoded == [plain(event) for event in events]
        assert (decoder.error, decoder.partial) == (None, True)
        assert [plain(event) for event in decoder.feed(rest[size:])] == [plain(SAMPLES[5][1][0])]


@settings(deadline=None, database=None)
@given(st.sets(st.integers(0, len(ALL))))
def test_cut_anywhere(cuts: set[int]) -> None:
    assert fed(ALL, *sorted(cuts))[0] == ALL_EVENTS


def test_an_empty_piece_changes_nothing() -> None:
    assert fed(ALL, 5, 5, 5)[0] == ALL_EVENTS


WRONG: list[tuple[bytes, str]] = [
    (b"AMQP\x00\x00\x09\x01", "speaks another version of AMQP"),
    (b"HTTP/1.1 400 Bad Request", "unknown kind 72"),
    (raw(4, 0, b""), "unknown kind 4"),
    (raw(1, 2, b"\x00\x3c\x00\x50"), "channel 2, which is not open"),
    (raw(1, 1, b"x" * frames.MAX_FRAME), "a frame of 131080 bytes is over 131072"),
    (b"\x02\x00\x01\x00\x10\x00\x00", "a frame of 1048584 bytes is over 1048576"),
    (b"\x03\x00\x01\xff\xff\xff\xff", "a frame of 4294967303 bytes is over 131072"),
    (raw(8, 0, b"", end=b"\x00"), "a frame without its end"),
    (raw(1, 1, b"\x00\x3c\x00"), "without a method"),
    (raw(1, 1, b"\x00\x3c\x00\x00"), "the unknown method 60.0"),
    # Basic.RecoverAsync, which servers alone understand.
    (raw(1, 1, b"\x00\x3c\x00\x64\x00"), "the unknown method 60.100"),
    (raw(1, 1, b"\x00\x3c\x00\x50"), "the method 60.80 cannot be read"),
    (raw(1, 1, b"\x00\x3c\x00\x3c\x05req"), "the method 60.60 cannot be read"),
    (raw(1, 1, b"\x00\x3c\x00\x3c\x01r\0\0"), "the method 60.60 cannot be read"),
    (raw(1, 0, b"\x00\x0a\x00\x3c\x04\xff\xff\xff\xff"), "the method 10.60 cannot be read"),
    (frame.marshal(DELIVER, 0), "the method 60.60 on the channel 0"),
    (frame.marshal(Connection.Blocked(""), 1), "the method 10.60 on the channel 1"),
    (header_frame(4), "an unexpected frame of the kind 2"),
    (body_frame(b"body"), "an unexpected frame of the kind 3"),
    (frame.marshal(DELIVER, 1) + body_frame(b"body"), "an unexpected frame of the kind 3"),
    (frame.marshal(DELIVER, 1) + header_frame(4) * 2, "an unexpected frame of the kind 2"),
    (body_frame(b""), "an unexpected frame of the kind 3"),
    (frame.marshal(DELIVER, 1) + raw(2, 0, b"\0" * 14), "an unexpected frame of the kind 2"),
    (frame.marshal(DELIVER, 1) + raw(2, 1, b"\0" * 11), "the header of a message is cut off"),
    (frame.marshal(DELIVER, 1) * 2, "the method 60.60 in the middle of a message"),
    (frame.marshal(DELIVER, 1) + header_frame(4) + body_frame(b"bodyx"), "longer than the 4 bytes"),
    (frame.marshal(DELIVER, 1) + header_frame(4) + body_frame(b"bod") * 2, "longer than the 4 bytes"),
]


@pytest.mark.parametrize(("wrong", "text"), WRONG)
def test_what_is_wrong_is_one_error_and_nothing_comes_after_it(wrong: bytes, text: str) -> None:
    for cuts in [(), range(1, len(ALL + wrong), 7)]:
        events, decoder = fed(ALL + wrong, *cuts)
        assert events == ALL_EVENTS
        assert isinstance(decoder.error, ProtocolError)
        assert text in decoder.error.message
        error = decoder.error
        assert decoder.feed(ALL) == []
        assert decoder.error is error
        assert not decoder.partial


def test_a_frame_is_no_larger_than_was_agreed() -> None:
    decoder = Decoder(10**6)
    decoder.frame_max = frames.MIN_FRAME
    assert decoder.feed(message(DELIVER, b"x" * (4096 - 8)))
    assert decoder.error is None
    assert decoder.feed(message(DELIVER, b"x" * (4096 - 7))) == []
    assert str(decoder.error).startswith("a frame of 4097 bytes is over 4096")


def test_properties_may_be_larger_than_the_frames_that_were_agreed_on() -> None:
    decoder = Decoder(10**6)
    headers: dict[str, Any] = {"x": "y" * frames.MAX_FRAME}
    head = frame.marshal(header.ContentHeader(0, 0, Basic.Properties(headers=headers)), 1)
    (event,) = decoder.feed(frame.marshal(DELIVER, 1) + head)
    assert isinstance(event, Delivery)
    assert event.properties == Properties(headers=headers)


UNREADABLE = [
    struct.pack(">H", 1 << 10),  # it ends before the correlation id
    struct.pack(">H", 1 << 10) + b"\x02\xff\xff",  # which is not UTF-8
    struct.pack(">HI", 1 << 13, 100),  # headers that are cut off
    struct.pack(">HI", 1 << 13, 3) + b"\x01a?",  # one of no known type
    struct.pack(">HI", 1 << 13, 3) + b"\x01aT" + b"\xff" * 8,  # one that is larger than its table
    struct.pack(">HI3sI", 1 << 13, 50_007, b"\x01aA", 50_000) + b"V" * 50_000,  # more than are read
    b"\xff\xff" * 3,  # flags without an end
]


def test_the_properties_of_a_greeting_may_be_many_and_other_methods_are_short() -> None:
    many: dict[str, Any] = {f"{number:04}": "x" for number in range(8_000)}
    decoder = Decoder(MAX_MESSAGE)
    (start,) = decoder.feed(frame.marshal(Connection.Start(server_properties=many, mechanisms="PLAIN"), 0))
    assert isinstance(start, Connection.Start)
    assert (start.version_major, start.version_minor, start.server_properties) == (0, 9, many)
    assert (start.mechanisms, start.locales) == ("PLAIN", "en_US")
    longest = Basic.Return(312, "x" * 255, "x" * 127, "x" * 255)
    decoder.feed(frame.marshal(longest, 1))
    assert decoder.error is None
    decoder = Decoder(MAX_MESSAGE)
    assert decoder.feed(frame.marshal(Connection.Secure("x" * 1024), 0)) == []
    assert str(decoder.error).startswith("the method 10.20 cannot be read: it has 1032 bytes")


def nested(depth: int) -> bytes:
    """Headers with arrays within arrays."""
    value = b""
    for _ in range(depth):
        value = b"A" + struct.pack(">I", len(value)) + value
    return struct.pack(">HI", 1 << 13, len(value) + 2) + b"\x01a" + value


@pytest.mark.parametrize("properties", [*UNREADABLE, nested(20_000)])
def test_a_message_with_unreadable_properties_comes_without_them(properties: bytes) -> None:
    content = raw(2, 1, struct.pack(">HHQ", 60, 0, 4) + properties) + body_frame(b"body")
    events, decoder = fed(frame.marshal(DELIVER, 1) + content + message(DELIVER))
    assert decoder.error is None
    assert events == [
        ("Delivery", Delivery("requests", 2**40, True, "ratchet.requests", None, b"body", 4)),
        plain(delivery(b"")),
    ]


def test_what_is_dropped_takes_no_memory() -> None:
    decoder = Decoder(MAX_MESSAGE)
    piece = body_frame(b"x" * 100_000)
    decoder.feed(frame.marshal(DELIVER, 1) + header_frame(2**62))
    tracemalloc.start()
    try:
        for _ in range(100):
            assert decoder.feed(piece) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert decoder.error is None
    assert peak < 1_000_000


def test_a_body_in_tiny_pieces_takes_no_more_memory_than_its_bytes() -> None:
    decoder = Decoder(100_000)
    pieces = (body_frame(b"x") + body_frame(b"")) * 1000
    decoder.feed(frame.marshal(DELIVER, 1) + header_frame(100_000))
    tracemalloc.start()
    try:
        for _ in range(20):
            decoder.feed(pieces)
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert decoder.error is None
    assert held < 100_000


@settings(deadline=None, database=None, max_examples=300)
@given(st.data())
def test_garbage_is_decoded_or_one_error(data: st.DataObject) -> None:
    garbage = bytearray(ALL)
    for place in data.draw(st.lists(st.integers(0, len(ALL) - 1), max_size=5)):
        garbage[place] = data.draw(st.integers(0, 255))
    decoder = Decoder(MAX_MESSAGE)
    events: list[Event] = []
    for start in range(0, len(garbage), 500):
        events += decoder.feed(bytes(garbage[start : start + 500]))
    assert decoder.error is None or isinstance(decoder.error, ProtocolError)
    assert len(events) <= 3 * len(ALL_EVENTS)


@settings(deadline=None, database=None, max_examples=300)
@given(st.sampled_from([0, 1]), st.sampled_from([1, 2, 3, 8]), st.binary(max_size=60))
def test_any_frame_is_decoded_or_one_error(channel: int, kind: int, payload: bytes) -> None:
    decoder = Decoder(MAX_MESSAGE)
    decoder.feed(frame.marshal(DELIVER, 1))
    assert len(decoder.feed(raw(kind, channel, payload))) <= 1
    assert decoder.error is None or isinstance(decoder.error, ProtocolError)


def as_pamqp_reads(sent: frames.Frame) -> list[tuple[int, Any, int]]:
    """Channel, frame and size of each frame."""
    data = sent if isinstance(sent, bytes) else b"".join(sent)
    found = []
    while data:
        size, channel, value = frame.unmarshal(data)
        found.append((channel, value, size))
        data = data[size:]
    return found


@pytest.mark.parametrize(
    "method", [Basic.Ack(5), Channel.Open(), Queue.Declare(queue="a", arguments={"b": 1})]
)
def test_a_method_has_the_channel(method: base.Frame) -> None:
    ((channel, value, _),) = as_pamqp_reads(frames.method(method))
    assert (channel, plain(value)) == (1, plain(method))


def test_a_method_about_the_connection_has_none() -> None:
    method = Connection.TuneOk(1, 2, 3)
    ((channel, value, _),) = as_pamqp_reads(frames.method(method))
    assert (channel, plain(value)) == (0, plain(method))


def publish(content: bytes, frame_max: int = frames.MAX_FRAME, **fields: Any) -> frames.Frame:
    properties = PROPERTIES._replace(**fields)
    return frames.publish("ratchet.requests", "a.b", properties, content, mandatory=True, frame_max=frame_max)


@pytest.mark.parametrize("size", [0, 1, 4087, 4088, 4089, 3 * 4088, 3 * 4088 + 1, 100_000])
def test_a_message_is_split_into_frames_that_the_peer_takes(size: int) -> None:
    content = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    method, head, *pieces = as_pamqp_reads(publish(content, 4096))
    assert {channel for channel, _, _ in [method, head, *pieces]} == {1}
    assert plain(method[1]) == plain(
        Basic.Publish(exchange="ratchet.requests", routing_key="a.b", mandatory=True)
    )
    assert (head[1].body_size, head[1].properties) == (size, SENT)
    assert b"".join(value.value for _, value, _ in pieces) == content
    assert all(0 < length <= 4096 for _, _, length in pieces)
    assert len(pieces) == -(-size // 4088)


@pytest.mark.parametrize("mandatory", [False, True])
def test_a_message_may_come_back_or_not(mandatory: bool) -> None:
    sent = frames.publish("", "a", PROPERTIES, b"", mandatory=mandatory, frame_max=4096)
    assert plain(as_pamqp_reads(sent)[0][1]) == plain(Basic.Publish(routing_key="a", mandatory=mandatory))


def test_a_large_body_is_not_copied() -> None:
    content = b"x" * 100_000
    assert any(piece is content for piece in publish(content))


def test_a_short_message_is_one_piece() -> None:
    assert isinstance(publish(b"body"), bytes)


def test_properties_that_no_frame_holds_are_refused() -> None:
    with pytest.raises(MessageTooLarge, match="are over the broker's limit of 4088"):
        publish(b"", 4096, headers={"metadata": {"a": "x" * 5000}})


def test_what_amqp_cannot_say_is_refused() -> None:
    with pytest.raises(ValueError, match="a string of 256 bytes is over the 255 that AMQP can say"):
        publish(b"", reply_to="x" * 256)
    with pytest.raises(TypeError):
        publish(b"", headers={"a": object()})


def test_the_protocol_header_and_the_heartbeat_are_those_of_amqp() -> None:
    assert header.ProtocolHeader().marshal() == frames.PROTOCOL_HEADER
    assert frames.HEARTBEAT_FRAME == BEAT
