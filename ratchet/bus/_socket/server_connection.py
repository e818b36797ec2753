"""One connected client, as the server sees it, and the requests that it sent.

What a message means on the server's side is decided here; how it travels is the
connection's affair.  It answers extended requests in any order and plain ones
in the order in which they came.  What a client does wrong is settled within its own
connection.

A request that the server has no room for is held, and one whose answer would only
wait for the client to read is parked: cancels and pings behind it are still read.
Only when a client has sent far more than it may, or what is held takes too much
memory, or the client itself does not read, is nothing more read from it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Collection, Sequence
from typing import Final

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.faults import ErrorTexts, Reason, check_size, decode_metadata
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_states import ANSWERING, OPEN
from ratchet.bus._socket import wire
from ratchet.bus._socket.admission import Admission
from ratchet.bus._socket.outbox import size_of
from ratchet.bus._socket.stream import MessageStream, StreamOwner
from ratchet.bus._socket.transport import Transport
from ratchet.bus._socket.wire import Frame, Message
from ratchet.bus.codecs import Address as PeerAddress
from ratchet.errors import BusError, MessageTooLarge, ProtocolError, reason_of

# About how many bytes a request takes besides its parts.
_OWN_SIZE: Final = 1024
# Plain requests have no id; their answers go in the order in which they came.
_PLAIN_ID: Final = -1


def size_while_held(request: IncomingRequest) -> int:
    """About how many bytes a request takes while it waits."""
    return sum(map(len, request.message), _OWN_SIZE)


class ServerConnection(StreamOwner):
    """One connected client."""

    in_process = False

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
        "parked",
        "peer",
        "server",
        "stream",
    )

    def __init__(self, server: Admission[ServerConnection], transport: Transport, peer: Address) -> None:
        self.server = server
        limits = server.limits
        # Its requests that are not finished, one-way ones included, and how many
        # of them it may have.
        self._unfinished: set[IncomingRequest] = set()
        self._max_in_flight = limits.max_in_flight
        # What this side may send: its own limits, or the client's if these are lower.
        self._max_message = limits.max_message
        self._max_parts = limits.max_parts
        # Requests that are not let in yet, in order, and about how many bytes they take.
        self._held: dict[IncomingRequest, None] = {}
        self._held_size = 0
        # Requests that were let in, and whose answers would only wait to be read.
        self.parked: dict[IncomingRequest, None] = {}
        # The requests that are to be answered, by id; and in order, if plain.
        self._open: dict[int, IncomingRequest] = {}
        self._plain: deque[IncomingRequest] | None = None
        # Bytes of plain answers that wait for those of earlier requests.
        self._kept = 0
        self._last_id = 0
        # Whether the client has sent an extended message; a plain one would not
        # understand any.
        self._extended = False
        self.peer: PeerAddress = peer
        self.stream = MessageStream(transport, limits, self, peer)

    def __repr__(self) -> str:
        unanswered = len(self._open) + len(self._plain or ())
        waiting = f"unanswered={unanswered}, parked={len(self.parked)}, held={len(self._held)}"
        return f"<ServerConnection at {id(self):#x}: {waiting}, {self.stream!r}>"

    def is_writable(self, request: IncomingRequest) -> bool:
        if self.stream.above_high_water:
            return False
        if request.id != _PLAIN_ID or self._kept < self.server.limits.high_water:
            return True
        # The first of the plain ones is what the others wait for.
        return request is (self._plain[0] if self._plain else None)

    def send(self, request: IncomingRequest, message: Sequence[bytes]) -> bool:
        # This side's own limits, or the client's if these are lower.
        check_size(message, self._max_message, self._max_parts, self.peer)
        if self.stream.above_high_water and not self._wait_until_writable(request):
            return False
        # The client may have given up while a codec blocked, or while this waited.
        if request.state is not ANSWERING:
            return False
        plain = request.id == _PLAIN_ID
        return self._answer(
            request, wire.frame(wire.PLAIN if plain else wire.RESPONSE, 0, request.id, 0, message)
        )

    def fail(self, request: IncomingRequest, reason: Reason, texts: ErrorTexts) -> bool:
        if self.stream.closed:
            return False
        # An empty answer stands for an error, which the plain form cannot tell.
        plain = request.id == _PLAIN_ID
        return self._answer(request, b"" if plain else wire.encode_error(request.id, reason, texts))

    def _wait_until_writable(self, request: IncomingRequest) -> bool:
        """Wait until the client reads; blocks.  False if its time is over before that."""
        if self.stream.wait_for_room("send_response", time_left(request.deadline)):
            return True
        self.give_up(request)
        return False

    def _answer(self, request: IncomingRequest, frame: Frame) -> bool:
        """Send the answer of a request, or keep it until its turn; does not block.

        False if the client does not want it any more.
        """
        connection = self.stream
        if connection.closing:
            return False
        if request.id == _PLAIN_ID:
            if request.kept_answer is None:
                self._kept += size_of(frame)
                request.kept_answer = frame
            self._send_plain_answers()
            if connection.input_ended:
                self._close_if_done()
            return True
        if self._open.get(request.id) is not request:
            return False
        connection.write(frame)
        del self._open[request.id]
        return True

    def park(self, request: IncomingRequest) -> None:
        self.stream.wants_resume = True
        self.parked[request] = None

    def released(self, request: IncomingRequest) -> None:
        if request.id != _PLAIN_ID:
            # A plain one is finished when its turn to be answered has come.
            self._finish(request)

    def _finish(self, request: IncomingRequest) -> None:
        """One of its requests needs nothing more."""
        self._unfinished.discard(request)
        if self._held or not self.stream.reading:
            self.server.requests.run_callback(self.read_or_not)

    def read_or_not(self) -> None:
        """Hub callback: let in what waits, as far as there is room; and read on, unless there is too much."""
        if self.parked or self._held:
            self._let_in()
        if self._has_too_much:
            self.stream.pause_reading()
        elif not self.stream.input_ended and not self.stream.reading:
            self.stream.resume_reading()

    def end_parking(self) -> None:
        """The server drains: what was cast is let in, and nothing else will be run."""
        for request in (*self.parked, *self._held):
            if request.one_way:
                self.server.enqueue(request)
            else:
                request.refuse_draining()
            self._drop(request)

    def go_away(self) -> None:
        """Tell the client that no later request than those it sent will be run."""
        # A plain peer would not understand it.
        if self._extended or self.stream.begun_kind in (wire.REQUEST, wire.HELLO):
            self.stream.write(wire.encode(wire.GOAWAY, 0, self._last_id, 0, ()))

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.stream.settle()
        if self.stream.closed:
            self.connection_lost(self.stream.error)
        else:
            for id, request in list(self._open.items()):
                if request.state not in OPEN:
                    # Given up, or answered, and interrupted before it was taken out.
                    del self._open[id]
            self._send_plain_answers()
            self.read_or_not()

    @property
    def _has_too_much(self) -> bool:
        """Whether nothing more is to be read: the client does not read, or too much is held."""
        return self.stream.above_high_water or self._held_size >= self.server.limits.high_water

    @property
    def _has_room(self) -> bool:
        """Whether one more request may be let in."""
        return (
            not self.server.inbox.overfull and len(self._unfinished) - len(self._held) < self._max_in_flight
        )

    def _let_in(self) -> None:
        if self.stream.above_high_water:
            return
        if not self.stream.reading:
            # Some of them may have been given up meanwhile.
            self.stream.read_anyway()
        for request in (*self.parked, *self._held):
            if request in self._held and not self._has_room:
                break
            # First: one that is in two places is taken once, one that is in none never.
            self.server.enqueue(request)
            self._drop(request)

    def _hold(self, request: IncomingRequest) -> None:
        """Do not let a request in yet."""
        self._held[request] = None
        self._held_size += size_while_held(request)
        if self._has_too_much:
            self.stream.pause_reading()

    def _drop(self, request: IncomingRequest) -> None:
        """It is not kept here any more."""
        self.parked.pop(request, None)
        if request in self._held:
            self._held_size -= size_while_held(request)
            del self._held[request]
        if not self._held:
            # An interrupted call may have left the sum wrong; here it is known.
            self._held_size = 0

    def _send_plain_answers(self) -> None:
        while self._plain and self._plain[0].kept_answer is not None:
            request = self._plain[0]
            frame = request.kept_answer
            if not frame:
                self.stream.close()
                return
            try:
                self.stream.write(frame)
                self._plain.popleft()
            except BaseException as error:
                # Nobody knows whose answer the next one would be taken for.
                self.stream.lose_place(error)
                raise
            self._kept -= size_of(frame)
            self._finish(request)

    def _close_if_done(self) -> None:
        if self.stream.input_ended and not self._open and not self._plain:
            self.stream.close()

    def message_received(self, message: Message) -> None:
        kind = message[0]
        if kind == wire.REQUEST or kind == wire.PLAIN:
            try:
                request = self._register(self._request_of(message))
            except ProtocolError as error:
                self.protocol_error(error, None)
                return
            let_in = self.server.intake.draining or (not self._held and self._has_room)
            self._unfinished.add(request)
            if let_in:
                self.server.enqueue(request)
            else:
                self._hold(request)
            return
        _, _, id, arg, parts = message
        self._extended = True
        if kind == wire.CANCEL:
            self._on_cancel(id)
        elif kind == wire.PING:
            self.stream.write(wire.encode(wire.PONG, 0, id, arg, ()))
        elif kind == wire.HELLO:
            self._on_hello(parts[0])
        elif kind != wire.PONG:
            self.protocol_error(ProtocolError(f"a client sent a message of kind {kind}"), None)

    def _on_hello(self, part: bytes) -> None:
        try:
            hello = wire.decode_hello(part)
        except ProtocolError as error:
            self.protocol_error(error, None)
            return
        self._max_message = min(hello.max_message or self._max_message, self._max_message)
        self._max_parts = min(hello.max_parts or self._max_parts, self._max_parts)
        self.stream.write(self.server.hello)

    def _request_of(self, message: Message) -> IncomingRequest:
        kind, flags, id, arg, parts = message
        metadata = decode_metadata(parts.pop()) if flags & wire.METADATA else None
        deadline = deadline_after(arg / 1000) if arg else None
        request = IncomingRequest(
            self.server.requests,
            self,
            parts,
            bool(flags & wire.ONE_WAY),
            deadline,
            _PLAIN_ID if kind == wire.PLAIN else id,
        )
        if metadata is not None:
            request.metadata = metadata
        return request

    def _register(self, request: IncomingRequest) -> IncomingRequest:
        if request.id == _PLAIN_ID:
            if self._plain is None:
                self._plain = deque()
            self._plain.append(request)
        else:
            self._extended = True
            self._last_id = id = request.id
            if not request.one_way:
                if id in self._open:
                    raise ProtocolError(f"the id {id} is used twice at once")
                self._open[id] = request
        return request

    def give_up(self, request: IncomingRequest) -> None:
        if self._open.get(request.id) is request:
            self._cancel(request)

    def _on_cancel(self, id: int) -> None:
        request = self._open.get(id)
        if request is not None:
            self._cancel(request)

    def _cancel(self, request: IncomingRequest) -> None:
        """The client wants no answer any more; it is told whether the request ran."""
        if request.cancel():
            self._unqueue((request,))
            reason, text = Reason.OUT_OF_TIME, "the request was given up before it ran"
        else:
            reason, text = Reason.CANCELLED, "the request was given up while it ran"
        self.stream.write(wire.encode_error(request.id, reason, ("Cancelled", text, "")))
        self._open.pop(request.id, None)

    def _unqueue(self, requests: Collection[IncomingRequest]) -> None:
        for request in requests:
            self._drop(request)
        self.server.dequeue(requests)

    def eof_received(self) -> None:
        if self._extended:
            # Only plain clients half close; this one has gone.
            self.stream.abort()
        else:
            self._close_if_done()

    def pause_writing(self) -> None:
        # A client that does not read is not read from either.
        self.stream.wants_resume = True
        self.stream.pause_reading()

    def resume_writing(self) -> None:
        self.read_or_not()

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.server.requests.counters.broken += 1
        peer = format_address(self.stream.peer)
        log_soon(bus_logger, logging.WARNING, "closing the connection of %s: %s", peer, reason_of(error))
        if isinstance(error, MessageTooLarge) and refused is not None and refused[0] == wire.REQUEST:
            texts = ("MessageTooLarge", error.args[0], "")
            self.stream.write(wire.encode_error(refused[1], Reason.TOO_LARGE, texts))
        self.stream.close()

    def connection_lost(self, error: BaseException | None) -> None:
        if error is not None:
            peer = format_address(self.stream.peer)
            log_soon(bus_logger, logging.INFO, "lost the connection of %s: %s", peer, reason_of(error))
        for request in list(self._held):
            if request.one_way:
                # What was cast is run, whatever becomes of who cast it.
                self.server.enqueue(request)
                self._drop(request)
        # One that ends the connection by its own answer, as a plain error does, has that.
        unanswered = (request for request in self._plain or () if request.kept_answer is None)
        open_requests = dict.fromkeys((*self._open.values(), *unanswered))
        for request in open_requests:
            request.cancel()
        self._unqueue(open_requests)
        self._open.clear()
        self._plain = None
        self.server.requests.wake_drain()
        self.server.connections.pop(self, None)
