"""The sending half of a connection: frames that are written, and how they leave.

- Writes never block.  The first one of a loop turn goes straight to the socket,
  which keeps a lone request's latency low; the others of the same turn go out
  together, in one send.
- Frames have a number, counted from 1, so that it can be told afterwards which ones
  reached the kernel as a whole.
- An exception that strikes between a system call and its bookkeeping leaves nobody
  who knows how far it came: nothing more is sent, and the connection is closed.

Whoever has to wait until the peer reads waits in `writers`.  When the connection ends, and
what is received on it, is the affair of `stream`.
"""

from __future__ import annotations

import logging
from typing import Final

from gevent.hub import get_hub

from ratchet._log import bus_logger, log_soon
from ratchet._loop import Watcher, loop_of
from ratchet.bus._core.limits import Limits, countable
from ratchet.bus._socket import descriptor, heads, wire
from ratchet.bus._socket.interfaces import BROKEN, CLOSING, OPEN, Stream, StreamOwner
from ratchet.bus._socket.outbox import Buffer, Outbox, size_of
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._socket.wire import Frame
from ratchet.bus._socket.writers import Writers
from ratchet.bus._transport.acknowledge import AcknowledgeWatch
from ratchet.bus._transport.tls import TlsTransport
from ratchet.bus._transport.transport import Transport

_WRITE: Final = 2  # libev's event bit
# Seconds from which on the hub is late for a connection on which much goes on: what has
# come meanwhile is read before anything is written.
LATE_FOR_BUSY: Final = 0.02


class Output:
    """The frames of one connection, on their way to its socket.

    Attributes:
        writers: those who write, and wait while too much is unsent.
        logs_frames: whether messages are logged.
        outbox: those that have not left.
        flush_scheduled: whether what is written now leaves with a flush that is to come.
    """

    __slots__ = (
        "_acknowledge",
        "_direct",
        "_keeps_records",
        "_loop",
        "_owner",
        "_sending",
        "_stall",
        "_stream",
        "_tells_answers",
        "_transport",
        "_turn",
        "_writer",
        "flush_scheduled",
        "logs_frames",
        "outbox",
        "writers",
    )

    def __init__(self, stream: Stream, owner: StreamOwner, transport: Transport, limits: Limits) -> None:
        self._stream = stream
        self._owner = owner
        self._transport = transport
        self._direct = descriptor.direct(transport)
        self._loop = loop_of(get_hub())
        # Looked at once: asking the logger for each frame would cost more than the frame.
        self.logs_frames = bus_logger.isEnabledFor(logging.DEBUG)
        self.outbox = Outbox()
        self.writers = Writers(stream, owner, self.outbox, countable(limits.high_water), self._loop)
        # The turn of the loop in which a frame was last tried at once.
        self._turn = -1
        self.flush_scheduled = False
        self._keeps_records = isinstance(transport, TlsTransport)
        self._tells_answers = transport.tells_answers
        # Whether a write or a flush is in the middle of a system call.
        self._sending = False
        # Made on first use: most connections never need them.
        self._acknowledge: AcknowledgeWatch | None = None
        self._stall: StallWatch | None = None
        self._writer: Watcher | None = None

    def write(self, frame: Frame) -> int:
        """Send a frame as soon as the socket takes it; returns its number.

        Does not block, and a failure of the socket comes to the owner.  If anything
        else is raised, the frame may have been sent or not, but not in part: a
        connection that has lost its place sends nothing more, and is closed.
        """
        outbox = self.outbox
        if self.logs_frames:
            self._log_frame(frame)
        outbox.written = number = outbox.written + 1
        state = self._stream.state
        if state is not OPEN and state >= BROKEN:
            return number
        busy = self.flush_scheduled
        turn = self._loop.iteration
        if busy or self._sending or self._turn == turn or isinstance(frame, list):
            if not busy:
                # First, so that what is kept is sure to be sent.
                self._schedule_flush()
            outbox.add(number, frame)
            tries = self._turn != turn or (not busy and isinstance(frame, list))
            if tries and not self._waits_until_writable:
                self._turn = turn
                self._send_outbox()
        else:
            self._turn = turn
            self._send_at_once(number, frame)
            return number
        if outbox.size >= self.writers.high_water:
            self.writers.pause()
        return number

    def write_short(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> int:
        """Send a message of one part; as `write` does with its frame."""
        if len(body) >= heads.WORTH_NO_COPY:
            return self.write(wire.frame(kind, flags, id, arg, [body]))
        # In the pure build, no socket is direct.
        if self._direct is None or self._sending or self.logs_frames or self._stream.state is not OPEN:
            return self.write(heads.join(kind, flags, id, arg, body))
        outbox = self.outbox
        number = outbox.written + 1
        if not self.flush_scheduled:
            turn = self._loop.iteration
            if self._turn != turn:
                frame = heads.join(kind, flags, id, arg, body)
                outbox.written = number
                self._turn = turn
                self._send_at_once(number, frame)
                return number
            self._schedule_flush()
        if not outbox.add_short(number, kind, flags, id, arg, body):
            return self.write(heads.join(kind, flags, id, arg, body))
        outbox.written = number
        if outbox.size >= self.writers.high_water:
            self.writers.pause()
        return number

    def _send_at_once(self, number: int, frame: bytes) -> None:
        """Send the first frame of a turn."""
        outbox = self.outbox
        count = None
        try:
            # A signal handler may write in the middle of this; its frames go behind.
            self._sending = True
            count = self._send(frame)
            if count == len(frame):
                if number > outbox.sent:
                    outbox.sent = number
                self._sending = False
                if self._keeps_records:
                    self._schedule_flush()
                return
            self._schedule_flush()
            if count:
                outbox.add_begun(number, memoryview(frame)[count:])
            else:
                outbox.add(number, frame)
            self._sending = False
        except BaseException as error:
            # A system call that the interpreter refuses to make sends nothing.
            self._sending = False
            if count is not None or self._keeps_records or not isinstance(error, RecursionError):
                # Nobody knows how far it came.  Set here, where it takes no call.
                if self._stream.state < BROKEN:
                    self._stream.state = BROKEN
                outbox.sent = outbox.written
                self._stream.lose_place(error)
            raise
        if outbox.size >= self.writers.high_water:
            self.writers.pause()

    def send_written(self) -> None:
        """Send what `write_later` has kept without waiting for the flush, once in a turn."""
        if self._stream.state >= BROKEN:
            return
        turn = self._loop.iteration
        if self._turn != turn and not self._waits_until_writable:
            self._turn = turn
            self._send_outbox()
        if self.outbox.size >= self.writers.high_water:
            self.writers.pause()

    @property
    def _waits_until_writable(self) -> bool:
        return self._writer is not None and self._writer.active

    def _schedule_flush(self) -> None:
        self._loop.run_callback(self._flush_turn)
        self.flush_scheduled = True

    def _log_frame(self, frame: Frame) -> None:
        head = (frame[0] if isinstance(frame, list) else frame)[:16].hex()
        log_soon(bus_logger, logging.DEBUG, "to %s: %d bytes, %s", self._stream.peer, size_of(frame), head)

    def write_later(self, frame: Frame) -> int:
        """Send a frame together with what else is written in this turn; returns its number.

        Whoever writes so many that it may be too much calls `send_written` behind them.
        """
        outbox = self.outbox
        if self.logs_frames:
            self._log_frame(frame)
        outbox.written = number = outbox.written + 1
        if self._stream.state >= BROKEN:
            return number
        if not self.flush_scheduled:
            # First, so that what is kept is sure to be sent.
            self._schedule_flush()
        outbox.add(number, frame)
        return number

    def write_short_later(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> int:
        """Send a message of one part; as `write_later` does with its frame."""
        if len(body) >= heads.WORTH_NO_COPY:
            return self.write_later(wire.frame(kind, flags, id, arg, [body]))
        # As in `write_short`.
        if self._direct is None or self._sending or self.logs_frames or self._stream.state is not OPEN:
            return self.write_later(heads.join(kind, flags, id, arg, body))
        if not self.flush_scheduled:
            self._schedule_flush()
        outbox = self.outbox
        number = outbox.written + 1
        if not outbox.add_short(number, kind, flags, id, arg, body):
            return self.write_later(heads.join(kind, flags, id, arg, body))
        outbox.written = number
        return number

    def write_last(self, frame: bytes) -> None:
        """Hand the kernel what it takes at once of all that is written, and then of `frame`.

        The connection is about to be closed.
        """
        if self._stream.state >= BROKEN:
            return
        self._send_outbox()
        if frame and self.outbox.between_frames:
            self._send(frame)

    @property
    def unsent(self) -> int:
        """Bytes that are written and not sent."""
        return self.outbox.size

    @property
    def undelivered(self) -> int:
        """Bytes that are written, and that the peer's side has not got."""
        return self.outbox.size + self._transport.undelivered()

    @property
    def sent(self) -> int:
        """The number of the last frame that was sent as a whole."""
        return self.outbox.sent

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to be sent, records of TLS included."""
        return not self.outbox and not self._transport.wants_write

    def take_back(self, number: int) -> bool:
        """Remove a frame of which nothing was sent yet; False if that is too late."""
        if self._sending:
            # By a signal handler: it may be leaving right now.
            return False
        taken = self.outbox.take_back(number)
        self.writers.look_for_room()
        return taken

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._sending = False
        if self._stream.state >= BROKEN:
            return
        self.writers.look_for_room()
        if self._stall is not None:
            self._stall.settle()
        if self._acknowledge is not None:
            self._acknowledge.settle()
        if self._transport.ready:
            # Whatever was scheduled may have died; once more does no harm.
            self._schedule_flush()

    def abandon(self) -> None:
        """Give the system back what it lent, and drop what is left."""
        # First, because another file may get it.
        self._direct = None
        if self._writer is not None:
            self._writer.close()
        if self._stall is not None:
            self._stall.close()
        if self._acknowledge is not None:
            self._acknowledge.close()
        self.outbox.clear()
        self.writers.look_for_room()

    def _send(self, data: Buffer | list[Buffer]) -> int:
        """How many bytes the socket took."""
        transport = self._transport
        if not transport.ready:
            return 0
        if self._tells_answers and (self._acknowledge is None or self._acknowledge.timer is None):
            self._watch_acknowledged()
        if self._direct is not None and type(data) is bytes:
            count = descriptor.send(self._direct, data)
            if count < 0:
                self._stream.send_failed(descriptor.send_error())
            return max(count, 0)
        try:
            return transport.send_buffers(data) if isinstance(data, list) else transport.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._stream.send_failed(error)
            return 0

    def _watch_acknowledged(self) -> None:
        """Something is sent, and the peer's machine has to answer."""
        if self._acknowledge is None:
            self._acknowledge = AcknowledgeWatch(get_hub(), self._transport, self._stream.gone)
        self._acknowledge.begin()

    def _flush_turn(self) -> None:
        """Hub callback: send what was written behind the turn's first write."""
        if self._stall is not None:
            self._stall.move()
        if self.outbox:
            self._stream.catch_up(LATE_FOR_BUSY)
        self.flush()

    def flush(self) -> None:
        """Send what is left, as far as the socket takes it, and let those go on who wait for that."""
        if self._stream.state >= BROKEN or not self._transport.ready:
            return
        self.flush_scheduled = False
        if self.outbox:
            self._send_outbox()
            self.writers.look_for_room()
        elif self._transport.wants_write:
            self._send(b"")
        if self._stream.state >= BROKEN:
            return
        if not self.is_empty:
            self.wait_until_writable()
        elif self._stream.state is CLOSING:
            self._stream.all_sent()
            return
        if self.writers.line or self.writers.wants_resume:
            self.writers.let_go_on()

    def _send_outbox(self) -> None:
        """Send as much of the outbox as the socket takes."""
        outbox = self.outbox
        if self._sending:
            # By a signal handler in the middle of this: what it wrote is sent by the other.
            return
        try:
            self._sending = True
            while outbox:
                chunk = outbox.chunk()
                if not chunk:
                    # A signal handler has closed the connection meanwhile.
                    break
                size = sum(map(len, chunk))
                count = self._send(chunk if len(chunk) > 1 else chunk[0]) if size else 0
                outbox.advance(count)
                if count and self._stall is not None:
                    self._stall.move()
                if count < size:
                    break
            self._sending = False
        except BaseException as error:
            self._sending = False
            # As in `_send_at_once`.
            if self._stream.state < BROKEN:
                self._stream.state = BROKEN
            outbox.sent = outbox.written
            self._stream.lose_place(error)
            raise

    def wait_until_writable(self) -> None:
        """Go on when the socket takes more."""
        if self._writer is None:
            self._writer = self._loop.io(self._transport.fileno(), _WRITE)
        self._writer.start(self._on_writable)
        self._owner.note_unsent()
        # While it waits, this keeps writers from trying themselves.
        self.flush_scheduled = True
        if self._stream.state is CLOSING:
            self.watch_stall()

    def _on_writable(self) -> None:
        """Hub callback: the socket takes more."""
        assert self._writer is not None
        self._writer.stop()
        # TLS may have had to write in order to read.
        read_waits = self._transport.wants_write
        self.flush()
        if read_waits:
            self._stream.read_on()

    def watch_stall(self) -> None:
        """The connection is to be closed, and the peer has to read on until then."""
        if self._stall is None:
            seconds = self._stream.limits.stall_timeout
            self._stall = StallWatch(get_hub(), seconds, self._expects_output, self._stream.stalled)
        self._stall.begin()

    def peer_moved(self) -> None:
        """Something has come: a peer that closes too says its last words first, and then reads on."""
        if self._stall is not None:
            self._stall.move()

    def _expects_output(self) -> bool:
        """Whether the peer has to read on.

        While the connection stays open it may take its time: being busy is no fault.
        """
        return self._stream.state is CLOSING and not self.is_empty
