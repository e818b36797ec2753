"""The wire format: bytes to messages and back, without a socket."""

from __future__ import annotations

import json
import struct
import sys
import tracemalloc
from collections.abc import Callable, Iterable
from itertools import pairwise
from types import FrameType, MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ratchet.bus._core.faults import Reason, check_size, decode_metadata, encode_metadata
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import wire
from ratchet.bus._socket.wire import Decoder, Message, encode
from ratchet.errors import MessageTooLarge, Outcome, ProtocolError

# A busy machine must not fail a test: no deadline, and nothing is kept on disk.
examples = settings(
    deadline=None,
    database=None,
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def plain(*parts: bytes) -> Message:
    return wire.PLAIN, 0, 0, 0, list(parts)


# Recorded from Ratchet 0.8.2 for Lua.
RECORDED: list[tuple[str, Message]] = [
    ("0001 00000005 68656c6c6f", plain(b"hello")),
    ("0001 00000004 31333337", plain(b"1337")),
    (
        "0003 00000006 66616c636f6e 00000009 696d706f7274616e74 00000000",
        plain(b"falcon", b"important", b""),
    ),
    ("0001 00000000", plain(b"")),
    ("0003 00000004 72657370 00000003 6f6e65 00000003 74776f", plain(b"resp", b"one", b"two")),
]

# Written down by hand from the table in the wire format's description.
EXTENDED: list[tuple[str, Message]] = [
    ("8001 00 00 00000001 00000000 00000005 68656c6c6f", (wire.REQUEST, 0, 1, 0, [b"hello"])),
    ("8001 00 00 ffffffff ffffffff 00000000", (wire.REQUEST, 0, 0xFFFFFFFF, 0xFFFFFFFF, [b""])),
    ("8000 00 00 00000002 00000000", (wire.REQUEST, 0, 2, 0, [])),
    (
        "8003 00 00 00000003 000005dc 00000002 6162 00000000 00000001 63",
        (wire.REQUEST, 0, 3, 1500, [b"ab", b"", b"c"]),
    ),
    ("8001 00 01 00000004 00000000 00000001 78", (wire.REQUEST, wire.ONE_WAY, 4, 0, [b"x"])),
    (
        "8002 00 02 00000005 00000000 00000001 78 00000009 7b2261223a2262227d",
        (wire.REQUEST, wire.METADATA, 5, 0, [b"x", b'{"a":"b"}']),
    ),
    (
        "8001 00 03 00000006 00000000 00000002 7b7d",
        (wire.REQUEST, wire.ONE_WAY | wire.METADATA, 6, 0, [b"{}"]),
    ),
    ("8001 01 00 00000007 00000000 00000002 6f6b", (wire.RESPONSE, 0, 7, 0, [b"ok"])),
    ("8002 01 00 00000007 00000000 00000000 00000001 61", (wire.RESPONSE, 0, 7, 0, [b"", b"a"])),
    ("8000 01 00 00000007 00000000", (wire.RESPONSE, 0, 7, 0, [])),
    (
        "8003 02 00 00000008 00000001 00000008 4b65794572726f72 00000003 276b27 00000000",
        (wire.ERROR, 0, 8, Reason.HANDLER_RAISED, [b"KeyError", b"'k'", b""]),
    ),
    ("8000 03 00 00000009 00000000", (wire.CANCEL, 0, 9, 0, [])),
    ("8000 04 00 0000000a 00000000", (wire.PING, 0, 10, 0, [])),
    ("8000 05 00 0000000a 00000000", (wire.PONG, 0, 10, 0, [])),
    ("8000 06 00 0000000b 00000000", (wire.GOAWAY, 0, 11, 0, [])),
]

ALL = [(bytes.fromhex(text), message) for text, message in RECORDED + EXTENDED]
NAMES = [text for text, _ in RECORDED + EXTENDED]
every_message = pytest.mark.parametrize(("encoded", "message"), ALL, ids=NAMES)


def decoder(max_message: int = 1000, max_parts: int = 10) -> Decoder:
    return Decoder(max_message, max_parts)


def decode(pieces: Iterable[bytes], using: Decoder | None = None) -> list[Message]:
    """Feed the pieces in turn; the peer must have kept to the format."""
    using = using or decoder()
    messages = [message for piece in pieces for message in using.feed(piece)]
    assert using.error is None
    assert using.refused is None
    return messages


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[index : index + 1] for index in range(len(data))]


def head(kind: int, flags: int = 0, id: int = 7, arg: int = 0, parts: int = 0) -> bytes:
    return struct.pack(">HBBII", 0x8000 | parts, kind, flags, id, arg)


def part(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


def refuse(data: bytes, max_message: int = 1000, max_parts: int = 10) -> Decoder:
    """The decoder that `data` has made fail, the same way however it is cut."""
    whole, cut_up = decoder(max_message, max_parts), decoder(max_message, max_parts)
    assert whole.feed(data) == []
    for byte in byte_by_byte(data):
        assert cut_up.feed(byte) == []
    for using in (whole, cut_up):
        assert using.error is not None
        assert not using.partial
    assert (type(whole.error), str(whole.error)) == (type(cut_up.error), str(cut_up.error))
    assert whole.refused == cut_up.refused
    return whole


# What is sent


@every_message
def test_a_message_is_encoded_as_the_format_says(encoded: bytes, message: Message) -> None:
    assert encode(*message) == encoded


@every_message
def test_parts_may_be_any_sequence(encoded: bytes, message: Message) -> None:
    assert encode(*message[:4], tuple(message[4])) == encoded


def test_the_kinds_and_error_numbers_are_those_of_the_format() -> None:
    kinds = [
        wire.REQUEST,
        wire.RESPONSE,
        wire.ERROR,
        wire.CANCEL,
        wire.PING,
        wire.PONG,
        wire.GOAWAY,
        wire.HELLO,
    ]
    assert kinds == list(range(8))
    assert (wire.ONE_WAY, wire.METADATA) == (1, 2)
    assert [(number.name, int(number)) for number in Reason] == [
        ("HANDLER_RAISED", 1),
        ("OVERLOADED", 2),
        ("DRAINING", 3),
        ("OUT_OF_TIME", 4),
        ("CANCELLED", 5),
        ("ABANDONED", 6),
        ("NOT_DECODED", 7),
        ("TOO_LARGE", 8),
    ]


def test_a_message_at_the_limits_may_be_sent() -> None:
    check_size([b"x" * 6, b"y" * 4], max_message=10, max_parts=2)
    check_size([], max_message=1, max_parts=1)
    with pytest.raises(MessageTooLarge):
        check_size([b"x" * 6, b"y" * 4], max_message=9, max_parts=2)


def test_a_message_over_a_limit_is_refused_before_it_is_sent_and_says_got_against_allowed() -> None:
    with pytest.raises(MessageTooLarge, match="of 11 bytes is over the limit of 10") as bytes_error:
        check_size([b"x" * 6, b"y" * 5], max_message=10, max_parts=2)
    with pytest.raises(MessageTooLarge, match="of 3 parts is over the limit of 2") as parts_error:
        check_size([b"", b"", b""], max_message=10, max_parts=2)
    assert bytes_error.value.outcome is Outcome.NOT_SENT
    assert parts_error.value.outcome is Outcome.NOT_SENT


# What is received, however it is cut


@every_message
def test_a_message_is_decoded_whole(encoded: bytes, message: Message) -> None:
    assert decode([encoded]) == [message]


@every_message
def test_a_message_is_decoded_when_split_at_any_position(encoded: bytes, message: Message) -> None:
    for position in range(len(encoded) + 1):
        assert decode([encoded[:position], encoded[position:]]) == [message]


@every_message
def test_a_message_is_decoded_byte_by_byte_and_comes_with_its_last_byte(
    encoded: bytes, message: Message
) -> None:
    using = decoder()
    for byte in byte_by_byte(encoded[:-1]):
        assert using.feed(byte) == []
        assert using.partial
    assert using.feed(encoded[-1:]) == [message]
    assert not using.partial
    assert using.error is None


@every_message
@pytest.mark.parametrize(("next_encoded", "next_message"), [ALL[2], ALL[8]], ids=["plain", "extended"])
def test_a_message_is_decoded_when_another_follows(
    encoded: bytes, message: Message, next_encoded: bytes, next_message: Message
) -> None:
    both = encoded + next_encoded
    for position in range(len(both) + 1):
        assert decode([both[:position], both[position:]]) == [message, next_message]
    assert decode(byte_by_byte(both)) == [message, next_message]


def test_all_messages_in_one_piece_come_in_order() -> None:
    assert decode([b"".join(encoded for encoded, _ in ALL)]) == [message for _, message in ALL]


def test_a_message_that_is_followed_by_the_start_of_another_is_returned_at_once() -> None:
    using = decoder()
    (first, first_message), (second, second_message) = ALL[5], ALL[6]
    assert using.feed(first + second[:1]) == [first_message]
    assert using.partial
    assert using.feed(second[1:]) == [second_message]
    assert not using.partial


def test_what_is_incomplete_is_no_error() -> None:
    for encoded, _ in ALL:
        for end in range(len(encoded)):
            using = decoder()
            assert using.feed(encoded[:end]) == []
            assert using.error is None
            assert using.partial == (end > 0)


def test_an_empty_piece_changes_nothing() -> None:
    encoded, message = ALL[2]
    using = decoder()
    assert using.feed(b"") == []
    assert not using.partial
    assert using.feed(encoded[:9]) == []
    assert using.feed(b"") == []
    assert using.partial
    assert using.feed(encoded[9:]) == [message]


def test_a_plain_message_of_no_parts_is_a_message() -> None:
    assert encode(wire.PLAIN, 0, 0, 0, []) == b"\0\0"
    assert decode([b"\0\0\0\0", b"\0", b"\0"]) == [plain(), plain(), plain()]


def test_parts_are_bytes_of_their_own() -> None:
    body = bytes(range(256)) * 3
    (message,) = decode([encode(wire.REQUEST, 0, 1, 0, [body, body])], decoder(max_message=2000))
    assert [type(received) for received in message[4]] == [bytes, bytes]
    assert message[4] == [body, body]


# Room to grow


@pytest.mark.parametrize("kind", range(8, 128))
def test_an_unknown_kind_below_128_is_a_protocol_error(kind: int) -> None:
    error = refuse(head(kind, parts=1) + part(b"x")).error
    assert isinstance(error, ProtocolError)
    assert f"unknown kind {kind}" in str(error)


@pytest.mark.parametrize("kind", range(128, 256))
def test_a_kind_from_128_on_is_skipped(kind: int) -> None:
    (encoded, message), (after, after_message) = ALL[5], ALL[0]
    for parts in ([], [b"body"], [b"a", b"", b"ccc"]):
        skipped = head(kind, arg=9, parts=len(parts)) + b"".join(map(part, parts))
        data = encoded + skipped + after
        assert decode([data]) == [message, after_message]
        assert decode(byte_by_byte(data)) == [message, after_message]


def test_of_a_message_that_is_skipped_nothing_is_held() -> None:
    using = decoder(max_message=2**20)
    piece = bytes(64 * 1024)
    skipped = head(200, parts=2) + (part(b"x" * 2**19) * 2)[:-1]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for start in range(0, len(skipped), len(piece)):
            assert using.feed(skipped[start : start + len(piece)]) == []
        assert tracemalloc.get_traced_memory()[0] - before < len(piece)
    finally:
        tracemalloc.stop()
    assert (using.partial, using.missing) == (True, 1)
    assert using.feed(b"x" + ALL[0][0]) == [ALL[0][1]]


def test_a_message_that_is_skipped_is_no_larger_than_others() -> None:
    using = decoder(max_message=10)
    using.feed(head(200, parts=2) + part(b"12345678")[:-1])
    using.feed(b"8" + part(b"123"))
    assert isinstance(using.error, MessageTooLarge)


def test_the_end_of_a_skipped_message_is_the_end_of_a_message() -> None:
    using = decoder()
    assert using.feed(head(200, parts=1) + part(b"body")[:-1]) == []
    assert using.partial
    assert using.feed(b"y") == []
    assert not using.partial


@pytest.mark.parametrize("kind", range(8))
@pytest.mark.parametrize("flags", [0b0100, 0b1000, 0b1100, 0b0101, 0b1111_1000])
def test_an_unknown_critical_flag_is_a_protocol_error(kind: int, flags: int) -> None:
    parts = 3 if kind == wire.ERROR else 1 if kind <= wire.RESPONSE else 0
    error = refuse(head(kind, flags, parts=parts) + part(b"") * parts).error
    assert isinstance(error, ProtocolError)
    assert f"unknown flags 0b{flags:08b}" in str(error)


@pytest.mark.parametrize("flags", [0b1_0000, 0b10_0000, 0b100_0000, 0b1000_0000, 0b1111_0000])
@pytest.mark.parametrize("parts", [[b"x"], [b"x", b"y"]], ids=["one part", "two parts"])
def test_flags_4_to_7_are_ignored(flags: int, parts: list[bytes]) -> None:
    data = head(wire.REQUEST, flags | wire.ONE_WAY, parts=len(parts)) + b"".join(map(part, parts))
    for pieces in ([data], byte_by_byte(data)):
        ((kind, got_flags, id, arg, got_parts),) = decode(pieces)
        assert (kind, id, arg, got_parts) == (wire.REQUEST, 7, 0, parts)
        assert got_flags & (wire.ONE_WAY | wire.METADATA) == wire.ONE_WAY


# How many parts a message has


@pytest.mark.parametrize(
    ("kind", "allowed"),
    [(wire.ERROR, 3), (wire.CANCEL, 0), (wire.PING, 0), (wire.PONG, 0), (wire.GOAWAY, 0)],
)
def test_a_kind_with_a_fixed_number_of_parts_takes_no_other(kind: int, allowed: int) -> None:
    for parts in range(6):
        data = head(kind, parts=parts) + part(b"x") * parts
        if parts == allowed:
            assert decode([data]) == [(kind, 0, 7, 0, [b"x"] * parts)]
        else:
            error = refuse(data).error
            assert isinstance(error, ProtocolError)
            assert f"has {parts} parts, not {allowed}" in str(error)


@pytest.mark.parametrize("kind", [wire.PLAIN, wire.REQUEST, wire.RESPONSE])
def test_a_request_or_response_may_have_any_number_of_parts(kind: int) -> None:
    for count in range(11):
        message: Message = (kind, 0, 0, 0, [b"x"] * count)
        assert decode([encode(*message)]) == [message]


def test_a_request_that_says_it_has_metadata_must_have_a_part_for_it() -> None:
    error = refuse(head(wire.REQUEST, wire.METADATA, parts=0)).error
    assert isinstance(error, ProtocolError)
    assert "no part for it" in str(error)


# Limits


@pytest.mark.parametrize("kind", [wire.PLAIN, wire.REQUEST, wire.RESPONSE])
@pytest.mark.parametrize("sizes", [[100], [60, 40], [0, 100, 0]])
def test_a_message_of_exactly_the_limit_is_decoded(kind: int, sizes: list[int]) -> None:
    message: Message = (kind, 0, 0, 0, [b"x" * size for size in sizes])
    encoded = encode(*message)
    limits = {"max_message": 100, "max_parts": len(sizes)}
    assert decode([encoded], decoder(**limits)) == [message]
    assert decode(byte_by_byte(encoded), decoder(**limits)) == [message]


@pytest.mark.parametrize("kind", [wire.PLAIN, wire.REQUEST, wire.RESPONSE, 200])
def test_a_message_over_the_limit_is_refused_by_its_declared_length(kind: int) -> None:
    start = b"\0\1" if kind == wire.PLAIN else head(kind, id=42, parts=1)
    using = refuse(start + struct.pack(">I", 101), max_message=100)
    assert isinstance(using.error, MessageTooLarge)
    assert "101 bytes or more is over the limit of 100" in str(using.error)
    assert using.refused == (kind, 0 if kind == wire.PLAIN else 42)


@pytest.mark.parametrize("kind", [wire.PLAIN, wire.REQUEST, wire.RESPONSE, 200])
@pytest.mark.parametrize("length", [2**31 - 1, 2**31, 2**32 - 16, 2**32 - 1])
def test_a_length_that_no_c_int_holds_is_refused_as_any_other(kind: int, length: int) -> None:
    start = b"\0\1" if kind == wire.PLAIN else head(kind, id=42, parts=1)
    # There is more than a head, or it would not be looked at as a whole.
    using = refuse(start + struct.pack(">I", length) + b"x" * 100, max_message=100)
    assert isinstance(using.error, MessageTooLarge)
    assert f"{length} bytes or more" in str(using.error)


def test_a_message_over_the_limit_is_refused_also_if_it_came_whole() -> None:
    for kind in (wire.PLAIN, wire.REQUEST, wire.RESPONSE):
        error = refuse(encode(kind, 0, 7, 0, [b"x" * 101]), max_message=100).error
        assert isinstance(error, MessageTooLarge)


def test_all_parts_together_count_against_the_limit() -> None:
    data = head(wire.REQUEST, id=42, parts=3) + part(b"x" * 60) + struct.pack(">I", 41)
    using = refuse(data, max_message=100)
    assert isinstance(using.error, MessageTooLarge)
    assert "101 bytes or more" in str(using.error)
    assert using.refused == (wire.REQUEST, 42)


def test_the_limit_is_of_each_message_on_its_own() -> None:
    encoded = encode(wire.PLAIN, 0, 0, 0, [b"x" * 60, b"y" * 40])
    assert len(decode([encoded * 5], decoder(max_message=100))) == 5


@pytest.mark.parametrize("start", [b"\0\4", head(wire.REQUEST, parts=4), head(200, parts=4)])
def test_too_many_parts_are_refused_by_their_declared_number(start: bytes) -> None:
    error = refuse(start, max_parts=3).error
    assert isinstance(error, ProtocolError)
    assert "4 parts is over the limit of 3" in str(error)


def test_an_error_message_is_within_every_limit_of_parts() -> None:
    message: Message = (wire.ERROR, 0, 1, 1, [b"KeyError", b"'k'", b"Traceback"])
    assert decode([encode(*message)], decoder(max_parts=1)) == [message]


def test_as_many_parts_as_the_head_can_say_are_decoded() -> None:
    message: Message = (wire.REQUEST, 0, 1, 0, [b""] * 0x7FFF)
    assert decode([encode(*message)], decoder(max_parts=0x7FFF)) == [message]


@pytest.mark.parametrize(
    ("data", "refused"),
    [
        (head(wire.REQUEST, 0b0100, id=9, parts=1), (wire.REQUEST, 9)),
        (head(wire.REQUEST, id=9, parts=11), (wire.REQUEST, 9)),
        (head(100, id=9), (100, 9)),
        (head(wire.CANCEL, id=9, parts=1), (wire.CANCEL, 9)),
        (struct.pack(">H", 11), (wire.PLAIN, 0)),
    ],
    ids=["flag", "parts", "kind", "fixed parts", "plain parts"],
)
def test_refused_says_kind_and_id_of_the_message(data: bytes, refused: tuple[int, int]) -> None:
    assert refuse(data).refused == refused


# Failure


BAD = head(100)


@every_message
def test_messages_before_an_error_are_still_returned(encoded: bytes, message: Message) -> None:
    for data in (encoded + BAD, encoded + BAD + encoded):
        using = decoder()
        assert using.feed(data) == [message]
        assert isinstance(using.error, ProtocolError)


@every_message
def test_a_failure_is_sticky(encoded: bytes, message: Message) -> None:
    using = decoder()
    using.feed(BAD)
    error, refused = using.error, using.refused
    assert isinstance(error, ProtocolError)
    assert using.feed(encoded) == []
    assert using.feed(head(101)) == []
    assert using.error is error
    assert using.refused == refused
    assert not using.partial


def test_what_was_held_is_dropped_with_a_failure() -> None:
    using = decoder(max_message=100)
    using.feed(head(wire.REQUEST, parts=2) + part(b"x" * 60))
    assert using.partial
    using.feed(struct.pack(">I", 41) + b"y" * 41)
    assert isinstance(using.error, MessageTooLarge)
    assert not using.partial


# Metadata


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"trace": "4bf92f3577b34da6"},
        {"": "", "tenant": "snowman \u2603 \U0001f600", "quote": '"\\\n\0'},
        {"a surrogate": "\ud800"},
        MappingProxyType({"any": "mapping"}),
    ],
)
def test_metadata_comes_back_as_it_was(metadata: dict[str, str]) -> None:
    encoded = encode_metadata(metadata)
    assert decode_metadata(encoded) == dict(metadata)
    assert json.loads(encoded.decode("utf-8")) == dict(metadata)


@pytest.mark.parametrize(
    "metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}, {"a": {"b": "c"}}, [("a", "b")], "a", None, 7]
)
def test_what_is_no_dict_of_strings_is_a_type_error_that_shows_it(metadata: Any) -> None:
    with pytest.raises(TypeError, match="metadata must be a dict of strings") as raised:
        encode_metadata(metadata)
    assert repr(metadata) in str(raised.value)


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"{",
        b'{"a":1}',
        b'{"a":null}',
        b'{"a":NaN}',
        b'{"a":{}}',
        b'{"a":"b"} x',
        b"[]",
        b'["a"]',
        b'"a"',
        b"null",
        b"{'a':'b'}",
        b'{"a":"\xff"}',
        b"\xff\xfe{\0}\0",
        b'\xef\xbb\xbf{"a":"b"}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 10_000,
    ],
    ids=lambda encoded: repr(encoded[:12]),
)
def test_metadata_that_is_no_json_object_of_strings_is_a_protocol_error(encoded: bytes) -> None:
    with pytest.raises(ProtocolError, match="metadata must be"):
        decode_metadata(encoded)


def test_metadata_of_64_kib_passes_and_one_byte_more_does_not() -> None:
    overhead = len('{"a":""}')
    most = {"a": "x" * (64 * 1024 - overhead)}
    encoded = encode_metadata(most)
    assert len(encoded) == 64 * 1024
    assert decode_metadata(encoded) == most
    with pytest.raises(ValueError, match="65537 bytes is over the limit of 65536"):
        encode_metadata({"a": most["a"] + "x"})
    with pytest.raises(ProtocolError, match="65537 bytes is over the limit of 65536"):
        decode_metadata(encoded + b" ")


# Any message, any bytes


def messages(max_parts: int = 5) -> st.SearchStrategy[Message]:
    number = st.integers(0, 0xFFFFFFFF)
    parts = st.lists(st.binary(max_size=40), max_size=max_parts)
    none: st.SearchStrategy[list[bytes]] = st.just([])
    three = st.lists(st.binary(max_size=40), min_size=3, max_size=3)
    nothing = st.just(0)
    return st.one_of(
        st.tuples(st.just(wire.PLAIN), nothing, nothing, nothing, parts),
        st.tuples(
            st.just(wire.REQUEST), st.sampled_from([0, wire.ONE_WAY, 0b1111_0001]), number, number, parts
        ),
        st.tuples(st.just(wire.REQUEST), st.just(wire.METADATA), number, number, parts.filter(bool)),
        st.tuples(st.just(wire.RESPONSE), nothing, number, number, parts),
        st.tuples(st.just(wire.ERROR), nothing, number, number, three),
        st.tuples(st.integers(wire.CANCEL, wire.GOAWAY), nothing, number, number, none),
    )


def cut(data: bytes, positions: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(position % (len(data) + 1) for position in positions), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@examples
@given(st.lists(messages(), min_size=1, max_size=4), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_messages_come_back_however_they_are_cut(sent: list[Message], positions: list[int]) -> None:
    data = b"".join(encode(*message) for message in sent)
    using = decoder()
    assert decode(cut(data, positions), using) == sent
    assert not using.partial


# Bytes that look like the beginning of a message more often than chance has it.
likely = st.lists(
    st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"\0\0", b"\0\1", b"\0\2", b"\x80\0", b"\x80\1", b"\x80\3", b"\0\0\0\2", b"\0\0\0\0"]
        ),
        messages().map(lambda message: encode(*message)),
    ),
    max_size=12,
).map(b"".join)


@examples
@given(st.one_of(st.binary(max_size=200), likely), st.lists(st.integers(0, 10_000), max_size=12))
def test_any_bytes_decode_wait_or_break_the_format_the_same_however_they_are_cut(
    data: bytes, positions: list[int]
) -> None:
    results = []
    for pieces in ([data], cut(data, positions), byte_by_byte(data)):
        using = decoder(max_message=64, max_parts=4)
        messages = [message for piece in pieces for message in using.feed(piece)]
        error = using.error
        assert error is None or type(error) in (ProtocolError, MessageTooLarge)
        assert (using.refused is None) == (error is None)
        for kind, _, _, _, parts in messages:
            assert wire.PLAIN <= kind <= wire.GOAWAY
            assert len(parts) <= 4
            # An ERROR is the library's own, and so is its limit.
            assert sum(map(len, parts)) <= 64 or kind == wire.ERROR
        results.append((messages, using.partial, using.refused, type(error), str(error)))
    assert results[0] == results[1] == results[2]


@examples
@given(st.binary(max_size=60))
def test_any_bytes_are_metadata_or_a_protocol_error(encoded: bytes) -> None:
    try:
        metadata = decode_metadata(encoded)
    except ProtocolError:
        return
    assert decode_metadata(encode_metadata(metadata)) == metadata


# Memory and work


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def allocated(feed: Callable[[bytes], object], pieces: Iterable[bytes]) -> tuple[int, int]:
    """How much `feed` held at its worst, and how much it asked for altogether."""
    # Copies, so that each piece is held by nobody else.
    tracemalloc.start()
    try:
        base = tracemalloc.get_traced_memory()[0]
        worst = total = 0
        for piece in pieces:
            copy = piece[:1] + piece[1:]
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            feed(copy)
            peak = tracemalloc.get_traced_memory()[1]
            del copy
            worst = max(worst, peak - base)
            total += peak - before
        return worst, total
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [7, 100, 1460, 4096, 65536])
@pytest.mark.parametrize("parts", [1, 50])
def test_a_large_message_in_pieces_holds_little_more_than_its_size(size: int, parts: int) -> None:
    limits = Limits()
    length = 1024 * 1024 if size > 1000 else 64 * 1024
    encoded = encode(wire.REQUEST, 0, 1, 0, [b"x" * (length // parts)] * parts)
    using = Decoder(limits.max_message, limits.max_parts)
    received: list[Message] = []
    pieces = pieces_of(encoded, size)
    worst, total = allocated(lambda piece: received.extend(using.feed(piece)), pieces)
    assert [len(message[4]) for message in received] == [parts]
    # Twice: what was collected, and the parts made from it.
    assert worst < 3 * length + 128 * 1024
    # A buffer that is copied for each piece would ask for hundreds of times the size.
    # Each call may take something for itself, the more so when coverage is measured.
    assert total < 40 * length + 4000 * len(pieces)


def test_a_peer_that_declares_much_and_sends_little_takes_little_memory() -> None:
    using = Decoder(2**32 - 1, 0x7FFF)
    worst, _ = allocated(using.feed, [b"\0\1\xff\xff\xff\xff", b"x", b"y" * 100])
    assert using.partial
    assert using.error is None
    assert worst < 32 * 1024
    assert Decoder(2**32 - 1, 0x7FFF).feed(head(wire.REQUEST, parts=0x7FFF)) == []


def calls_made(using: Decoder, pieces: list[bytes]) -> int:
    """How many functions, of Python and of C, are called to decode the pieces."""
    count = 0

    def profile(frame: FrameType, event: str, arg: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        for piece in pieces:
            using.feed(piece)
    finally:
        sys.setprofile(before)
    return count


# Compiled functions call each other unseen; what is counted then is the collector's.
@pytest.mark.pure
@pytest.mark.parametrize("size", [1, 3, 64])
@pytest.mark.parametrize("part_size", [0, 10, 4000])
def test_the_work_grows_with_the_bytes_and_not_with_their_square(size: int, part_size: int) -> None:
    def work(parts: int) -> int:
        using = Decoder(1_000_000, 0x7FFF)
        calls = calls_made(using, pieces_of(encode(wire.REQUEST, 0, 1, 0, [b"x" * part_size] * parts), size))
        assert not using.partial
        assert using.error is None
        return calls

    parts = 8000 // (part_size + 4) + 4
    assert work(4 * parts) < 4.5 * work(parts)
