"""A large part of a message, received straight into the memory in which it stays.

That takes the compiled build; see `memory`.  Elsewhere the decoder collects what comes.
"""

from __future__ import annotations

from ratchet.bus._socket import memory
from ratchet.bus._socket.pages import AHEAD, WORTH_ROOM
from ratchet.bus._socket.read_size import LARGE_READ_SIZE


class LargePart:
    """A part that comes, and of which the length is known.

    What the peer has only announced takes no memory, but for that of an earlier part.

    Args:
        length: how many bytes it has.
        begun: those that have come already.
    """

    __slots__ = ("_count", "_length", "_memory")

    def __init__(self, length: int, begun: bytes) -> None:
        self._length = length
        self._count = len(begun)
        self._memory = memory.take(length, max(WORTH_ROOM, self._count), begun)

    @property
    def is_whole(self) -> bool:
        """Whether all of it has come."""
        return self._count == self._length

    def receive(self, socket: object) -> int:
        """Receive more of it, and return how many bytes: 0 at the end of the input, less if nothing has come.

        Not for one that is whole, which would be moved.  Raises `OSError`.
        """
        room = len(self._memory)
        if self._count == room:
            room = min(room * AHEAD, self._length)
            self._memory = memory.grown(self._memory, room)
        most = min(min(room, self._length) - self._count, LARGE_READ_SIZE)
        count = memory.receive(socket, self._memory, self._count, most)
        if count > 0:
            self._count += count
        return count

    def end(self) -> bytes:
        """Give out the part, or what has come of it; nothing more is to be received."""
        return memory.finish(self._memory, self._count)
