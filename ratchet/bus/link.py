"""One connection to a server, as the client sees it, and the requests that it carries.

Rules of this room: what a message means on the client's side is decided here;
how it travels is the connection's affair.  Every transaction ends, whatever
becomes of the connection, and its error says whether the request ran.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import Any, TypeVar

from ratchet._log import bus_logger, log_soon
from ratchet.bus import wire
from ratchet.bus.codecs import Address, Decode
from ratchet.bus.connection import Connection, ConnectionOwner
from ratchet.bus.limits import Limits
from ratchet.bus.side import BusSide
from ratchet.bus.transaction import ClientTransaction, error_from_number
from ratchet.bus.transport import Transport
from ratchet.bus.wire import ErrorNumber, Message
from ratchet.errors import (
    BusClosed,
    BusError,
    BusTimeout,
    ConnectionLost,
    Outcome,
    ProtocolError,
    Rejected,
)

Request = TypeVar("Request")
Response = TypeVar("Response")

# When its time is over, a request's client still waits this long, in seconds,
# for the server's word on whether it ran.  A server that is there answers far
# sooner, and one that is gone holds nobody up.
_LAST_WORD_TIMEOUT = 0.1
_LAST_WORDS = (ErrorNumber.CANCELLED, ErrorNumber.OUT_OF_TIME, ErrorNumber.DRAINING)


class LinkOwner(BusSide):
    """What a link needs of its client."""

    _limits: Limits
    _decode: Decode[Any]
    _plain: bool

    @abstractmethod
    def _on_link_drained(self, link: Link) -> None:
        """The server takes no more requests on this link."""

    @abstractmethod
    def _on_link_lost(self, link: Link, error: BaseException | None) -> None:
        """The link's connection is closed."""


class SocketTransaction(ClientTransaction[Request, Response]):
    """A request that was sent over a socket."""

    _bus: LinkOwner

    def __init__(self, link: Link, request: Request, id: int) -> None:
        self._bus = link.client
        self._link = link
        self.request = request
        self._id = id
        # The number of its frame on the connection.
        self._frame_number = 0
        # Its time is over, and only the server's last word is waited for.
        self._expired = False
        self._decoded = False
        self._done = False
        self._error = None
        self._value = None
        self._waiters = None
        self._timer = None

    def _response(self) -> Response:
        if not self._decoded:
            response = self._bus._decode(self._value, self._link.connection.peer)
            # Another thread may have decoded it meanwhile; all get the same one.
            if not self._decoded:
                self._value = response
                self._decoded = True
        return self._value  # type: ignore[no-any-return]

    def _withdraw(self) -> Outcome:
        return self._link.withdraw(self)

    def _on_deadline(self) -> None:
        """Hub callback."""
        if self._expired or not self._link.ask_for_last_word(self):
            super()._on_deadline()
        else:
            self._expired = True
            self._timer.start(self._on_deadline, update=True)

    def _time_out(self, outcome: Outcome) -> None:
        """Its time was over, and now it is known what became of it."""
        self._bus._counters.cancelled += 1
        self._error = BusTimeout("the time of the request is over", outcome=outcome)
        self._end()


class Link(ConnectionOwner):
    """One connection to a server."""

    __slots__ = ("_last_id", "_open", "_plain_order", "client", "connection", "draining", "useful")

    def __init__(self, client: LinkOwner, transport: Transport, peer: Address) -> None:
        self.client = client
        # The open transactions, by id; if plain, also in the order of their
        # answers, with those that were given up still in their places.
        self._open: dict[int, SocketTransaction[Any, Any]] = {}
        self._plain_order: deque[SocketTransaction[Any, Any]] = deque()
        self._last_id = 0
        # The server has said that it runs no more requests.
        self.draining = False
        # A message has come.
        self.useful = False
        self.connection = Connection(transport, client._limits, self, peer, drops_slow_readers=False)

    def __repr__(self) -> str:
        state = "draining, " if self.draining else ""
        return f"<Link at {id(self):#x}: {state}unanswered={len(self)}, {self.connection!r}>"

    def __len__(self) -> int:
        """How many transactions are open."""
        return len(self._open)

    def send(
        self, request: Request, flags: int, arg: int, parts: Sequence[bytes]
    ) -> SocketTransaction[Request, Any]:
        """Send a request whose parts are checked; does not block."""
        # An id that no open transaction has; 0 is never one.
        id = self._last_id % wire.MAX_ID + 1
        while id in self._open:
            id = id % wire.MAX_ID + 1
        self._last_id = id
        transaction: SocketTransaction[Request, Any] = SocketTransaction(self, request, id)
        if not flags & wire.ONE_WAY:
            self._open[id] = transaction
        if self.client._plain:
            self._plain_order.append(transaction)
            frame = wire.frame(wire.PLAIN, 0, 0, 0, parts)
        else:
            frame = wire.frame(wire.REQUEST, flags, id, arg, parts)
        transaction._frame_number = self.connection.write(frame)
        return transaction

    def withdraw(self, transaction: SocketTransaction[Any, Any]) -> Outcome:
        """A transaction is given up: take its frame back, or tell the server."""
        del self._open[transaction._id]
        outcome = Outcome.UNKNOWN
        if self.connection.take_back(transaction._frame_number):
            outcome = Outcome.NOT_SENT
            if self.client._plain:
                self._plain_order.remove(transaction)
        elif not self.client._plain and not transaction._expired:
            self.connection.write(wire.encode(wire.CANCEL, 0, transaction._id, 0, ()))
        self._close_if_done()
        return outcome

    def ask_for_last_word(self, transaction: SocketTransaction[Any, Any]) -> bool:
        """Tell the server that a request's time is over; False if no answer can come of that."""
        connection = self.connection
        if self.client._plain or connection.closed or transaction._frame_number > connection.sent:
            return False
        connection.write(wire.encode(wire.CANCEL, 0, transaction._id, 0, ()))
        transaction._timer.close()
        transaction._timer = self.client._hub.loop.timer(_LAST_WORD_TIMEOUT)
        return True

    def fail_all(self, error_type: type[BusError], message: str, cause: BaseException | None) -> None:
        """End every open transaction in an error that says whether it was sent."""
        transactions = list(self._open.values())
        self._open.clear()
        self._plain_order.clear()
        for transaction in transactions:
            if transaction._expired:
                transaction._time_out(Outcome.UNKNOWN)
                continue
            unsent = transaction._frame_number > self.connection.sent
            error = error_type(message, outcome=Outcome.NOT_SENT if unsent else Outcome.UNKNOWN)
            error.__cause__ = cause
            transaction._fail(error)

    def close(self) -> None:
        """Close the connection at once; whoever waits gets `BusClosed`."""
        if self._open and not self.client._plain:
            # A socket that is closed looks like one that still wants its answers.
            cancels = [wire.encode(wire.CANCEL, 0, id, 0, ()) for id in self._open]
            self.connection.write_last(b"".join(cancels))
        self.connection.close()

    def forsake(self) -> None:
        """In a forked child: end everything, but wake nobody, and send nothing."""
        for transaction in self._open.values():
            transaction._waiters = None
        self.fail_all(BusClosed, "the request was sent before fork(), by the parent process", None)
        self.connection.forsake()

    def _close_if_done(self) -> None:
        if self.draining and not self._open:
            self.connection.close_when_sent()

    def _on_message(self, message: Message) -> None:
        kind, _, id, arg, parts = message
        self.useful = self.useful or bool(self._open)
        if kind == wire.RESPONSE and id in self._open and not self._open[id]._expired:
            self._open.pop(id)._succeed(parts)
            if self.draining:
                self._close_if_done()
        elif kind == wire.RESPONSE or kind == wire.ERROR:
            self._on_answer(kind, arg, parts, self._open.pop(id, None))
        elif kind == wire.PLAIN and self._plain_order:
            transaction = self._plain_order.popleft()
            self._on_answer(kind, arg, parts, self._open.pop(transaction._id, None))
        elif kind == wire.PING:
            if self.connection.crowded:
                return  # such a server has no use for another answer
            self.connection.write(wire.encode(wire.PONG, 0, id, arg, ()))
        elif kind == wire.GOAWAY:
            self._on_go_away(id)
        elif kind != wire.PONG:
            self._on_broken(ProtocolError(f"the server sent an unexpected message of kind {kind}"), None)

    def _on_answer(
        self, kind: int, arg: int, parts: list[bytes], transaction: SocketTransaction[Any, Any] | None
    ) -> None:
        if transaction is None:
            # The word on a request that has ended here already is no late answer.
            if kind != wire.ERROR or arg not in _LAST_WORDS:
                self.client._counters.dropped_late += 1
            return
        if kind == wire.ERROR:
            name, text, trace = (part.decode("utf-8", "replace") for part in parts)
            error = error_from_number(arg, (name, text, trace))
        if transaction._expired:
            if kind != wire.ERROR:
                self.client._counters.dropped_late += 1
            transaction._time_out(Outcome.RAN if kind != wire.ERROR else error.outcome)
        elif kind == wire.ERROR and arg == ErrorNumber.CANCELLED and transaction._timer is not None:
            # The server saw the request's time end before this side did.
            transaction._time_out(error.outcome)
        elif kind == wire.ERROR:
            transaction._fail(error)
        else:
            transaction._succeed(parts)
        self._close_if_done()

    def _on_go_away(self, last_id: int) -> None:
        """The server drains: it will not run what was sent after `last_id`."""
        self.draining = True
        for id in list(self._open):
            # Ids go round, so "later" is the shorter way from the last one.
            if 0 < (id - last_id) % (wire.MAX_ID + 1) <= wire.MAX_ID // 2:
                transaction = self._open.pop(id)
                if transaction._expired:
                    transaction._time_out(Outcome.NOT_RUN)
                else:
                    transaction._fail(Rejected("the server is draining"))
        self.client._on_link_drained(self)
        self._close_if_done()

    def _on_input_end(self) -> None:
        self.connection.close(ConnectionLost("the server closed the connection"))

    def _on_crowded(self) -> None:
        """Answers are read all the same, or both sides could wait for each other."""

    def _on_room(self) -> None:
        """Never asked for: writers wait by themselves."""

    def _on_broken(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.client._counters.broken += 1
        log_soon(bus_logger, logging.WARNING, "closing the connection to %s: %s", self.connection.peer, error)
        if refused is not None and refused[0] == wire.RESPONSE and refused[1] in self._open:
            error.outcome = Outcome.RAN
            self._open.pop(refused[1])._fail(error)
        self.connection.close(error)

    def _on_closed(self, error: BaseException | None) -> None:
        if error is not None:
            log_soon(bus_logger, logging.INFO, "lost the connection to %s: %s", self.connection.peer, error)
        if self.client._closed:
            self.fail_all(BusClosed, f"{self.client!r} was closed", None)
        else:
            kind = ProtocolError if isinstance(error, ProtocolError) else ConnectionLost
            self.fail_all(kind, f"the connection to {self.connection.peer} was lost: {error}", error)
        self.client._on_link_lost(self, error)
