"""One connected socket: how it begins and ends, with a half that sends and one that receives.

It owns the transport, and is the one who closes it: when its owner says so, when all is
delivered, or when something fails.  What an exception has interrupted is completed in
`settle`.  The frames that are written are the affair of `output`, and the messages that
come that of `input`.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final

from gevent.hub import Hub, get_hub

from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.peer import Peer
from ratchet.bus._socket.input import Input
from ratchet.bus._socket.interfaces import BROKEN, CLOSED, CLOSING, OPEN, Stream, StreamOwner
from ratchet.bus._socket.output import Output
from ratchet.bus._socket.read_size import READ_SIZE
from ratchet.bus._transport.delivery import DeliveryWatch
from ratchet.bus._transport.linger import linger
from ratchet.bus._transport.tls import TlsTransport, quiet_end, refused_us
from ratchet.bus._transport.transport import Transport
from ratchet.errors import BusError, ConnectionLost

# What a peer that went away can have left behind: about what a socket's buffer takes.
_MOST_REST: Final = 8 * 1024 * 1024


class MessageStream(Stream):
    """A connected socket that carries messages.

    Attributes:
        output: the half that sends.
        input: the half that receives.
        error: why it is closed; None if by this side, or if it is open.
        left_behind: bytes that were written and that the peer's side had not got when
            the connection was closed, as far as the system tells.
    """

    __slots__ = (
        "_delivery",
        "_hub",
        "_owner",
        "_transport",
        "_wants_rest",
        "error",
        "input",
        "left_behind",
        "output",
    )

    def __init__(self, transport: Transport, limits: Limits, owner: StreamOwner, peer: Address) -> None:
        super().__init__(limits, peer)
        self._hub: Hub = get_hub()
        self._owner = owner
        self._transport = transport
        # Made on first use: most connections never need it.
        self._delivery: DeliveryWatch | None = None
        # Whether what the peer said is to be read to its end, when nothing can be sent any more.
        self._wants_rest = True
        self.error: BaseException | None = None
        self.left_behind = 0
        self.output = Output(self, owner, transport, limits)
        self.input = Input(self, owner, self.output, transport, limits)

    def __repr__(self) -> str:
        state, peer = self.state.name.lower(), format_address(self.peer)
        return f"<MessageStream at {id(self):#x} with {peer}: {state}, unsent={self.output.unsent}>"

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self.state is CLOSED

    @property
    def is_tls(self) -> bool:
        """Whether it speaks TLS."""
        return isinstance(self._transport, TlsTransport)

    def identify(self) -> Peer | None:
        """The peer, as somebody vouches for it."""
        return self._transport.identify()

    def keep_identity(self) -> None:
        """Know the peer also when the socket is closed."""
        self._transport.keep_identity()

    def open(self) -> None:
        """Begin to read.

        Not before whoever is to close it knows it: the watchers of a connection that
        nobody has would outlive its socket.
        """
        self.input.start()

    def close(self, *, reads_on: bool = False) -> None:
        """Close, but send first what is written already, and see it delivered.

        Nothing that comes from now on is wanted.  With `reads_on` it is read all the same:
        if the peer closes too, each side would wait for the other to read.
        """
        if self.state is BROKEN:
            self.abort(ConnectionLost("nothing more can be sent"))
        if self.state is CLOSED:
            return
        if not reads_on:
            self._wants_rest = False
            self.input.pause_reading()
        self.state = CLOSING
        if self.output.is_empty:
            self._close_when_delivered()
        else:
            self.output.watch_stall()

    def catch_up(self, late: float) -> None:
        """See `Stream`."""
        self.input.catch_up_now(late)

    def read_on(self) -> None:
        """See `Stream`."""
        self.input.read_on()

    def all_sent(self) -> None:
        """See `Stream`."""
        self._close_when_delivered()

    def _close_when_delivered(self) -> None:
        """Close as soon as the peer's side has all.

        A socket that is closed while something from the peer is unread resets the
        connection, and what is still on its way is lost.
        """
        if self.input.ended:
            self.abort()
            return
        if self._delivery is None:
            self._delivery = DeliveryWatch(self._hub, self._transport, self._close_delivered)
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
        self._owner.socket_closing()
        self.left_behind = self.output.undelivered
        if error is None and not self.input.ended and self.left_behind > self.output.unsent:
            try:
                linger(self._hub, self._transport, on_undelivered)
            except OSError:
                # The system is out of descriptors: what is on its way may be lost.
                if on_undelivered is not None:
                    self._hub.loop.run_callback(on_undelivered)
        self.abandon()
        self.output.writers.wake_soon()
        self._owner.connection_lost(error)

    def abandon(self) -> None:
        """Give the system back what it lent; tells nobody, and sends nothing."""
        self.state = CLOSED
        if self._delivery is not None:
            self._delivery.close()
        # Their watchers go before what they watch.
        self.input.abandon()
        self.output.abandon()
        self._transport.close()

    def leave_to_parent(self) -> None:
        """In a forked child: as `abandon`, and who waits to write is the parent's."""
        self.output.writers.leave_to_parent()
        self.abandon()

    def send_failed(self, error: OSError) -> None:
        """See `Stream`."""
        if self.state >= BROKEN:
            # A signal handler has closed it meanwhile.
            return
        if self.state is CLOSING:
            # Nothing that comes is wanted any more.
            self._hub.loop.run_callback(self.abort, error)
        else:
            # What the peer said before it went is still to be read.
            self._hub.loop.run_callback(self._read_rest, error, _MOST_REST)
        self.state = BROKEN

    def _read_rest(self, error: OSError | BusError, most: int) -> None:
        """Hub callback: nothing can be sent any more; read what the peer said before, and close.

        Args:
            error: why.
            most: bytes that are read before it is closed all the same.
        """
        # What came before is told first, if `resume_reading` has not got that far.
        self.input.resume()
        if self.closed:
            return
        if self.input.paused:
            # The reader finds the end by itself when its owner takes more; unless somebody
            # waits to write, who may be what keeps the owner from reading.
            self.output.writers.look_for_room()
            self.output.writers.wake_soon()
            self._owner.resume_writing()
            return
        try:
            data = b""
            if self.input.watching and most > 0:
                try:
                    data = self._transport.receive(READ_SIZE)
                except OSError as failure:
                    # A word of the peer's says more than that it has gone.
                    error = failure if refused_us(failure) else error
            if not data:
                self.abort(error)
                return
            self.input.deliver(data)
        except BaseException as interrupt:
            self.lose_place(interrupt)
            raise
        if not self.closed:
            self._hub.loop.run_callback(self._read_rest, error, most - len(data))

    def lose_place(self, error: BaseException) -> None:
        """Send nothing more, and close soon: an exception struck in the middle of a system call."""
        if self.state < BROKEN:
            self.state = BROKEN
        self._hub.loop.run_callback(self.abort, ConnectionLost(f"interrupted by {type(error).__name__}"))

    def gone(self) -> None:
        """See `Stream`."""
        self.abort(ConnectionLost("the peer's machine does not answer any more"))

    def stalled(self) -> None:
        """Hub callback: the peer does not go on with what it has begun, or does not read."""
        error = ConnectionLost(f"the peer stalled for {self.limits.stall_timeout} s")
        self._owner.protocol_error(error, None)
        self.abort()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.input.settle()
        self.output.settle()
        if self.state is CLOSED:
            self.abandon()
            self.output.writers.wake_soon()
        elif self.state is BROKEN:
            interrupted = ConnectionLost("interrupted")
            if self._wants_rest:
                self._hub.loop.run_callback(self._read_rest, interrupted, _MOST_REST)
            else:
                self._hub.loop.run_callback(self.abort, interrupted)
        elif self.state is CLOSING:
            if self._delivery is not None:
                self._delivery.settle()
            if self._transport.ready:
                self.close(reads_on=self._wants_rest)
            else:
                self._close_when_delivered()

    def shake_hands(self) -> None:
        """See `Stream`."""
        try:
            self._transport.shake_hands()
        except OSError as error:
            if quiet_end(error):
                # As a health check does, which only connects.
                self.abort()
                return
            self.input.stop()
            if self.state is OPEN:
                self.state = CLOSING
            self._owner.protocol_error(ConnectionLost(f"the TLS handshake failed: {error}"), None)
            # The peer is to get the alert that says why.
            self._close_when_delivered()
            return
        if self._transport.wants_write:
            self.output.wait_until_writable()
        elif self._transport.ready:
            if not self.input.reading:
                self.input.stop()
            self.output.flush()
