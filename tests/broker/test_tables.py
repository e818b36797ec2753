"""Tables of AMQP, held against those of pamqp, and their bounds."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.decode import field_table as read_by_pamqp
from pamqp.encode import field_table as encode

from ratchet.bus._broker.tables import UNREADABLE, read_long_string, read_table

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, width=32)
    | st.text(max_size=10)
    | st.binary(max_size=10).map(bytearray),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.uncounted
@settings(deadline=None, database=None)
@given(st.dictionaries(st.text(max_size=5), values))
def test_they_are_read_as_pamqp_writes_and_reads_them(table: dict[str, Any]) -> None:
    data = encode(table)
    assert read_table(b"head" + data + b"rest", 4) == (read_by_pamqp(data)[1], 4 + len(data))


def table_of(entries: bytes) -> bytes:
    return struct.pack(">I", len(entries)) + entries


def list_of(values: bytes) -> bytes:
    """A table with a list."""
    return table_of(b"\1aA" + struct.pack(">I", len(values)) + values)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (b"T" + struct.pack(">Q", 2**64 - 1), 2**64 - 1),
        (b"D\2" + struct.pack(">I", 1234), (2, 1234)),
        (b"f" + struct.pack(">f", 0.5), 0.5),
        (b"L" + struct.pack(">q", -7), -7),
        (b"u" + struct.pack(">H", 65535), 65535),
        (b"S" + struct.pack(">I", 1) + b"\xff", b"\xff"),
        (b"x" + struct.pack(">I", 1) + b"\xff", b"\xff"),
        (b"V", None),
        (b"\0", None),
    ],
)
def test_what_other_programs_send_is_read_too(value: bytes, read: object) -> None:
    assert read_table(table_of(b"\1a" + value), 0)[0] == {"a": read}


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\0\0\0\1",
        table_of(b"\1"),
        table_of(b"\2a"),
        table_of(b"\1a"),
        table_of(b"\1\xffV"),
        table_of(b"\1a?"),
        table_of(b"\1al\0\0\0\0"),
        # These go beyond what they are in.
        table_of(b"\1al\0\0\0\0") + b"\0\0\0\0",
        table_of(b"\1aS\0\0\0\1") + b"x",
        table_of(b"\1aA\0\0\0\1") + b"V",
        table_of(b"\1aF\0\0\0\3") + b"\1aV",
        table_of(b"\3a") + b"aaV",
        table_of(b"\1aS\xff\xff\xff\xff"),
    ],
)
def test_what_is_no_table_is_unreadable(table: bytes) -> None:
    with pytest.raises(UNREADABLE):
        read_table(table, 0)


def test_a_long_string_that_is_cut_off_is_unreadable() -> None:
    assert read_long_string(b"\0\0\0\2abc", 0) == ("ab", 6)
    for data in (b"\0\0\0", b"\0\0\0\2a", b"\0\0\0\1\xff"):
        with pytest.raises(UNREADABLE):
            read_long_string(data, 0)


def nested(depth: int) -> bytes:
    table = table_of(b"")
    for _ in range(depth):
        table = table_of(b"\1aF" + table)
    return table


def test_the_depth_is_bounded() -> None:
    assert read_table(nested(16), 0)[1] == len(nested(16))
    with pytest.raises(ValueError, match="nested deeper than 16"):
        read_table(nested(17), 0)


def test_the_number_of_values_is_bounded() -> None:
    # The list is one, too.
    (found,) = read_table(list_of(b"V" * 44_999), 0)[0].values()
    assert len(found) == 44_999
    with pytest.raises(ValueError, match="more than 45000 values"):
        read_table(list_of(b"V" * 45_000), 0)


@settings(deadline=None, database=None, max_examples=300)
@given(st.binary(max_size=40))
def test_any_bytes_are_read_or_are_unreadable(data: bytes) -> None:
    try:
        table, end = read_table(data, 0)
    except UNREADABLE:
        return
    assert isinstance(table, dict)
    assert end <= len(data)
