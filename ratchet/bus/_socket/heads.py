"""The head of a message of one part, to bytes and back.

Every exchange has two of them.  So the compiled build has functions in C for this, which stand
in `heads.pxd` and do the same; nothing else is compiled of this module.
"""

from __future__ import annotations

import struct
from typing import Final

_HEAD_AND_LENGTH: Final = struct.Struct(">HBBIII")

SIZE: Final = _HEAD_AND_LENGTH.size
"""Bytes of an extended head and the length of the first part."""

ONE_PART: Final = 0x8001
"""The first word of an extended message of one part."""


def join(kind: int, flags: int, id: int, arg: int, body: bytes) -> bytes:
    """An extended message of one part."""
    return _HEAD_AND_LENGTH.pack(ONE_PART, kind, flags, id, arg, len(body)) + body


split = _HEAD_AND_LENGTH.unpack_from
"""First word, kind, flags, id, arg and length, of bytes from a position on; there are `SIZE` bytes."""
