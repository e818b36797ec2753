"""One connected socket: its beginning and end, and what is received on it.

- It knows messages, not what they mean: its owner is told of each, in the hub.
- No greenlet per connection.  One io watcher, started once, reads in its own
  callback, so that in the steady state an exchange costs each side three system
  calls: poll, recv, send.
- An exception that strikes between a system call and its bookkeeping leaves nobody
  who knows what the peer said: the connection is closed.  Whatever else is
  interrupted, `settle` makes good.

How frames are sent is the affair of `output`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from gevent.hub import Hub, get_hub

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet._loop import loop_of
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket.delivery import DeliveryWatch
from ratchet.bus._socket.linger import linger
from ratchet.bus._socket.output import BROKEN, CLOSED, CLOSING, OPEN, Output, StreamState, Writer
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._socket.transport import TlsTransport, Transport, quiet_end, refused_us
from ratchet.bus._socket.watch import Watch
from ratchet.bus._socket.wire import Decoder, Message
from ratchet.errors import BusError, ConnectionLost

_READ: Final = 1  # libev's event bit
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
# Seconds from which on the hub is late for a connection that has been quiet; see
# `LATE_FOR_BUSY`.  Less than that is a race that any network has.
LATE_FOR_QUIET: Final = 0.001


class StreamOwner(Writer, Protocol):
    """Callbacks of a connection, from the hub or from a thread that sends; they must not block."""

    def message_received(self, message: Message) -> None:
        """A whole message has come."""

    def eof_received(self) -> None:
        """The peer sends no more; it may still read."""

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        """The peer violated the format or a limit, or disconnected in the middle of a message.

        `refused` is as in `Decoder`.
        """

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed; by this side if there is no `error`.

        Called again where it was interrupted.
        """


class MessageStream:
    """A connected socket that carries messages.

    Attributes:
        output: what is sent on it.
        peer: the peer's address.
        state: how far it has got towards its end.
        error: why it is closed; None if by this side, or if it is open.
        left_behind: bytes that were written and that the peer's side had not got when
            the connection was closed, as far as the system tells.
        input_ended: whether the peer sends no more.
        reading: whether its owner takes messages.
    """

    __slots__ = (
        "_backlog",
        "_caught_up",
        "_decoder",
        "_delivery",
        "_expects_large",
        "_hub",
        "_limits",
        "_logs_frames",
        "_loop",
        "_owner",
        "_reader",
        "_received",
        "_receiving",
        "_run_callback",
        "_stall",
        "_transport",
        "error",
        "input_ended",
        "left_behind",
        "output",
        "peer",
        "reading",
        "state",
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
        # When it was last read because the hub was late.
        self._caught_up = 0.0
        # Made on first use: most connections never need them.
        self._stall: StallWatch | None = None
        self._delivery: DeliveryWatch | None = None
        self.input_ended = False
        self.state: StreamState = OPEN
        self.error: BaseException | None = None
        self.left_behind = 0
        self.peer = peer
        self.output = Output(self, owner, transport, limits, peer)
        self._loop = loop_of(self._hub)
        self._reader = self._loop.io(transport.fileno(), _READ)

    def __repr__(self) -> str:
        state, peer = self.state.name.lower(), format_address(self.peer)
        return f"<MessageStream at {id(self):#x} with {peer}: {state}, unsent={self.output.unsent}>"

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self.state is CLOSED

    @property
    def closing(self) -> bool:
        """Whether it closes as soon as all is delivered, or is closed."""
        return self.state is CLOSING or self.state is CLOSED

    @property
    def is_tls(self) -> bool:
        """Whether it speaks TLS."""
        return isinstance(self._transport, TlsTransport)

    @property
    def begun_kind(self) -> int | None:
        """The kind of the message that the peer is in the middle of, if that is known."""
        return self._decoder.kind

    def open(self) -> None:
        """Begin to read.

        Not before whoever is to close it knows it: the watchers of a connection that
        nobody has would outlive its socket.
        """
        if not self._transport.ready:
            self._watch_input()
        self._reader.start(self._on_readable)

    # The end.

    def close(self) -> None:
        """Close, but send first what is written already, and see it delivered."""
        if self.state is BROKEN:
            self.abort(ConnectionLost("nothing more can be sent"))
        if self.state is CLOSED:
            return
        self.state = CLOSING
        # Nothing that comes from now on is wanted.
        self.pause_reading()
        if self.output.is_empty:
            self._close_when_delivered()
        else:
            self.output.watch_stall()

    def all_sent(self) -> None:
        """See `output.Stream`."""
        self._close_when_delivered()

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
        if self.state is CLOSED:
            return
        self.error = error
        self.left_behind = self.output.undelivered
        if error is None and not self.input_ended and self.left_behind > self.output.unsent:
            linger(self._hub, self._transport, on_undelivered)
        self.abandon()
        self.output.wake_writers()
        self._owner.connection_lost(error)

    def abandon(self) -> None:
        """Give the system back what it lent; tells nobody, and sends nothing."""
        self.state = CLOSED
        self._reader.close()
        for watch in self._watches():
            watch.close()
        self.output.abandon()
        self._transport.close()
        self.reading = False
        self._backlog = []

    def _watches(self) -> list[Watch]:
        return [watch for watch in (self._stall, self._delivery) if watch is not None]

    def send_failed(self, error: OSError) -> None:
        """See `output.Stream`."""
        if self.state is CLOSING:
            # Nothing that comes is wanted any more.
            self._run_callback(self.abort, error)
        else:
            # What the peer said before it went is still to be read.
            self._run_callback(self._read_rest, error, _MOST_REST)
        self.state = BROKEN

    def lose_place(self, error: BaseException) -> None:
        """Send nothing more, and close soon: an exception struck in the middle of a system call."""
        if self.state < BROKEN:
            self.state = BROKEN
        self._run_callback(self.abort, ConnectionLost(f"interrupted by {type(error).__name__}"))

    def gone(self) -> None:
        """See `output.Stream`."""
        self.abort(ConnectionLost("the peer's machine does not answer any more"))

    def stalled(self) -> None:
        """Hub callback: the peer does not go on with what it has begun, or does not read."""
        error = ConnectionLost(f"the peer stalled for {self._limits.stall_timeout} s")
        self._owner.protocol_error(error, None)
        self.abort()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._receiving = False
        self.output.settle()
        if self.state is CLOSED:
            self.abandon()
            self.output.wake_writers()
            return
        if self.state is BROKEN:
            self._run_callback(self._read_rest, ConnectionLost("interrupted"), _MOST_REST)
            return
        for watch in (*self._watches(), *self.output.watches()):
            watch.settle()
        if self.reading and not self.input_ended:
            self._run_callback(self._resume)
        if self._transport.ready and self.state is CLOSING:
            self.close()
        elif self.state is CLOSING:
            self._close_when_delivered()
        elif not self._transport.ready and not self._reader.active:
            self._reader.start(self._on_readable)

    # What is received.

    def pause_reading(self) -> None:
        """Take no more messages, and leave what the peer sends in the kernel."""
        self.reading = False
        # A handshake goes on: its time is limited, and it takes next to no memory.
        if self.state is not CLOSED and self._transport.ready:
            self._reader.stop()

    def resume_reading(self) -> None:
        """Undo `pause_reading`, from the next turn on; one that is closing stays as it is."""
        if not self.closing:
            self.reading = True
            self._run_callback(self._resume)

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

    def read_on(self) -> None:
        """See `output.Stream`."""
        if self.reading and self.state is not CLOSED:
            self._on_readable()

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
                    self.output.wait_until_writable()
                return
            except OSError as error:
                self.abort(error)
                return
            if not data:
                self._end_input()
                return
            self._received += 1
            self._deliver(self._decoder.feed(data))
            if self._decoder.partial and self.state is not CLOSED:
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
            if self.state is OPEN:
                self.state = CLOSING
            self._owner.protocol_error(ConnectionLost(f"the TLS handshake failed: {error}"), None)
            # The peer is to get the alert that says why.
            self._close_when_delivered()
            return
        if self._transport.wants_write:
            self.output.wait_until_writable()
        elif self._transport.ready:
            if not self.reading:
                self._reader.stop()
            self.output.flush()

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
        if not self.reading or self.state is CLOSED or self._receiving:
            return
        try:
            self._receiving = True
            backlog, self._backlog = self._backlog, []
            self._deliver(backlog)
            if self.reading and self.state is not CLOSED and not self._reader.active:
                if self._decoder.partial:
                    self._watch_input()
                self._reader.start(self._on_readable)
        except BaseException as error:
            self.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _read_rest(self, error: OSError | BusError, most: int) -> None:
        """Hub callback: nothing can be sent any more."""
        data = b""
        if self.state is CLOSED:
            return
        if not self.reading:
            # Its owner takes no more for now, and the reader finds the end by itself.
            self.output.look_for_room()
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
        if self.state is not CLOSED:
            self._run_callback(self._read_rest, error, most - len(data))

    def _end_input(self) -> None:
        self._reader.stop()
        self.input_ended = True
        if self._decoder.partial:
            self._owner.protocol_error(ConnectionLost("the peer closed in the middle of a message"), None)
            self.abort()
        else:
            self._owner.eof_received()

    def _watch_input(self) -> None:
        """The peer is in the middle of something, and has just moved on."""
        if self._stall is None:
            self._stall = StallWatch(self._hub, self._limits.stall_timeout, self._expects_input, self.stalled)
        self._stall.begin()
        if self._transport.ready:
            # Not in a handshake: there the time-out is for the whole of it.
            self._stall.move()

    def _expects_input(self) -> bool:
        """Whether the peer has begun what it has to go on with; see `StallWatch`."""
        return not self._transport.ready or (self._decoder.partial and self.reading)
