"""Frames that are written and not sent yet, in order, each with its number.

Which frames have left as a whole can be told by their numbers, and one of which
nothing has left can be taken back.

A signal handler may write in the middle of another write, or of any line here.  So
a frame is kept together with its number, what a call works on is what it found at
its beginning, and nothing is derived from how many frames there are.  A number may
then be too careful, and say that a frame has left which is about to, but never the
other way round.

This module knows no socket.
"""

from __future__ import annotations

from typing import Any, Final

from ratchet.bus._socket import heads
from ratchet.bus._socket.wire import Frame

# How much is sent in one call.  More does not help: this is about what a socket's
# buffer takes.
_CHUNK_SIZE: Final = 256 * 1024

# Buffers of batches that have left, for the next ones: an idle connection has none.
_spare: Final[list[bytearray]] = []
_MOST_SPARE: Final = 1024 * 1024

Buffer = bytes | memoryview
Kept = Buffer | list[bytes] | list[Buffer]
"""A frame, or the rest of one whose beginning has left."""


def size_of(frame: Kept) -> int:
    """The number of bytes of a frame."""
    return sum(map(len, frame)) if isinstance(frame, list) else len(frame)


class Outbox:
    """The frames of one connection.

    Attributes:
        written: the number of the frame that was written last; its owner counts it.
        sent: the number of the last frame that has left as a whole; its owner notes those
            that left at once and were never kept.
        size: bytes that are written and have not left.
    """

    __slots__ = (
        "_batch",
        "_batch_last",
        "_batch_size",
        "_begun",
        "_chunk_frames",
        "_chunk_size",
        "_frames",
        "sent",
        "size",
        "written",
    )

    def __init__(self) -> None:
        self.written = 0
        self.sent = 0
        self.size = 0
        # Made on first use: most connections never need it, and it is large.
        self._frames: list[tuple[int, Kept]] | None = None
        # The batch: frames of one part in one buffer, how many of its bytes they take, and the number
        # of the last one, before which the others are numbered.  It is empty while there are others.
        self._batch: bytearray | None = None
        self._batch_size = self._batch_last = 0
        # Whether a part of the first frame has left; what is kept of it is the rest.
        self._begun = False
        # Of the last chunk.
        self._chunk_frames = self._chunk_size = 0

    def __bool__(self) -> bool:
        return self._batch_size > 0 or bool(self._frames)

    @property
    def between_frames(self) -> bool:
        """Whether the last byte that left was the last one of its frame."""
        return not self._begun

    def add_short(self, number: int, kind: int, flags: int, id: int, arg: int, body: bytes) -> bool:
        """Keep a message of one part, together with others; False if it has to be kept as a frame.

        Only for the compiled build, where no signal handler strikes between these lines.
        """
        size = self._batch_size
        if self._frames or (size and number != self._batch_last + 1):
            return False
        if self._batch is None:
            self._batch = _spare.pop() if _spare else bytearray()
        end = heads.append(self._batch, size, kind, flags, id, arg, body)
        self._batch_size, self._batch_last = end, number
        self.size += end - size
        return True

    def _split_batch(self) -> None:
        """Keep the frames of the batch each by itself."""
        assert self._batch is not None
        batch = heads.beginning(self._batch, self._batch_size)
        frames, start = [], 0
        while start < len(batch):
            stop = start + heads.SIZE + heads.split(batch, start)[5]
            frames.append(heads.part(batch, start, stop))
            start = stop
        last = self._batch_last
        self._end_batch()
        if self._frames is None:
            self._frames = []
        self._frames.extend(zip(range(last + 1 - len(frames), last + 1), frames, strict=True))

    def _end_batch(self) -> None:
        """Keep its frames no longer."""
        self._batch_size = 0
        batch, self._batch = self._batch, None
        if batch is not None and not _spare and len(batch) <= _MOST_SPARE:
            _spare.append(batch)

    def add(self, number: int, frame: Frame) -> None:
        """Keep a frame."""
        if self._batch_size:
            self._split_batch()
        if self._frames is None:
            self._frames = []
        size = len(frame) if type(frame) is bytes else size_of(frame)
        # Too high where the next line fails, which ends when all has left; never too low.
        self.size += size
        self._frames.append((number, frame))

    def add_begun(self, number: int, rest: memoryview) -> None:
        """Keep the rest of a frame whose beginning has left, before all others."""
        if self._batch_size:
            self._split_batch()
        self._begun = True
        if self._frames is None:
            self._frames = []
        self._frames.insert(0, (number, rest))
        self.size += len(rest)

    def chunk(self) -> list[Buffer]:
        """Return what to send next in one call: whole frames that make a good size, at least one.

        Empty only if a signal handler has cleared it meanwhile.
        """
        if self._batch_size:
            assert self._batch is not None
            # How many frames these are is looked at if not all of them leave.
            self._chunk_size = -1
            return [heads.beginning(self._batch, self._batch_size)]
        # A copy, because a signal handler may add to the list meanwhile.
        frames = list(self._frames or ())
        if not frames:
            return []
        whole: list[Any] = [entry[1] for entry in frames]
        buffers: list[Buffer]
        if self.size > _CHUNK_SIZE:
            buffers = self._gather(frames)
        elif len(whole) == 1 and type(whole[0]) is memoryview:
            buffers = whole
        else:
            try:
                # To try is faster than to look at each.
                buffers = [b"".join(whole)]
            except TypeError:
                # One of them is in pieces.
                buffers = self._gather(frames)
        self._chunk_frames = len(frames)
        self._chunk_size = sum(map(len, buffers))
        return buffers

    def _gather(self, frames: list[tuple[int, Kept]]) -> list[Buffer]:
        """Take as many frames as make a good size, and remove the others from the list."""
        buffers: list[Buffer] = []
        # Short pieces in a row are joined, long ones are sent from where they are.
        short: list[Buffer] = []
        size = count = 0
        for _, frame in frames:
            if size >= _CHUNK_SIZE:
                break
            count += 1
            for piece in frame if isinstance(frame, list) else (frame,):
                size += len(piece)
                if len(piece) < heads.WORTH_NO_COPY:
                    short.append(piece)
                    continue
                if short:
                    buffers.append(b"".join(short))
                    short = []
                buffers.append(piece)
        if short:
            buffers.append(b"".join(short))
        del frames[count:]
        return buffers

    def advance(self, count: int) -> None:
        """Note that `count` bytes of the last chunk have left."""
        self.size -= count
        if self._batch_size:
            if count == self._batch_size:
                self.sent = max(self.sent, self._batch_last)
                self._end_batch()
                return
            self._split_batch()
        frames = self._frames
        assert frames is not None
        try:
            if count == self._chunk_size:
                self._end_frames(self._chunk_frames)
            else:
                whole = 0
                while whole < len(frames) and size_of(frames[whole][1]) <= count:
                    count -= size_of(frames[whole][1])
                    whole += 1
                if whole:
                    self._end_frames(whole)
                if count:
                    number, frame = frames[0]
                    frames[0] = number, _rest(frame, count)
                    self._begun = True
        except IndexError:
            # A signal handler has cleared it meanwhile.
            pass
        if not frames:
            # An interrupted call may have left the sum wrong; here it is known.
            self.size = 0

    def _end_frames(self, count: int) -> None:
        """Note that the first frames have left as a whole."""
        frames = self._frames
        assert frames is not None
        self.sent = max(self.sent, frames[count - 1][0])
        del frames[:count]
        self._begun = False

    def take_back(self, number: int) -> bool:
        """Remove a frame of which nothing has left; False if that is too late."""
        if self._batch_size:
            self._split_batch()
        index = self._index_of(number)
        if index is None:
            # One that is not there was never kept, because nothing can be sent any more.
            return number > self.sent
        if (index == 0 and self._begun) or self._frames is None:
            return False
        frame = self._frames[index][1]
        self._frames[index] = number, b""
        self.size -= size_of(frame)
        return True

    def _index_of(self, number: int) -> int | None:
        """Where a frame is in the list; None if it is not there."""
        frames = self._frames or []
        try:
            # Their numbers follow each other, unless a signal handler has written in the middle of a write.
            place = number - frames[0][0]
            if place >= 0 and frames[place][0] == number:
                return place
        except IndexError:
            pass
        # In a copy, because a signal handler may change the list meanwhile.
        for index, (kept, _) in enumerate(list(frames)):
            if kept == number:
                return index
        return None

    def clear(self) -> None:
        """Drop what is left; it counts as not sent."""
        self._end_batch()
        if self._frames is not None:
            self._frames.clear()
        self.size = 0


def _rest(frame: Kept, count: int) -> Kept:
    """The rest of a frame behind its first `count` bytes."""
    if not isinstance(frame, list):
        return memoryview(frame)[count:]
    for index, piece in enumerate(frame):
        if count < len(piece):
            return [memoryview(piece)[count:], *frame[index + 1 :]]
        count -= len(piece)
    return b""
