"""One connected socket with its watchers, its decoder and its outbox.

- It knows messages, not what they mean: its owner is told of each, in the hub.
- No greenlet per connection.  One io watcher, started once, reads in its own
  callback, so that in the steady state an exchange costs each side three system
  calls: poll, recv, send.
- Writes never block.  The first one of a loop turn goes straight to the socket,
  which keeps a lone request's latency low; the others of the same turn go out
  together, in one send.
- An exception that strikes between a system call and its bookkeeping leaves nobody
  who knows how far the peer has read, or what it said: the connection is closed.
  Whatever else is interrupted, `settle` makes good.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gevent.hub import Hub, get_hub

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet._loop import Watcher, loop_of
from ratchet._wait import WaitQueue
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket.acknowledge import AcknowledgeWatch
from ratchet.bus._socket.delivery import DeliveryWatch
from ratchet.bus._socket.linger import linger
from ratchet.bus._socket.outbox import Buffer, Outbox, size_of
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._socket.transport import TlsTransport, Transport, quiet_end, refused_us
from ratchet.bus._socket.watch import Watch
from ratchet.bus._socket.wire import Decoder, Frame, Message
from ratchet.errors import BusError, ConnectionLost

_READ, _WRITE = 1, 2  # libev's event bits
_READ_SIZE: Final = 64 * 1024
# What is left of a large part is read by itself, so much of it at once.
_LARGE_READ_SIZE: Final = 1024 * 1024
# After a large message, the next head is read by itself as well.  If what follows
# is large again, it comes in one piece then and is not copied: exchanges of 1 MiB
# take less than half the time.
_HEAD_READ_SIZE: Final = 16
# How often in a row what has come is read before a drain: several times what a
# socket's buffer takes.
_MOST_READS: Final = 1_000
# What a peer that went away can have left behind: about what a socket's buffer takes.
_MOST_REST: Final = 8 * 1024 * 1024
# Seconds from which on the hub is late: what has come meanwhile is read before
# anything is written.  On a connection that has been quiet, less than the first is a
# race that any network has.  Where much goes on, the hub reads often enough.
LATE_FOR_QUIET: Final = 0.001
LATE_FOR_BUSY: Final = 0.02


class StreamOwner(ABC):
    """Callbacks of a connection, from the hub or from a thread that sends; they must not block."""

    __slots__ = ()

    @abstractmethod
    def message_received(self, message: Message) -> None:
        """A whole message has come."""

    @abstractmethod
    def eof_received(self) -> None:
        """The peer sends no more; it may still read."""

    @abstractmethod
    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        """The peer violated the format or a limit, or disconnected in the middle of a message.

        `refused` is as in `Decoder`.
        """

    @abstractmethod
    def pause_writing(self) -> None:
        """What is unsent has reached the high-water mark."""

    @abstractmethod
    def resume_writing(self) -> None:
        """What is unsent fell below the high-water mark, and `wants_resume` was set."""

    @abstractmethod
    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed; by this side if there is no `error`.

        Called again where it was interrupted.
        """


class MessageStream:
    """A connected socket that carries messages.

    Frames that are written have a number, counted from 1, so that it can be told
    afterwards which ones reached the kernel as a whole.

    Attributes:
        peer: the peer's address.
        closed: whether the socket is closed.
        error: why it is closed; None if by this side, or if it is open.
        closing: whether it closes as soon as all is delivered, or is closed.
        above_high_water: whether a writer has to wait for room, or behind those who do.
        left_behind: bytes that were written and that the peer's side had not got when
            the connection was closed, as far as the system tells.
        input_ended: whether the peer sends no more.
        reading: whether its owner takes messages.
        wants_resume: set by an owner that wants to hear once when there is room.
    """

    __slots__ = (
        "_acknowledge",
        "_backlog",
        "_broken",
        "_caught_up",
        "_decoder",
        "_delivery",
        "_expects_large",
        "_flush_scheduled",
        "_high_water",
        "_hub",
        "_input_watch",
        "_keeps_records",
        "_limits",
        "_logs_frames",
        "_loop",
        "_outbox",
        "_output_watch",
        "_owner",
        "_reader",
        "_received",
        "_receiving",
        "_run_callback",
        "_sending",
        "_tells_answers",
        "_transport",
        "_turn",
        "_writer",
        "_writers",
        "above_high_water",
        "closed",
        "closing",
        "error",
        "input_ended",
        "left_behind",
        "peer",
        "reading",
        "wants_resume",
    )

    def __init__(
        self,
        transport: Transport,
        limits: Limits,
        owner: StreamOwner,
        peer: Address,
    ) -> None:
        self._hub: Hub = get_hub()
        self._run_callback: Callable[..., object] = self._hub.loop.run_callback
        self._limits = limits
        self._high_water = limits.high_water
        # Looked at once: asking the logger for each frame would cost more than the frame.
        self._logs_frames = bus_logger.isEnabledFor(logging.DEBUG)
        self._owner = owner
        self._transport = transport
        self._decoder = Decoder(limits.max_message, limits.max_parts)
        # Messages that came while the owner wanted no more.
        self._backlog: list[Message] = []
        self.reading = True
        # Whether something is being received or delivered, and how often something was.
        self._receiving = False
        self._received = 0
        self._expects_large = False
        self._outbox = Outbox()
        # The turn of the loop in which a frame was last tried at once.
        self._turn = -1
        # When it was last read because the hub was late.
        self._caught_up = 0.0
        self._flush_scheduled = False
        self._keeps_records = isinstance(transport, TlsTransport)
        # Whether a write or a flush is in the middle of a system call.
        self._sending = False
        # Nothing can be sent any more; so it is when it is closed.
        self._broken = False
        self.closing = False
        self._writers: WaitQueue | None = None
        self._tells_answers = transport.tells_answers
        # Made on first use: most connections never need them.
        self._acknowledge: AcknowledgeWatch | None = None
        self._input_watch: StallWatch | None = None
        self._output_watch: StallWatch | None = None
        self.above_high_water = False
        self._delivery: DeliveryWatch | None = None
        self.input_ended = False
        self.wants_resume = False
        self.closed = False
        self.error: BaseException | None = None
        self.left_behind = 0
        self.peer = peer
        self._loop = loop_of(self._hub)
        self._reader = self._loop.io(transport.fileno(), _READ)
        self._writer: Watcher | None = None

    def __repr__(self) -> str:
        state = "closed" if self.closed else "closing" if self.closing else "open"
        peer = format_address(self.peer)
        return f"<MessageStream at {id(self):#x} with {peer}: {state}, unsent={self._outbox.size}>"

    def open(self) -> None:
        """Begin to read.

        Not before whoever is to close it knows it: the watchers of a connection that
        nobody has would outlive its socket.
        """
        if not self._transport.ready:
            self._watch_input()
        self._reader.start(self._on_readable)

    def write(self, frame: Frame) -> int:
        """Send a frame as soon as the socket takes it; returns its number.

        Does not block, and a failure of the socket comes to the owner.  If anything
        else is raised, the frame may have been sent or not, but not in part: a
        connection that has lost its place sends nothing more, and is closed.
        """
        outbox = self._outbox
        if self._logs_frames:
            self._log_frame(frame)
        outbox.written = number = outbox.written + 1
        if self._broken:
            return number
        busy = self._flush_scheduled
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
            count = None
            try:
                # A signal handler may write in the middle of this; its frames go behind.
                self._sending = True
                count = self._send(frame)
                if count == len(frame):
                    outbox.left_at_once(number)
                    self._sending = False
                    if self._keeps_records:
                        self._schedule_flush()
                    return number
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
                    self._broken = True
                    outbox.sent = outbox.written
                    self.lose_place(error)
                raise
        if outbox.size >= self._high_water:
            self._reach_high_water()
        return number

    def lose_place(self, error: BaseException) -> None:
        """Send nothing more, and close soon: an exception struck in the middle of a system call."""
        self._broken = True
        self._run_callback(self.abort, ConnectionLost(f"interrupted by {type(error).__name__}"))

    @property
    def _waits_until_writable(self) -> bool:
        return self._writer is not None and self._writer.active

    def _reach_high_water(self) -> None:
        self.above_high_water = True
        self._owner.pause_writing()

    def _schedule_flush(self) -> None:
        self._run_callback(self._flush_turn)
        self._flush_scheduled = True

    def _log_frame(self, frame: Frame) -> None:
        head = frame[0] if isinstance(frame, list) else frame
        text = "to %s: %d bytes, %s"
        log_soon(bus_logger, logging.DEBUG, text, self.peer, size_of(frame), head[:16].hex())

    def write_later(self, frame: bytes) -> None:
        """Send a frame together with what else is written in this turn."""
        outbox = self._outbox
        outbox.written = number = outbox.written + 1
        if self._logs_frames:
            self._log_frame(frame)
        if not self._flush_scheduled:
            self._schedule_flush()
        outbox.add(number, frame)

    def write_last(self, frame: bytes) -> None:
        """Hand the kernel what it takes at once of all that is written, and then of `frame`.

        The connection is about to be closed.
        """
        if self._broken:
            return
        self._send_outbox()
        if self._outbox.between_frames:
            self._send(frame)

    def _look_for_room(self) -> None:
        """Bring `above_high_water` up to date, after anything but a write."""
        # There will be no more room on a closed connection, and nobody to tell of it.
        gone = self.closed or self._broken
        self.above_high_water = not gone and (self._outbox.size >= self._high_water or bool(self._writers))

    @property
    def unsent(self) -> int:
        """Bytes that are written and not sent."""
        return self._outbox.size

    @property
    def begun_kind(self) -> int | None:
        """The kind of the message that the peer is in the middle of, if that is known."""
        return self._decoder.kind

    @property
    def is_tls(self) -> bool:
        """Whether it speaks TLS."""
        return self._keeps_records

    @property
    def undelivered(self) -> int:
        """Bytes that are written, and that the peer's side has not got."""
        return self._outbox.size + self._transport.undelivered()

    @property
    def sent(self) -> int:
        """The number of the last frame that was sent as a whole."""
        return self._outbox.sent

    def wait_for_room(self, call: str, timeout: float | None) -> bool:
        """Wait while too much is unsent; blocks.  False when the time is over.

        Returns at once when the connection is closed.
        """
        if not self.above_high_water:
            return True
        if self._writers is None:
            self._writers = WaitQueue()
        try:
            return self._writers.wait(call, self, timeout)
        finally:
            self._look_for_room()

    def wake_writers(self) -> None:
        """Let those who wait for room look again at whether they still want it."""
        if self._writers:
            self._run_callback(self._writers.wake_all)

    def take_back(self, number: int) -> bool:
        """Remove a frame of which nothing was sent yet; False if that is too late."""
        if self._sending:
            # By a signal handler: it may be leaving right now.
            return False
        taken = self._outbox.take_back(number)
        self._look_for_room()
        return taken

    def pause_reading(self) -> None:
        """Take no more messages, and leave what the peer sends in the kernel."""
        self.reading = False
        # A handshake goes on: its time is limited, and it takes next to no memory.
        if not self.closed and self._transport.ready:
            self._reader.stop()

    def resume_reading(self) -> None:
        """Undo `pause_reading`, from the next turn on; one that is closing stays as it is."""
        if not self.closing:
            self.reading = True
            self._run_callback(self._resume)

    def close(self) -> None:
        """Close, but send first what is written already, and see it delivered."""
        self.closing = True
        if self.closed:
            return
        # Nothing that comes from now on is wanted.
        self.pause_reading()
        if self._outbox or self._transport.wants_write:
            self._watch_output()
        else:
            self._close_when_delivered()

    def read_anyway(self) -> None:
        """Read as `read_now` does, although the owner has stopped that."""
        if not self.closing:
            self.reading = True
            self.read_now()

    def read_all(self) -> None:
        """Read all that has come, although the owner has stopped that."""
        for _ in range(_MOST_READS):
            before = self._received
            self.read_anyway()
            if self._received == before:
                return

    def read_now(self) -> None:
        """Take what has come already, and has not been told by the loop."""
        # What came before is told first, if `resume_reading` has not got that far.
        self._resume()
        if self.reading and self._transport.ready:
            self._on_readable()

    def _close_when_delivered(self) -> None:
        """Close as soon as the peer's side has all.

        A socket that is closed while something from the peer is unread resets the
        connection, and what is still on its way is lost.
        """
        if self.input_ended:
            self.abort()
            return
        if self._delivery is None:
            self._delivery = DeliveryWatch(self._hub, self._transport.undelivered, self._close_delivered)
        self._delivery.begin()

    def _close_delivered(self) -> None:
        """Hub callback: the peer's side has all."""
        with suppress(OSError):
            self._transport.discard_input()
        self.abort()

    def abort(
        self, error: BaseException | None = None, on_undelivered: Callable[[], None] | None = None
    ) -> None:
        """Close at once, and tell the owner; what is unsent is dropped.

        What the kernel has is still delivered, unless there is an `error`; if it cannot
        be, `on_undelivered` is called from the hub.
        """
        if self.closed:
            return
        self.error = error
        self.left_behind = self.undelivered
        if error is None and not self.input_ended and self.left_behind > self._outbox.size:
            linger(self._hub, self._transport, on_undelivered)
        self.abandon()
        self.wake_writers()
        self._owner.connection_lost(error)

    def abandon(self) -> None:
        """Give the system back what it lent; tells nobody, and sends nothing."""
        self.closed = self.closing = self._broken = True
        self._reader.close()
        if self._writer is not None:
            self._writer.close()
        for watch in self._watches():
            watch.close()
        self._transport.close()
        self.reading = False
        self._backlog = []
        self._outbox.clear()
        self._look_for_room()

    def _watches(self) -> list[Watch]:
        watches = (self._input_watch, self._output_watch, self._delivery, self._acknowledge)
        return [watch for watch in watches if watch is not None]

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._receiving = self._sending = False
        if self.closed:
            self.abandon()
            self.wake_writers()
            return
        if self._broken:
            self._run_callback(self._read_rest, ConnectionLost("interrupted"), _MOST_REST)
            return
        self._look_for_room()
        for watch in self._watches():
            watch.settle()
        if self.reading and not self.input_ended:
            self._run_callback(self._resume)
        if not self._transport.ready:
            if self.closing:
                self._close_when_delivered()
            elif not self._reader.active:
                self._reader.start(self._on_readable)
            return
        # Whatever was scheduled may have died; once more does no harm.
        self._schedule_flush()
        if self.closing:
            self.close()

    def catch_up(self, late: float) -> None:
        """Read what has come while the hub did not run, if it has not run for `late` seconds.

        A peer that has gone meanwhile is noticed before anything is written to it.
        """
        now = _clock.wall_time()
        if now - max(_clock.turn_time(self._loop), self._caught_up) > late:
            self._caught_up = now
            self.read_now()

    def _on_readable(self) -> None:
        """Hub callback: receive what there is, and hand the whole messages to the owner.

        A thread that sends calls it too, if the hub is late.
        """
        if self._receiving:
            # By a signal handler in the middle of this.
            return
        try:
            self._receiving = True
            try:
                if not self._transport.ready:
                    self._shake_hands()
                    return
                large = self._expects_large or self._decoder.partial
                data = self._transport.receive(self._next_size() if large else _READ_SIZE)
            except (BlockingIOError, InterruptedError):
                if self._transport.wants_write:
                    self._wait_until_writable()
                return
            except OSError as error:
                self.abort(error)
                return
            if not data:
                self._end_input()
                return
            self._received += 1
            self._deliver(self._decoder.feed(data))
            if self._decoder.partial and not self.closed:
                self._watch_input()
                if self.reading and len(data) == _HEAD_READ_SIZE and self._decoder.missing >= _READ_SIZE:
                    self._receiving = False
                    self._on_readable()
        except BaseException as error:
            self.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _next_size(self) -> int:
        """How many bytes to read at once."""
        missing = self._decoder.missing
        if missing >= _READ_SIZE:
            self._expects_large = True
            return min(missing, _LARGE_READ_SIZE)
        if self._expects_large and not self._decoder.partial:
            self._expects_large = False
            return _HEAD_READ_SIZE
        return _READ_SIZE

    def _shake_hands(self) -> None:
        try:
            self._transport.shake_hands()
        except OSError as error:
            if quiet_end(error):
                # As a health check does, which only connects.
                self.abort()
                return
            self._reader.stop()
            self.closing = True
            self._owner.protocol_error(ConnectionLost(f"the TLS handshake failed: {error}"), None)
            # The peer is to get the alert that says why.
            self._close_when_delivered()
            return
        if self._transport.wants_write:
            self._wait_until_writable()
        elif self._transport.ready:
            if not self.reading:
                self._reader.stop()
            self._flush()

    def _deliver(self, messages: list[Message]) -> None:
        on_message = self._owner.message_received
        rest = iter(messages)
        for message in rest:
            if self._logs_frames:
                self._log_message(message)
            on_message(message)
            if not self.reading:
                self._backlog = list(rest)
                return
        if self._decoder.error is not None:
            self._owner.protocol_error(self._decoder.error, self._decoder.refused)

    def _log_message(self, message: Message) -> None:
        kind, flags, id, arg, parts = message
        sizes = [len(part) for part in parts]
        text = "from %s: kind %d, flags %d, id %d, arg %d, parts of %s bytes"
        log_soon(bus_logger, logging.DEBUG, text, self.peer, kind, flags, id, arg, sizes)

    def _resume(self) -> None:
        """Hub callback: go on with what came while the owner wanted no more, and then read on."""
        if not self.reading or self.closed or self._receiving:
            return
        try:
            self._receiving = True
            backlog, self._backlog = self._backlog, []
            self._deliver(backlog)
            if self.reading and not self.closed and not self._reader.active:
                if self._decoder.partial:
                    self._watch_input()
                self._reader.start(self._on_readable)
        except BaseException as error:
            self.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _end_input(self) -> None:
        self._reader.stop()
        self.input_ended = True
        if self._decoder.partial:
            self._owner.protocol_error(ConnectionLost("the peer closed in the middle of a message"), None)
            self.abort()
        else:
            self._owner.eof_received()

    def _send(self, data: Buffer | list[Buffer]) -> int:
        """How many bytes the socket took."""
        transport = self._transport
        if not transport.ready:
            return 0
        try:
            if self._tells_answers and (self._acknowledge is None or self._acknowledge.timer is None):
                self._watch_acknowledged()
            return transport.send_buffers(data) if isinstance(data, list) else transport.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._broken = True
            # What the peer said before it went is still to be read.
            self._run_callback(self._read_rest, error, _MOST_REST)
            return 0

    def _read_rest(self, error: OSError, most: int) -> None:
        """Hub callback: nothing can be sent any more."""
        data = b""
        if not self.reading and not self.closing:
            # Its owner takes no more for now, and the reader finds the end by itself.
            self._look_for_room()
            self._owner.resume_writing()
            return
        try:
            if self._reader.active and most > 0:
                try:
                    data = self._transport.receive(_READ_SIZE)
                except OSError as failure:
                    data = b""
                    # A word of the peer's says more than that it has gone.
                    error = failure if refused_us(failure) else error
            if not data:
                self.abort(error)
                return
            self._deliver(self._decoder.feed(data))
        except BaseException as interrupt:
            self.lose_place(interrupt)
            raise
        if not self.closed:
            self._run_callback(self._read_rest, error, most - len(data))

    def _flush_turn(self) -> None:
        """Hub callback: send what was written behind the turn's first write."""
        if self._output_watch is not None:
            self._output_watch.move()
        if self._outbox:
            self.catch_up(LATE_FOR_BUSY)
        self._flush()

    def _flush(self) -> None:
        if self._broken or not self._transport.ready:
            return
        self._flush_scheduled = False
        if self._outbox:
            self._send_outbox()
            self._look_for_room()
        elif self._transport.wants_write:
            self._send(b"")
        if self._broken:
            return
        if self._outbox or self._transport.wants_write:
            self._wait_until_writable()
        elif self.closing:
            self._close_when_delivered()
            return
        while self._writers and self._outbox.size < self._high_water and not self.closed:
            self._writers.wake_next()
        if self.wants_resume and self._outbox.size < self._high_water:
            self.wants_resume = False
            self._owner.resume_writing()

    def _send_outbox(self) -> None:
        """Send as much of the outbox as the socket takes."""
        outbox = self._outbox
        if self._sending:
            # By a signal handler in the middle of this: what it wrote is sent by the other.
            return
        try:
            self._sending = True
            while outbox:
                chunk = outbox.chunk()
                size = sum(map(len, chunk))
                count = self._send(chunk if len(chunk) > 1 else chunk[0]) if size else 0
                outbox.advance(count)
                if count and self._output_watch is not None:
                    self._output_watch.move()
                if count < size:
                    break
            self._sending = False
        except BaseException as error:
            self._sending = False
            # Nobody knows how far it came.
            self._broken = True
            outbox.sent = outbox.written
            self.lose_place(error)
            raise

    def _wait_until_writable(self) -> None:
        if self._writer is None:
            self._writer = self._loop.io(self._transport.fileno(), _WRITE)
        self._writer.start(self._on_writable)
        # While it waits, this keeps writers from trying themselves.
        self._flush_scheduled = True
        if self.closing:
            self._watch_output()

    def _watch_output(self) -> None:
        """The connection is to be closed, and the peer has to read on until then."""
        if self._output_watch is None:
            self._output_watch = self._new_watch(self._expects_output)
        self._output_watch.begin()

    def _on_writable(self) -> None:
        """Hub callback."""
        assert self._writer is not None
        self._writer.stop()
        # TLS may have had to write in order to read.
        read_waits = self._transport.wants_write
        self._flush()
        if read_waits and self.reading and not self.closed:
            self._on_readable()

    def _new_watch(self, expects_move: Callable[[], bool]) -> StallWatch:
        return StallWatch(self._hub, self._limits.stall_timeout, expects_move, self._on_stall)

    def _watch_acknowledged(self) -> None:
        """Something is sent, and the peer's machine has to answer."""
        if self._acknowledge is None:
            self._acknowledge = AcknowledgeWatch(self._hub, self._transport, self._on_gone)
        self._acknowledge.begin()

    def _on_gone(self) -> None:
        """Hub callback."""
        self.abort(ConnectionLost("the peer's machine does not answer any more"))

    def _watch_input(self) -> None:
        """The peer is in the middle of something, and has just moved on."""
        if self._input_watch is None:
            self._input_watch = self._new_watch(self._expects_input)
        self._input_watch.begin()
        if self._transport.ready:
            # Not in a handshake: there the time-out is for the whole of it.
            self._input_watch.move()

    def _expects_input(self) -> bool:
        """Whether the peer has begun what it has to go on with; see `StallWatch`."""
        return not self._transport.ready or (self._decoder.partial and self.reading)

    def _expects_output(self) -> bool:
        """Whether the peer has to read on.

        While the connection stays open it may take its time: being busy is no fault.
        """
        return self.closing and (self._outbox.size > 0 or self._transport.wants_write)

    def _on_stall(self) -> None:
        """Hub callback."""
        error = ConnectionLost(f"the peer stalled for {self._limits.stall_timeout} s")
        self._owner.protocol_error(error, None)
        self.abort()
