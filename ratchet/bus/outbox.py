"""Frames that are written and not sent yet, in order.

A frame's number is its place in the order of writing, counted from 1.  It is
derived: the frames that have left as a whole are counted, and those that are kept
follow them.  So a frame that was interrupted on its way in has no number that a
later one could mistake for its own.  Which frames have left can be told by their
numbers, and one of which nothing has left can be taken back.

This module knows no socket.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Final

from ratchet.bus.wire import WORTH_NO_COPY, Frame

# How much is sent in one call.  More helps nobody: it is about what a socket's
# buffer takes.
_CHUNK_SIZE: Final = 256 * 1024

Buffer = bytes | memoryview
Kept = Buffer | list[bytes] | list[Buffer]
"""A frame, or the rest of one whose beginning has left."""


def size_of(frame: Kept) -> int:
    """The bytes of a frame."""
    return sum(map(len, frame)) if isinstance(frame, list) else len(frame)


class Outbox:
    """The frames of one connection.

    Attributes:
        sent: the number of the last frame that has left as a whole.
        size: bytes that are written and have not left.
    """

    __slots__ = ("_begun", "_frames", "_in_pieces", "sent", "size")

    def __init__(self) -> None:
        self.sent = 0
        self.size = 0
        # Made on first use: most connections never need it, and it is large.
        self._frames: deque[Kept] | None = None
        # Whether a part of the first frame has left; what is kept of it is the rest.
        self._begun = False
        # Whether any frame may be a list of pieces.
        self._in_pieces = False

    def __bool__(self) -> bool:
        return bool(self._frames)

    @property
    def written(self) -> int:
        """The number of the frame that was written last."""
        return self.sent + len(self._frames or ())

    @property
    def between_frames(self) -> bool:
        """Whether the last byte that left was the last one of its frame."""
        return not self._begun

    def add(self, frame: Frame) -> int:
        """Keep a frame, and return its number."""
        if self._frames is None:
            self._frames = deque()
        if isinstance(frame, list):
            self._in_pieces = True
        self._frames.append(frame)
        self.size += size_of(frame)
        return self.sent + len(self._frames)

    def add_begun(self, rest: memoryview) -> int:
        """Keep the rest of a frame whose beginning has left, while nothing else is kept."""
        self._begun = True
        if self._frames is None:
            self._frames = deque()
        self._frames.append(rest)
        self.size += len(rest)
        return self.sent + 1

    def chunk(self) -> list[Buffer]:
        """What to send next in one call: whole frames that make a good size, at least one."""
        assert self._frames
        if not self._in_pieces and self.size <= _CHUNK_SIZE:
            # None of them is a list.
            whole: Any = self._frames
            return [whole[0] if len(whole) == 1 else b"".join(whole)]
        buffers: list[Buffer] = []
        # Short pieces in a row are joined, long ones are sent from where they are.
        short: list[Buffer] = []
        size = 0
        for frame in self._frames:
            if size >= _CHUNK_SIZE:
                break
            for piece in frame if isinstance(frame, list) else (frame,):
                size += len(piece)
                if len(piece) < WORTH_NO_COPY:
                    short.append(piece)
                    continue
                if short:
                    buffers.append(b"".join(short))
                    short = []
                buffers.append(piece)
        if short:
            buffers.append(b"".join(short))
        return buffers

    def advance(self, count: int) -> None:
        """So many bytes of the last chunk have left."""
        frames = self._frames
        assert frames is not None
        if count == self.size:
            self.sent += len(frames)
            frames.clear()
        else:
            self.size -= count
            while frames and size_of(frames[0]) <= count:
                count -= size_of(frames.popleft())
                self.sent += 1
                self._begun = False
            if count:
                frames[0] = _rest(frames[0], count)
                self._begun = True
        if not frames:
            # An interrupted call may have left the sum wrong; here it is known.
            self.size = 0
            self._begun = self._in_pieces = False

    def take_back(self, number: int) -> bool:
        """Remove a frame of which nothing has left; False if that is too late."""
        index = number - self.sent - 1
        if index < 0 or (index == 0 and self._begun):
            return False
        # One that is not there was never kept, because nothing can be sent any more.
        if self._frames is not None and index < len(self._frames):
            frame = self._frames[index]
            self._frames[index] = b""
            self.size -= size_of(frame)
        return True

    def clear(self) -> None:
        """Drop what is left; it counts as not sent."""
        self._frames = None
        self.size = 0


def _rest(frame: Kept, count: int) -> Kept:
    """What is left of a frame behind its first `count` bytes."""
    if not isinstance(frame, list):
        return memoryview(frame)[count:]
    for index, piece in enumerate(frame):
        if count < len(piece):
            return [memoryview(piece)[count:], *frame[index + 1 :]]
        count -= len(piece)
    return b""
