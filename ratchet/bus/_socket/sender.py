"""Sending a client's requests on its connections.

Each is encoded and checked in the thread that sends it, and waits until there is a connection
that takes it, but no longer than its own time-out.  What becomes of it there is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gevent.hub import get_hub

from ratchet import _native
from ratchet._interrupts import settle_soon
from ratchet._wait import check_hub, check_may_wait, check_timeout
from ratchet.bus._core.client import ClientTransaction, RequestSender
from ratchet.bus._core.deadline import in_words, inherited_deadline, request_deadline, time_left
from ratchet.bus._core.faults import MADE_BEFORE_FORK, check_size, encode_metadata
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import CAST, ENDED, IDEMPOTENT, OutgoingRequest
from ratchet.bus._core.side import INHERITED, OPEN
from ratchet.bus._socket import wire
from ratchet.bus._socket.client_connection import ClientConnection
from ratchet.bus._socket.input import LATE_FOR_QUIET
from ratchet.bus._socket.many import send_some
from ratchet.bus._socket.output import LATE_FOR_BUSY
from ratchet.bus._socket.protocol import Content
from ratchet.bus._socket.servers import Servers
from ratchet.bus.codecs import Encode, parts_of
from ratchet.errors import BusClosed, BusTimeout, Outcome


class Sender(RequestSender):
    """Sends the requests of one client."""

    __slots__ = (
        "_encode",
        "_hub",
        "_max_message",
        "_max_parts",
        "_plain",
        "_servers",
        "_takes_bytes",
        "tries",
    )

    def __init__(self, servers: Servers, encode: Encode[Any], limits: Limits, plain: bool) -> None:
        self._hub = get_hub()
        self._servers = servers
        self._encode = encode
        self._takes_bytes = encode is parts_of
        self._max_message = limits.max_message
        self._max_parts = limits.max_parts
        self._plain = plain
        # See `Resender`.
        self.tries = 0

    def send(
        self,
        owner: object,
        request: Any,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        idempotent: bool,
    ) -> ClientTransaction[Any, Any]:
        flags = IDEMPOTENT if idempotent else 0
        if timeout is None:
            return self._send(owner, request, flags, inherited_deadline(), metadata)
        check_timeout(timeout)
        transaction = self._send(owner, request, flags, request_deadline(timeout), metadata)
        transaction.note_timeout(timeout)
        return transaction

    def cast(
        self, owner: object, request: Any, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> None:
        check_timeout(timeout)
        self._send(owner, request, wire.ONE_WAY | CAST, request_deadline(timeout), metadata)

    def _send(
        self,
        owner: object,
        request: Any,
        flags: int,
        deadline: float | None,
        metadata: Mapping[str, str] | None,
    ) -> ClientTransaction[Any, Any]:
        """Send a request of `owner`, the client; blocks only while there is no room."""
        if _native.hub_here() is not self._hub:
            check_hub(self._hub, owner)
        content: Content
        if metadata is None and self._is_content(request):
            # As `_encode` does; the call takes ten times as long.
            content = request
        elif metadata is None:
            content = self._content(self._encode(request))
        else:
            flags |= wire.METADATA
            content = self._content([*(self._encode(request) or [b""]), self._encode_metadata(metadata)])
        transaction: ClientTransaction[Any, Any] | None = None
        try:
            connection = self._find_connection(owner, deadline)
            if connection.protocol.narrow:
                connection.protocol.check_size(content)
            self.tries += 1
            milliseconds = 0 if deadline is None else self._milliseconds_until(deadline)
            if flags & wire.ONE_WAY:
                # Only how long it waited was bounded: it is over when it is sent.
                return connection.send(owner, request, flags, 0, content)
            transaction = connection.send(owner, request, flags, milliseconds, content)
            if connection.retries:
                transaction.keep_to_send_again(content, flags)
            if deadline is not None:
                transaction.end_at(deadline)
            return transaction
        except BaseException as error:
            if transaction is not None:
                transaction.cancel()
            if not isinstance(error, Exception) or isinstance(error, (RecursionError, MemoryError)):
                settle_soon(self._hub)
            raise

    def encode_many(self, requests: list[Any], metadata: Mapping[str, str] | None) -> list[Any]:
        if metadata is None:
            for request in requests:
                if not self._is_content(request):
                    break
            else:
                return requests
        messages = [self._encode(request) for request in requests]
        if metadata is not None:
            last = self._encode_metadata(metadata)
            messages = [[*(parts or [b""]), last] for parts in messages]
        return [self._content(parts) for parts in messages]

    def _is_content(self, request: Any) -> bool:
        """Whether a request travels as it is."""
        return self._takes_bytes and type(request) is bytes and len(request) <= self._max_message

    def _content(self, parts: Sequence[bytes]) -> Content:
        """The content of a message with these parts; raises `MessageTooLarge` over the limits."""
        if len(parts) == 1 and len(parts[0]) <= self._max_message:
            return parts[0]
        check_size(parts, self._max_message, self._max_parts, self._servers.name)
        return parts

    def send_some(self, owner: object, many: ManyRequests) -> None:
        connection = self._find_connection(owner, many.deadline)
        milliseconds = 0 if many.deadline is None else self._milliseconds_until(many.deadline)
        begun = len(many.outcomes)
        most = self._servers.share_of(len(many.requests))
        send_some(connection, owner, many, milliseconds, most)
        self.tries += len(many.outcomes) - begun

    def send_again(self, transaction: OutgoingRequest) -> None:
        """Send a request whose last attempt has failed, unless it has ended; see `Retrier`."""
        connection = self._find_connection(self, None)
        if transaction.state not in ENDED:
            if connection.protocol.narrow:
                connection.protocol.check_size(transaction.content)
            deadline = transaction.deadline
            connection.send_again(transaction, 0 if deadline is None else self._milliseconds_until(deadline))

    def _encode_metadata(self, metadata: Mapping[str, str]) -> bytes:
        if self._plain:
            raise ValueError(f"metadata cannot be sent in the plain form: {metadata!r}")
        return encode_metadata(metadata)

    def _milliseconds_until(self, deadline: float) -> int:
        """The milliseconds that a request has left; raises `BusTimeout` if it has none."""
        left = time_left(deadline)
        if not left:
            raise BusTimeout(
                f"the time of the request was over before it could be sent to {self._servers.name}",
                outcome=Outcome.NOT_SENT,
            )
        return math.ceil(min(left * 1000, wire.MAX_ARG))

    def check_open(self) -> None:
        """Raise `BusClosed` if the bus is draining, closed or a parent process's."""
        life, server = self._servers.life, self._servers.name
        if life is INHERITED:
            raise BusClosed(f"the bus to {server} {MADE_BEFORE_FORK}", outcome=Outcome.NOT_SENT)
        if life is not OPEN:
            raise BusClosed(f"the bus to {server} is {life.name.lower()}", outcome=Outcome.NOT_SENT)

    def dial_or_refuse(self) -> None:
        """Have a connection made; raise the error of one that there will never be."""
        servers = self._servers
        if servers.only is not None and servers.only.dialer is None:
            failure = servers.only.failure
            raise failure.lost() from failure.error
        if servers.places and all(place.failure.final for place in servers.places):
            failure = servers.places[0].failure
            raise failure.hopeless() from failure.error
        servers.dial()

    def _find_connection(self, owner: object, deadline: float | None) -> ClientConnection:
        """The connection for the next request; blocks while none takes one."""
        connections = self._servers.only or self._servers.choose()
        connection = None if connections is None else connections.current
        if connections is not None and connection is not None:
            if self._plain and connection.useful and not connection.protocol.open:
                # The server may have closed after its last answer.
                connection.stream.input.read_now()
            else:
                connection.stream.input.catch_up(
                    LATE_FOR_BUSY if connection.protocol.open else LATE_FOR_QUIET
                )
            connection = connections.current
        if connection is None or connection.stream.output.writers.above_high_water or connection.is_full():
            return self._wait_for_connection(owner, deadline)
        return connection

    def _wait_for_connection(self, owner: object, deadline: float | None) -> ClientConnection:
        """Wait until there is a connection that takes a request; blocks."""
        check_may_wait("send_request")
        timeout = time_left(deadline)
        while True:
            self.check_open()
            connections = self._servers.only or self._servers.choose()
            connection = None if connections is None else connections.current
            if connections is None or connection is None:
                self.dial_or_refuse()
                if self._servers.ready:
                    continue
                if not self._servers.waiters.senders.wait("send_request", owner, time_left(deadline)):
                    raise self.not_connected(timeout)
            elif connection.stream.output.writers.above_high_water or connection.is_full():
                if not connection.wait_for_room(time_left(deadline)):
                    raise BusTimeout(
                        f"{connections.server} took too little within {in_words(timeout or 0.0)}",
                        outcome=Outcome.NOT_SENT,
                    )
                # It is this thread's turn, even if others still wait.
                if connection is connections.current and not connection.is_full():
                    return connection
            else:
                return connection

    def not_connected(self, timeout: float | None) -> BusTimeout:
        """The error of a thread that has waited for a connection in vain."""
        return self._servers.not_connected(timeout or 0.0)
