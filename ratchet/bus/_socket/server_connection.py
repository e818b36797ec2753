"""One connected client, as the server sees it, and the requests that it sent.

It acts on what `ServerProtocol` makes of the messages that come, and sends on a
`MessageStream` what that makes of the answers.  What a client does wrong is settled
within its own connection.

A request that the server has no room for is held, and one whose answer would only
wait for the client to read is parked: cancels and pings behind it are still read.
Only when what is held takes too much memory, or the client itself does not read, is
nothing more read from it.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.faults import ErrorTexts, Reason
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.incoming_states import ANSWERING, UNENDED
from ratchet.bus._core.side import DRAINING
from ratchet.bus._socket.admission import Admission
from ratchet.bus._socket.interfaces import CLOSED, CLOSING
from ratchet.bus._socket.protocol import PLAIN_ID, GivenUp, ServerProtocol
from ratchet.bus._socket.stream import MessageStream
from ratchet.bus._socket.transport import Transport
from ratchet.bus._socket.wire import Frame, Message
from ratchet.bus.codecs import PeerAddress
from ratchet.errors import BusError, ProtocolError, reason_of

# About how many bytes a request takes besides its parts.
_OWN_SIZE: Final = 1024


def size_while_held(request: IncomingRequest) -> int:
    """About how many bytes a request takes while it waits."""
    return sum(map(len, request.message), _OWN_SIZE)


class ServerConnection:
    """One connected client."""

    in_process = False

    __slots__ = (
        "_held",
        "_held_size",
        "_max_in_flight",
        "_unfinished",
        "admission",
        "parked",
        "peer",
        "protocol",
        "stream",
    )

    def __init__(self, admission: Admission[ServerConnection], transport: Transport, peer: Address) -> None:
        self.admission = admission
        limits = admission.limits
        # Its requests that are not finished, one-way ones included, and how many
        # of them it may have.
        self._unfinished: dict[IncomingRequest, None] = {}
        self._max_in_flight = limits.max_in_flight
        # Requests that are not let in yet, in order, and about how many bytes they take.
        self._held: dict[IncomingRequest, int] = {}
        self._held_size = 0
        # Requests that were let in, and whose answers would only wait to be read.
        self.parked: dict[IncomingRequest, None] = {}
        self.peer: PeerAddress = peer
        self.protocol: ServerProtocol[IncomingRequest] = ServerProtocol(limits, admission.hello, peer)
        self.stream = MessageStream(transport, limits, self, peer)

    def __repr__(self) -> str:
        unanswered = len(self.protocol.open) + len(self.protocol.plain)
        waiting = f"unanswered={unanswered}, parked={len(self.parked)}, held={len(self._held)}"
        return f"<ServerConnection at {id(self):#x}: {waiting}, {self.stream!r}>"

    def is_writable(self, request: IncomingRequest) -> bool:
        if self.stream.output.writers.above_high_water:
            return False
        if request.id != PLAIN_ID or self.protocol.kept < self.admission.limits.high_water:
            return True
        return self.protocol.may_answer_now(request)

    def send(self, request: IncomingRequest, message: Sequence[bytes]) -> bool:
        frame = self.protocol.response(request.id, message)
        if self.stream.output.writers.above_high_water and not self._wait_until_writable(request):
            return False
        # The client may have given up while a codec blocked, or while this waited.
        if request.state is not ANSWERING:
            return False
        return self._answer(request, frame)

    def fail(self, request: IncomingRequest, reason: Reason, texts: ErrorTexts) -> bool:
        if self.stream.closed:
            return False
        return self._answer(request, self.protocol.error(request.id, reason, texts))

    def _wait_until_writable(self, request: IncomingRequest) -> bool:
        """Wait until the client reads; blocks.  False if its time is over before that."""
        if self.stream.output.writers.wait_for_room("send_response", time_left(request.deadline)):
            return True
        self.give_up(request)
        return False

    def _answer(self, request: IncomingRequest, frame: Frame) -> bool:
        """Send the answer of a request, or keep it until its turn; does not block.

        False if the client does not want it any more.
        """
        stream = self.stream
        if stream.state is CLOSING or stream.state is CLOSED:
            return False
        if request.id == PLAIN_ID:
            self.protocol.keep_answer(request, frame)
            self._send_plain_answers()
            if stream.input.ended:
                self._close_if_done()
            return True
        open_requests = self.protocol.open
        if open_requests.get(request.id) is not request:
            return False
        stream.output.write(frame)
        # By another way, if a signal handler has closed the connection meanwhile.
        open_requests.pop(request.id, None)
        return True

    def park(self, request: IncomingRequest) -> None:
        self.stream.output.writers.wants_resume = True
        self.parked[request] = None

    def released(self, request: IncomingRequest) -> None:
        if request.id != PLAIN_ID:
            # A plain one is finished when its turn to be answered has come.
            self._finish(request)

    def _finish(self, request: IncomingRequest) -> None:
        """One of its requests needs nothing more."""
        self._unfinished.pop(request, None)
        if self._held or self.parked or not self.stream.input.reading:
            self.admission.requests.run_callback(self.read_or_not)

    def read_or_not(self) -> None:
        """Hub callback: let in what waits, as far as there is room; and read on, unless there is too much."""
        if self.parked or self._held:
            self._let_in()
        if self._has_too_much:
            self.stream.input.pause_reading()
        elif not self.stream.input.ended and not self.stream.input.reading:
            self.stream.input.resume_reading()

    def end_parking(self) -> None:
        """The server drains: what was cast is let in, and nothing else will be run."""
        for request in (*self.parked, *self._held):
            if request.one_way:
                self.admission.enqueue(request)
            else:
                request.refuse_draining()
            self._drop(request)

    def go_away(self) -> None:
        """Tell the client that no later request than those it sent will be run."""
        goaway = self.protocol.goaway(self.stream.input.begun_kind)
        if goaway:
            self.stream.output.write(goaway)

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.stream.settle()
        if self.stream.closed:
            self.connection_lost(self.stream.error)
        else:
            for id, request in list(self.protocol.open.items()):
                if request.state not in UNENDED:
                    # Given up, or answered, and interrupted before it was taken out.
                    del self.protocol.open[id]
            self._send_plain_answers()
            self.read_or_not()

    @property
    def _has_too_much(self) -> bool:
        """Whether nothing more is to be read: the client does not read, or too much is held."""
        return (
            self.stream.output.writers.above_high_water or self._held_size >= self.admission.limits.high_water
        )

    @property
    def _has_room(self) -> bool:
        """Whether one more request may be let in."""
        return (
            not self.admission.inbox.overfull
            and len(self._unfinished) - len(self._held) < self._max_in_flight
        )

    def _let_in(self) -> None:
        if self.stream.output.writers.above_high_water:
            return
        if not self.stream.input.reading:
            # Some of them may have been given up meanwhile.
            self.stream.input.read_anyway()
        for request in (*self.parked, *self._held):
            if request in self.parked and not self.is_writable(request):
                # A plain one whose turn to be answered is far: it would be parked again.
                continue
            if request in self._held and not self._has_room:
                break
            # First: one that is in two places is taken once, one that is in none never.
            self.admission.enqueue(request)
            self._drop(request)

    def _hold(self, request: IncomingRequest) -> None:
        """Do not let a request in yet."""
        # Noted with it: what is let in, and interrupted before it is dropped, may be decoded already.
        self._held[request] = size = size_while_held(request)
        self._held_size += size
        if self._has_too_much:
            self.stream.input.pause_reading()

    def _drop(self, request: IncomingRequest) -> None:
        """It is not kept here any more."""
        self.parked.pop(request, None)
        self._held_size -= self._held.pop(request, 0)
        if not self._held:
            # An interrupted call may have left the sum wrong; here it is known.
            self._held_size = 0

    def _send_plain_answers(self) -> None:
        while due := self.protocol.due_answer():
            request, frame = due
            if not frame:
                # An error, which the plain form cannot tell.
                self.stream.close()
                return
            try:
                self.stream.output.write(frame)
                self.protocol.answer_sent(request, frame)
            except BaseException as error:
                # Nobody knows whose answer the next one would be taken for.
                self.stream.lose_place(error)
                raise
            self._finish(request)

    def _close_if_done(self) -> None:
        if self.stream.input.ended and not self.protocol.open and not self.protocol.plain:
            self.stream.close()

    def message_received(self, message: Message) -> None:
        try:
            event = self.protocol.receive(message, self._new_request)
        except ProtocolError as error:
            self.protocol_error(error, None)
            return
        if isinstance(event, IncomingRequest):
            let_in = self.admission.intake.life is DRAINING or (not self._held and self._has_room)
            self._unfinished[event] = None
            if let_in:
                self.admission.enqueue(event)
            else:
                self._hold(event)
        elif isinstance(event, bytes):
            self.stream.output.write(event)
        elif isinstance(event, GivenUp):
            self._cancel(event.request)

    def _new_request(
        self, parts: list[bytes], one_way: bool, left: int, id: int, metadata: Mapping[str, str] | None
    ) -> IncomingRequest:
        deadline = deadline_after(left / 1000) if left else None
        request = IncomingRequest(self.admission.requests, self, parts, one_way, deadline, id)
        if metadata is not None:
            request.metadata = metadata
        return request

    def give_up(self, request: IncomingRequest) -> None:
        if self.protocol.open.get(request.id) is request:
            self._cancel(request)

    def _cancel(self, request: IncomingRequest) -> None:
        """The client wants no answer any more; it is told whether the request ran."""
        if request.cancel():
            self._unqueue((request,))
            reason, text = Reason.OUT_OF_TIME, "the request was given up before it ran"
        else:
            reason, text = Reason.CANCELLED, "the request was given up while it ran"
        self.stream.output.write(self.protocol.error(request.id, reason, ("Cancelled", text, "")))
        self.protocol.open.pop(request.id, None)

    def _unqueue(self, requests: Collection[IncomingRequest]) -> None:
        for request in requests:
            self._drop(request)
        self.admission.dequeue(requests)

    def eof_received(self) -> None:
        if self.protocol.extended:
            # Only plain clients half close; this one has gone.
            self.stream.abort()
        else:
            self._close_if_done()

    def pause_writing(self) -> None:
        # A client that does not read is not read from either.
        self.stream.output.writers.wants_resume = True
        self.stream.input.pause_reading()

    def resume_writing(self) -> None:
        self.read_or_not()

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.admission.requests.counters.broken += 1
        peer = format_address(self.stream.peer)
        log_soon(bus_logger, logging.WARNING, "closing the connection of %s: %s", peer, reason_of(error))
        refusal = self.protocol.refusal(error, refused)
        if refusal:
            self.stream.output.write(refusal)
        self.stream.close()

    def connection_lost(self, error: BaseException | None) -> None:
        if error is not None:
            peer = format_address(self.stream.peer)
            log_soon(bus_logger, logging.INFO, "lost the connection of %s: %s", peer, reason_of(error))
        for request in list(self._held):
            if request.one_way:
                # What was cast is run, whatever becomes of who cast it.
                self.admission.enqueue(request)
                self._drop(request)
        # One that ends the connection by its own answer, as a plain error does, has that.
        unanswered = dict.fromkeys(self.protocol.unanswered)
        for request in unanswered:
            request.cancel()
        self._unqueue(unanswered)
        self.protocol.open.clear()
        self.protocol.plain.clear()
        self.admission.requests.wake_drain()
        self.admission.connections.pop(self, None)
