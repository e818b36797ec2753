"""The head of a message of one part, to bytes and back, and the numbers that each exchange needs.

Every exchange has two such heads.  So this module is not compiled itself: its numbers and
functions stand once more in `heads.pxd`, in C.  All else about the format is in `wire`.
"""

from __future__ import annotations

import struct
from typing import Final

_HEAD_AND_LENGTH: Final = struct.Struct(">HBBIII")

SIZE: Final = _HEAD_AND_LENGTH.size
"""Bytes of an extended head and the length of the first part."""

# The kinds of extended messages.  Plain integers, because each message is
# compared with them; PLAIN stands for a message with a plain head.
PLAIN: Final = -1
REQUEST: Final = 0
RESPONSE: Final = 1

PLAIN_ID: Final = -1
"""The id of a plain request, which has none: its answer goes in the order of the requests."""

# Flags of a REQUEST.
ONE_WAY: Final = 0b0001
METADATA: Final = 0b0010
CRITICAL_UNKNOWN_FLAGS: Final = 0b1100
FLAGS: Final = 0xFF
"""All that travel."""

MAX_ID: Final = 0xFFFFFFFF

WORTH_NO_COPY: Final = 64 * 1024
"""A body of this many bytes is sent from where it is.

That takes a second buffer in the system call, and a copy of it would take longer from here on.
"""

ONE_PART: Final = 0x8001
"""The first word of an extended message of one part."""


def join(kind: int, flags: int, id: int, arg: int, body: bytes) -> bytes:
    """An extended message of one part."""
    return _HEAD_AND_LENGTH.pack(ONE_PART, kind, flags, id, arg, len(body)) + body


def append(buffer: bytearray, size: int, kind: int, flags: int, id: int, arg: int, body: bytes) -> int:
    """Put one behind the first `size` bytes of a buffer, which grows if need be; returns its end there."""
    buffer[size:] = join(kind, flags, id, arg, body)
    return len(buffer)


def beginning(buffer: bytearray, size: int) -> bytes:
    """The first `size` bytes of a buffer, as bytes of their own."""
    return bytes(buffer[:size])


def part(data: bytes, start: int, stop: int) -> bytes:
    """The bytes between two positions; a slice takes five times as long in the compiled build."""
    return data[start:stop]


split = _HEAD_AND_LENGTH.unpack_from
"""First word, kind, flags, id, arg and length, of bytes from a position on; there are `SIZE` bytes."""
