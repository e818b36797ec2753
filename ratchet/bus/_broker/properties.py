"""The properties of a message, to bytes and back.

By hand, because these are most of what a message costs; see `frames.py`.
"""

from __future__ import annotations

import struct
from typing import Any, Final, NamedTuple

from pamqp.encode import field_table as encode_table

from ratchet.bus._broker.tables import read_short_string, read_table, short_string

# In the order in which they stand, with the bits that say which there are.
_CONTENT_TYPE: Final = 1 << 15
_CONTENT_ENCODING: Final = 1 << 14
_HEADERS: Final = 1 << 13
_DELIVERY_MODE: Final = 1 << 12
_PRIORITY: Final = 1 << 11
_CORRELATION_ID: Final = 1 << 10
_REPLY_TO: Final = 1 << 9
_EXPIRATION: Final = 1 << 8
_MESSAGE_ID: Final = 1 << 7
_TIMESTAMP: Final = 1 << 6
_TYPE: Final = 1 << 5
# More bits follow, which AMQP 0-9-1 has no properties for.
_MORE: Final = 1

_FLAGS: Final = struct.Struct(">H")


class Properties(NamedTuple):
    """Those that this library knows; AMQP says what they mean, and `message.py` how they are used."""

    headers: dict[str, Any] | None = None
    delivery_mode: int = 0
    correlation_id: str = ""
    reply_to: str = ""
    expiration: str = ""
    type: str = ""


def encode(properties: Properties) -> bytes:
    """Properties as bytes; raises `TypeError` or `ValueError` for what no message can have."""
    headers, delivery_mode, correlation_id, reply_to, expiration, kind = properties
    flags, encoded = 0, b""
    if headers:
        flags |= _HEADERS
        encoded = encode_table(headers)
    if delivery_mode:
        flags |= _DELIVERY_MODE
        encoded += bytes((delivery_mode,))
    if correlation_id:
        flags |= _CORRELATION_ID
        encoded += short_string(correlation_id)
    if reply_to:
        flags |= _REPLY_TO
        encoded += short_string(reply_to)
    if expiration:
        flags |= _EXPIRATION
        encoded += short_string(expiration)
    if kind:
        flags |= _TYPE
        encoded += short_string(kind)
    return _FLAGS.pack(flags) + encoded


def decode(data: bytes, position: int) -> Properties:
    """The properties at a position; raises one of `UNREADABLE`."""
    (flags,) = _FLAGS.unpack_from(data, position)
    position += _FLAGS.size
    if flags & _MORE:
        raise ValueError("there are properties of no known kind")
    headers: dict[str, Any] | None = None
    delivery_mode = 0
    correlation_id = reply_to = expiration = kind = ""
    for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
        if flags & flag:
            _, position = read_short_string(data, position)
    if flags & _HEADERS:
        headers, position = read_table(data, position)
    if flags & _DELIVERY_MODE:
        delivery_mode = data[position]
        position += 1
    if flags & _PRIORITY:
        position += 1
    if flags & _CORRELATION_ID:
        correlation_id, position = read_short_string(data, position)
    if flags & _REPLY_TO:
        reply_to, position = read_short_string(data, position)
    if flags & _EXPIRATION:
        expiration, position = read_short_string(data, position)
    if flags & _MESSAGE_ID:
        _, position = read_short_string(data, position)
    if flags & _TIMESTAMP:
        position += 8
    if flags & _TYPE:
        kind, position = read_short_string(data, position)
    return Properties(headers, delivery_mode, correlation_id, reply_to, expiration, kind)
