"""One connected socket to a broker: the bytes that come, and the frames that wait to leave.

What is written in one turn of the loop leaves together, in the next callback: to write never blocks.
Frames have numbers, counted from 1, so that it can be told afterwards which ones the kernel has got
as a whole.  An exception that strikes between a system call and its bookkeeping leaves nobody who
knows how far it came: then nothing more is sent, and the owner is told to close.

What the bytes mean is not known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Set
from itertools import islice
from typing import Final, Protocol, TypeAlias

from gevent.hub import Hub

from ratchet import _clock
from ratchet._loop import Watcher, loop_of
from ratchet.bus._broker.frames import Frame
from ratchet.bus._transport.acknowledge import AcknowledgeWatch
from ratchet.bus._transport.transport import Transport
from ratchet.errors import ConnectionLost

_READ, _WRITE = 1, 2  # libev's event bits
# More than one record of TLS, so that nothing is left in its buffer.
_READ_SIZE: Final = 128 * 1024
# How much is read when nothing can be sent any more, to learn why.
_LAST_READS: Final = 64
# How much is sent in one call, in bytes and in buffers; below the latter's limit of the system.
_CHUNK_SIZE: Final = 256 * 1024
_CHUNK_FRAMES: Final = 256
_CHUNK_PIECES: Final = 512
# Up to so many bytes, a copy is cheaper than a list of buffers.
_WORTH_A_COPY: Final = 64 * 1024
# Seconds from which on the hub is late, and what has come is read before anything is written.
_LATE: Final = 0.02

_Piece: TypeAlias = bytes | memoryview


class StreamOwner(Protocol):
    """Callbacks of a stream, from the hub; they must not block."""

    def bytes_received(self, data: bytes) -> None:
        """Something has come."""

    def eof_received(self) -> None:
        """The broker sends no more."""

    def writable(self) -> None:
        """What is unsent fell below the high-water mark."""

    def connection_lost(self, error: BaseException) -> None:
        """The socket is of no use any more; the owner closes it."""


class ByteStream:
    """A connected socket.

    Args:
        hub: the owner's.
        transport: the socket.
        high_water: bytes that may be unsent before `above_high_water` is true.
        owner: who is told.

    Attributes:
        written: the number of the frame that was written last.
        sent: the number of the last frame that was sent as a whole, or may have been.
        unsent: bytes that are written and not sent.
        closed: whether the socket is closed.
    """

    __slots__ = (
        "_begun",
        "_broken",
        "_flush_scheduled",
        "_frames",
        "_high_water",
        "_loop",
        "_owner",
        "_reader",
        "_receiving",
        "_sending",
        "_transport",
        "_was_above",
        "_watch",
        "_writer",
        "closed",
        "sent",
        "unsent",
        "written",
    )

    def __init__(self, hub: Hub, transport: Transport, high_water: int, owner: StreamOwner) -> None:
        self._transport = transport
        self._high_water = high_water
        self._owner = owner
        self._loop = loop_of(hub)
        self._frames: deque[tuple[int, list[_Piece]]] = deque()
        self.written = self.sent = self.unsent = 0
        # Whether a part of the first frame has left; what is kept of it is the rest.
        self._begun = False
        self._flush_scheduled = False
        # Whether it is in the middle of a system call.
        self._sending = self._receiving = False
        # Why nothing can be sent any more.
        self._broken: BaseException | None = None
        # Whether the owner waits to hear that there is room.
        self._was_above = False
        self.closed = False
        self._watch = AcknowledgeWatch(hub, transport, self._on_gone)
        self._reader: Watcher = self._loop.io(transport.fileno(), _READ)
        self._writer: Watcher = self._loop.io(transport.fileno(), _WRITE)

    @property
    def above_high_water(self) -> bool:
        """Whether a writer has to wait for room."""
        return self.unsent >= self._high_water

    def open(self) -> None:
        """Begin to read; not before whoever is to close it knows it."""
        self._reader.start(self._on_readable)

    def write(self, frame: Frame) -> int:
        """Send a frame soon; returns its number.  Does not block."""
        if not self._flush_scheduled:
            # First, so that what is kept is sure to be sent.
            self._loop.run_callback(self._flush_turn)
            self._flush_scheduled = True
        self.written = number = self.written + 1
        if not self.closed:
            pieces: list[_Piece] = [frame] if isinstance(frame, bytes) else [*frame]
            self.unsent += _size_of(pieces)
            self._frames.append((number, pieces))
            if self.unsent >= self._high_water:
                self._was_above = True
        return number

    def take_back(self, number: int, instead: bytes) -> bool:
        """Send something else in a frame's place; False if something of it has left, or may have."""
        if self._sending or number <= self.sent:
            return False
        for index, (kept, pieces) in enumerate(list(self._frames)):
            if kept == number:
                if index == 0 and self._begun:
                    return False
                self._frames[index] = number, [instead]
                self.unsent += len(instead) - _size_of(pieces)
                return True
        return False

    def drop(self, numbers: Set[int]) -> Set[int]:
        """Do not send these frames; returns those of which nothing has left, or will."""
        if self._sending:
            # A signal handler in the middle of that: nobody knows how far it is.
            return frozenset()
        kept = [self._frames[0]] if self._begun else []
        kept += [each for each in islice(self._frames, len(kept), None) if each[0] not in numbers]
        dropped = {number for number, _ in self._frames if number in numbers} - {number for number, _ in kept}
        self._frames = deque(kept)
        self.unsent = sum(_size_of(pieces) for _, pieces in kept)
        return dropped

    def read_if_late(self) -> None:
        """Read what has come while the hub did not run: the broker may have gone meanwhile."""
        if _clock.wall_time() - _clock.turn_time(self._loop) > _LATE:
            self._on_readable()

    def _flush_turn(self) -> None:
        """Hub callback: send what was written in this turn."""
        self._flush_scheduled = False
        self.flush()

    def flush(self) -> None:
        """Send as much as the socket takes; does not block."""
        if self.closed or self._sending or self._broken is not None:
            return
        try:
            self._sending = True
            try:
                self._send_all()
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as error:
                # What the broker said before it went says more.
                self._loop.run_callback(self._read_rest, error, _LAST_READS)
                self._broken = error
            self._sending = False
        except BaseException as error:
            # The kernel may have got all of them.
            self.sent = self.written
            self.lose_place(error)
            raise
        if self.closed or self._broken is not None:
            return
        waits = bool(self._frames) or self._transport.wants_write
        if waits is not self._writer.active:
            if waits:
                self._writer.start(self._on_writable)
            else:
                self._writer.stop()
        if self._was_above and not self.above_high_water:
            self._was_above = False
            self._owner.writable()

    def _send_all(self) -> None:
        if self._frames:
            self._watch.begin()
        elif self._transport.wants_write:
            self._transport.send(b"")
        while self._frames:
            pieces: list[_Piece] = []
            for _, of_frame in list(islice(self._frames, _CHUNK_FRAMES)):
                pieces += of_frame
            del pieces[_CHUNK_PIECES:]
            size = _size_of(pieces)
            while size > _CHUNK_SIZE and len(pieces) > 1:
                size -= len(pieces.pop())
            if size <= _WORTH_A_COPY:
                taken = self._transport.send(b"".join(pieces))
            else:
                taken = self._transport.send_buffers(pieces)
            self._advance(taken)
            if taken < size:
                return

    def _advance(self, count: int) -> None:
        """Note that so many bytes have left."""
        frames = self._frames
        self.unsent -= count
        while count and frames:
            number, pieces = frames[0]
            size = _size_of(pieces)
            if size > count:
                frames[0] = number, _rest(pieces, count)
                self._begun = True
                return
            self.sent = number
            frames.popleft()
            self._begun = False
            count -= size

    def _on_writable(self) -> None:
        """Hub callback: go on sending; or reading, for which TLS had to write."""
        self.flush()
        if not self.closed and not self._frames and self._transport.wants_write:
            self._on_readable()

    def _on_readable(self) -> None:
        """Hub callback: hand on what has come."""
        if self._receiving or self.closed:
            # A signal handler in the middle of this calls it, or a thread that sends.
            return
        try:
            self._receiving = True
            try:
                data = self._transport.receive(_READ_SIZE)
            except (BlockingIOError, InterruptedError):
                if self._transport.wants_write and not self._writer.active:
                    self._writer.start(self._on_writable)
                return
            except OSError as error:
                self._owner.connection_lost(error)
                return
            if data:
                self._owner.bytes_received(data)
            else:
                self._reader.stop()
                self._owner.eof_received()
        except BaseException as error:
            self.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _read_rest(self, error: BaseException, most: int) -> None:
        """Hub callback: nothing can be sent any more; read what the broker said before, a piece a turn."""
        if most and not self.closed and self._reader.active:
            self._on_readable()
            self._loop.run_callback(self._read_rest, error, most - 1)
        elif not self.closed:
            self._owner.connection_lost(error)

    def lose_place(self, error: BaseException) -> None:
        """Send nothing more, and have the owner close soon: nobody knows how far this side has come."""
        self._broken = broken = ConnectionLost(f"interrupted by {type(error).__name__}")
        self._sending = False
        self._loop.run_callback(self._owner.connection_lost, broken)

    def _on_gone(self) -> None:
        """Hub callback: the broker's machine does not answer."""
        self._owner.connection_lost(ConnectionLost("the broker's machine does not answer any more"))

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self.closed:
            self.abandon()
            return
        self._sending = self._receiving = False
        if self._broken is not None:
            self._loop.run_callback(self._owner.connection_lost, self._broken)
            return
        self._watch.settle()
        if not self._reader.active:
            self._reader.start(self._on_readable)
        self._loop.run_callback(self._flush_turn)

    def abandon(self) -> None:
        """Give the system back what it lent; sends nothing, and tells nobody."""
        self.closed = True
        self._watch.close()
        # They go before what they watch.
        self._reader.close()
        self._writer.close()
        self._transport.close()
        self._frames.clear()
        self.unsent = 0


def _size_of(pieces: list[_Piece]) -> int:
    return len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))


def _rest(pieces: list[_Piece], count: int) -> list[_Piece]:
    """What is behind the first `count` bytes."""
    for index, piece in enumerate(pieces):
        if count < len(piece):
            return [memoryview(piece)[count:], *pieces[index + 1 :]]
        count -= len(piece)
    return []
