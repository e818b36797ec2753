"""One connection to a server, as the client sees it, and the requests that it carries.

It acts on what `ClientProtocol` makes of the messages that come, and sends on a
`MessageStream` what that makes of the requests.  Every transaction ends, whatever
becomes of the connection, and its error says whether the request ran.

A transaction leaves the register of the open ones after it has ended, so one whose
ending is interrupted is still there, and ends with the connection or in `settle`.
"""

from __future__ import annotations

import logging
import weakref
from functools import partial
from typing import Any, TypeVar

from gevent.hub import get_hub

from ratchet import _clock, _native
from ratchet._log import bus_logger, log_soon
from ratchet._wait import WaitQueue
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.faults import LAST_WORDS, SENT_BEFORE_FORK, Reason
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.outgoing import ENDED, EXPIRED, WAITING, ClientRoute, OutgoingRequest
from ratchet.bus._core.stats import Counters
from ratchet.bus._socket import heads, wire
from ratchet.bus._socket.casts import Casts
from ratchet.bus._socket.interfaces import CLOSED, ClientConnectionOwner
from ratchet.bus._socket.loss import fail_closed, fail_lost
from ratchet.bus._socket.plain import DEFERRED, PlainSender
from ratchet.bus._socket.protocol import DRAINING, ClientProtocol, Content
from ratchet.bus._socket.read_size import READ_SIZE
from ratchet.bus._socket.stream import MessageStream
from ratchet.bus._socket.wire import Message
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode, body_of
from ratchet.errors import BusError, ConnectionLost, Outcome, ProtocolError, Rejected, reason_of

Request = TypeVar("Request")


class ClientConnection(ClientRoute):
    """One connection to a server.

    Attributes:
        protocol: the client's role, with the open transactions.
        decode: decodes a response.
        casts: those that were sent on it.
        plain_sender: writes requests in the plain form.
        useful: whether an answer has come.
        retries: whether what is sent may be sent again, and so is to be kept.
    """

    budget = None
    read_size = READ_SIZE

    __slots__ = (
        "_client",
        "_measured",
        "_measured_from",
        "_measures",
        "_takes_bodies",
        "_window",
        "casts",
        "decode",
        "plain_sender",
        "protocol",
        "retries",
        "stream",
        "useful",
    )

    def __init__(
        self,
        client: ClientConnectionOwner[ClientConnection],
        transport: Transport,
        peer: Address,
        decode: Decode[Any],
        limits: Limits,
        plain: bool,
        counters: Counters,
        retries: bool,
        measures: bool,
    ) -> None:
        super().__init__(get_hub(), counters, peer)
        # Weakly, because the loop keeps a stream alive, and so its connection.
        self._client = weakref.ref(client)
        self._takes_bodies = decode is body_of
        self.decode = None if self._takes_bodies else decode
        self.protocol = ClientProtocol(limits, peer, plain)
        # Those who wait because the server takes no more at once.
        self._window = WaitQueue()
        self.useful = False
        self.retries = retries
        # Whether it is of interest how long answers take; the request of which that is to be seen, and
        # when it was sent.
        self._measures = measures
        self._measured: OutgoingRequest | None = None
        self._measured_from = 0.0
        self.stream = MessageStream(transport, limits, self, peer)
        self.casts = Casts(self.stream, self.protocol)
        self.plain_sender = PlainSender(self.stream.output, self.protocol, self.casts)

    def open_connection(self) -> None:
        """Say hello, and begin to read; if that fails, the client closes the connection that it holds."""
        greeting = self.protocol.greeting()
        if greeting:
            self.stream.output.write_later(greeting)
        self.stream.open()

    def __repr__(self) -> str:
        state = "draining, " if self.protocol.state is DRAINING else ""
        return f"<ClientConnection at {id(self):#x}: {state}unanswered={len(self)}, {self.stream!r}>"

    @property
    def server_name(self) -> str:
        return format_address(self.stream.peer)

    def __len__(self) -> int:
        """How many transactions are open."""
        return len(self.protocol.open)

    def send(
        self, owner: object, request: Request, flags: int, arg: int, content: Content
    ) -> ClientTransaction[Request, Any]:
        """Send a request of its client, whose content is checked; does not block.

        That it may be sent again is for the caller to say, once it can give it up; of a cast,
        which nobody gives up, it is said here.
        """
        transaction: ClientTransaction[Request, Any] = _native.new(ClientTransaction)
        # Nobody waits for a cast, so it keeps no client alive.
        transaction.begin(None if flags & heads.ONE_WAY else owner, self, request, self.decode)
        if flags & heads.ONE_WAY and self.retries:
            transaction.keep_to_send_again(content, flags)
        self._write(transaction, flags & heads.FLAGS, arg, content)
        return transaction

    def send_again(self, transaction: OutgoingRequest, arg: int) -> None:
        """Send a request whose last attempt has failed; does not block."""
        transaction.frame_number = 0
        transaction.attempts += 1
        # From here on it ends with this connection.
        transaction.route = self
        self._write(transaction, transaction.flags & heads.FLAGS, arg, transaction.content)

    def _write(self, transaction: OutgoingRequest, flags: int, arg: int, content: Content) -> None:
        protocol = self.protocol
        transaction.id = id = protocol.new_id()
        if self._measures and self._measured is None and not flags & heads.ONE_WAY:
            self._measured, self._measured_from = transaction, _clock.monotonic()
        plain = protocol.plain
        frame = protocol.request(id, flags, arg, content) if plain or not isinstance(content, bytes) else b""
        try:
            if not flags & heads.ONE_WAY:
                protocol.open.setdefault(id, transaction)
            if plain:
                self.plain_sender.send(transaction, frame)
            elif isinstance(content, bytes):
                output = self.stream.output
                transaction.frame_number = output.write_short(heads.REQUEST, flags, id, arg, content)
            else:
                transaction.frame_number = self.stream.output.write(frame)
        except BaseException as error:
            if plain:
                # Answers are told by their order, which nobody knows any more.
                self.stream.lose_place(error)
            # Nobody waits for it, whether it was sent or not.
            protocol.open.pop(id, None)
            raise
        if flags & heads.ONE_WAY and transaction.frame_number != DEFERRED:
            self.casts.note(transaction)
        if self.stream.state is CLOSED:
            # By a signal handler in the middle of this, which did not see the request yet.
            self.run_callback(self.fail_open, self.stream.error)

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        """A transaction is given up: take its frame back, or tell the server."""
        if transaction.frame_number == DEFERRED:
            self.plain_sender.take_back(transaction)
        if self.stream.output.take_back(transaction.frame_number):
            if transaction.id in self.protocol.order:
                self.protocol.order.remove(transaction.id)
            return Outcome.NOT_SENT
        if transaction.state is not EXPIRED:
            self._tell_cancelled(transaction)
        return Outcome.UNKNOWN

    def _tell_cancelled(self, transaction: OutgoingRequest) -> None:
        cancel = self.protocol.cancel((transaction.id,))
        if cancel:
            self.stream.output.write(cancel)

    def retry(self, transaction: OutgoingRequest, error: BusError, moves: bool) -> bool:
        client = self._client()
        if client is None or not client.retrier.take(transaction, error, moves):
            return False
        self.forget(transaction)
        client.retrier.begin(transaction)
        return True

    def forget(self, transaction: OutgoingRequest) -> None:
        """A transaction has ended, or is to be sent elsewhere."""
        if self._measured is transaction:
            self._measured = None
        open_requests = self.protocol.open
        if open_requests.get(transaction.id) is transaction:
            open_requests.pop(transaction.id, None)
            if self._window.waits or self.protocol.state is DRAINING:
                self._on_ended()

    def _on_ended(self) -> None:
        """There is one open transaction less, and somebody waits for that."""
        if self._window.waits:
            self.run_callback(self._fill_window)
        self._close_if_done()

    def _fill_window(self) -> None:
        """Hub callback: let as many go on as the server takes, and no others.

        There may be thousands, who would all look in vain each time that one has ended.
        """
        for _ in range(len(self._window)):
            if not self._window.waits or self.is_full():
                break
            self._window.wake_next()

    def is_full(self) -> bool:
        """Whether the server takes no more requests at once."""
        return len(self.protocol.open) >= self.protocol.max_in_flight

    def wait_for_room(self, timeout: float | None) -> bool:
        """Wait until it is this thread's turn to `send`; blocks.  False when the time is over.

        Returns at once when the connection is closed.
        """
        deadline = deadline_after(timeout)
        while self.is_full() and not self.stream.closed:
            if not self._window.wait("send_request", self, time_left(deadline)):
                return False
        return self.stream.output.writers.wait_for_room("send_request", time_left(deadline))

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        """Tell the server that a request's time is over; False if no answer can come of that."""
        stream = self.stream
        if self.protocol.plain or stream.closed or transaction.frame_number > stream.output.sent:
            return False
        self._tell_cancelled(transaction)
        return True

    def abort(self) -> int:
        """Close the connection at once; whoever waits gets `BusClosed`.

        The kernel gets as much of what is written as it takes.  Returns how many casts
        it did not take.
        """
        if not self.stream.closed:
            # An older server takes a bare close for one that still wants its answers.
            self.stream.output.write_last(self.protocol.cancel(list(self.protocol.open)))
        unsent = self.casts.unsent
        self.casts.clear()
        self.stream.abort(on_undelivered=self.casts.tell_undelivered if self.casts.count else None)
        return unsent

    def retire(self) -> None:
        """Send nothing more, and close as soon as all is answered; does not block."""
        self.protocol.state = DRAINING
        self._close_if_done()

    def leave_to_parent(self) -> None:
        """In a forked child: end everything, but wake nobody, and send nothing."""
        # First, so that nothing is read either, by one that would close when it is done.
        self.stream.leave_to_parent()
        self._window.clear()
        for transaction in self.protocol.open.values():
            transaction.leave_to_parent()
        fail_closed(self, self.protocol, self.stream.output.sent, SENT_BEFORE_FORK)

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self.stream.settle()
        if self.stream.closed:
            self.connection_lost(self.stream.error)
            return
        for transaction in list(self.protocol.open.values()):
            if transaction.route is self:
                transaction.settle()
            else:
                # It is to be sent elsewhere, and was still to be forgotten here.
                self.forget(transaction)
        self._on_ended()

    def _close_if_done(self) -> None:
        if self.protocol.state is DRAINING and not self.protocol.open:
            # What is still cast leaves only if the server has not closed for its part, and
            # that waits until its last words are read.
            self.stream.close(reads_on=True)

    def message_begun(self, size: int) -> bool:
        # What a client asked for, it has room for.
        return True

    def message_received(self, message: Message) -> None:
        protocol = self.protocol
        if protocol.plain:
            self.casts.last_sign = _clock.monotonic()
        hello = protocol.hello
        try:
            event = protocol.receive(message)
        except ProtocolError as error:
            self.protocol_error(error, None)
            return
        if type(event) is tuple:
            transaction, reason, outcome, parts = event
            if reason is None and transaction is not None and transaction.state is WAITING:
                self._succeed(transaction, body_of(parts) if self._takes_bodies else parts)
            else:
                self._on_answer(transaction, reason, outcome, parts)
        elif isinstance(event, bytes):
            # A server that does not read has no use for another answer.
            if not self.stream.output.writers.above_high_water:
                self.stream.output.write(event)
        elif isinstance(event, list):
            self._on_go_away(event)
        if protocol.hello is not hello:
            if self._window.waits:
                # It may take more at once than before.
                self.run_callback(self._fill_window)
            client = self._client()
            if client is not None:
                client.on_hello(self)

    def short_received(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> None:
        protocol = self.protocol
        if kind == heads.RESPONSE and protocol.hello is not None and not protocol.plain:
            transaction: OutgoingRequest | None = protocol.open.get(id)
            if transaction is not None and transaction.state is WAITING:
                # Almost every message is one of these.
                self._succeed(transaction, body if self._takes_bodies else [body])
                return
        self.message_received((kind, flags, id, arg, [body]))

    def _succeed(self, transaction: OutgoingRequest, response: Any) -> None:
        """One that waits has its response."""
        protocol = self.protocol
        self.useful = True
        if self._measured is transaction:
            self._note_time()
        transaction.succeed(response)
        protocol.open.pop(transaction.id, None)
        if self._window.waits or protocol.state is DRAINING:
            self._on_ended()

    def _note_time(self) -> None:
        """The request that is measured is answered."""
        self._measured = None
        client = self._client()
        if client is not None:
            client.on_answer_after(_clock.monotonic() - self._measured_from)

    def _on_answer(
        self,
        transaction: OutgoingRequest | None,
        reason: int | None,
        outcome: Outcome | None,
        parts: list[bytes],
    ) -> None:
        if transaction is None:
            # A last word on a request that ended here is not a late answer.
            if reason not in LAST_WORDS:
                self.counters.dropped_late += 1
            return
        self.useful = True
        # One that has ended was interrupted before it was taken out.
        if transaction.state not in ENDED and reason is None:
            # It comes when the time is over.
            self.counters.dropped_late += 1
            transaction.time_out(Outcome.RAN)
        elif transaction.state not in ENDED and reason is not None:
            name, text, trace = (part.decode("utf-8", "replace") for part in parts)
            if self._measures and reason != Reason.DRAINING:
                self._tell_failures(1)
            transaction.fail_at_server(reason, (name, text, trace), outcome)
        self.forget(transaction)

    def _tell_failures(self, count: int) -> None:
        client = self._client()
        if client is not None:
            client.on_failures(count)

    def _on_go_away(self, not_run: list[OutgoingRequest]) -> None:
        """The server drains, and will not run these."""
        for transaction in not_run:
            transaction.fail(Rejected(f"{self.protocol.farewell} ({self.server_name})"))
            self.forget(transaction)
        client = self._client()
        if client is not None:
            client.on_draining(self, self.protocol.farewell)
        self._close_if_done()

    def eof_received(self) -> None:
        self.stream.abort(ConnectionLost("the server closed the connection"))

    def note_unsent(self) -> None:
        """Writers wait by themselves."""

    def pause_writing(self) -> None:
        """Answers are read all the same, or both sides could wait for each other."""

    def resume_writing(self) -> None:
        """Never asked for: writers wait by themselves."""

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.counters.broken += 1
        peer, client = self.server_name, self._client()
        if self.protocol.hello is not None or client is None or client.note_told(reason_of(error)):
            log_soon(bus_logger, logging.WARNING, "closing the connection to %s: %s", peer, reason_of(error))
        answered = None
        if refused is not None and refused[0] == wire.RESPONSE:
            answered = self.protocol.open.get(refused[1])
        if answered is not None:
            error.outcome = Outcome.RAN
            answered.fail(error)
            self.forget(answered)
        self.stream.abort(error)

    def socket_closing(self) -> None:
        """Nothing is asked of the socket."""

    def connection_lost(self, error: BaseException | None) -> None:
        client = self._client()
        if error is not None:
            reason = reason_of(error)
            level = logging.INFO
            silent = self.protocol.hello is None and not self.protocol.plain
            if silent and client is not None and client.note_told(reason):
                # It may never say hello: that is like an attempt to connect that fails.
                level = logging.WARNING
            log_soon(bus_logger, level, "lost the connection to %s: %s", self.server_name, reason)
        if error is not None and self.retries:
            self.casts.move(partial(self.retry, error=ConnectionLost(outcome=Outcome.NOT_SENT), moves=True))
        lost_casts = self.casts.tell_lost(error)
        if self._window:
            self.run_callback(self._window.wake_all)
        if self.protocol.open or self.protocol.order:
            if self._measures and error is not None:
                self._tell_failures(len(self.protocol.open))
            self.fail_open(error)
        if client is not None:
            client.on_connection_lost(self, error, lost_casts)
        self.casts.clear()

    def fail_open(self, error: BaseException | None) -> None:
        """Fail what is open; also a hub callback."""
        client, peer, sent = self._client(), self.server_name, self.stream.output.sent
        if client is None or client.closed:
            fail_closed(self, self.protocol, sent, f"the bus to {peer} was closed")
        else:
            fail_lost(self, self.protocol, sent, peer, error)
