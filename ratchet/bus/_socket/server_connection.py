"""One connected client, as the server sees it, and the requests that it sent.

What a message means on the server's side is decided here; how it travels is the
connection's affair.  A session answers extended requests in any order and plain ones
in the order in which they came.  What a client does wrong is settled within its own
session.

A request that the server has no room for is held, and one whose answer would only
wait for the client to read is parked: cancels and pings behind it are still read.
Only when a client has sent far more than it may, or what is held takes too much
memory, or the client itself does not read, is nothing more read from it.
"""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, Final, TypeVar

from greenlet import greenlet

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.deadline import deadline_after, is_over, seconds_until, time_left
from ratchet.bus._core.faults import ErrorTexts, Reason, check_size, decode_metadata
from ratchet.bus._core.incoming import (
    ANSWERED,
    ANSWERING,
    CANCELLED,
    OPEN,
    QUEUED,
    TAKEN,
    PendingRequest,
    RequestOwner,
)
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import wire
from ratchet.bus._socket.outbox import size_of
from ratchet.bus._socket.stream import Connection, ConnectionOwner
from ratchet.bus._socket.transport import Transport
from ratchet.bus._socket.wire import Frame, Message
from ratchet.bus.codecs import Decode, Encode
from ratchet.errors import BusError, MessageTooLarge, ProtocolError, reason_of

# About how many bytes a request takes besides its parts.
_OWN_SIZE: Final = 1024

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

    # Whether no request is let in, because too many are queued.
    held_up: bool
    _sessions: set[Session]
    _decode: Decode[Any]
    _encode: Encode[Any]
    _limits: Limits
    _draining: bool
    # Its own hello.
    _hello: bytes


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
            self._metadata = decode_metadata(parts.pop())
        self._parts: Sequence[bytes] = parts

    @property
    def size(self) -> int:
        """About how many bytes it takes while it waits."""
        return sum(map(len, self._parts), _OWN_SIZE)

    def _claim(self) -> bool:
        bus = self._bus
        if self._state is not QUEUED:
            return False
        if (self._plain or self._session.connection.crowded) and self._would_block:
            # Its client does not read: no thread is to wait for that.
            self._session.park(self)
            return False
        if self._deadline is not None and is_over(self._deadline):
            text = "the request's time was over before it ran"
            self._refuse(Reason.OUT_OF_TIME, ("Rejected", text, ""))
            return False
        bus._in_flight.add(self)
        self._state = TAKEN
        return True

    def _decode(self) -> None:
        self.request = self._bus._decode(self._parts, self._from)
        self._parts = ()

    def _cancel(self) -> bool:
        is_open = self._state in OPEN
        queued = super()._cancel()
        if is_open:
            self._bus._counters.cancelled += 1
        return queued

    def _release(self) -> None:
        if self._deadline is not None:
            # From now on another request may have the id.
            self._stop_timer()
        if not self._plain:
            # A plain one is finished when its turn to be answered has come.
            self._session.finished(self)
        self._bus._forget(self)

    def _settle(self) -> None:
        super()._settle()
        if self._timer is not None and not self._timer.active:
            # It has rung, and what it was for was interrupted.
            self._session.give_up(self._id)

    @property
    def _would_block(self) -> bool:
        return not self._one_way and self._session.is_crowded_for(self)

    def _begin_handling(self, handler: greenlet) -> None:
        super()._begin_handling(handler)
        if self._deadline is not None and self._state is TAKEN and self._timer is None:
            # The client's own word may not come through: it has gone, or so
            # many of its requests are open that nothing more is read.
            loop: Any = self._bus._hub.loop
            timer = loop.timer(seconds_until(self._deadline))
            timer.start(self._session.give_up, self._id, update=True)
            self._timer = timer

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _end_handling(self) -> None:
        super()._end_handling()
        self._stop_timer()

    def _reply(self, response: Response) -> bool:
        bus, session = self._bus, self._session
        if self._one_way:
            self._state = ANSWERED
            bus._counters.answered += 1
            return False
        parts = bus._encode(response)
        session.check_size(parts)
        if session.connection.crowded and not self._wait_for_room():
            return self._too_late()
        kind = wire.PLAIN if self._plain else wire.RESPONSE
        # The client may have given up while the codec blocked.
        if self._state is not ANSWERING:
            return self._refuse_answer()
        if not session.answer(self, wire.frame(kind, 0, self._id, 0, parts)):
            return self._too_late()
        self._state = ANSWERED
        bus._counters.answered += 1
        return True

    def _wait_for_room(self) -> bool:
        """Wait until the client reads; False if its time is over before that."""
        session = self._session
        if session.connection.wait_for_room("send_response", time_left(self._deadline)):
            return True
        session.give_up(self._id)
        return False

    def _too_late(self) -> bool:
        """The client gave up while its answer was on the way to it; False."""
        if self._state is ANSWERING:
            self._bus._counters.cancelled += 1
            self._state = CANCELLED
        return self._refuse_answer()

    def _reply_error(self, number: Reason, texts: ErrorTexts) -> bool:
        sent = False
        if not self._one_way and not self._session.connection.closed:
            frame = b"" if self._plain else wire.encode_error(self._id, number, texts)
            sent = self._session.answer(self, frame)
        if number == Reason.OUT_OF_TIME:
            # That is the client's wish, though it could not tell any more.
            self._bus._counters.cancelled += 1
        else:
            self._bus._counters.failed += 1
        return sent


class Session(ConnectionOwner):
    """One connected client."""

    __slots__ = (
        "_extended",
        "_held",
        "_held_size",
        "_kept",
        "_last_id",
        "_max_in_flight",
        "_max_message",
        "_max_parts",
        "_open",
        "_plain",
        "_unfinished",
        "connection",
        "parked",
        "server",
    )

    def __init__(self, server: SessionOwner, transport: Transport, peer: Address) -> None:
        self.server = server
        limits = server._limits
        # Its requests that are not finished, one-way ones included, and how many
        # of them it may have.
        self._unfinished: set[SocketRequest[Any, Any]] = set()
        self._max_in_flight = limits.max_in_flight
        # What this side may send: its own limits, or the client's if these are lower.
        self._max_message = limits.max_message
        self._max_parts = limits.max_parts
        # Requests that are not let in yet, in order, and about how many bytes they take.
        self._held: dict[SocketRequest[Any, Any], None] = {}
        self._held_size = 0
        # Requests that were let in, and whose answers would only wait to be read.
        self.parked: dict[SocketRequest[Any, Any], None] = {}
        # The requests that are to be answered, by id; and in order, if plain.
        self._open: dict[int, SocketRequest[Any, Any]] = {}
        self._plain: deque[SocketRequest[Any, Any]] | None = None
        # Bytes of plain answers that wait for those of earlier requests.
        self._kept = 0
        self._last_id = 0
        # Whether the client has sent an extended message; a plain one would not
        # understand any.
        self._extended = False
        self.connection = Connection(transport, limits, self, peer)

    def __repr__(self) -> str:
        unanswered = len(self._open) + len(self._plain or ())
        waiting = f"unanswered={unanswered}, parked={len(self.parked)}, held={len(self._held)}"
        return f"<Session at {id(self):#x}: {waiting}, {self.connection!r}>"

    def check_size(self, parts: Sequence[bytes]) -> None:
        """Refuse a response that is over this side's limits, or over the client's."""
        check_size(parts, self._max_message, self._max_parts)

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
            if request._answer is None:
                self._kept += size_of(frame)
                request._answer = frame
            self._send_plain_answers()
            if connection.input_ended:
                self._close_if_done()
            return True
        if self._open.get(request._id) is not request:
            return False
        connection.write(frame)
        del self._open[request._id]
        return True

    def park(self, request: SocketRequest[Any, Any]) -> None:
        """Keep a request from the threads until the client has read more."""
        self.connection.tells_room = True
        self.parked[request] = None

    def finished(self, request: SocketRequest[Any, Any]) -> None:
        """One of its requests needs nothing more."""
        self._unfinished.discard(request)
        if self._held or not self.connection.reading:
            self.server._run_callback(self.read_or_not)

    def read_or_not(self) -> None:
        """Hub callback: let in what waits, as far as there is room; and read on, unless there is too much."""
        if self.parked or self._held:
            self._let_in()
        if self._has_too_much:
            self.connection.stop_reading()
        elif not self.connection.input_ended and not self.connection.reading:
            self.connection.start_reading()

    def end_parking(self) -> None:
        """The server drains: what was cast is let in, and nothing else will be run."""
        for request in (*self.parked, *self._held):
            if request._one_way:
                self.server._enqueue(request)
            else:
                request._refuse_draining()
            self._drop(request)

    def go_away(self) -> None:
        """Tell the client that no later request than those it sent will be run."""
        # A plain peer would not understand it.
        if self._extended or self.connection.begun_kind in (wire.REQUEST, wire.HELLO):
            self.connection.write(wire.encode(wire.GOAWAY, 0, self._last_id, 0, ()))

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.connection.settle()
        if self.connection.closed:
            self._on_closed(self.connection.error)
        else:
            for id, request in list(self._open.items()):
                if request._state not in OPEN:
                    # Given up, or answered, and interrupted before it was taken out.
                    del self._open[id]
            self._send_plain_answers()
            self.read_or_not()

    @property
    def _has_too_much(self) -> bool:
        """Whether nothing more is to be read: the client does not read, or too much is held."""
        return self.connection.crowded or self._held_size >= self.server._limits.high_water

    @property
    def _has_room(self) -> bool:
        """Whether one more request may be let in."""
        return not self.server.held_up and len(self._unfinished) - len(self._held) < self._max_in_flight

    def _let_in(self) -> None:
        if self.connection.crowded:
            return
        if not self.connection.reading:
            # Some of them may have been given up meanwhile.
            self.connection.read_anyway()
        for request in (*self.parked, *self._held):
            if request in self._held and not self._has_room:
                break
            # First: one that is in two places is taken once, one that is in none never.
            self.server._enqueue(request)
            self._drop(request)

    def _hold(self, request: SocketRequest[Any, Any]) -> None:
        """Do not let a request in yet."""
        self._held[request] = None
        self._held_size += request.size
        if self._has_too_much:
            self.connection.stop_reading()

    def _drop(self, request: SocketRequest[Any, Any]) -> None:
        """It is not kept here any more."""
        self.parked.pop(request, None)
        if request in self._held:
            self._held_size -= request.size
            del self._held[request]
        if not self._held:
            # An interrupted call may have left the sum wrong; here it is known.
            self._held_size = 0

    def _send_plain_answers(self) -> None:
        while self._plain and self._plain[0]._answer is not None:
            request = self._plain[0]
            frame = request._answer
            if not frame:
                self.connection.close_when_sent()
                return
            try:
                self.connection.write(frame)
                self._plain.popleft()
            except BaseException as error:
                # Nobody knows whose answer the next one would be taken for.
                self.connection.lose_place(error)
                raise
            self._kept -= size_of(frame)
            self.finished(request)

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
            let_in = self.server._draining or (not self._held and self._has_room)
            self._unfinished.add(request)
            if let_in:
                self.server._enqueue(request)
            else:
                self._hold(request)
            return
        _, _, id, arg, parts = message
        self._extended = True
        if kind == wire.CANCEL:
            self.give_up(id)
        elif kind == wire.PING:
            self.connection.write(wire.encode(wire.PONG, 0, id, arg, ()))
        elif kind == wire.HELLO:
            self._on_hello(parts[0])
        elif kind != wire.PONG:
            self._on_broken(ProtocolError(f"a client sent a message of kind {kind}"), None)

    def _on_hello(self, part: bytes) -> None:
        try:
            hello = wire.decode_hello(part)
        except ProtocolError as error:
            self._on_broken(error, None)
            return
        self._max_message = min(hello.max_message or self._max_message, self._max_message)
        self._max_parts = min(hello.max_parts or self._max_parts, self._max_parts)
        self.connection.write(self.server._hello)

    def _register(self, request: SocketRequest[Any, Any]) -> SocketRequest[Any, Any]:
        if request._plain:
            if self._plain is None:
                self._plain = deque()
            self._plain.append(request)
        else:
            self._extended = True
            self._last_id = id = request._id
            if not request._one_way:
                if id in self._open:
                    raise ProtocolError(f"the id {id} is used twice at once")
                self._open[id] = request
        return request

    def give_up(self, id: int) -> None:
        """The client wants no answer any more; it is told whether the request ran."""
        request = self._open.get(id)
        if request is None:
            return
        if request._cancel():
            self._unqueue({request})
            number, text = Reason.OUT_OF_TIME, "the request was given up before it ran"
        else:
            number, text = Reason.CANCELLED, "the request was given up while it ran"
        self.connection.write(wire.encode_error(id, number, ("Cancelled", text, "")))
        self._open.pop(id, None)

    def _unqueue(self, requests: set[SocketRequest[Any, Any]]) -> None:
        for request in requests:
            self._drop(request)
        self.server._dequeue(requests)

    def _on_input_end(self) -> None:
        if self._extended:
            # Only plain clients half close; this one has gone.
            self.connection.close()
        else:
            self._close_if_done()

    def _on_crowded(self) -> None:
        # A client that does not read is not read from either.
        self.connection.tells_room = True
        self.connection.stop_reading()

    def _on_room(self) -> None:
        self.read_or_not()

    def _on_broken(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.server._counters.broken += 1
        peer = format_address(self.connection.peer)
        log_soon(bus_logger, logging.WARNING, "closing the connection of %s: %s", peer, reason_of(error))
        if isinstance(error, MessageTooLarge) and refused is not None and refused[0] == wire.REQUEST:
            texts = ("MessageTooLarge", error.args[0], "")
            self.connection.write(wire.encode_error(refused[1], Reason.TOO_LARGE, texts))
        self.connection.close_when_sent()

    def _on_closed(self, error: BaseException | None) -> None:
        if error is not None:
            peer = format_address(self.connection.peer)
            log_soon(bus_logger, logging.INFO, "lost the connection of %s: %s", peer, reason_of(error))
        for request in list(self._held):
            if request._one_way:
                # What was cast is run, whatever becomes of who cast it.
                self.server._enqueue(request)
                self._drop(request)
        open_requests = {*self._open.values(), *(self._plain or ())}
        for request in open_requests:
            request._cancel()
        self._unqueue(open_requests)
        self._open.clear()
        self._plain = None
        self.server._wake_drain()
        self.server._sessions.discard(self)
