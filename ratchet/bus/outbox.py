"""Frames that are written and not sent yet, in order, each with its number.

Rules of this room: it knows no socket.  A frame goes out as a whole or, if the
socket takes less, in pieces; which frames have left as a whole can be told by
their numbers, and one of which nothing has left can be taken back.

A large frame is given in pieces, so that nobody has to copy them into one.  Each
piece has a number then, and the last one's is the frame's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Final

# How much is joined for one send.  More costs a copy for nothing: it is about
# what a socket's buffer takes.
_CHUNK_SIZE: Final = 256 * 1024


class Outbox:
    """The frames of one connection.

    Attributes:
        written: the number of the last piece that was written; a small frame is one
            piece.  Its owner counts it.
        sent: the number of the last one that has left as a whole.
        size: bytes that are written and have not left.
    """

    __slots__ = ("_chunk_frames", "_frames", "_tails", "sent", "size", "written")

    def __init__(self) -> None:
        self.written = 0
        self.sent = 0
        self.size = 0
        # A bytes object or, where a part of it has left, a view of the rest.
        # Made on first use: most connections never need it, and it is large.
        self._frames: deque[bytes | memoryview] | None = None
        # The numbers of the pieces that are not the first ones of their frames.
        self._tails: set[int] | None = None
        self._chunk_frames = 0

    def __bool__(self) -> bool:
        return bool(self._frames)

    @property
    def between_frames(self) -> bool:
        """Whether the last byte that left was the last one of its frame."""
        return not self._frames or not (
            isinstance(self._frames[0], memoryview) or self._is_tail(self.sent + 1)
        )

    def add(self, frame: bytes | memoryview) -> None:
        """Keep the frame that was written last, or the rest of it, if a part has left already."""
        if self._frames is None:
            self._frames = deque()
        self._frames.append(frame)
        self.size += len(frame)

    def add_pieces(self, pieces: Sequence[bytes]) -> None:
        """Keep a large frame; its pieces are the last ones of those `written`."""
        if self._tails is None:
            self._tails = set()
        self._tails.update(range(self.written - len(pieces) + 2, self.written + 1))
        for piece in pieces:
            self.add(piece)

    def chunk(self) -> list[bytes | memoryview]:
        """What to send next in one call: as many frames as make a good size, at least one."""
        assert self._frames
        frames = self._frames
        if self.size <= _CHUNK_SIZE:
            count = len(frames)
        else:
            count, size = 0, 0
            for frame in frames:
                size += len(frame)
                if size > _CHUNK_SIZE:
                    break
                count += 1
        # Small ones are joined; a large one behind them goes along as it is.
        joined = [frames[0] if count == 1 else b"".join(islice(frames, count))] if count else []
        if count < len(frames) and len(frames[count]) > _CHUNK_SIZE // 2:
            joined.append(frames[count])
            count += 1
        self._chunk_frames = count
        return joined

    def advance(self, count: int, whole: bool) -> None:
        """So many bytes of the last chunk have left; `whole` if that was all of it."""
        assert self._frames
        self.size -= count
        if whole:
            self.sent += self._chunk_frames
            if self._chunk_frames == len(self._frames):
                self._frames.clear()
            else:
                for _ in range(self._chunk_frames):
                    self._frames.popleft()
        else:
            while len(self._frames[0]) <= count:
                count -= len(self._frames.popleft())
                self.sent += 1
            if count:
                self._frames[0] = memoryview(self._frames[0])[count:]
        if self._tails:
            self._tails = {number for number in self._tails if number > self.sent}

    def take_back(self, number: int) -> bool:
        """Remove a frame of which nothing has left; False if that is too late."""
        first = number
        while self._is_tail(first):
            first -= 1
        if first <= self.sent:
            return False
        indexes = range(first - self.sent - 1, number - self.sent)
        if self._frames is None or indexes[0] >= len(self._frames):
            # It was never kept, because nothing can be sent any more.
            return True
        if isinstance(self._frames[indexes[0]], memoryview):
            return False
        for index in indexes:
            self.size -= len(self._frames[index])
            self._frames[index] = b""
        return True

    def _is_tail(self, number: int) -> bool:
        return self._tails is not None and number in self._tails

    def clear(self) -> None:
        """Drop what is left; it counts as not sent."""
        self._frames = None
        self.size = 0
