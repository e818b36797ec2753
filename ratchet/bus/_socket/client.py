"""The client's side of a bus over sockets: a connection to the server, made again when it is lost.

It decides on which connection a request goes, and waits for one; what becomes of the
request there is `connection`'s affair, and connecting is `dialer`'s.  A request that may
have reached a server is never sent again.

Nothing that the loop keeps alive refers to the client but an open request.  So a
client that is dropped without `close()` is collected, and closes its connection.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Final, TypeVar

from gevent.hub import get_hub

from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger, log_soon
from ratchet._wait import WaitQueue, check_hub, check_may_wait, check_timeout
from ratchet.bus._core.address import Address, address_of, format_address
from ratchet.bus._core.client import ClientSide, ClientTransaction
from ratchet.bus._core.deadline import (
    deadline_after,
    in_words,
    inherited_deadline,
    request_deadline,
    time_left,
)
from ratchet.bus._core.faults import DRAINING as SERVER_DRAINS
from ratchet.bus._core.faults import check_size, encode_metadata
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.stats import Stats
from ratchet.bus._socket import wire
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.dial import Dial, Dialer
from ratchet.bus._socket.linger import note_dropped
from ratchet.bus._socket.output import LATE_FOR_BUSY
from ratchet.bus._socket.protocol import DRAINING
from ratchet.bus._socket.stream import LATE_FOR_QUIET
from ratchet.bus._socket.transport import Socket, Transport, refused_us, will_never_work
from ratchet.bus.codecs import Decode, Encode
from ratchet.errors import (
    BusClosed,
    BusError,
    BusTimeout,
    ConnectionLost,
    Outcome,
    Rejected,
    reason_of,
)

Request = TypeVar("Request")
Response = TypeVar("Response")

_NOT_SENT: Final = "casts not sent when the bus to %s was closed: %d"


class ClientBus(ClientSide[Request, Response]):
    """The client's side of a bus over sockets; see `new_client` and `connect`.

    Any number of threads may use it at once.  Leaving `with bus:` without an error
    waits until what was cast has left, and closes it.  It belongs to the OS thread
    that made it: its calls raise `WrongThread` in another one.
    """

    def __init__(
        self, peer: Address, encode: Encode[Request], decode: Decode[Response], limits: Limits, plain: bool
    ) -> None:
        super().__init__()
        self._peer = format_address(peer)
        self._encode = encode
        self._decode = decode
        self._limits = limits
        self._plain = plain
        # The connection on which requests go; others may still wait for answers.
        self._connection: ClientConnection | None = None
        self._connections: dict[ClientConnection, None] = {}
        # Those who wait to send, and those who wait for the server's hello.
        self._waiters = WaitQueue()
        self._greeters = WaitQueue()
        self._dialer: Dialer | None = None
        # Why there is no connection; and whether no further attempt can help.
        self._lost: BaseException | None = None
        self._hopeless = False
        # What has been logged of it.
        self._told: str | None = None
        self._draining = False
        # Casts that went down with a connection.
        self._lost_casts = 0

    @property
    def name(self) -> str:
        return self._peer

    def __repr__(self) -> str:
        if self._closed:
            state = "closed"
        elif self._draining:
            state = "draining"
        elif self._connection is not None:
            state = "connected"
        else:
            state = "lost" if self._dialer is None else "connecting"
            state += "" if self._lost is None else f" ({reason_of(self._lost)})"
        return f"<ClientBus at {id(self):#x} to {self._peer}: {state}, in_flight={self._in_flight_count}>"

    def send_request(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> ClientTransaction[Request, Response]:
        if timeout is None:
            return self._send(request, 0, inherited_deadline(), metadata)
        check_timeout(timeout)
        transaction = self._send(request, 0, request_deadline(timeout), metadata)
        transaction.note_timeout(timeout)
        return transaction

    def cast(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        check_timeout(timeout)
        self._send(request, wire.ONE_WAY, request_deadline(timeout), metadata)

    def wait_connected(self, timeout: float | None = None) -> None:
        check_hub(self._hub, self)
        check_timeout(timeout)
        deadline = deadline_after(timeout)
        while True:
            self._check_open()
            connection = self._connection
            if connection is not None and (self._plain or connection.protocol.hello is not None):
                return
            if connection is None:
                self._check_hope()
            if not self._greeters.wait("wait_connected", self, time_left(deadline)):
                raise self._not_connected(timeout)

    def drain(self, timeout: float | None = None) -> bool:
        """Send nothing new, wait for what is open and for what was sent to arrive, then close; blocks.

        Args:
            timeout: seconds until what is left is cut off; None for ever.

        Returns:
            Whether every request has ended, and all that was ever cast has reached the
            kernel of the server's side, as far as this side can tell.

        .. code-block:: python

            from ratchet import Ratchet, bus

            with Ratchet() as kernel, bus.listen("127.0.0.1:0") as server:
                kernel.attach_background(server.serve, lambda line: print(line.decode()))
                client = bus.connect(server.address)
                client.cast(b"one way")
                print(client.drain(timeout=5), server.drain(timeout=5))

        .. code-block:: text

            one way
            True True
        """
        check_hub(self._hub, self)
        check_timeout(timeout)
        check_may_wait("drain")
        if self._inherited:
            self._check_open()
        self._draining = True
        # What is open keeps its connection; nothing new gets one.
        self._connection = None
        if self._dialer is not None:
            self._dialer.stop()
        self._waiters_look_again()
        quiet = self._wait_until("drain", self._is_quiet, deadline_after(timeout))
        unsent = self._close()
        return quiet and not unsent and not self._lost_casts

    def close(self) -> None:
        """Close the connection at once.

        What is written is handed to the kernel, as far as it takes it at once.  Every
        thread that waits to send a request or for a response gets `BusClosed`, and
        the server is told that nobody waits any more.  Does not block.  Closing twice
        is fine.
        """
        check_hub(self._hub, self)
        self._close()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if error_type is None and not self._closed:
                check_hub(self._hub, self)
                self._wait_until(
                    "with", self._casts_are_delivered, deadline_after(self._limits.stall_timeout)
                )
        finally:
            self.close()

    def __del__(self) -> None:
        # Nobody can call it any more, and no request is open.
        if getattr(self, "_closed", True) or not (self._connections or self._dialer):
            return
        loop = self._hub.loop
        if loop is not None:
            # The last reference may go in any OS thread, so not in place.
            note_dropped(self._hub)
            loop.run_callback_threadsafe(_abort, list(self._connections), self._dialer, self._peer)
        warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, source=self, stacklevel=1)

    def stats(self) -> Stats:
        return self._counters.snapshot(
            connections=len(self._connections), queued=len(self._waiters), in_flight=self._in_flight_count
        )

    def _after_fork(self) -> None:
        self._inherited = self._closed = True
        self._waiters.clear()
        self._greeters.clear()
        if self._dialer is not None:
            self._dialer.stop()
        for connection in self._connections:
            connection.abandon()
        self._connections.clear()
        self._connection = None

    def _settle(self) -> None:
        if self._closed and not self._inherited:
            self._close_connections()
        for connection in list(self._connections):
            connection.settle()
        if self._connection is None and self._dialer is not None and not self._plain and not self._draining:
            self._dialer.start()
        self._waiters_look_again()

    @property
    def _in_flight_count(self) -> int:
        return sum(map(len, list(self._connections)))

    def _close(self) -> int:
        """Close, and return how many casts have not left."""
        try:
            unsent = self._close_connections()
        except BaseException:
            settle_soon(self._hub)
            raise
        if unsent:
            bus_logger.warning(_NOT_SENT, self._peer, unsent)
        return unsent

    def _close_connections(self) -> int:
        self._closed = True
        if self._dialer is not None:
            self._dialer.stop()
        self._waiters_look_again()
        return sum(connection.abort() for connection in list(self._connections))

    def _casts_are_delivered(self) -> bool:
        return all(connection.casts_delivered for connection in self._connections)

    def _is_quiet(self) -> bool:
        """Whether nothing is open, and the server's side has all that was written."""
        undelivered = sum(connection.look_undelivered() for connection in self._connections)
        return not self._in_flight_count and not undelivered and self._casts_are_delivered()

    def _send(
        self, request: Request, flags: int, deadline: float | None, metadata: Mapping[str, str] | None
    ) -> ClientTransaction[Request, Response]:
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        parts = self._encode(request)
        if metadata is not None:
            if self._plain:
                raise ValueError(f"metadata cannot be sent in the plain form: {metadata!r}")
            flags |= wire.METADATA
            parts = [*(parts or [b""]), encode_metadata(metadata)]
        check_size(parts, self._limits.max_message, self._limits.max_parts, self._peer)
        transaction: ClientTransaction[Request, Response] | None = None
        try:
            connection = self._connection
            if connection is not None:
                if self._plain and not len(connection):
                    # It may have closed behind its last answer.
                    connection.stream.read_now()
                else:
                    connection.stream.catch_up(LATE_FOR_BUSY if connection.protocol.open else LATE_FOR_QUIET)
                connection = self._connection
            if (
                connection is None
                or connection.stream.output.above_high_water
                or len(connection.protocol.open) >= connection.protocol.max_in_flight
            ):
                connection = self._wait_for_connection(deadline)
            if connection.protocol.narrow:
                connection.protocol.check_size(parts)
            if deadline is None:
                return connection.send(self, request, flags, 0, parts)
            left = time_left(deadline)
            if not left:
                raise BusTimeout(
                    f"the time of the request was over before it could be sent to {self._peer}",
                    outcome=Outcome.NOT_SENT,
                )
            if flags & wire.ONE_WAY:
                # Only how long it waited was bounded: it is over when it is sent.
                return connection.send(self, request, flags, 0, parts)
            arg = math.ceil(min(left * 1000, wire.MAX_ARG))
            transaction = connection.send(self, request, flags, arg, parts)
            transaction.end_at(deadline)
            return transaction
        except BaseException as error:
            if transaction is not None:
                transaction.cancel()
            if not isinstance(error, Exception) or isinstance(error, (RecursionError, MemoryError)):
                settle_soon(self._hub)
            raise

    def _check_open(self) -> None:
        """Refuse to go on with a bus that is closed, or about to be."""
        if self._inherited:
            reason = "was made before fork(), by the parent process; the child has to make its own"
            raise BusClosed(f"the bus to {self._peer} {reason}", outcome=Outcome.NOT_SENT)
        if self._closed or self._draining:
            state = "closed" if self._closed else "draining"
            raise BusClosed(f"the bus to {self._peer} is {state}", outcome=Outcome.NOT_SENT)

    def _check_hope(self) -> None:
        """Refuse to wait for a connection that will never be; see to it that one is being made."""
        if self._dialer is None:
            raise self._lost_error() from self._lost
        if self._hopeless:
            assert self._lost is not None
            outcome = Outcome.NOT_RUN if refused_us(self._lost) else Outcome.NOT_SENT
            raise ConnectionLost(
                f"cannot connect to {self._peer}: {reason_of(self._lost)}", outcome=outcome
            ) from self._lost
        self._dialer.start()

    def _wait_for_connection(self, deadline: float | None) -> ClientConnection:
        """Wait until there is a connection that takes a request; blocks."""
        check_may_wait("send_request")
        timeout = time_left(deadline)
        while True:
            self._check_open()
            connection = self._connection
            if connection is None:
                self._check_hope()
                if not self._waiters.wait("send_request", self, time_left(deadline)):
                    raise self._not_connected(timeout)
            elif connection.stream.output.above_high_water or connection.is_full:
                if not connection.wait_for_room(time_left(deadline)):
                    raise BusTimeout(
                        f"{self._peer} took too little within {in_words(timeout or 0.0)}",
                        outcome=Outcome.NOT_SENT,
                    )
                # It is this thread's turn, even if others still wait.
                if connection is self._connection and not connection.is_full:
                    return connection
            else:
                return connection

    def _not_connected(self, timeout: float | None) -> BusTimeout:
        if self._connection is not None:
            reason = ": the server lets this side connect, but does not say hello"
        else:
            reason = "" if self._lost is None else f": {reason_of(self._lost)}"
        return BusTimeout(
            f"not connected to {self._peer} within {in_words(timeout or 0.0)}{reason}",
            outcome=Outcome.NOT_SENT,
        )

    def _lost_error(self) -> BusError:
        if isinstance(self._lost, Rejected):
            return Rejected(f"{SERVER_DRAINS} ({self._peer})")
        refused = self._lost is not None and refused_us(self._lost)
        return ConnectionLost(
            f"the connection to {self._peer} was lost: {reason_of(self._lost)}",
            outcome=Outcome.NOT_RUN if refused else Outcome.NOT_SENT,
        )

    def _use(self, transport: Transport, peer: Address) -> None:
        """Send requests over this connection from now on."""
        # First, so that what waits to be sent goes out together with the hello.
        self._waiters_look_again()
        connection = None
        try:
            connection = ClientConnection(
                self, transport, peer, self._decode, self._limits, self._plain, self._counters
            )
            self._connections[connection] = None
            connection.open_connection()
            if not self._hopeless and not self._draining:
                self._connection = connection
        except BaseException:
            if connection is None:
                transport.close()
            else:
                # A connection that nobody knows would outlive its client.
                self._connections.pop(connection, None)
                connection.stream.abandon()
            raise

    def _waiters_look_again(self) -> None:
        self._run_callback(self._waiters.wake_all)
        self._run_callback(self._greeters.wake_all)

    def _keep_connected(self, dial: Dial) -> None:
        """Connect now, and again whenever the connection is lost; does not block."""
        self._dialer = Dialer(self, dial)
        self._dialer.start()

    def _on_connected(self, transport: Transport, peer: Address) -> None:
        self._use(transport, peer)

    def _on_dial_failed(self, error: Exception) -> None:
        self._note_failure(error)
        reason = reason_of(error)
        if self._is_news(reason):
            # In the dialer's own greenlet, which may block.
            bus_logger.warning("cannot connect to %s: %s; trying again", self._peer, reason)

    def _is_news(self, reason: str) -> bool:
        """Whether this reason for not getting on with the server is still to be logged."""
        news, self._told = self._told != reason, reason
        return news

    def _note_failure(self, error: BaseException | None) -> None:
        """There is no connection, and this is why."""
        if error is not None and (will_never_work(error) or refused_us(error)):
            # Those who wait are told; the dialer goes on, for who asks later.
            self._waiters_look_again()
            self._hopeless = True
        self._lost = None if error is None else error.with_traceback(None)

    def _on_hello(self, connection: ClientConnection) -> None:
        if connection in self._connections and connection.protocol.state is not DRAINING:
            self._hopeless = False
            self._told = None
            if self._connection is None and not self._draining:
                self._connection = connection
        self._waiters_look_again()

    def _on_draining(self, connection: ClientConnection) -> None:
        if connection is self._connection:
            self._connection = None
            self._lost = Rejected(SERVER_DRAINS)
            connection.stream.output.wake_writers()
            self._dial_again()

    def _on_connection_lost(
        self, connection: ClientConnection, error: BaseException | None, unsent_casts: int
    ) -> None:
        self._lost_casts += unsent_casts
        if connection.useful and self._dialer is not None:
            self._dialer.back_off = 0.0
        if connection is self._connection or (connection in self._connections and self._hopeless):
            self._connection = None
            self._note_failure(error)
            # A plain server may close after each answer, and take a connection on
            # which nothing comes for one that is in use: it gets one for a request.
            if not self._plain:
                self._dial_again()
            self._waiters_look_again()
        self._connections.pop(connection, None)

    def _dial_again(self) -> None:
        if self._dialer is not None and not self._draining:
            self._dialer.start()


def _abort(connections: list[ClientConnection], dialer: Dialer | None, peer: str) -> None:
    """Hub callback: the client was dropped."""
    if dialer is not None:
        dialer.stop()
    unsent = sum(connection.abort() for connection in connections)
    if unsent:
        log_soon(bus_logger, logging.WARNING, _NOT_SENT, peer, unsent)


def check_connected(socket: Socket) -> Address:
    """The address of a socket's peer; refuses anything but a connected stream socket."""
    if not hasattr(socket, "getpeername"):
        raise TypeError(f"new_client needs a connected socket, not {socket!r}")
    try:
        return address_of(socket.family, socket.getpeername())
    except OSError as error:
        raise ValueError(f"new_client needs a connected socket; {socket!r} is not: {error}") from error
