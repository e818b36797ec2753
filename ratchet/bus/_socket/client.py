"""The client's side of a bus over sockets: a connection to the server, made again when it is lost.

It decides which connection a request goes on, and waits for one; what becomes of it there
is in `client_connection`, which connections there are in `connections`, and connecting in
`dial`.  A request that may have reached a server is never sent again.

Nothing that the loop keeps alive refers to the client but an open request.  So a
client that is dropped without `close()` is collected, and closes its connection.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

from gevent.hub import get_hub

from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger
from ratchet._wait import check_hub, check_may_wait, check_timeout
from ratchet.bus._core.address import Address, address_of, format_address
from ratchet.bus._core.client import ClientSide, ClientTransaction
from ratchet.bus._core.deadline import (
    deadline_after,
    in_words,
    inherited_deadline,
    request_deadline,
    time_left,
)
from ratchet.bus._core.faults import MADE_BEFORE_FORK, check_size, encode_metadata
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.side import CLOSED, INHERITED, OPEN, wait_until_done
from ratchet.bus._core.stats import Counters, Stats
from ratchet.bus._socket import wire
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.connections import CASTS_NOT_SENT, Connections
from ratchet.bus._socket.dropped import DroppedClient
from ratchet.bus._socket.input import LATE_FOR_QUIET
from ratchet.bus._socket.many import send_some
from ratchet.bus._socket.output import LATE_FOR_BUSY
from ratchet.bus._socket.transport import Socket
from ratchet.bus.codecs import Decode, Encode
from ratchet.errors import (
    BusClosed,
    BusTimeout,
    Outcome,
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class ClientBus(ClientSide[Request, Response]):
    """The client's side of a bus over sockets; see `new_client` and `connect`.

    Any number of threads may use it at once.  Leaving `with bus:` without an error
    waits until what was cast has left, and closes it.  It belongs to the OS thread
    that made it: its calls raise `WrongThread` in another one.
    """

    def __init__(
        self,
        peer: Address,
        encode: Encode[Request],
        decode: Decode[Response],
        limits: Limits,
        plain: bool,
        begin: Callable[[Connections], object],
    ) -> None:
        super().__init__()
        self._counters = Counters()
        self._peer = format_address(peer)
        self._encode = encode
        self._limits = limits
        self._plain = plain
        self._connections = Connections(self._hub, peer, decode, limits, plain, self._counters)
        begin(self._connections)

    @property
    def name(self) -> str:
        return self._peer

    def __repr__(self) -> str:
        if self._connections.life is not OPEN:
            state = self._connections.life.name.lower()
        elif self._connections.current is not None:
            state = "connected"
        else:
            state = "lost" if self._connections.dialer is None else "connecting"
            state += self._connections.failure.suffix
        in_flight = self._connections.in_flight
        return f"<ClientBus at {id(self):#x} to {self._peer}: {state}, in_flight={in_flight}>"

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
            connection = self._connections.current
            if connection is not None and (self._plain or connection.protocol.hello is not None):
                return
            if connection is None:
                self._dial_or_refuse()
                if self._connections.current is not None:
                    continue
            if not self._connections.awaiting_hello.wait("wait_connected", self, time_left(deadline)):
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
        if self._connections.life is INHERITED:
            self._check_open()
        deadline = deadline_after(timeout)
        self._connections.begin_drain()
        quiet = wait_until_done("drain", self, self._is_quiet, deadline)
        unsent = self._close()
        return quiet and not unsent and not self._connections.lost_casts

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
            if error_type is None and self._connections.life < CLOSED:
                check_hub(self._hub, self)
                deadline = deadline_after(self._limits.stall_timeout)
                wait_until_done("with", self, self._casts_are_delivered, deadline)
        finally:
            self.close()

    def __del__(self) -> None:
        # Nobody can call it any more, and no request is open.
        connections: Connections | None = getattr(self, "_connections", None)
        if connections is None or connections.life >= CLOSED or not (connections.all or connections.dialer):
            return
        try:
            DroppedClient(self._hub, connections).close_soon()
        except BaseException:
            # From here it is only printed, and nobody would come by again.
            DroppedClient(self._hub, connections).close_soon()
            raise
        warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, source=self, stacklevel=1)

    def stats(self) -> Stats:
        connections = self._connections
        return self._counters.snapshot(
            connections=len(connections.all), queued=len(connections.senders), in_flight=connections.in_flight
        )

    def _after_fork(self) -> None:
        self._connections.leave_to_parent()

    def _settle(self) -> None:
        if self._connections.life is CLOSED:
            self._connections.close()
        self._connections.settle()

    def _close(self) -> int:
        """Close, and return how many casts have not left."""
        try:
            unsent = self._connections.close()
        except BaseException:
            settle_soon(self._hub)
            raise
        if unsent:
            bus_logger.warning(CASTS_NOT_SENT, self._peer, unsent)
        return unsent

    def _casts_are_delivered(self) -> bool:
        return all(connection.casts.are_delivered for connection in self._connections.all)

    def _is_quiet(self) -> bool:
        """Whether nothing is open, and the server's side has all that was written."""
        undelivered = sum(connection.casts.look_undelivered() for connection in self._connections.all)
        return not self._connections.in_flight and not undelivered and self._casts_are_delivered()

    def _send(
        self, request: Request, flags: int, deadline: float | None, metadata: Mapping[str, str] | None
    ) -> ClientTransaction[Request, Response]:
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        parts = self._encode(request)
        if metadata is not None:
            flags |= wire.METADATA
            parts = [*(parts or [b""]), self._encode_metadata(metadata)]
        check_size(parts, self._limits.max_message, self._limits.max_parts, self._peer)
        transaction: ClientTransaction[Request, Response] | None = None
        try:
            connection = self._find_connection(deadline)
            if connection.protocol.narrow:
                connection.protocol.check_size(parts)
            if deadline is None:
                return connection.send(self, request, flags, 0, parts)
            milliseconds = self._milliseconds_until(deadline)
            if flags & wire.ONE_WAY:
                # Only how long it waited was bounded: it is over when it is sent.
                return connection.send(self, request, flags, 0, parts)
            transaction = connection.send(self, request, flags, milliseconds, parts)
            transaction.end_at(deadline)
            return transaction
        except BaseException as error:
            if transaction is not None:
                transaction.cancel()
            if not isinstance(error, Exception) or isinstance(error, (RecursionError, MemoryError)):
                settle_soon(self._hub)
            raise

    def _encode_many(self, requests: Sequence[Request], metadata: Mapping[str, str] | None) -> Sequence[Any]:
        encode, limits = self._encode, self._limits
        messages = [encode(request) for request in requests]
        if metadata is not None:
            last = self._encode_metadata(metadata)
            messages = [[*(parts or [b""]), last] for parts in messages]
        for parts in messages:
            check_size(parts, limits.max_message, limits.max_parts, self._peer)
        return messages

    def _send_some(self, many: ManyRequests) -> None:
        connection = self._find_connection(many.deadline)
        milliseconds = 0 if many.deadline is None else self._milliseconds_until(many.deadline)
        send_some(connection, self, many, milliseconds)

    def _encode_metadata(self, metadata: Mapping[str, str]) -> bytes:
        if self._plain:
            raise ValueError(f"metadata cannot be sent in the plain form: {metadata!r}")
        return encode_metadata(metadata)

    def _milliseconds_until(self, deadline: float) -> int:
        """The time of a request as it travels; refuses one that has none left."""
        left = time_left(deadline)
        if not left:
            raise BusTimeout(
                f"the time of the request was over before it could be sent to {self._peer}",
                outcome=Outcome.NOT_SENT,
            )
        return math.ceil(min(left * 1000, wire.MAX_ARG))

    def _check_open(self) -> None:
        """Refuse to go on with a bus that is closed, or about to be."""
        life = self._connections.life
        if life is INHERITED:
            raise BusClosed(f"the bus to {self._peer} {MADE_BEFORE_FORK}", outcome=Outcome.NOT_SENT)
        if life is not OPEN:
            raise BusClosed(f"the bus to {self._peer} is {life.name.lower()}", outcome=Outcome.NOT_SENT)

    def _dial_or_refuse(self) -> None:
        """See to it that a connection is being made; refuse to wait for one that will never be."""
        connections, failure = self._connections, self._connections.failure
        if connections.dialer is None:
            raise failure.lost() from failure.error
        if failure.final:
            raise failure.hopeless() from failure.error
        connections.dialer.start_at_once()

    def _find_connection(self, deadline: float | None) -> ClientConnection:
        """The connection for the next request; blocks while none takes one."""
        connection = self._connections.current
        if connection is not None:
            if self._plain and connection.useful and not len(connection):
                # It may have closed behind its last answer.
                connection.stream.input.read_now()
            else:
                connection.stream.input.catch_up(
                    LATE_FOR_BUSY if connection.protocol.open else LATE_FOR_QUIET
                )
            connection = self._connections.current
        if connection is None or connection.stream.output.writers.above_high_water or connection.is_full:
            return self._wait_for_connection(deadline)
        return connection

    def _wait_for_connection(self, deadline: float | None) -> ClientConnection:
        """Wait until there is a connection that takes a request; blocks."""
        check_may_wait("send_request")
        timeout = time_left(deadline)
        while True:
            self._check_open()
            connection = self._connections.current
            if connection is None:
                self._dial_or_refuse()
                if self._connections.current is not None:
                    continue
                if not self._connections.senders.wait("send_request", self, time_left(deadline)):
                    raise self._not_connected(timeout)
            elif connection.stream.output.writers.above_high_water or connection.is_full:
                if not connection.wait_for_room(time_left(deadline)):
                    raise BusTimeout(
                        f"{self._peer} took too little within {in_words(timeout or 0.0)}",
                        outcome=Outcome.NOT_SENT,
                    )
                # It is this thread's turn, even if others still wait.
                if connection is self._connections.current and not connection.is_full:
                    return connection
            else:
                return connection

    def _not_connected(self, timeout: float | None) -> BusTimeout:
        silent = self._connections.current is not None
        return self._connections.failure.not_connected(timeout or 0.0, silent)


def check_connected(socket: Socket) -> Address:
    """The address of a socket's peer; refuses anything but a connected stream socket."""
    if not hasattr(socket, "getpeername"):
        raise TypeError(f"new_client needs a connected socket, not {socket!r}")
    try:
        return address_of(socket.family, socket.getpeername())
    except OSError as error:
        raise ValueError(f"new_client needs a connected socket; {socket!r} is not: {error}") from error
