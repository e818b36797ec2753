"""How many bytes to read at once.

Nothing here reads.
"""

from __future__ import annotations

from typing import Final

READ_SIZE: Final = 64 * 1024
"""Bytes that are read at once, mostly."""

# What is left of a large part is read by itself, so much of it at once.
_LARGE_READ_SIZE: Final = 1024 * 1024

HEAD_READ_SIZE: Final = 16
"""A head and a length.

After a large message, the next head is read by itself.  If what follows is large again, it
comes in one piece then and is not copied: exchanges of 1 MiB take less than half the time.
"""


def next_size(missing: int, partial: bool, after_large: bool, most: int) -> tuple[int, bool]:
    """The next size, and whether it is that of something large.

    Args:
        missing: bytes that are still to come of the part that has begun; 0 if that is not known.
        partial: whether a message has begun.
        after_large: whether the last one was large.
        most: bytes that there is room for.
    """
    if most < READ_SIZE:
        # Nothing that nobody has room for; what has begun has its room.
        return min(missing, _LARGE_READ_SIZE) or most, after_large
    if missing >= READ_SIZE:
        return min(missing, _LARGE_READ_SIZE), True
    if after_large and not partial:
        return HEAD_READ_SIZE, False
    return READ_SIZE, after_large
