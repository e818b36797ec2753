"""The connections to one server: the one in use, those that still have answers to come, and the next.

A connection reports what happens to it.  When it drains or is lost, another one is made in
the background, if the client connects by itself; those who wait for it look again at each change.

Which of several servers a request goes to is decided in `servers`, and how long it waits for
a connection in `sender`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from gevent.hub import Hub

from ratchet import _clock
from ratchet._log import bus_logger
from ratchet._wait import WaitQueue
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.retry import Retrier
from ratchet.bus._core.side import Life
from ratchet.bus._core.stats import Counters
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.protocol import DRAINING
from ratchet.bus._transport.dial import Dial, Dialer
from ratchet.bus._transport.failure import Failure
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode
from ratchet.errors import reason_of

# Seconds after which a failure counts about a third (1/e) as much, and so does the time of an answer.
_MEMORY: Final = 5.0
# The weight of the last answer in the average of how long answers take.
_LAST: Final = 0.3
# Failures that count less than this are forgotten.
_LEAST: Final = 0.01


class Waiters:
    """The threads of one client that wait for a connection, to whatever server.

    Attributes:
        senders: those that wait to send.
        awaiting_hello: those that wait for a server's hello.
        asking: the greenlet that asks where the servers are, until it is time to.
        changed: whether a connection has come or gone since this was last set to False.
        server_gone: whether a server has gone away since this was last set to False.
    """

    __slots__ = ("_run_callback", "asking", "awaiting_hello", "changed", "senders", "server_gone")

    def __init__(self, hub: Hub) -> None:
        self._run_callback: Callable[..., object] = hub.loop.run_callback
        self.senders = WaitQueue()
        self.awaiting_hello = WaitQueue()
        self.asking = WaitQueue()
        self.changed = False
        self.server_gone = False

    def note_gone(self) -> None:
        """A server has gone away, or the client itself closes: have `asking` run on."""
        self.changed = self.server_gone = True
        if self.asking:
            self._run_callback(self.asking.wake_all)

    def wake(self) -> None:
        """Let those who wait look again."""
        self.changed = True
        if self.senders:
            self._run_callback(self.senders.wake_all)
        if self.awaiting_hello:
            self._run_callback(self.awaiting_hello.wake_all)

    def clear(self) -> None:
        """Forget all who wait: they belong to the parent process."""
        self.senders.clear()
        self.awaiting_hello.clear()
        self.asking.clear()


class Connections:
    """The connections to one server, of which one is in use.

    Args:
        server: its address.
        decode: decodes a response.
        limits: the client's.
        plain: whether it speaks the plain form.
        counters: what the client counts.
        waiters: see below.
        retrier: see below.
        has_others: whether the client has other servers, with which this one is compared.

    Attributes:
        server: its address, for people.
        current: the one on which requests go; others may still wait for answers.
        all: those that are open.
        dialer: makes the next one; None for a client on a single socket.
        failure: why there is none.
        life: how far the client has got with this server.
        lost_casts: casts that were lost with a connection, or may have been.
        waiters: the threads that wait for a connection.
        retrier: takes over requests that fail, to send them again.
    """

    __slots__ = (
        "__weakref__",
        "_counters",
        "_decode",
        "_failures",
        "_failures_as_of",
        "_has_others",
        "_limits",
        "_plain",
        "_seconds",
        "_seconds_as_of",
        "all",
        "current",
        "dialer",
        "failure",
        "life",
        "lost_casts",
        "retrier",
        "server",
        "waiters",
    )

    def __init__(
        self,
        server: Address,
        decode: Decode[Any],
        limits: Limits,
        plain: bool,
        counters: Counters,
        waiters: Waiters,
        retrier: Retrier,
        has_others: bool,
    ) -> None:
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
        self.waiters = waiters
        self.retrier = retrier
        self._has_others = has_others
        # Recently failed requests, and the seconds that an answer takes; both fade.
        self._failures, self._failures_as_of = 0.0, 0.0
        self._seconds, self._seconds_as_of = 0.0, 0.0

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
        self.waiters.wake()
        connection = None
        try:
            connection = ClientConnection(
                self,
                transport,
                peer,
                self._decode,
                self._limits,
                self._plain,
                self._counters,
                self.retrier.active,
                self._has_others,
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

    def dial_at_once(self) -> None:
        """Connect, unless that is going on, in the background if it takes waiting; does not block."""
        if self.dialer is not None:
            self.dialer.start_at_once()

    @property
    def is_ready(self) -> bool:
        """Whether the server has let this side in, and takes requests."""
        return self.current is not None and (self._plain or self.current.protocol.hello is not None)

    @property
    def load(self) -> float:
        """How much the server has to do: requests in flight and failures; infinite if it takes none."""
        connection = self.current
        if connection is None or connection.is_full() or connection.stream.output.writers.above_high_water:
            return math.inf
        if not self._failures:
            return len(connection)
        faded = _fade(self._failures, self._failures_as_of)
        return len(connection) + (faded if faded > _LEAST else 0.0)

    @property
    def slowness(self) -> float:
        """The seconds that an answer takes; towards 0 when none has come for some time."""
        return _fade(self._seconds, self._seconds_as_of) if self._seconds else 0.0

    def begin_drain(self) -> None:
        """Send nothing new.  What is open keeps its connection; nothing new gets one."""
        self.life = max(self.life, Life.DRAINING)
        self.current = None
        if self.dialer is not None:
            self.dialer.stop()

    def retire(self) -> None:
        """Send nothing more to this server, and close as soon as all is answered; does not block."""
        self.begin_drain()
        for connection in list(self.all):
            connection.retire()

    def close(self) -> int:
        """Close them all, and return how many casts have not left; also from a hub callback."""
        self.life = max(self.life, Life.CLOSED)
        if self.dialer is not None:
            self.dialer.stop()
        return sum(connection.abort() for connection in list(self.all))

    def leave_to_parent(self) -> None:
        """In a forked child: they are the parent's."""
        self.life = Life.INHERITED
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

    # See `dial.Client`.

    def on_dial_failed(self, error: Exception) -> None:
        self._note_failure(error)
        self.waiters.note_gone()
        reason = reason_of(error)
        if self.failure.note_told(reason):
            # In the dialer's own greenlet, which may block.
            bus_logger.warning("cannot connect to %s: %s; trying again", self.server, reason)

    def _note_failure(self, error: BaseException | None) -> None:
        self.failure.note(error)
        if self.failure.final:
            # Those who wait are told; the dialer goes on for those who come later.
            self.waiters.wake()

    # See `ClientConnectionOwner`.

    @property
    def closed(self) -> bool:
        return self.life >= Life.CLOSED

    def note_told(self, reason: str) -> bool:
        return self.failure.note_told(reason)

    def on_failures(self, count: int) -> None:
        if self._has_others:
            now = _clock.monotonic()
            self._failures = _fade(self._failures, self._failures_as_of) + count
            self._failures_as_of = now

    def on_answer_after(self, seconds: float) -> None:
        before = self.slowness or seconds
        self._seconds = before + _LAST * (seconds - before)
        self._seconds_as_of = _clock.monotonic()

    def on_hello(self, connection: ClientConnection) -> None:
        if connection in self.all and connection.protocol.state is not DRAINING:
            self.failure.clear()
            if self.current is None and self.life is Life.OPEN:
                self.current = connection
        self.waiters.wake()

    def on_draining(self, connection: ClientConnection, reason: str) -> None:
        if connection is self.current:
            self.current = None
            self.failure.note_draining(reason)
            connection.stream.output.writers.wake_soon()
            self.waiters.note_gone()
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
            self.waiters.note_gone()
            self.waiters.wake()
        self.all.pop(connection, None)

    def _dial_again(self) -> None:
        if self.dialer is not None and self.life is Life.OPEN:
            self.dialer.start()


def _fade(value: float, as_of: float) -> float:
    """How much of a value is left by now that was set at the time `as_of`."""
    return value * math.exp((as_of - _clock.monotonic()) / _MEMORY)
