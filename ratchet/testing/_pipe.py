"""One direction of an in-memory connection: bytes in flight, and bytes that have arrived.

Time passes here, and faults happen: pieces take a while, a peer that does not read closes
its window, a line breaks at a certain byte.  What is sent and not lost arrives once, and in
order.  A pipe tells its two ends what happens to them; it knows nothing of descriptors and
processes.

Three counters say where all bytes are: `sent`, `arrived`, and `taken` by the program.  The
peer's side acknowledges bytes that have arrived and fit in its buffer: at most
`receive_buffer` more than were taken.
"""

from __future__ import annotations

import enum
import errno
import os
from collections import deque
from typing import Final, Protocol

from ratchet import _clock
from ratchet._loop import Watcher
from ratchet.testing._faults import Line

# Seconds between two pieces of one send: enough to read the first one before the second arrives.
_GAP: Final = 1e-5


class Mark(enum.Enum):
    """What can be in flight besides bytes."""

    FIN = enum.auto()
    """The sender sends no more."""
    RESET = enum.auto()
    """The connection is broken."""


class PipeEnd(Protocol):
    """An end of a connection, as its pipes see it."""

    incoming: Pipe

    @property
    def takes(self) -> bool:
        """Whether it is still open; if not, whatever arrives is answered with a reset."""

    def touch(self) -> None:
        """Note that it may have become readable or writable."""

    def fail(self, number: int) -> None:
        """Break it, with this `errno`."""


class Pipe:
    """One direction of a connection, from one end to the other.

    Attributes:
        sent: bytes that the sending socket has accepted.
        arrived: those of them that have reached the other side.
        taken: those of them that were read.
        ended: whether the FIN has arrived.
    """

    __slots__ = (
        "_buffer",
        "_delivered",
        "_flights",
        "_held",
        "_last_due",
        "_line",
        "_lost",
        "_moved",
        "_planned_loss",
        "_source",
        "_target",
        "_timer",
        "arrived",
        "ended",
        "sent",
        "taken",
    )

    def __init__(self, line: Line, source: PipeEnd, target: PipeEnd) -> None:
        self._line = line
        self._source = source
        self._target = target
        self._planned_loss = line.loss()
        # What has arrived and was not taken.
        self._buffer = bytearray()
        # What is in flight, and when each piece arrives.
        self._flights: deque[tuple[float, bytes | Mark]] = deque()
        self._last_due = self._moved = 0.0
        self._timer: Watcher | None = None
        self._delivered = 0
        # Whether nothing moves for now, and whether nothing that is sent from now on will ever arrive.
        self._held = self._lost = False
        self.sent = self.arrived = self.taken = 0
        self.ended = False

    # --- for its source

    @property
    def undelivered(self) -> int:
        """Bytes that the other side has not acknowledged, those that never arrive among them."""
        return self.sent - self._delivered

    @property
    def is_writable(self) -> bool:
        """Whether there is enough room to wake the sender for, which is a third of the buffer."""
        return 3 * self._room >= self._line.faults.send_buffer

    @property
    def silence(self) -> float:
        """Seconds for which something has been in flight and nothing has arrived."""
        return self._line.now - self._moved if self._flights else 0.0

    def send(self, data: bytes) -> int:
        """Accept as many bytes as there is room for.  Raises `BlockingIOError` if there is none."""
        count = self._line.taken(min(len(data), self._room))
        if not count:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        self.sent += count
        data = data[:count]
        if self._lost:
            # The other side no longer knows the connection, and answers with a reset.
            self._source.incoming._fly(Mark.RESET)
        elif self._planned_loss is not None and self.sent >= self._planned_loss.at:
            self._put(data[: self._planned_loss.at - (self.sent - count)])
            self._break_line(self._planned_loss.reset)
        else:
            self._put(data)
        return count

    def finish(self) -> None:
        """Send a FIN behind everything in flight."""
        if not self._lost:
            self._fly(Mark.FIN)

    def reset(self) -> None:
        """Break the connection: whatever has not arrived before the reset never does."""
        if not self._lost:
            self._lost = True
            due = self._line.now + self._line.transit()
            self._stop()
            self._flights = deque(flight for flight in self._flights if flight[0] <= due)
            self._last_due = 0.0
            self._fly(Mark.RESET, due)

    def give_up(self) -> None:
        """Lose everything that is sent from now on; what is in flight still arrives."""
        self._lost = True

    # --- for its target

    @property
    def readable(self) -> bool:
        """Whether there is something to read, the end of the stream included."""
        return self._delivered > self.taken or self.at_end

    @property
    def at_end(self) -> bool:
        """Whether everything was read, and nothing more can arrive."""
        return self.ended and self.taken == self.arrived

    @property
    def unread(self) -> int:
        """Bytes that have arrived and were not read."""
        return self.arrived - self.taken

    def take(self, size: int) -> bytes:
        """Read what has arrived, up to `size` bytes."""
        count = min(size, self._delivered - self.taken)
        data = bytes(memoryview(self._buffer)[:count])
        del self._buffer[:count]
        self.taken += count
        self._acknowledge()
        return data

    # --- for the network

    def hold(self) -> None:
        """Let nothing pass for now."""
        self._held = True
        self._stop()

    def release(self) -> None:
        """Let what was held pass."""
        self._held = False
        self._moved = self._line.now
        self._start()

    def _break_line(self, reset: bool) -> None:
        """Break the line for both directions, behind what is in flight."""
        self._planned_loss = None
        # Mark both first: an end that learns of it at once gives up its outgoing pipe.
        pipes = [pipe for pipe in (self, self._source.incoming) if not pipe._lost]
        for pipe in pipes:
            pipe._lost = True
        for pipe in pipes:
            pipe._fly(Mark.RESET if reset else Mark.FIN)

    @property
    def _room(self) -> int:
        return self._line.faults.send_buffer - (0 if self._lost else self.undelivered)

    def _put(self, data: bytes) -> None:
        if data:
            first, *rest = self._line.pieces(data)
            self._fly(first)
            for piece in rest:
                self._last_due = max(self._last_due, self._line.now) + _GAP
                self._fly(piece)

    def _fly(self, what: bytes | Mark, due: float | None = None) -> None:
        """Put a piece in flight; it arrives after those before it."""
        now = self._line.now
        due = max(now + self._line.transit() if due is None else due, self._last_due)
        self._last_due = due
        if due <= now and not self._flights and not self._held:
            self._arrive(what)
            return
        if not self._flights:
            self._moved = now
        self._flights.append((due, what))
        self._start()

    def _start(self) -> None:
        """Wait for the next piece; one for each turn, or two that arrive together would be read as one."""
        if self._timer is None and self._flights and not self._held:
            timer = _clock.timer(self._line.hub, self._flights[0][0] - self._line.now, ref=False)
            timer.start(self._on_due)
            self._timer = timer

    def _stop(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _on_due(self) -> None:
        """Hub callback: a piece arrives."""
        self._stop()
        if self._flights:
            self._moved = self._line.now
            self._arrive(self._flights.popleft()[1])
            self._start()

    def _arrive(self, what: bytes | Mark) -> None:
        if what is Mark.RESET:
            self._target.fail(errno.ECONNRESET)
        elif what is Mark.FIN:
            self.ended = True
            self._target.touch()
        elif self._target.takes:
            assert isinstance(what, bytes)
            self._buffer += what
            self.arrived += len(what)
            self._acknowledge()
            self._target.touch()
        else:
            self._source.incoming.reset()

    def _acknowledge(self) -> None:
        """Tell the source what has reached this side."""
        delivered = min(self.arrived, self.taken + self._line.faults.receive_buffer)
        if delivered != self._delivered:
            self._delivered = delivered
            self._source.touch()
