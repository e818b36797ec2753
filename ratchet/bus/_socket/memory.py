"""Memory for one large part of a message, which the system fills and which becomes the part.

Only the compiled build can do that: no Python can write to `bytes`.  So this module is not
compiled itself; its functions stand in `memory.pxd`, in C.  The pure build, in which
`descriptor.direct` refuses every socket, never calls them.
"""

from __future__ import annotations


def take(length: int, at_once: int, begun: bytes) -> bytes:
    """Memory for a part of `length` bytes, at the beginning of which `begun` is.

    If it is new, there is room for `at_once` bytes at most, and otherwise perhaps for more than the part.
    """
    raise NotImplementedError


def grown(memory: bytes, room: int) -> bytes:
    """Move what is full to memory in which there is room for `room` bytes in all."""
    raise NotImplementedError


def receive(socket: object, memory: bytes, begin: int, most: int) -> int:
    """Read up to `most` bytes into the memory, from `begin` on; returns how many, below 0 if none have come.

    Raises `OSError` if the connection is broken, or somebody has closed the socket.
    """
    raise NotImplementedError


def finish(memory: bytes, length: int) -> bytes:
    """Make the memory the part, which has `length` bytes.

    When nobody has the part any more, its memory may be taken again.
    """
    raise NotImplementedError
