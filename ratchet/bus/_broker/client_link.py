"""The requests that a client has open on one link: how each is sent, and what its end is.

The broker confirms each message when it is on the disks of a majority of its nodes, and that is the
end of a cast.  A request ends in its answer, or in word of the broker that nobody will run it: no such
service, a full queue, a time that is over, a server that has gone.  Each of these says whether it ran.
"""

from __future__ import annotations

import logging
import math
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from itertools import takewhile
from typing import Any, Final, NamedTuple

from gevent.hub import Hub
from pamqp.commands import Confirm

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet.bus._broker import message, topology
from ratchet.bus._broker.connection import Connection
from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.bus._broker.interfaces import LinkFailure
from ratchet.bus._broker.link import Link
from ratchet.bus._broker.message import Answer, Cancel, DeadLetter, Failure, Request
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.address import Address
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.faults import LAST_WORDS, SENT_BEFORE_FORK
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import ENDED, EXPIRED, ClientRoute, OutgoingRequest
from ratchet.bus._core.retry import Retrier
from ratchet.bus._core.stats import Counters
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode, body_of
from ratchet.errors import (
    Abandoned,
    BusClosed,
    BusError,
    BusTimeout,
    ConnectionLost,
    MessageTooLarge,
    Outcome,
    ProtocolError,
    Rejected,
    reason_of,
)

# Seconds from which on a request has no deadline: more than a broker takes.
_FOREVER: Final = message.MAX_EXPIRATION / 1000
# From here on a request may go back to its queue, and its dead letter not say so.
_UNCOUNTED_RETURNS: Final = (4, 0)


class Content(NamedTuple):
    """What travels of a request."""

    parts: Sequence[bytes]
    metadata: Mapping[str, str]
    one_way: bool


class ClientOptions(NamedTuple):
    """What the links of one client have in common.

    Attributes:
        hub: the client's.
        service: the service that it asks.
        url: the broker.
        decode: decodes a response.
        limits: the client's.
        heartbeat: seconds between signs of life.
        counters: what it counts.
        retrier: sends requests again.
        wake: lets those who wait to send look again.
    """

    hub: Hub
    service: str
    url: BrokerUrl
    decode: Decode[Any]
    limits: Limits
    heartbeat: int
    counters: Counters
    retrier: Retrier
    wake: Callable[[], None]


class ClientLink(ClientRoute):
    """The open requests of one link.

    Attributes:
        link: the link.
        open: those that have not ended, by their `correlation_id`.
    """

    __slots__ = (
        "__weakref__",
        "_connection",
        "_dropped",
        "_last_id",
        "_name",
        "_options",
        "_reply_to",
        "_takes_bodies",
        "_unconfirmed",
        "link",
        "open",
    )

    def __init__(
        self,
        options: ClientOptions,
        connection: Connection[ClientLink],
        transport: Transport,
        peer: Address,
    ) -> None:
        super().__init__(options.hub, options.counters, peer)
        self._options = options
        # Weakly, because the loop keeps a link alive, and so this.
        self._connection = weakref.ref(connection)
        self._name = connection.name
        self._takes_bodies = options.decode is body_of
        # Not drawn from `chance`: no seed may give two clients the same name.
        client = uuid.uuid4().hex
        self._reply_to = topology.reply_queue(client)
        self._last_id = 0
        # The numbers of the frames that do not leave, once this side has closed the link.
        self._dropped: Set[int] | None = None
        self.open: dict[str, OutgoingRequest] = {}
        # By the numbers of their confirms, in order; cancels have numbers too, and are not here.
        self._unconfirmed: dict[int, str] = {}
        self.link = Link(
            options.hub,
            transport,
            peer,
            options.url,
            options.limits,
            options.heartbeat,
            self,
            [*topology.exchanges(), *topology.take_replies(client), Confirm.Select()],
        )

    def __repr__(self) -> str:
        return f"<ClientLink at {id(self):#x}: unanswered={len(self.open)}, {self.link!r}>"

    @property
    def server_name(self) -> str:
        return self._name

    @property
    def casts(self) -> int:
        """How many casts are not confirmed."""
        return sum(_is_cast(transaction) for transaction in list(self.open.values()))

    @property
    def obstacle(self) -> str:
        """Why nothing is to be sent for now; empty if that may be."""
        link, most = self.link, self._options.limits.max_in_flight
        if link.blocked_reason is not None:
            return f"the broker takes nothing for now: {link.blocked_reason}"
        if link.stream.above_high_water:
            return "the broker takes less than is sent"
        if len(self.open) >= most or len(self._unconfirmed) >= most:
            return "too many requests are not answered or confirmed"
        return ""

    def send(
        self,
        owner: object,
        request: Any,
        content: Content,
        deadline: float | None,
        flags: int,
        many: ManyRequests | None = None,
    ) -> ClientTransaction[Any, Any]:
        """Send a request of `owner`, the client; does not block.

        It is added to `many`, if that is given, before it can be answered.
        """
        decode = None if self._takes_bodies or content.one_way else self._options.decode
        transaction: ClientTransaction[Any, Any] = ClientTransaction(owner, self, request, decode)
        transaction.keep_to_send_again(content, flags)
        transaction.deadline = deadline
        if many is not None:
            many.add(transaction)
        self._publish(transaction)
        return transaction

    def send_again(self, transaction: OutgoingRequest) -> None:
        """Send a request whose last attempt has failed; does not block."""
        transaction.frame_number = 0
        transaction.attempts += 1
        # From here on it ends with this link.
        transaction.route = self
        self._publish(transaction)

    def _publish(self, transaction: OutgoingRequest) -> None:
        content: Content = transaction.content
        self._last_id = transaction.id = self._last_id + 1
        key = str(transaction.id)
        service = self._options.service
        try:
            properties, body = message.request(self._request(transaction, key))
            self.open[key] = transaction
            transaction.frame_number, number = self.link.publish(
                topology.REQUESTS,
                topology.cast_key(service) if content.one_way else self._request_key,
                properties,
                body,
            )
            self._unconfirmed[number] = key
        except BaseException:
            # Nobody waits for it, whether it was sent or not.
            self.open.pop(key, None)
            raise
        if self.link.ended is not None:
            # By a signal handler in the middle of this, which did not see the request yet.
            self.run_callback(self._fail_open, self.link.ended)

    @property
    def _request_key(self) -> str:
        return topology.request_key(self._options.service, self._reply_to.rpartition(".")[2])

    def _request(self, transaction: OutgoingRequest, key: str) -> Request:
        content: Content = transaction.content
        if content.one_way:
            # Only how long it waited was bounded: it is over when it is sent.
            return Request(parts=content.parts, correlation_id=key, metadata=content.metadata)
        left = time_left(transaction.deadline)
        if left is not None and left >= _FOREVER:
            left = None
        if left == 0:
            text = f"the time of the request was over before it could be sent to {self._name}"
            raise BusTimeout(text, outcome=Outcome.NOT_SENT)
        return Request(
            parts=content.parts,
            correlation_id=key,
            reply_to=self._reply_to,
            expiration=None if left is None else math.ceil(left * 1000),
            deadline=None if left is None else math.ceil((_clock.wall_time() + left) * 1000),
            metadata=content.metadata,
        )

    # See `ClientRoute`.

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        if transaction.frame_number and self.link.take_back(transaction.frame_number):
            return Outcome.NOT_SENT
        if transaction.state is not EXPIRED:
            self._tell_cancelled(transaction)
        return Outcome.UNKNOWN

    def _tell_cancelled(self, transaction: OutgoingRequest) -> None:
        """Tell the servers that nobody waits any more; nobody waits for what is run of a cast."""
        if self.link.is_open and not _is_cast(transaction):
            properties, body = message.cancel(
                Cancel(correlation_id=str(transaction.id), reply_to=self._reply_to)
            )
            # It fails if a signal handler cancels in the middle of a publish: then the link ends.
            with suppress(ConnectionLost):
                self.link.publish(topology.CONTROL, self._options.service, properties, body, mandatory=False)

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        if not self.link.is_open or transaction.frame_number > self.link.stream.sent:
            return False
        self._tell_cancelled(transaction)
        return True

    def retry(self, transaction: OutgoingRequest, error: BusError, moves: bool) -> bool:
        retrier = self._options.retrier
        if not retrier.take(transaction, error, moves):
            return False
        self.forget(transaction)
        retrier.begin(transaction)
        return True

    def forget(self, transaction: OutgoingRequest) -> None:
        """A transaction has ended, or is sent again."""
        key = str(transaction.id)
        if self.open.get(key) is transaction:
            del self.open[key]
            self._options.wake()

    # Of the client.

    def close(self) -> None:
        """End all, because the client closes; the servers are told that nobody waits any more."""
        if self._dropped is None:
            # They would leave before the goodbye.
            self._dropped = self.link.stream.drop({each.frame_number for each in self.open.values()})
        for transaction in list(self.open.values()):
            if transaction.route is self and transaction.frame_number not in self._dropped:
                self._tell_cancelled(transaction)
        self._fail_open(LinkFailure(None))
        self.link.close()

    def leave_to_parent(self) -> None:
        for transaction in self.open.values():
            transaction.leave_to_parent()
        self._fail_all(BusClosed, SENT_BEFORE_FORK, None)

    def settle(self) -> None:
        if self.link.ended is not None:
            self._fail_open(self.link.ended)
        for transaction in list(self.open.values()):
            if transaction.route is self:
                transaction.settle()
            else:
                # It is to be sent again, and was still to be forgotten here.
                self.forget(transaction)

    def _fail_open(self, failure: LinkFailure) -> None:
        """Fail what is open; also a hub callback."""
        error = failure.error
        if error is None:
            self._fail_all(BusClosed, f"the bus to {self._name} was closed", None)
            return
        error_type = ProtocolError if isinstance(error, ProtocolError) else ConnectionLost
        text = f"the connection to {self._name} was lost: {reason_of(error)}"
        self._fail_all(error_type, text, error)

    def _fail_all(self, error_type: type[BusError], text: str, cause: BaseException | None) -> None:
        sent, dropped = self.link.stream.sent, self._dropped
        for key, transaction in list(self.open.items()):
            # One that is sent again was interrupted before it was forgotten here.
            if transaction.route is self:
                number = transaction.frame_number
                unsent = number > sent if dropped is None else number in dropped
                error = error_type(text, outcome=Outcome.NOT_SENT if unsent else Outcome.UNKNOWN)
                error.__cause__ = cause
                transaction.fail(error)
            self.open.pop(key, None)
        self._unconfirmed.clear()
        self._options.wake()

    # See `LinkUser`.

    def link_ready(self) -> None:
        connection = self._connection()
        if connection is None:
            self.link.close()
        else:
            connection.on_ready(self)

    def link_lost(self, failure: LinkFailure) -> None:
        self._fail_open(failure)
        connection = self._connection()
        if connection is not None:
            connection.on_lost(self, failure)

    def writable(self) -> None:
        self._options.wake()

    def blocked(self, reason: str | None) -> None:
        self._options.wake()

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None:
        unconfirmed = self._unconfirmed
        if multiple:
            numbers = list(takewhile(lambda each: each <= number, unconfirmed))
        else:
            numbers = [number]
        for each in numbers:
            transaction = self.open.get(unconfirmed.get(each, ""))
            if transaction is not None:
                if not accepted:
                    text = f"the broker refused it: the queue is full, or has no leader ({self._name})"
                    transaction.fail(Rejected(text), moves=False)
                    self.forget(transaction)
                elif _is_cast(transaction):
                    transaction.succeed(None)
                    self.forget(transaction)
            unconfirmed.pop(each, None)
        self._options.wake()

    def returned(self, returned: Returned) -> None:
        properties = returned.properties
        transaction = None if properties is None else self.open.get(properties.correlation_id)
        if transaction is not None:
            text = f"there is no such service: {returned.code} {returned.text} ({self._name})"
            transaction.fail(Rejected(text), moves=False)
            self.forget(transaction)

    def delivered(self, delivery: Delivery) -> None:
        properties, body = delivery.properties, delivery.body
        if properties is None:
            self._note_broken(None, ProtocolError("an answer with properties that cannot be read"))
            return
        transaction = self.open.get(properties.correlation_id)
        if body is None:
            limit = self._options.limits.max_message
            text = f"a response of {delivery.size} bytes is over the limit of {limit} ({self._name})"
            self._note_broken(transaction, MessageTooLarge(text, outcome=Outcome.RAN))
            return
        try:
            reply = message.read_reply(properties, body, self._options.limits.max_parts)
        except ProtocolError as error:
            self._note_broken(transaction, error)
            return
        if transaction is None:
            # A last word on a request that ended here is not a late answer.
            if isinstance(reply, Answer) or (isinstance(reply, Failure) and reply.reason not in LAST_WORDS):
                self.counters.dropped_late += 1
            return
        # One that has ended was interrupted before it was taken out.
        if transaction.state not in ENDED:
            if isinstance(reply, Answer):
                self._on_answer(transaction, reply)
            elif isinstance(reply, Failure):
                transaction.fail_at_server(reply.reason, reply.texts, reply.outcome)
            else:
                self._on_dead_letter(transaction, reply, delivery.exchange)
        self.forget(transaction)

    def _on_answer(self, transaction: OutgoingRequest, answer: Answer) -> None:
        if transaction.state is EXPIRED:
            self.counters.dropped_late += 1
            transaction.time_out(Outcome.RAN)
        else:
            transaction.succeed(body_of(answer.parts) if self._takes_bodies else answer.parts)

    def _on_dead_letter(self, transaction: OutgoingRequest, letter: DeadLetter, exchange: str) -> None:
        """The broker has dropped a request."""
        match letter.reason:
            case "expired":
                returns = exchange == topology.DEAD_REDELIVER or self.link.version >= _UNCOUNTED_RETURNS
                uncertain = letter.delivered or (letter.delivered is None and returns)
                transaction.time_out(Outcome.UNKNOWN if uncertain else Outcome.NOT_RUN)
            case "rejected":
                text = f"the request is over the server's limits ({self._name})"
                transaction.fail(MessageTooLarge(text, outcome=Outcome.NOT_RUN), moves=False)
            case "delivery_limit":
                text = f"the server that had the request is gone ({self._name})"
                transaction.fail(Abandoned(text, outcome=Outcome.UNKNOWN), moves=False)
            case other:
                # The queue was given other arguments by hand, and may drop what a server has had.
                text = f"the broker dropped the request: {other} ({self._name})"
                transaction.fail(Abandoned(text, outcome=Outcome.UNKNOWN), moves=False)

    def _note_broken(self, transaction: OutgoingRequest | None, error: BusError) -> None:
        """An answer is of no use."""
        self.counters.broken += 1
        text = "an answer from %s is of no use: %s"
        log_soon(bus_logger, logging.WARNING, text, self._name, reason_of(error))
        if transaction is not None:
            transaction.fail(error, moves=False)
            self.forget(transaction)


def _is_cast(transaction: OutgoingRequest) -> bool:
    """Whether no answer comes of a request that has not ended."""
    return transaction.content is not None and bool(transaction.content.one_way)
