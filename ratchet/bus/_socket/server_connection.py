"""One connected client, as the server sees it, and the requests that it sent.

It acts on what `ServerProtocol` makes of the messages that come, and sends on a
`MessageStream` what that makes of the answers.  What a client does wrong is settled
within its own connection.

What it sends is read on although a request waits at its `gate`, so that cancels and pings
behind it get through.  When what it has sent takes too much memory, everything up to the next
request is read.  Only from a client that itself does not read is nothing read.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import ErrorTexts, Reason
from ratchet.bus._core.incoming import IncomingRequest, Route
from ratchet.bus._core.incoming_states import ANSWERING, UNENDED
from ratchet.bus._core.peer import Peer
from ratchet.bus._core.side import DRAINING
from ratchet.bus._socket import heads, table
from ratchet.bus._socket.admission import Admission
from ratchet.bus._socket.budget import OVERHEAD, Share, size_of
from ratchet.bus._socket.gate import Gate
from ratchet.bus._socket.interfaces import BROKEN, CLOSED, CLOSING
from ratchet.bus._socket.protocol import GivenUp, ServerProtocol, used_twice
from ratchet.bus._socket.read_size import HEAD_READ_SIZE, READ_SIZE
from ratchet.bus._socket.stream import MessageStream
from ratchet.bus._socket.wire import Frame, Message
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import body_of, parts_of
from ratchet.errors import BusError, ConnectionLost, Outcome, ProtocolError, reason_of

# The flow of every connection that has not asked anything yet: many never do.
_NO_FLOW: Final[Flow] = Flow()


class ServerConnection(Route):
    """One connected client."""

    __slots__ = ("admission", "budget", "gate", "protocol", "share", "stream")

    def __init__(self, admission: Admission, transport: Transport, peer: Address) -> None:
        super().__init__(in_process=False, peer=peer, flow=_NO_FLOW)
        self.admission = admission
        self.budget = admission.budget
        limits = admission.limits
        self.share = Share(admission.budget, self)
        self.gate = Gate(admission, self.share)
        self.protocol = ServerProtocol(limits, admission.hello, peer)
        self.stream = MessageStream(transport, limits, self, peer)

    def __repr__(self) -> str:
        unanswered = len(self.protocol.open) + len(self.protocol.plain)
        waiting = (
            f"unanswered={unanswered}, parked={len(self.gate.parked)}, held_back={len(self.gate.held_back)}"
        )
        return f"<ServerConnection at {id(self):#x}: {waiting}, {self.stream!r}>"

    @property
    def read_size(self) -> int:
        return HEAD_READ_SIZE if self.stream.input.requests_paused else self.share.read_size(READ_SIZE)

    def identify(self) -> Peer | None:
        return self.stream.identify()

    def socket_closing(self) -> None:
        if self.share.unfinished:
            # Whoever has one of its requests, as of a client that cast it and left, may still ask.
            self.stream.keep_identity()

    def is_writable(self, request: IncomingRequest) -> bool:
        if self.stream.output.writers.above_high_water or (self.share.unsent and self.share.is_deaf):
            return False
        if request.id != heads.PLAIN_ID or self.protocol.kept < self.admission.limits.high_water:
            return True
        return self.protocol.may_answer_now(request)

    def send(self, request: IncomingRequest, message: Any) -> bool:
        if self.admission.takes_bytes:
            if (
                type(message) is bytes
                and request.id != heads.PLAIN_ID
                and len(message) <= self.protocol.max_message
                and not self.stream.output.writers.above_high_water
            ):
                # Almost every answer is one of these, and nothing is in its way.
                return self._answer(request, None, message)
            message = parts_of(message)
        frame = self.protocol.response(request.id, message)
        if self.stream.output.writers.above_high_water and not self._wait_until_writable(request):
            return False
        # The client may have given up while a codec blocked, or while this waited.
        if request.state is not ANSWERING:
            return False
        return self._answer(request, frame, b"")

    def fail(
        self, request: IncomingRequest, reason: Reason, texts: ErrorTexts, outcome: Outcome | None
    ) -> bool:
        if self.stream.closed:
            return False
        return self._answer(request, self.protocol.error(request.id, reason, texts, outcome), b"")

    def _wait_until_writable(self, request: IncomingRequest) -> bool:
        """Wait until the client reads; blocks.  False if its time is over before that."""
        if self.stream.output.writers.wait_for_room("send_response", time_left(request.deadline)):
            return True
        self.give_up(request)
        return False

    def _answer(self, request: IncomingRequest, frame: Frame | None, body: bytes) -> bool:
        """Send the answer of a request, or keep it until its turn; does not block.

        Args:
            request: an extended one, if there is no frame.
            frame: the answer; None for a response of one part.
            body: that part.

        False if the client does not want it any more.
        """
        stream = self.stream
        if stream.state is CLOSING or stream.state is CLOSED:
            return False
        if frame is not None and request.id == heads.PLAIN_ID:
            self.protocol.keep_answer(request, frame)
            self._send_plain_answers()
            if stream.input.ended:
                self._close_if_done()
            return True
        open_requests = self.protocol.open
        if open_requests.get(request.id) is not request:
            return False
        if frame is None:
            stream.output.write_short(heads.RESPONSE, 0, request.id, 0, body)
        else:
            stream.output.write(frame)
        table.drop(open_requests, request.id)
        return True

    def park(self, request: IncomingRequest) -> None:
        self.stream.output.writers.wants_resume = True
        self.gate.park(request)

    def released(self, request: IncomingRequest) -> None:
        if request.id != heads.PLAIN_ID or self.stream.closed:
            # A plain one is finished when its turn to be answered has come, or never will.
            self._finish(request)

    def _finish(self, request: IncomingRequest) -> None:
        """One of its requests needs nothing more."""
        share, budget, size = self.share, self.budget, request.size
        if size:
            request.size = 0
            share.unfinished -= 1
            share.size -= size
        if budget.waiting:
            budget.give_back(size)
        else:
            budget.taken -= size
        if share.unsent:
            self.note_unsent()
        gate, stream_input = self.gate, self.stream.input
        if gate.held_back or gate.parked or stream_input.requests_paused or not stream_input.reading:
            self.admission.requests.run_callback(self.look_again)

    def note_unsent(self) -> None:
        # What is unsent on a broken connection never will be sent.
        unsent = 0 if self.stream.state >= BROKEN else self.stream.output.unsent
        self.share.note_unsent(unsent)
        if unsent:
            # To count again when there is less.
            self.stream.output.writers.wants_resume = True

    def look_again(self) -> None:
        """See `budget.Holder`."""
        if self.stream.closed:
            # What it cast may still be run, and only that is left of it.
            return
        gate, stream_input, writers = self.gate, self.stream.input, self.stream.output.writers
        if (gate.parked or gate.held_back) and not writers.above_high_water:
            gate.let_in(self.is_writable)
        if writers.above_high_water:
            stream_input.pause_reading()
        elif self._has_too_much:
            self._pause_requests()
        else:
            self.share.leave()
            if not stream_input.ended and (stream_input.requests_paused or not stream_input.reading):
                stream_input.resume_reading()

    def go_away(self) -> None:
        """Tell the client that no later request than those it sent will be run."""
        goaway = self.protocol.goaway(self.stream.input.begun_kind)
        if goaway:
            self.stream.output.write(goaway)

    def send_away(self) -> bool:
        """Tell the client to go elsewhere, although the server goes on; what it has sent is still run.

        False if it cannot be told: it speaks the plain form, or has not said anything yet.
        """
        if not self.protocol.extended:
            return False
        # First: a request that comes after the word must not be run.
        self.admission.leaving[self] = None
        self.go_away()
        return True

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.stream.settle()
        if self.stream.closed:
            self.connection_lost(self.stream.error)
        else:
            for request in list(self.protocol.open.values()):
                if request.state not in UNENDED:
                    # Given up, or answered, and interrupted before it was taken out.
                    self.protocol.open.pop(request.id, None)
            self._send_plain_answers()

    @property
    def requests(self) -> list[IncomingRequest]:
        """Its requests that may be unfinished, but for what is cast and let in: the server knows those."""
        return [*self.protocol.open.values(), *self.protocol.plain, *self.gate.parked, *self.gate.held_back]

    def settle_share(self, requests: Iterable[IncomingRequest]) -> None:
        """As `settle`, for what its requests take; also of a connection that has gone.

        Args:
            requests: all of its that may be unfinished, each once.
        """
        share = self.share
        share.unfinished = share.size = 0
        for request in requests:
            if request.state not in UNENDED and request not in self.protocol.plain:
                # Interrupted before it was forgotten.
                request.size = 0
            if request.size:
                share.unfinished += 1
                share.size += request.size

    @property
    def _has_too_much(self) -> bool:
        """Whether no more requests are to be read.

        A server that drains reads all: it refuses requests, and who cast may have gone already.
        """
        if self.admission.intake.life is DRAINING:
            return False
        return self.gate.holds_back_too_much or not self.share.has_room()

    def _pause_requests(self) -> None:
        self.share.wait()
        self.stream.input.pause_requests()

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
            size = size_of(event.message, event.metadata)
            if self.admission.takes_bodies:
                event.message = body_of(event.message)
            self._admit(event, size)
        elif isinstance(event, bytes):
            self.stream.output.write(event)
        elif isinstance(event, GivenUp):
            self._cancel(event.request)

    def short_received(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> None:
        if kind != heads.REQUEST or flags & heads.METADATA:
            self.message_received((kind, flags, id, arg, [body]))
            return
        one_way = flags & heads.ONE_WAY != 0
        message: Any = body if self.admission.takes_bodies else [body]
        request = self._new_request(message, one_way, arg, id, None)
        if self.protocol.enter(id, one_way, request):
            # In two steps, so that the compiled build adds in C.
            size = OVERHEAD
            size += len(body)
            self._admit(request, size)
        else:
            self.protocol_error(used_twice(id), None)

    def _admit(self, request: IncomingRequest, size: int) -> None:
        """Let a request of so many bytes in, or hold it back until there is room."""
        share, gate, budget = self.share, self.gate, self.budget
        let_in = not gate.held_back and (gate.has_room() or self.admission.intake.life is DRAINING)
        request.size = size
        share.unfinished += 1
        share.size += size
        budget.taken += size
        if share.begun_size:
            share.drop_begun()
        if self.admission.leaving and self in self.admission.leaving and not request.one_way:
            # It was told that this one will not be run.
            request.refuse_draining()
        elif let_in:
            self.admission.enqueue(request)
        else:
            gate.hold_back(request)
        if (budget.taken >= budget.soft_limit or gate.held_back) and self._has_too_much:
            self._pause_requests()

    def message_begun(self, size: int) -> bool:
        if self.admission.intake.life is DRAINING:
            return True
        if (self.share.begun_size or not self.gate.holds_back_too_much) and self.share.begin(size):
            return True
        self._pause_requests()
        return False

    def _new_request(
        self, message: Any, one_way: bool, left: int, id: int, metadata: Mapping[str, str] | None
    ) -> IncomingRequest:
        if self.flow is _NO_FLOW:
            self.flow = Flow()
        deadline, half_time = None, 0.0
        if left:
            now = _clock.monotonic()
            deadline, half_time = now + left / 1000, now + left / 2000
        request = IncomingRequest.__new__(IncomingRequest)
        request.begin(self.admission.requests, self, message, one_way, deadline, id, None, half_time)
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
            # It is finished, but a thread has it, and may ask when the client has gone.
            self.stream.keep_identity()
        self.stream.output.write(self.protocol.error(request.id, reason, ("Cancelled", text, "")))
        self.protocol.open.pop(request.id, None)

    def _unqueue(self, requests: Collection[IncomingRequest]) -> None:
        for request in requests:
            self.gate.drop(request)
        self.admission.dequeue(requests)

    def took_too_long(self) -> None:
        self.protocol_error(ConnectionLost("it took too long over a request while others had no room"), None)
        self.stream.abort()

    def eof_received(self) -> None:
        if self.protocol.extended:
            # Only plain clients half close; this one has gone.
            self.stream.abort()
        else:
            self._close_if_done()

    def pause_writing(self) -> None:
        # Before the first answer is kept, TLS may wait for the socket with a record of its own:
        # `note_unsent` was called then, and found nothing.
        self.note_unsent()
        # A client that does not read is not read from either.
        self.stream.output.writers.wants_resume = True
        self.stream.input.pause_reading()

    def resume_writing(self) -> None:
        self.note_unsent()
        self.look_again()

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
        if self.gate.held_back:
            self.gate.let_casts_in()
        if self.protocol.open or self.protocol.plain:
            # One that ends the connection by its own answer, as a plain error does, has that.
            unanswered = dict.fromkeys(self.protocol.unanswered)
            for request in unanswered:
                request.cancel()
            self._unqueue(unanswered)
        for request in self.protocol.plain:
            if request.state not in UNENDED:
                # Its turn to be answered will not come.
                self._finish(request)
        self.share.leave()
        self.share.drop_begun()
        if self.share.unsent:
            self.share.note_unsent(0)
        admission = self.admission
        if admission.requests.drain_waiters:
            admission.requests.wake_drain()
        admission.connections.pop(self, None)
        admission.leaving.pop(self, None)
        if admission.on_connection_lost is not None:
            admission.on_connection_lost()
