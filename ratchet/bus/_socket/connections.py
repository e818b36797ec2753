"""The connections of one client: the one in use, those that still have answers to come, and the next.

A connection tells what happens to it.  When it drains or is lost, another one is made
in the background, if the client connects by itself; whoever waits for it looks again at
each change.

Which connection a request goes on, and how long it waits for one, is decided in `sender`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gevent.hub import Hub

from ratchet._log import bus_logger
from ratchet._wait import WaitQueue
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.side import Life
from ratchet.bus._core.stats import Counters
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.dial import Dial, Dialer
from ratchet.bus._socket.failure import Failure
from ratchet.bus._socket.protocol import DRAINING
from ratchet.bus._socket.transport import Transport
from ratchet.bus.codecs import Decode
from ratchet.errors import reason_of

CASTS_NOT_SENT = "casts not sent when the bus to %s was closed: %d"


class Connections:
    """The connections of one client.

    Attributes:
        server: its address, for people.
        current: the one on which requests go; others may still wait for answers.
        all: those that are open.
        dialer: makes the next one; None for a client on a single socket.
        failure: why there is none.
        life: how far the client has got.
        lost_casts: casts that were lost with a connection, or may have been.
        senders: the threads that wait to send.
        awaiting_hello: those that wait for the server's hello.
    """

    __slots__ = (
        "__weakref__",
        "_counters",
        "_decode",
        "_limits",
        "_plain",
        "_run_callback",
        "all",
        "awaiting_hello",
        "current",
        "dialer",
        "failure",
        "life",
        "lost_casts",
        "senders",
        "server",
    )

    def __init__(
        self, hub: Hub, server: Address, decode: Decode[Any], limits: Limits, plain: bool, counters: Counters
    ) -> None:
        self._run_callback: Callable[..., object] = hub.loop.run_callback
        self.server = format_address(server)
        self._decode = decode
        self._limits = limits
        self._plain = plain
        self._counters = counters
        self.current: ClientConnection | None = None
        self.all: dict[ClientConnection, None] = {}
        self.dialer: Dialer | None = None
        self.failure = Failure(self.server)
        self.life = Life.OPEN
        self.lost_casts = 0
        self.senders = WaitQueue()
        self.awaiting_hello = WaitQueue()

    @property
    def in_flight(self) -> int:
        """How many requests are open."""
        return sum(map(len, list(self.all)))

    def keep_connected(self, dial: Dial, waits: bool) -> None:
        """Connect now, and again whenever the connection is lost; does not block.

        `waits` says whether `dial` may wait.
        """
        self.dialer = Dialer(self, dial, waits)
        self.dialer.start_at_once()

    def use(self, transport: Transport, peer: Address) -> None:
        """Send requests over this one from now on."""
        # First, so that what waits to be sent goes out together with the hello.
        self.wake_waiters()
        connection = None
        try:
            connection = ClientConnection(
                self, transport, peer, self._decode, self._limits, self._plain, self._counters
            )
            self.all[connection] = None
            connection.open_connection()
            if self._plain:
                # A plain server says no hello: that it lets this side connect is enough.
                self.failure.clear()
            if not self.failure.final and self.life is Life.OPEN:
                self.current = connection
        except BaseException:
            if connection is None:
                transport.close()
            else:
                # A connection that nobody knows would outlive its client.
                self.all.pop(connection, None)
                connection.stream.abandon()
            raise

    def wake_waiters(self) -> None:
        """Let those who wait look again."""
        if self.senders:
            self._run_callback(self.senders.wake_all)
        if self.awaiting_hello:
            self._run_callback(self.awaiting_hello.wake_all)

    def begin_drain(self) -> None:
        """Send nothing new.  What is open keeps its connection; nothing new gets one."""
        self.life = max(self.life, Life.DRAINING)
        self.current = None
        if self.dialer is not None:
            self.dialer.stop()
        self.wake_waiters()

    def close(self) -> int:
        """Close them all, and return how many casts have not left; also from a hub callback."""
        self.life = max(self.life, Life.CLOSED)
        if self.dialer is not None:
            self.dialer.stop()
        self.wake_waiters()
        return sum(connection.abort() for connection in list(self.all))

    def leave_to_parent(self) -> None:
        """In a forked child: they are the parent's."""
        self.life = Life.INHERITED
        self.senders.clear()
        self.awaiting_hello.clear()
        if self.dialer is not None:
            self.dialer.stop()
        for connection in self.all:
            connection.leave_to_parent()
        self.all.clear()
        self.current = None

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        for connection in list(self.all):
            connection.settle()
        if self.current is None and not self._plain:
            self._dial_again()
        self.wake_waiters()

    # See `dial.Client`.

    def on_dial_failed(self, error: Exception) -> None:
        self._note_failure(error)
        reason = reason_of(error)
        if self.failure.note_told(reason):
            # In the dialer's own greenlet, which may block.
            bus_logger.warning("cannot connect to %s: %s; trying again", self.server, reason)

    def _note_failure(self, error: BaseException | None) -> None:
        self.failure.note(error)
        if self.failure.final:
            # Those who wait are told; the dialer goes on, for who asks later.
            self.wake_waiters()

    # See `ClientConnectionOwner`.

    @property
    def closed(self) -> bool:
        return self.life >= Life.CLOSED

    def note_told(self, reason: str) -> bool:
        return self.failure.note_told(reason)

    def on_hello(self, connection: ClientConnection) -> None:
        if connection in self.all and connection.protocol.state is not DRAINING:
            self.failure.clear()
            if self.current is None and self.life is Life.OPEN:
                self.current = connection
        self.wake_waiters()

    def on_draining(self, connection: ClientConnection, reason: str) -> None:
        if connection is self.current:
            self.current = None
            self.failure.note_draining(reason)
            connection.stream.output.writers.wake_soon()
            self._dial_again()

    def on_connection_lost(
        self, connection: ClientConnection, error: BaseException | None, lost_casts: int
    ) -> None:
        self.lost_casts += lost_casts
        if connection.useful and self.dialer is not None:
            self.dialer.back_off = 0.0
        if connection is self.current or (connection in self.all and self.failure.final):
            self.current = None
            self._note_failure(error)
            # A plain server may close after each answer, and take a connection on
            # which nothing comes for one that is in use: it gets one for a request.
            if not self._plain:
                self._dial_again()
            self.wake_waiters()
        self.all.pop(connection, None)

    def _dial_again(self) -> None:
        if self.dialer is not None and self.life is Life.OPEN:
            self.dialer.start()
