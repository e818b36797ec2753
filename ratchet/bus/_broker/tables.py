"""Strings and tables of AMQP, from bytes.

By hand: with pamqp, the time that a table takes grows with the square of its size, and whatever another
client has put into the headers of a message is read in the hub.  Here it grows with the size, and the
number of values and the depth are bounded.
"""

from __future__ import annotations

import struct
from typing import Any, Final

# What reading raises: for what is cut off, of no known type, not UTF-8, or over a bound.
UNREADABLE: Final = (ValueError, TypeError, IndexError, struct.error)

# Values of one table, those in the tables within it included: as many as attachments and entries of
# metadata can be.
_MOST_VALUES: Final = 45_000
# Tables and lists within each other; the broker's own have four.
_DEEPEST: Final = 16

_LENGTH: Final = struct.Struct(">I")
_LONGEST: Final = 255
_TABLE, _LIST, _STRING, _BYTES = b"FASx"
# By the letters that RabbitMQ and pamqp have for them.  A time is in seconds since 1970, and a decimal
# number its scale and its digits.
_FIXED: Final = {
    letter: struct.Struct(f">{form}")
    for letter, form in zip(b"tbBsuIilLfdTD", [*"?bBhHiIqqfdQ", "BI"], strict=True)
}
_NOTHING: Final = b"V\0"


def short_string(text: str) -> bytes:
    """A string of at most 255 bytes, as AMQP has them; raises `ValueError` for a longer one."""
    data = text.encode()
    if len(data) > _LONGEST:
        raise ValueError(
            f"a string of {len(data)} bytes is over the {_LONGEST} that AMQP can say: {text!r:.40}"
        )
    return bytes((len(data),)) + data


def read_short_string(data: bytes, position: int) -> tuple[str, int]:
    """The string at a position, and where it ends; raises one of `UNREADABLE`."""
    start = position + 1
    end = start + data[position]
    if end > len(data):
        raise ValueError("a string is cut off")
    return data[start:end].decode(), end


def read_long_string(data: bytes, position: int) -> tuple[str, int]:
    """The same for one whose length has four bytes."""
    start, end = _bounds(data, position, len(data))
    return data[start:end].decode(), end


def read_table(data: bytes, position: int) -> tuple[dict[str, Any], int]:
    """The table at a position, and where it ends; raises one of `UNREADABLE`."""
    return _Reader(data).table(position, len(data), _DEEPEST)


def _bounds(data: bytes, position: int, limit: int) -> tuple[int, int]:
    """Where the value whose length stands here begins and ends; it must not end behind `limit`."""
    (size,) = _LENGTH.unpack_from(data, position)
    start = position + _LENGTH.size
    if start + size > limit:
        raise ValueError("a value is cut off")
    return start, start + size


class _Reader:
    """Reads one table."""

    __slots__ = ("_data", "_left")

    def __init__(self, data: bytes) -> None:
        self._data = data
        # How many more values there may be.
        self._left = _MOST_VALUES

    def table(self, position: int, limit: int, depth: int) -> tuple[dict[str, Any], int]:
        position, end = _bounds(self._data, position, limit)
        table: dict[str, Any] = {}
        while position < end:
            name, position = read_short_string(self._data, position)
            table[name], position = self._value(position, end, depth)
        return table, _checked(position, end)

    def _list(self, position: int, limit: int, depth: int) -> tuple[list[Any], int]:
        position, end = _bounds(self._data, position, limit)
        values: list[Any] = []
        while position < end:
            value, position = self._value(position, end, depth)
            values.append(value)
        return values, _checked(position, end)

    def _value(self, position: int, limit: int, depth: int) -> tuple[Any, int]:
        self._left -= 1
        if self._left < 0:
            raise ValueError(f"a table has more than {_MOST_VALUES} values")
        data = self._data
        letter = data[position]
        position += 1
        fixed = _FIXED.get(letter)
        if fixed is not None:
            values = fixed.unpack_from(data, position)
            return values[0] if len(values) == 1 else values, position + fixed.size
        if letter in (_STRING, _BYTES):
            start, end = _bounds(data, position, limit)
            piece = data[start:end]
            return _text(piece) if letter == _STRING else piece, end
        if letter in _NOTHING:
            return None, position
        if letter not in (_TABLE, _LIST):
            raise ValueError(f"a value of the unknown type {letter}")
        if not depth:
            raise ValueError(f"tables are nested deeper than {_DEEPEST}")
        return (self.table if letter == _TABLE else self._list)(position, limit, depth - 1)


def _checked(position: int, end: int) -> int:
    """Where a table ends; refuses values that go beyond."""
    if position != end:
        raise ValueError("a value goes beyond its table")
    return end


def _text(piece: bytes) -> str | bytes:
    """A string; the bytes of it if they are none, which programs in other languages send."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return piece
