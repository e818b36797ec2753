"""Memory for very large messages, in huge pages where the system has them.

Memory that is written to for the first time comes from the system page by page, and in pages
of 4 KiB that takes longer than to receive the message: exchanges of 64 MiB took 97 ms of CPU time,
both ends together, and take 54; those of 4 MiB took 4 ms, and take 2.  It knows bytes, and no messages.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable
from functools import cache
from io import BytesIO
from typing import Final

WORTH_ROOM: Final = 256 * 1024
"""Until more bytes than these have come, a buffer that grows by itself does."""

AHEAD: Final = 16
"""How many bytes are reserved for each that has come.

The system gives no memory for them before they are written to, and what a peer has only announced
takes none.
"""


def with_room(held: BytesIO, more: int, most: int) -> tuple[BytesIO, int]:
    """Move what is held to where there is room for `more` bytes, and then some, up to `most` in all.

    Returns where it is, to be written on at its end, and how many bytes there is room for in
    all.  Those that are not written are zero.
    """
    size = held.tell()
    room = min((size + more) * AHEAD, most)
    # Nobody else refers to these bytes, and so they are written to where they are.
    moved = BytesIO(bytes(room))
    with moved.getbuffer() as buffer, held.getbuffer() as old:
        _advice()(buffer)
        buffer[:size] = old[:size]
    moved.seek(size)
    return moved, room


@cache
def _advice() -> Callable[[memoryview], object]:
    """What asks the system to back a buffer by huge pages."""
    try:
        # Here, because few programs need it.  Python itself advises only on its own `mmap` objects.
        import ctypes

        madvise = ctypes.CDLL(None).madvise
        madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
        huge: int = mmap.MADV_HUGEPAGE
    except (ImportError, AttributeError, OSError, TypeError):
        return len  # not on this system: any function that does no harm

    def advise(buffer: memoryview) -> None:
        start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
        # All of its first page: a mapping in two parts could not grow where it is.
        begin = start & -mmap.PAGESIZE
        madvise(begin, start + len(buffer) - begin, huge)

    return advise
