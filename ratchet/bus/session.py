"""One connected client, as the server sees it, and the requests that it sent.

Rules of this room: what a message means on the server's side is decided here;
how it travels is the connection's affair.  A session answers extended requests
in any order and plain ones in the order in which they came.  What a client
does wrong is settled within its own session.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, TypeVar

from greenlet import greenlet

from ratchet._log import bus_logger, log_soon
from ratchet.bus import wire
from ratchet.bus.codecs import Decode, Encode
from ratchet.bus.connection import Connection, ConnectionOwner
from ratchet.bus.deadline import deadline_after, is_over, seconds_until, time_left
from ratchet.bus.limits import Limits
from ratchet.bus.pending import QUEUED, TAKEN, PendingRequest, RequestOwner
from ratchet.bus.transaction import ErrorTexts, error_texts
from ratchet.bus.transport import Transport
from ratchet.bus.wire import ErrorNumber, Frame, Message
from ratchet.errors import BusError, MessageTooLarge, ProtocolError, Rejected

Request = TypeVar("Request")
Response = TypeVar("Response")


class SessionOwner(RequestOwner):
    """What a session needs of its server."""

    @abstractmethod
    def _enqueue(self, request: SocketRequest[Any, Any]) -> None:
        """A request has come that a thread is to take."""

    @abstractmethod
    def _dequeue(self, requests: Collection[SocketRequest[Any, Any]]) -> None:
        """Queued requests are not to be taken any more."""

    @abstractmethod
    def _go_on_if_room(self) -> None:
        """A request has left the queue, whatever becomes of it."""

    # Whether nothing is read, because too many requests are queued.
    held_up: bool
    _sessions: set[Session]
    _decode: Decode[Any]
    _encode: Encode[Any]
    _limits: Limits
    _draining: bool


class SocketRequest(PendingRequest[Request, Response]):
    """A request that came over a socket."""

    _bus: SessionOwner
    # A plain request's answer, while it waits for those of earlier ones; an
    # empty one stands for an error, which the plain form cannot tell.
    _answer: Frame | None = None
    # Rings at the deadline, while a thread handles the request.
    _timer: Any = None

    def __init__(self, session: Session, message: Message) -> None:
        kind, flags, self._id, arg, parts = message
        self._bus = session.server
        self._session = session
        self._plain = kind == wire.PLAIN
        self._one_way = bool(flags & wire.ONE_WAY)
        self._from = session.connection.peer
        self._state = QUEUED
        self._deadline = deadline_after(arg / 1000) if arg else None
        if flags & wire.METADATA:
            self._metadata = wire.decode_metadata(parts.pop())
        self._parts: Sequence[bytes] = parts

    def _take(self) -> bool:
        bus = self._bus
        if bus.held_up:
            bus._go_on_if_room()
        if (self._plain or self._session.connection.crowded) and self._would_block:
            # Its client does not read: no thread is to wait for that.
            self._session.park(self)
            return False
        if self._deadline is not None and is_over(self._deadline):
            self._refuse(ErrorNumber.OUT_OF_TIME, Rejected("the request's time was over before it ran"))
            return False
        if self._state is not QUEUED:
            return False
        self._state = TAKEN
        bus._in_flight.add(self)
        try:
            self.request = bus._decode(self._parts, self._from)
        except Exception as error:
            bus_logger.warning("a request from %s could not be decoded", self._from, exc_info=error)
            self._refuse(ErrorNumber.NOT_DECODED, error)
            return False
        except BaseException:
            self._abandon()
            raise
        self._parts = ()
        # The client may have given up while the codec blocked.
        return self._state is TAKEN

    def _cancel(self) -> bool:
        if self._state is QUEUED or self._state is TAKEN:
            self._bus._counters.cancelled += 1
        return super()._cancel()

    def _release(self) -> None:
        self._bus._forget(self)
        if self._deadline is not None:
            # From now on another request may have the id.
            self._stop_timer()
        if not self._plain:
            self._session.finished_one()

    @property
    def _would_block(self) -> bool:
        return not self._one_way and self._session.is_crowded_for(self)

    def _begin_handling(self, handler: greenlet) -> None:
        super()._begin_handling(handler)
        if self._deadline is not None and self._state is TAKEN and self._timer is None:
            # The client's own word may not come through: it has gone, or so
            # many of its requests are open that nothing more is read.
            loop: Any = self._bus._hub.loop
            self._timer = loop.timer(seconds_until(self._deadline))
            self._timer.start(self._session.give_up, self._id, update=True)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _end_handling(self) -> None:
        super()._end_handling()
        self._stop_timer()

    def _reply(self, response: Response) -> bool:
        bus, session = self._bus, self._session
        try:
            if self._one_way:
                bus._counters.answered += 1
                return False
            parts = bus._encode(response)
            limits = bus._limits
            wire.check_size(parts, limits.max_message, limits.max_parts)
            if session.connection.crowded and not self._wait_for_room():
                return self._too_late()
            kind = wire.PLAIN if self._plain else wire.RESPONSE
            if not session.answer(self, wire.frame(kind, 0, self._id, 0, parts)):
                return self._too_late()
            bus._counters.answered += 1
            return True
        except BaseException as error:
            number = ErrorNumber.HANDLER_RAISED if isinstance(error, Exception) else ErrorNumber.ABANDONED
            self._reply_error(number, error_texts(error))
            raise
        finally:
            self._release()

    def _wait_for_room(self) -> bool:
        """Wait until the client reads; False if its time is over before that."""
        session = self._session
        if session.connection.wait_for_room("send_response", time_left(self._deadline)):
            return True
        session.give_up(self._id)
        return False

    def _too_late(self) -> bool:
        """The client gave up while its answer was on the way to it; False."""
        self._bus._counters.cancelled += 1
        self._bus._counters.dropped_late += 1
        return False

    def _reply_error(self, number: ErrorNumber, texts: ErrorTexts) -> bool:
        if number == ErrorNumber.OUT_OF_TIME:
            # That is the client's wish, though it could not tell any more.
            self._bus._counters.cancelled += 1
        else:
            self._bus._counters.failed += 1
        if self._one_way or self._session.connection.closed:
            return False
        if self._plain:
            return self._session.answer(self, b"")
        return self._session.answer(self, wire.encode_error(self._id, number, texts))


def size_of(frame: Frame) -> int:
    """The bytes of a frame."""
    return sum(map(len, frame)) if isinstance(frame, list) else len(frame)


class Session(ConnectionOwner):
    """One connected client."""

    __slots__ = (
        "_at_limit",
        "_kept",
        "_last_id",
        "_max_in_flight",
        "_open",
        "_plain",
        "_unfinished",
        "connection",
        "parked",
        "server",
    )

    def __init__(self, server: SessionOwner, transport: Transport, peer: Any) -> None:
        self.server = server
        # How many of its requests are not through, one-way ones included, and
        # whether that is all that it may have.
        self._unfinished = 0
        self._max_in_flight = server._limits.max_in_flight
        self._at_limit = False
        # Requests whose answers would only wait for the client to read.
        self.parked: list[SocketRequest[Any, Any]] = []
        # The requests that are to be answered, by id; and in order, if plain.
        self._open: dict[int, SocketRequest[Any, Any]] = {}
        self._plain: deque[SocketRequest[Any, Any]] | None = None
        # Bytes of plain answers that wait for those of earlier requests.
        self._kept = 0
        self._last_id = 0
        self.connection = Connection(transport, server._limits, self, peer, drops_slow_readers=True)
        if server.held_up:
            self.connection.stop_reading()

    def __repr__(self) -> str:
        waiting = f"unanswered={len(self._open) + len(self._plain or ())}, parked={len(self.parked)}"
        return f"<Session at {id(self):#x}: {waiting}, {self.connection!r}>"

    def is_crowded_for(self, request: SocketRequest[Any, Any]) -> bool:
        """Whether an answer of this request would only wait to be sent."""
        if self.connection.crowded:
            return True
        # The first of the plain ones is what the others wait for.
        first = self._plain[0] if self._plain else None
        return request._plain and request is not first and self._kept >= self.server._limits.high_water

    def answer(self, request: SocketRequest[Any, Any], frame: Frame) -> bool:
        """Send the answer of a request, or keep it until its turn; does not block.

        False if the client does not want it any more.
        """
        connection = self.connection
        if connection.closing:
            return False
        if request._plain:
            request._answer = frame
            self._kept += size_of(frame)
            self._send_plain_answers()
        elif self._open.pop(request._id, None) is None:
            return False
        else:
            connection.write(frame)
        if connection.input_ended:
            self._close_if_done()
        return True

    def park(self, request: SocketRequest[Any, Any]) -> None:
        """Keep a request from the threads until the client has read more."""
        self.parked.append(request)
        self.connection.tells_room = True

    def refuse_parked(self) -> None:
        """The server drains: what is parked will not be run."""
        parked, self.parked = self.parked, []
        for request in parked:
            request._refuse_draining()

    def finished_one(self) -> None:
        """One of its requests is through."""
        self._unfinished -= 1
        if self._at_limit:
            self._at_limit = False
            self.read_or_not()

    def read_or_not(self) -> None:
        """Read on, unless the server has too much, or this client, or it does not read itself."""
        if self._at_limit or self.server.held_up or self.connection.crowded:
            self.connection.stop_reading()
        elif not self.connection.input_ended:
            self.connection.start_reading()

    def go_away(self) -> None:
        """Tell the client that no later request than those it sent will be run."""
        # One that never sent an extended message may be a plain peer.
        if self._last_id or self.connection.begun_kind == wire.REQUEST:
            self.connection.write(wire.encode(wire.GOAWAY, 0, self._last_id, 0, ()))

    def _send_plain_answers(self) -> None:
        while self._plain and self._plain[0]._answer is not None:
            frame = self._plain.popleft()._answer
            if not frame:
                self.connection.close_when_sent()
                return
            self._kept -= size_of(frame)
            self.connection.write(frame)
            self.finished_one()
        if self.parked and not self.connection.crowded:
            self._on_room()

    def _close_if_done(self) -> None:
        if self.connection.input_ended and not self._open and not self._plain:
            self.connection.close_when_sent()

    def _on_message(self, message: Message) -> None:
        kind = message[0]
        if kind == wire.REQUEST or kind == wire.PLAIN:
            try:
                request = self._register(SocketRequest(self, message))
            except ProtocolError as error:
                self._on_broken(error, None)
                return
            self._unfinished += 1
            if self._unfinished >= self._max_in_flight:
                self._at_limit = True
                self.connection.stop_reading()
            self.server._enqueue(request)
            return
        _, _, id, arg, _ = message
        if kind == wire.CANCEL:
            self.give_up(id)
        elif kind == wire.PING:
            self.connection.write(wire.encode(wire.PONG, 0, id, arg, ()))
        elif kind != wire.PONG:
            self._on_broken(ProtocolError(f"a client sent a message of kind {kind}"), None)

    def _register(self, request: SocketRequest[Any, Any]) -> SocketRequest[Any, Any]:
        if request._plain:
            if self._plain is None:
                self._plain = deque()
            self._plain.append(request)
        else:
            self._last_id = id = request._id
            if not request._one_way:
                if id in self._open:
                    raise ProtocolError(f"the id {id} is used twice at once")
                self._open[id] = request
        return request

    def give_up(self, id: int) -> None:
        """The client wants no answer any more; it is told whether the request ran."""
        request = self._open.pop(id, None)
        if request is None:
            return
        if request._cancel():
            self._unqueue({request})
            number, text = ErrorNumber.OUT_OF_TIME, "the request was given up before it ran"
        else:
            number, text = ErrorNumber.CANCELLED, "the request was given up while it ran"
        self.connection.write(wire.encode_error(id, number, ("Cancelled", text, "")))
        self._close_if_done()

    def _unqueue(self, requests: set[SocketRequest[Any, Any]]) -> None:
        parked = requests.intersection(self.parked)
        self.parked = [request for request in self.parked if request not in parked]
        self.server._dequeue(requests - parked)

    def _on_input_end(self) -> None:
        self._close_if_done()

    def _on_crowded(self) -> None:
        # A client that does not read is not read from either.
        self.connection.tells_room = True
        self.connection.stop_reading()

    def _on_room(self) -> None:
        self.read_or_not()
        parked, self.parked = self.parked, []
        for request in parked:
            self.server._enqueue(request)

    def _on_broken(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.server._counters.broken += 1
        log_soon(bus_logger, logging.WARNING, "closing the connection of %s: %s", self.connection.peer, error)
        if isinstance(error, MessageTooLarge) and refused is not None and refused[0] == wire.REQUEST:
            frame = wire.encode_error(refused[1], ErrorNumber.TOO_LARGE, error_texts(error))
            self.connection.write(frame)
        self.connection.close_when_sent()

    def _on_closed(self, error: BaseException | None) -> None:
        if error is not None:
            log_soon(bus_logger, logging.INFO, "lost the connection of %s: %s", self.connection.peer, error)
        self.server._sessions.discard(self)
        open_requests = (*self._open.values(), *(self._plain or ()))
        self._open.clear()
        self._plain = None
        self._unqueue({request for request in open_requests if request._cancel()})
        self.server._wake_drain()
