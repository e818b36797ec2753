"""The client's side of a bus over a socket: requests that wait for their answers.

Rules of this room: what a message means on the client's side is decided here;
how it travels is the connection's affair.  Every transaction ends, whatever
becomes of the connection, and its error says whether the request ran.
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, TypeVar

from gevent.hub import get_hub

from ratchet._log import bus_logger, log_soon
from ratchet._wait import check_hub, check_timeout
from ratchet.bus import wire
from ratchet.bus.address import shown
from ratchet.bus.client_side import ClientSide
from ratchet.bus.codecs import Address, Decode, Encode
from ratchet.bus.connection import Connection, ConnectionOwner
from ratchet.bus.deadline import request_deadline, time_left
from ratchet.bus.limits import Limits
from ratchet.bus.stats import Stats
from ratchet.bus.transaction import ClientTransaction, error_from_number
from ratchet.bus.wire import Message
from ratchet.errors import BusClosed, BusError, BusTimeout, ConnectionLost, Outcome, ProtocolError, Rejected

Request = TypeVar("Request")
Response = TypeVar("Response")


class SocketTransaction(ClientTransaction[Request, Response]):
    """A request that was sent over a socket."""

    _bus: ClientBus[Request, Response]
    # The sequence number of its frame on the connection.
    _sequence = 0
    _decoded = False

    def __init__(self, bus: ClientBus[Request, Response], request: Request, id: int) -> None:
        self._bus = bus
        self.request = request
        self._id = id

    def _response(self) -> Response:
        if not self._decoded:
            response = self._bus._decode(self._value, self._bus._connection.peer)
            # Another thread may have decoded it meanwhile; all get the same one.
            if not self._decoded:
                self._value = response
                self._decoded = True
        return self._value  # type: ignore[no-any-return]

    def _withdraw(self) -> Outcome:
        return self._bus._withdraw(self)


class ClientBus(ClientSide[Request, Response], ConnectionOwner):
    """The client's side of a bus over a socket; see `new_client` and `connect`."""

    def __init__(
        self,
        socket: Any,
        encode: Encode[Request],
        decode: Decode[Response],
        limits: Limits,
        plain: bool,
        peer: Address,
    ) -> None:
        super().__init__()
        self._encode = encode
        self._decode = decode
        self._limits = limits
        self._plain = plain
        # The server has said that it runs no more requests.
        self._draining = False
        self._last_id = 0
        # The open transactions, by id; if plain, in the order of their answers,
        # with those that were given up still in their places.
        self._open: dict[int, SocketTransaction[Request, Response]] = {}
        self._plain_order: deque[SocketTransaction[Request, Response]] = deque()
        self._connection = Connection(socket, limits, self, peer)

    def __repr__(self) -> str:
        state = "closed" if self._closed else "lost" if self._connection.closed else "open"
        return (
            f"<ClientBus at {id(self):#x} to {self._connection.peer}: {state}, in_flight={len(self._open)}>"
        )

    def send_request(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> SocketTransaction[Request, Response]:
        if timeout is not None:
            check_timeout(timeout)
        return self._send(request, 0, request_deadline(timeout), metadata)

    def cast(self, request: Request) -> None:
        self._send(request, wire.ONE_WAY, None, None)

    def close(self) -> None:
        """Close the connection at once; see `BusSide.close`."""
        check_hub(self._hub, self)
        self._closed = True
        if self._open and not self._plain:
            # A socket that is closed looks like one that still wants its answers.
            cancels = [wire.encode(wire.CANCEL, 0, id, 0, ()) for id in self._open]
            self._connection.write_last(b"".join(cancels))
        self._fail_all(BusClosed, f"{self!r} was closed", None)
        self._connection.close()

    def stats(self) -> Stats:
        return self._counters.snapshot(
            connections=0 if self._connection.closed else 1, queued=0, in_flight=len(self._open)
        )

    def _send(
        self, request: Request, flags: int, deadline: float | None, metadata: Mapping[str, str] | None
    ) -> SocketTransaction[Request, Response]:
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        parts = self._encode(request)
        if metadata is not None:
            if self._plain:
                raise ValueError(f"metadata cannot be sent in the plain form: {metadata!r}")
            flags |= wire.METADATA
            parts = [*(parts or [b""]), wire.encode_metadata(metadata)]
        wire.check_size(parts, self._limits.max_message, self._limits.max_parts)
        connection = self._connection
        if connection.crowded:
            self._wait_for_room(time_left(deadline))
        if connection.closed or self._draining:
            self._refuse_sender()
        arg = 0
        if deadline is not None:
            left = time_left(deadline)
            if not left:
                raise BusTimeout(
                    "the time of the request was over before it was sent", outcome=Outcome.NOT_SENT
                )
            arg = math.ceil(min(left * 1000, wire.MAX_ID))
        transaction = SocketTransaction(self, request, self._next_id())
        one_way = bool(flags & wire.ONE_WAY)
        if self._plain:
            self._plain_order.append(transaction)
            transaction._done = one_way
            frame = wire.encode(wire.PLAIN, 0, 0, 0, parts)
        else:
            frame = wire.encode(wire.REQUEST, flags, transaction._id, arg, parts)
        if not one_way:
            self._open[transaction._id] = transaction
        transaction._sequence = connection.write(frame)
        if deadline is not None:
            transaction._end_at(deadline)
        return transaction

    def _next_id(self) -> int:
        """An id that no open transaction has; 0 is never one."""
        id = self._last_id
        while True:
            id = id % wire.MAX_ID + 1
            if id not in self._open:
                self._last_id = id
                return id

    def _wait_for_room(self, timeout: float | None) -> None:
        try:
            self._connection.wait_for_room("send_request", timeout)
        except ConnectionLost:
            self._refuse_sender()

    def _refuse_sender(self) -> None:
        if self._closed:
            raise BusClosed(f"{self!r} is closed", outcome=Outcome.NOT_SENT)
        if self._draining and not self._connection.closed:
            raise Rejected("the server is draining", outcome=Outcome.NOT_SENT)
        raise ConnectionLost(f"{self!r} has lost its connection", outcome=Outcome.NOT_SENT)

    def _withdraw(self, transaction: SocketTransaction[Request, Response]) -> Outcome:
        """A transaction was given up: take its frame back, or tell the server."""
        del self._open[transaction._id]
        if self._connection.take_back(transaction._sequence):
            if self._plain:
                self._plain_order.remove(transaction)
            return Outcome.NOT_SENT
        if not self._plain:
            self._connection.write(wire.encode(wire.CANCEL, 0, transaction._id, 0, ()))
        return Outcome.UNKNOWN

    def _fail_all(self, error_type: type[BusError], message: str, cause: BaseException | None) -> None:
        transactions = list(self._open.values())
        self._open.clear()
        self._plain_order.clear()
        for transaction in transactions:
            unsent = transaction._sequence > self._connection.sent
            error = error_type(message, outcome=Outcome.NOT_SENT if unsent else Outcome.UNKNOWN)
            error.__cause__ = cause
            transaction._fail(error)

    def _on_message(self, message: Message) -> None:
        kind, _, id, arg, parts = message
        if kind == wire.RESPONSE or kind == wire.ERROR:
            transaction = self._open.pop(id, None)
        elif kind == wire.PLAIN and self._plain_order:
            transaction = self._plain_order.popleft()
            transaction = None if transaction._done else self._open.pop(transaction._id)
        elif kind == wire.PING:
            self._connection.write(wire.encode(wire.PONG, 0, id, arg, ()))
            return
        elif kind == wire.GOAWAY:
            self._on_go_away(id)
            return
        elif kind == wire.PONG:
            return
        else:
            self._on_broken(ProtocolError(f"the server sent an unexpected message of kind {kind}"), None)
            return
        if transaction is None:
            self._counters.dropped_late += 1
        elif kind == wire.ERROR:
            name, text, trace = (part.decode("utf-8", "replace") for part in parts)
            transaction._fail(error_from_number(arg, (name, text, trace)))
        else:
            transaction._succeed(parts)

    def _on_go_away(self, last_id: int) -> None:
        """The server drains: it will not run what was sent after `last_id`."""
        self._draining = True
        for id in list(self._open):
            # Ids go round, so "later" is the shorter way from the last one.
            if 0 < (id - last_id) % (wire.MAX_ID + 1) <= wire.MAX_ID // 2:
                self._open.pop(id)._fail(Rejected("the server is draining"))

    def _on_input_end(self) -> None:
        self._connection.close(ConnectionLost("the server closed the connection"))

    def _on_broken(self, error: BusError, refused: tuple[int, int] | None) -> None:
        log_soon(
            bus_logger, logging.WARNING, "closing the connection to %s: %s", self._connection.peer, error
        )
        if refused is not None and refused[0] == wire.RESPONSE and refused[1] in self._open:
            error.outcome = Outcome.RAN
            self._open.pop(refused[1])._fail(error)
        self._connection.close(error)

    def _on_closed(self, error: BaseException | None) -> None:
        if error is not None and not self._closed:
            log_soon(bus_logger, logging.INFO, "lost the connection to %s: %s", self._connection.peer, error)
        kind = ProtocolError if isinstance(error, ProtocolError) else ConnectionLost
        self._fail_all(kind, f"the connection to {self._connection.peer} was lost: {error}", error)


def check_connected(socket: Any) -> Address:
    """The address of a socket's peer; refuses what is no connected stream socket."""
    if not hasattr(socket, "getpeername"):
        raise TypeError(f"new_client needs a connected socket, not {socket!r}")
    try:
        return shown(socket.family, socket.getpeername())
    except OSError as error:
        raise ValueError(f"new_client needs a connected socket; {socket!r} is not: {error}") from error
