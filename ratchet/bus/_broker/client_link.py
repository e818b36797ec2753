"""The requests that a client has open on one link: sending them, giving them up, and what ends them.

The broker confirms each message when it is on the disks of a majority of its nodes, and that is the
end of a cast.  A request ends in its answer, or in word of the broker that nobody will run it; what
each of these says about whether it ran is in `outcomes`.  All that is open when the link ends fails.
"""

from __future__ import annotations

import logging
import uuid
import weakref
from collections.abc import Callable, Set
from contextlib import suppress
from typing import Any, NamedTuple

from gevent.hub import Hub
from pamqp.commands import Confirm

from ratchet._log import bus_logger, log_soon
from ratchet.bus._broker import message, outcomes, topology
from ratchet.bus._broker.connection import Connection
from ratchet.bus._broker.content import Content
from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.bus._broker.interfaces import LinkFailure
from ratchet.bus._broker.link import Link
from ratchet.bus._broker.message import Cancel
from ratchet.bus._broker.unconfirmed import Unconfirmed
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.address import Address
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.faults import SENT_BEFORE_FORK
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import EXPIRED, ClientRoute, OutgoingRequest
from ratchet.bus._core.retry import Retrier
from ratchet.bus._core.stats import Counters
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode, body_of
from ratchet.errors import (
    BusClosed,
    BusError,
    ConnectionLost,
    Outcome,
    ProtocolError,
    reason_of,
)


class ClientOptions(NamedTuple):
    """What the links of one client have in common.

    Attributes:
        hub: the client's.
        service: the service that it asks.
        url: the broker.
        decode: decodes a response.
        limits: the client's.
        heartbeat: seconds between heartbeats; 0 for none.
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
        "_decode",
        "_dropped",
        "_last_id",
        "_name",
        "_options",
        "_reply_to",
        "_request_key",
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
        # None where the response is the body; see `outcomes`.
        self._decode = None if options.decode is body_of else options.decode
        # Not drawn from `chance`: no seed may give two clients the same name.
        client = uuid.uuid4().hex
        self._reply_to = topology.reply_queue(client)
        self._request_key = topology.request_key(options.service, client)
        self._last_id = 0
        # The numbers of the frames that do not leave, once this side has closed the link.
        self._dropped: Set[int] | None = None
        self.open: dict[str, OutgoingRequest] = {}
        # By their `correlation_id`; cancels are confirmed, too, and are not here.
        self._unconfirmed = Unconfirmed[str]()
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
        decode = None if content.one_way else self._decode
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
            request = content.message(key, self._reply_to, transaction.deadline, self._name)
            properties, body = message.request(request)
            self.open[key] = transaction
            transaction.frame_number, number = self.link.publish(
                topology.REQUESTS,
                topology.cast_key(service) if content.one_way else self._request_key,
                properties,
                body,
            )
            self._unconfirmed.add(number, key)
        except BaseException:
            # Nobody waits for it, whether it was sent or not.
            self.open.pop(key, None)
            raise
        if self.link.ended is not None:
            # By a signal handler in the middle of this, which did not see the request yet.
            self.run_callback(self._fail_open, self.link.ended)

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
        for key in self._unconfirmed.take(number, multiple):
            transaction = self.open.get(key)
            if transaction is None:
                continue
            if not accepted:
                outcomes.end_refused(transaction)
                self.forget(transaction)
            elif _is_cast(transaction):
                transaction.succeed(None)
                self.forget(transaction)
        self._options.wake()

    def returned(self, returned: Returned) -> None:
        properties = returned.properties
        transaction = None if properties is None else self.open.get(properties.correlation_id)
        if transaction is not None:
            outcomes.end_returned(transaction, returned)
            self.forget(transaction)

    def delivered(self, delivery: Delivery) -> None:
        properties, body = delivery.properties, delivery.body
        if properties is None:
            self._note_broken(None, ProtocolError("an answer with properties that cannot be read"))
            return
        transaction = self.open.get(properties.correlation_id)
        if body is None:
            limit = self._options.limits.max_message
            self._note_broken(transaction, outcomes.too_large(delivery, limit, self._name))
            return
        try:
            reply = message.read_reply(properties, body, self._options.limits.max_parts)
        except ProtocolError as error:
            self._note_broken(transaction, error)
            return
        if transaction is not None:
            outcomes.end_by_reply(transaction, reply, delivery.exchange, self.link.version)
            self.forget(transaction)
        elif outcomes.is_late(reply):
            self.counters.dropped_late += 1

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
