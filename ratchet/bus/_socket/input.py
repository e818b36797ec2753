"""The receiving half of a connection: what has come, and when it is told.

- No greenlet per connection.  One io watcher, started once, reads in its own
  callback, so that in the steady state an exchange costs each side three system
  calls: poll, recv, send.
- Whoever wants no more for now pauses it; what the peer sends then stays in the kernel.
  Whoever only wants no more requests has what comes read by heads, up to the next one.
- An exception that strikes between a system call and its bookkeeping leaves nobody
  who knows what the peer said: the connection is closed.

It knows messages, not what they mean: the owner is told of each.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from gevent.hub import Hub, get_hub

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet._loop import loop_of
from ratchet.bus._core.address import Address
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket.interfaces import BROKEN, CLOSED, CLOSING, Stream, StreamOwner
from ratchet.bus._socket.output import Output
from ratchet.bus._socket.read_size import HEAD_READ_SIZE, READ_SIZE, next_size
from ratchet.bus._socket.stall import StallWatch
from ratchet.bus._socket.tls import refused_us
from ratchet.bus._socket.transport import Transport
from ratchet.bus._socket.wire import REQUESTS, Decoder, Message
from ratchet.errors import BusError, ConnectionLost

_READ: Final = 1  # libev's event bit
# How often in a row what has come is read before a drain: several times what a
# socket's buffer takes.
_MOST_READS: Final = 1_000
# What a peer that went away can have left behind: about what a socket's buffer takes.
MOST_REST: Final = 8 * 1024 * 1024
# Seconds from which on the hub is late for a connection that has been quiet; see
# `LATE_FOR_BUSY`.  Less than that is a race that any network has.
LATE_FOR_QUIET: Final = 0.001


class Input:
    """The messages that come on one connection.

    Attributes:
        reading: whether the owner takes messages.
        requests_paused: whether it takes none that asks for something.
        ended: whether the peer sends no more.
    """

    __slots__ = (
        "_at_request",
        "_backlog",
        "_budget",
        "_caught_up",
        "_decoder",
        "_expects_large",
        "_hub",
        "_limits",
        "_logs_frames",
        "_loop",
        "_output",
        "_owner",
        "_peer",
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
        peer: Address,
    ) -> None:
        self._stream = stream
        self._owner = owner
        self._budget = owner.budget
        self._output = output
        self._transport = transport
        self._hub: Hub = get_hub()
        self._limits = limits
        self._peer = peer
        # Looked at once: asking the logger for each frame would cost more than the frame.
        self._logs_frames = bus_logger.isEnabledFor(logging.DEBUG)
        self._decoder = Decoder(limits.max_message, limits.max_parts)
        # Messages that came while the owner wanted no more.
        self._backlog: Sequence[Message] = ()
        self.reading = True
        self.requests_paused = False
        # Whether the next that comes, or a part of it, is a request that is not wanted.
        self._at_request = False
        self.ended = False
        # Whether something is being received or delivered, and how often something was.
        self._receiving = False
        self._received = 0
        self._expects_large = False
        # When it was last read because the hub was late.
        self._caught_up = 0.0
        # Made on first use: most connections never need it.
        self._stall: StallWatch | None = None
        self._loop = loop_of(self._hub)
        self._reader = self._loop.io(transport.fileno(), _READ)

    @property
    def begun_kind(self) -> int | None:
        """The kind of the message that the peer is in the middle of, if that is known."""
        return self._decoder.kind

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
        """Take no more requests; what comes before the next one is still read and told."""
        self.requests_paused = True

    def _stop_at_request(self) -> None:
        """Leave in the kernel what is to come of a request, and what comes behind it."""
        self._at_request = True
        self._reader.stop()

    def resume_reading(self) -> None:
        """Take all again, from the next turn on; one that is closing stays as it is."""
        if not self._closing:
            self._take_all()
            self._loop.run_callback(self._resume)

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
        self._resume()
        if self.reading and self._transport.ready:
            self._on_readable()

    def read_on(self) -> None:
        """See `Receiver`."""
        if self.reading and self._stream.state is not CLOSED:
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
        if self._receiving or self._at_request:
            # By a signal handler in the middle of this; or by who sends, if the hub is late.
            return
        try:
            self._receiving = True
            try:
                if not self._transport.ready:
                    self._stream.shake_hands()
                    return
                budget = self._budget
                size = READ_SIZE
                if budget.taken >= budget.soft_limit or self.requests_paused:
                    size = self._owner.read_size
                decoder = self._decoder
                if self._expects_large or decoder.partial:
                    size, self._expects_large = next_size(
                        decoder.missing, decoder.partial, self._expects_large, size
                    )
                data = self._transport.receive(size)
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
            self._received += 1
            were_paused, messages = self.requests_paused, self._decoder.feed(data)
            self._deliver(messages)
            if were_paused and any(kind in REQUESTS for kind, *_ in messages):
                # It was so short that its head could not be read alone.
                self._stop_at_request()
            if self._decoder.partial and self._stream.state is not CLOSED:
                self._announce()
                if not self._at_request:
                    self.watch_stall()
                if self.reading and len(data) == HEAD_READ_SIZE and self._decoder.missing >= READ_SIZE:
                    self._receiving = False
                    self._on_readable()
        except BaseException as error:
            self._stream.lose_place(error)
            raise
        finally:
            self._receiving = False

    def _announce(self) -> None:
        """Tell the owner of a request before all of it is there."""
        if self._decoder.kind in REQUESTS and not self._owner.request_begun(self._decoder.size):
            self._stop_at_request()

    def _deliver(self, messages: Sequence[Message]) -> None:
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
        log_soon(bus_logger, logging.DEBUG, text, self._peer, kind, flags, id, arg, sizes)

    def _resume(self) -> None:
        """Hub callback: go on with what came while the owner wanted no more, and then read on."""
        if not self.reading or self._stream.state is CLOSED or self._receiving:
            return
        try:
            self._receiving = True
            backlog, self._backlog = self._backlog, ()
            self._deliver(backlog)
            if self.reading and self._stream.state is not CLOSED and not self._reader.active:
                if self._decoder.partial:
                    self._announce()
                if self._at_request:
                    return
                if self._decoder.partial:
                    self.watch_stall()
                self._reader.start(self._on_readable)
        except BaseException as error:
            self._stream.lose_place(error)
            raise
        finally:
            self._receiving = False

    def read_rest(self, error: OSError | BusError, most: int) -> None:
        """Hub callback: nothing can be sent any more."""
        data = b""
        # What came before is told first, if `resume_reading` has not got that far.
        self._resume()
        if self._stream.state is CLOSED:
            return
        if not self.reading or self._at_request:
            # Its owner takes no more for now, and the reader finds the end by itself; unless
            # somebody waits to write, who may be what keeps the owner from reading.
            self._output.writers.look_for_room()
            self._output.writers.wake_soon()
            self._owner.resume_writing()
            return
        try:
            if self._reader.active and most > 0:
                try:
                    data = self._transport.receive(READ_SIZE)
                except OSError as failure:
                    data = b""
                    # A word of the peer's says more than that it has gone.
                    error = failure if refused_us(failure) else error
            if not data:
                self._stream.abort(error)
                return
            self._deliver(self._decoder.feed(data))
        except BaseException as interrupt:
            self._stream.lose_place(interrupt)
            raise
        if self._stream.state is not CLOSED:
            self._loop.run_callback(self.read_rest, error, most - len(data))

    def _end_input(self) -> None:
        self._reader.stop()
        self.ended = True
        if self._decoder.partial:
            self._owner.protocol_error(ConnectionLost("the peer closed in the middle of a message"), None)
            self._stream.abort()
        else:
            self._owner.eof_received()

    def watch_stall(self) -> None:
        """The peer is in the middle of something, and has just moved on."""
        if self._stall is None:
            self._stall = StallWatch(
                self._hub, self._limits.stall_timeout, self._expects_input, self._stream.stalled
            )
        self._stall.begin()
        if self._transport.ready:
            # Not in a handshake: there the time-out is for the whole of it.
            self._stall.move()

    def _expects_input(self) -> bool:
        """Whether the peer has begun what it has to go on with; see `StallWatch`."""
        return not self._transport.ready or (self._decoder.partial and self.reading and not self._at_request)

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._receiving = False
        if self._stream.state >= BROKEN:
            return
        if self._stall is not None:
            self._stall.settle()
        if self.reading and not self.ended:
            self._loop.run_callback(self._resume)
        if not self._transport.ready and not self._closing and not self._reader.active:
            self._reader.start(self._on_readable)

    def abandon(self) -> None:
        """Give the system back what it lent, and drop what is left."""
        self._reader.close()
        if self._stall is not None:
            self._stall.close()
        self.reading = False
        self._backlog = ()
