"""How many bytes to read at once.

Nothing here reads.
"""

from __future__ import annotations

from typing import Final

READ_SIZE: Final = 64 * 1024
"""Bytes that are usually read at once."""

LARGE_READ_SIZE: Final = 1024 * 1024
"""What is left of a large part is read by itself, up to so many bytes at once."""

HEAD_READ_SIZE: Final = 16
"""Bytes of a head and a length.

So much is read at once while requests are paused, and after a large message: if what follows
is large again, it comes in one piece then and is not copied, and exchanges of 1 MiB take less
than half the time.
"""


def next_size(missing: int, partial: bool, after_large: bool, most: int) -> tuple[int, bool]:
    """How many bytes to read next, and `after_large` for the time after that.

    Args:
        missing: bytes that are still to come of the part that has begun; 0 if that is not known.
        partial: whether a message has begun.
        after_large: whether the last part was large.
        most: bytes that may be read at once, apart from what has begun.
    """
    if most < READ_SIZE:
        # Room is short, but what has begun has been given room.
        return min(missing, LARGE_READ_SIZE) or most, after_large
    if missing >= READ_SIZE:
        return min(missing, LARGE_READ_SIZE), True
    if after_large and not partial:
        return HEAD_READ_SIZE, False
    return READ_SIZE, after_large
