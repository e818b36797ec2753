"""The receiving half of a connection: what has come, and when its owner is told.

- No greenlet per connection.  One io watcher, started once, reads in its own
  callback, so that in the steady state an exchange costs each side three system
  calls: poll, recv, send.
- The owner may pause reading; what the peer sends then stays in the kernel.  Or it may
  pause requests alone: then messages are read head by head, up to the next request.
- An exception that strikes between a system call and its bookkeeping leaves nobody
  who knows what the peer said: the connection is closed.

It knows messages, not what they mean: the owner is told of each.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from gevent.hub import get_hub

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet._loop import loop_of
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import descriptor
from ratchet.bus._socket.interfaces import BROKEN, CLOSED, CLOSING, Stream, StreamOwner
from ratchet.bus._socket.large import LargePart
from ratchet.bus._socket.output import Output
from ratchet.bus._socket.read_size import HEAD_READ_SIZE, READ_SIZE, next_size
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._socket.wire import LARGE, REQUESTS, Decoder, Message, Sink
from ratchet.bus._transport.transport import Transport
from ratchet.errors import ConnectionLost

_READ: Final = 1  # libev's event bit
# How often in a row what has come is read before a drain: several times what a socket's buffer takes.
_MOST_READS: Final = 1_000
# Seconds from which on the hub is late for a connection that has been quiet; see `LATE_FOR_BUSY`.
# Less than that is a race that any network has.
LATE_FOR_QUIET: Final = 0.001


class Input(Sink):
    """The messages that come on one connection.

    Attributes:
        reading: whether the owner takes messages.
        requests_paused: whether it takes no requests.
        ended: whether the peer sends no more.
    """

    __slots__ = (
        "_at_request",
        "_backlog",
        "_budget",
        "_caught_up",
        "_decoder",
        "_direct",
        "_expects_large",
        "_large",
        "_loop",
        "_output",
        "_owner",
        "_reader",
        "_received",
        "_receiving",
        "_stall",
        "_stream",
        "_transport",
        "ended",
        "reading",
        "requests_paused",
    )

    def __init__(
        self,
        stream: Stream,
        owner: StreamOwner,
        output: Output,
        transport: Transport,
        limits: Limits,
    ) -> None:
        self._stream = stream
        self._owner = owner
        self._budget = owner.budget
        self._output = output
        self._transport = transport
        self._direct = descriptor.direct(transport)
        self._decoder = Decoder(limits.max_message, limits.max_parts)
        # Messages that came while the owner wanted no more.
        self._backlog: Sequence[Message] = ()
        self.reading = True
        self.requests_paused = False
        # Whether a request is next that the owner does not take, or the rest of one.
        self._at_request = False
        self.ended = False
        # Whether something is being received or delivered, and how often something was received.
        self._receiving, self._received = False, 0
        self._expects_large = False
        # The part that is received past the decoder, which gets it when it is whole.
        self._large: LargePart | None = None
        # When the hub, or a thread because that was late, has looked for what has come.
        self._caught_up = 0.0
        # Made on first use: most connections never need it.
        self._stall: StallWatch | None = None
        self._loop = loop_of(get_hub())
        self._reader = self._loop.io(transport.fileno(), _READ)

    @property
    def begun_kind(self) -> int | None:
        """The kind of the message that the peer is in the middle of, if that is known."""
        return self._decoder.kind

    @property
    def watching(self) -> bool:
        """Whether the loop looks for what comes."""
        return self._reader.active

    @property
    def paused(self) -> bool:
        """Whether what comes stays in the kernel: the owner takes nothing, or no request, which is next."""
        return not self.reading or self._at_request

    @property
    def _closing(self) -> bool:
        return self._stream.state is CLOSING or self._stream.state is CLOSED

    def start(self) -> None:
        """Begin to read."""
        if not self._transport.ready:
            self.watch_stall()
        self._reader.start(self._on_readable)

    def stop(self) -> None:
        """Look for nothing that comes, for now."""
        self._reader.stop()

    def pause_reading(self) -> None:
        """Take no more messages, and leave what the peer sends in the kernel."""
        self.reading = False
        # A handshake goes on: its time is limited, and it takes next to no memory.
        if self._stream.state is not CLOSED and self._transport.ready:
            self._reader.stop()

    def pause_requests(self) -> None:
        """Take no more requests; what comes before the next one is still read."""
        self.requests_paused = True

    def _stop_at_request(self) -> None:
        """Leave the rest of a request, and what comes behind it, in the kernel."""
        self._at_request = True
        self._reader.stop()

    def resume_reading(self) -> None:
        """Take everything again, from the next turn on; does nothing if it is closing."""
        if not self._closing:
            self._take_all()
            self._loop.run_callback(self.resume)

    def _take_all(self) -> None:
        self.requests_paused = self._at_request = False
        self.reading = True

    def read_anyway(self) -> None:
        """Read as `read_now` does, although the owner has stopped that."""
        if not self._closing:
            self._take_all()
            self.read_now()

    def read_all(self) -> None:
        """Read all that has come, although the owner has stopped that."""
        received = self._received
        while self._received - received < _MOST_READS:
            before = self._received, len(self._backlog)
            # Who is told may stop it again, after each message.
            self.read_anyway()
            if (self._received, len(self._backlog)) == before:
                return

    def read_now(self) -> None:
        """Take what has come already, and has not been told by the loop."""
        # What came before is told first, if `resume_reading` has not got that far.
        self.resume()
        if self.reading and self._transport.ready:
            self._on_readable()

    def read_on(self) -> None:
        """TLS had to write in order to read, and has."""
        if self.reading and self._stream.state is not CLOSED:
            self._on_readable()

    def catch_up(self, late: float) -> None:
        """Read what has come while the hub did not run, if it has not run for `late` seconds.

        A peer that has gone meanwhile is noticed before anything is written to it.
        """
        output = self._output
        if output.flush_scheduled and output.outbox.size:
            # What is written now leaves with these, and the flush does this before.
            return
        now = _clock.wall_time()
        if not 0.0 <= now - self._caught_up <= late:
            self._look_at_turn(now, late)

    def catch_up_now(self, late: float) -> None:
        """As `catch_up`, for the flush itself."""
        self._look_at_turn(_clock.wall_time(), late)

    def _look_at_turn(self, now: float, late: float) -> None:
        """Read what has come, if the hub's turn began longer ago."""
        self._caught_up = _clock.turn_time(self._loop)
        if now - self._caught_up > late:
            self._caught_up = now
            self.read_now()

    def _on_readable(self) -> None:
        """Hub callback: receive what there is, and hand the whole messages to the owner.

        A thread that sends calls it too, if the hub is late.
        """
        if self._receiving or self._at_request:
            # A signal handler in the middle of this calls it, or a thread that sends.
            return
        try:
            self._receiving = True
            try:
                if not self._transport.ready:
                    self._stream.shake_hands()
                    return
                if self._large is not None:
                    self._receive_large(self._large)
                    return
                budget = self._budget
                size = READ_SIZE
                if self.requests_paused or (budget is not None and budget.taken >= budget.soft_limit):
                    size = self._owner.read_size
                decoder = self._decoder
                expects_large = self._expects_large
                if expects_large or decoder.partial:
                    size, expects_large = next_size(decoder.missing, decoder.partial, expects_large, size)
                if self._direct is None or size > descriptor.MOST:
                    data = self._transport.receive(size)
                else:
                    received = descriptor.receive(self._direct, size)
                    if received is None:
                        return
                    data = received
            except (BlockingIOError, InterruptedError):
                if self._transport.wants_write:
                    self._output.wait_until_writable()
                return
            except OSError as error:
                self._stream.abort(error)
                return
            if not data:
                self._end_input()
                return
            # Not before: a read in which nothing has come changes nothing.
            self._expects_large = expects_large
            self._received += 1
            if self._stream.state is CLOSING:
                self._output.peer_moved()
            self._deliver_data(data)
            if decoder.partial and self._stream.state is not CLOSED:
                self._note_partial()
                if self.reading and len(data) == HEAD_READ_SIZE and decoder.missing >= READ_SIZE:
                    self._receiving = False
                    self._on_readable()
            if size < READ_SIZE:
                self._read_pending_soon()
        except BaseException as error:
            self._stream.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _receive_large(self, large: LargePart) -> None:
        """Receive more of a large part, and tell the owner if its message ends with it."""
        try:
            count = large.receive(self._direct)
        except OSError as error:
            self._stream.abort(error)
            return
        if count < 0:
            return
        if not count:
            self._end_input()
            return
        self._received += 1
        if self._stream.state is CLOSING:
            self._output.peer_moved()
        if large.is_whole:
            self._large = None
            self._expects_large = True
            self._deliver_data(large.end())
        if self._decoder.partial and self._stream.state is not CLOSED:
            self._note_partial()

    def _deliver_data(self, data: bytes) -> None:
        """Tell the owner of the messages that end in what was received."""
        decoder = self._decoder
        if not (
            decoder.partial or self.requests_paused or self._output.logs_frames or decoder.error is not None
        ):
            position = decoder.decode_short(data, 0, self)
            if position == len(data):
                return
            data = data[position:]
            if not self.reading:
                self._backlog = decoder.feed(data)
                return
        were_paused, messages = self.requests_paused, decoder.feed(data)
        self._deliver(messages)
        if were_paused and _have_request(messages):
            # It was too short for its head to be read alone.
            self._stop_at_request()

    def take(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> bool:
        """See `Sink`."""
        self._owner.short_received(kind, flags, id, arg, body)
        return self.reading

    def _read_pending_soon(self) -> None:
        """Go on with what TLS holds of a record that was read in part."""
        if self._stream.state is not CLOSED and self._transport.pending:
            self._loop.run_callback(self._read_pending)

    def _read_pending(self) -> None:
        if self._stream.state is not CLOSED and self._reader.active and self._transport.pending:
            self._on_readable()

    def _note_partial(self) -> None:
        """A part of a message is here: ask the owner, if it may be large, and see that the rest comes."""
        if self._decoder.kind in LARGE and not self._owner.message_begun(self._decoder.size):
            self._stop_at_request()
        elif not self._at_request:
            self.watch_stall()
            if self._large is None and self._direct is not None and self._decoder.missing >= READ_SIZE:
                self._begin_large()

    def _begin_large(self) -> None:
        """Receive the rest of a part past the decoder, which gives back what it has of it."""
        decoder = self._decoder
        if decoder.kind in LARGE:
            length = decoder.missing
            begun = decoder.give_back()
            self._large = LargePart(length + len(begun), begun)

    def deliver(self, data: bytes) -> None:
        """Tell the owner of what somebody else has received."""
        if self._large is not None:
            data = self._large.end() + data
            self._large = None
        self._deliver(self._decoder.feed(data))

    def _deliver(self, messages: Sequence[Message]) -> None:
        rest = iter(messages)
        for message in rest:
            if self._output.logs_frames:
                self._log_message(message)
            self._owner.message_received(message)
            if not self.reading:
                self._backlog = list(rest)
                return
        if self._decoder.error is not None:
            self._owner.protocol_error(self._decoder.error, self._decoder.refused)

    def _log_message(self, message: Message) -> None:
        kind, flags, id, arg, parts = message
        sizes = [len(part) for part in parts]
        text = "from %s: kind %d, flags %d, id %d, arg %d, parts of %s bytes"
        log_soon(bus_logger, logging.DEBUG, text, self._stream.peer, kind, flags, id, arg, sizes)

    def resume(self) -> None:
        """Hub callback: go on with what came while the owner wanted no more, and then read on."""
        if not self.reading or self._stream.state is CLOSED or self._receiving:
            return
        try:
            self._receiving = True
            backlog, self._backlog = self._backlog, ()
            self._deliver(backlog)
            if self.reading and self._stream.state is not CLOSED and not self._reader.active:
                if self._decoder.partial:
                    self._note_partial()
                if not self._at_request:
                    self._reader.start(self._on_readable)
                    self._read_pending_soon()
        except BaseException as error:
            self._stream.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _end_input(self) -> None:
        self._reader.stop()
        self.ended = True
        if self._decoder.partial:
            self._owner.protocol_error(ConnectionLost("the peer closed in the middle of a message"), None)
            self._stream.abort()
        else:
            self._owner.eof_received()

    def watch_stall(self) -> None:
        """Note that the peer is in the middle of something, and has just moved on."""
        if self._stall is None:
            seconds = self._stream.limits.stall_timeout
            self._stall = StallWatch(get_hub(), seconds, self._expects_input, self._stream.stalled)
        self._stall.begin()
        if self._transport.ready:
            # Not in a handshake: there the time-out is for the whole of it.
            self._stall.move()

    def _expects_input(self) -> bool:
        """Whether the peer has begun what it has to go on with; see `StallWatch`."""
        return not self._transport.ready or (self._decoder.partial and not self.paused)

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._receiving = False
        if self._stream.state >= BROKEN:
            return
        if self._stall is not None:
            self._stall.settle()
        if self.reading and not self.ended:
            self._loop.run_callback(self.resume)
            self._read_pending_soon()
        if not self._transport.ready and not self._closing and not self._reader.active:
            self._reader.start(self._on_readable)

    def abandon(self) -> None:
        """Give the system back what it lent, and drop what is left."""
        # First, because another file may get it.
        self._direct = None
        self._reader.close()
        if self._stall is not None:
            self._stall.close()
        self._large = None
        self.reading = False
        self._backlog = ()


def _have_request(messages: Sequence[Message]) -> bool:
    return any(message[0] in REQUESTS for message in messages)
