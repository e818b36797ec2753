"""Memory for one large part of a message, which the system fills and which becomes the part.

Only the compiled build can do that: no Python can write to `bytes`.  So this module is not
compiled itself; its functions stand in `memory.pxd`, in C.  The pure build, in which
`descriptor.direct` refuses every socket, never calls them.
"""

from __future__ import annotations


def take(length: int, at_once: int, begun: bytes) -> bytes:
    """Memory for a part that has begun: for all of its length, or for so many bytes until these have come.

    There may be room for more than the part.
    """
    raise NotImplementedError


def grown(memory: bytes, room: int) -> bytes:
    """What is full moved to where there is room for so many bytes in all."""
    raise NotImplementedError


def receive(socket: object, memory: bytes, begin: int, most: int) -> int:
    """Read up to so many bytes to where `begin` says; returns how many, below 0 if nothing has come.

    Raises `OSError` if the connection is broken, or somebody has closed the socket.
    """
    raise NotImplementedError


def finish(memory: bytes, length: int) -> bytes:
    """Make the part of its memory.

    When nobody has the part any more, its memory may be taken again.
    """
    raise NotImplementedError
