"""The routes between the two sides of a local bus: a request goes into the inbox, its end back at once.

The calls that users make are in `_local`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

from ratchet import _native
from ratchet._interrupts import settle_soon
from ratchet._wait import check_hub, check_timeout
from ratchet.bus._core.client import ClientTransaction, RequestSender
from ratchet.bus._core.deadline import inherited_deadline, request_deadline, time_left
from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import (
    MADE_BEFORE_FORK,
    SERVER_DRAINS,
    ErrorTexts,
    Reason,
    copy_metadata,
    error_from_reason,
)
from ratchet.bus._core.incoming import IncomingRequest, Route
from ratchet.bus._core.incoming_states import ANSWERING, QUEUED
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import UNENDED, ClientRoute, OutgoingRequest
from ratchet.bus._core.side import CLOSED, INHERITED
from ratchet.bus._core.stats import Counters
from ratchet.bus.codecs import Decode, Encode
from ratchet.errors import BusClosed, BusTimeout, Outcome, Rejected

NAME: Final = "the local bus"


class ToClient(Route):
    """The way back, to the client's side of each request: it is told at once."""

    __slots__ = ()

    def __init__(self) -> None:
        # One flow for all: who asks is part of the same program, and no stranger that is to be
        # kept from taking too much.
        super().__init__(in_process=True, peer=None, flow=Flow())

    def send(self, request: IncomingRequest, message: Any) -> bool:
        client = request.client
        # The client may have given up while a codec blocked.
        if request.state is not ANSWERING or client is None or client.state not in UNENDED:
            return False
        client.succeed(message)
        # No cycle is to keep the two in memory.
        client.incoming = None
        return True

    def fail(
        self, request: IncomingRequest, reason: Reason, texts: ErrorTexts, outcome: Outcome | None
    ) -> bool:
        client = request.client
        if client is None:
            return False
        client.fail(
            client.time_over(Outcome.NOT_RUN)
            if reason is Reason.OUT_OF_TIME
            else error_from_reason(reason, texts, outcome=outcome)
        )
        client.incoming = None
        return True


class ToServer(ClientRoute):
    """The way there, to the server's side of each request."""

    __slots__ = ("_bounded", "_decode", "_inbox", "_intake", "_requests", "_to_client")

    def __init__(self, intake: Intake, decode: Decode[Any] | None, bounded: bool) -> None:
        # Its counters are nobody's: each request is counted once, at the server's side.
        super().__init__(intake.requests.hub, Counters(), server_address=None)
        self._intake = intake
        self._inbox = intake.inbox
        self._requests = intake.requests
        self._to_client = ToClient()
        self._decode = decode
        self._bounded = bounded

    def ask(
        self,
        owner: object,
        request: Any,
        message: Any,
        deadline: float | None,
        metadata: Mapping[str, str] | None,
        many: ManyRequests | None = None,
    ) -> ClientTransaction[Any, Any]:
        """Put a request of `owner`, the bus, into the inbox; blocks while there is no room.

        Args:
            owner: the bus.
            request: the object that is sent.
            message: that, or what it is encoded to.
            deadline: when its time is over; None for never.
            metadata: a copy of what goes along.
            many: those that it is one of, if there are others; it is added to them first.
        """
        if _native.hub_here() is not self.hub:
            check_hub(self.hub, owner)
        left = None if deadline is None else time_left(deadline)
        inbox = self._inbox
        if inbox.closed or (left is not None and not left) or (self._bounded and inbox.full):
            self._wait_for_room(left)
        transaction: ClientTransaction[Any, Any] = _native.new(ClientTransaction)
        transaction.begin(owner, self, request, self._decode)
        half_time = 0.0 if deadline is None or left is None else deadline - left / 2
        incoming = IncomingRequest.__new__(IncomingRequest)
        incoming.begin(self._requests, self._to_client, message, False, deadline, 0, transaction, half_time)
        transaction.incoming = incoming
        if metadata is not None:
            incoming.metadata = metadata
        if many is not None:
            many.add(transaction)
        inbox.put(incoming)
        if inbox.closed and many is None:
            self._look_whether_let_in(incoming)
        elif inbox.closed:
            # The same, but it ends as those do that were let in.
            settle_soon(self.hub)
        return transaction

    def tell(
        self, owner: object, message: Any, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> None:
        """Put a cast into the inbox; blocks while there is no room, for so many seconds at most."""
        check_hub(self.hub, owner)
        incoming = IncomingRequest(self._requests, self._to_client, message, True, None)
        if metadata is not None:
            incoming.metadata = metadata
        # Its own time is not bounded, but how long it waits for room is.
        self._wait_for_room(timeout)
        self._inbox.put(incoming)
        if self._inbox.closed:
            self._look_whether_let_in(incoming)

    def _wait_for_room(self, timeout: float | None) -> None:
        """Wait until a request may be put into the inbox; refuse one that never may."""
        inbox = self._inbox
        if inbox.closed:
            self.refuse_sender()
        if timeout == 0:
            raise BusTimeout("the time of the request was over before it was sent", outcome=Outcome.NOT_SENT)
        if self._bounded and inbox.full:
            try:
                inbox.wait_for_room(timeout)
            except BusClosed:
                self.refuse_sender()

    def _look_whether_let_in(self, incoming: IncomingRequest) -> None:
        """Take back a request if a signal handler has closed the inbox, and did not see it yet."""
        if incoming.state is QUEUED:
            self._inbox.remove((incoming,))
            self.refuse_sender()

    def refuse_sender(self) -> NoReturn:
        """Tell a sender why nothing is let in."""
        if self._intake.life is INHERITED:
            raise BusClosed(f"{NAME} {MADE_BEFORE_FORK}", outcome=Outcome.NOT_SENT)
        if self._intake.life is CLOSED:
            raise BusClosed(f"{NAME} is closed", outcome=Outcome.NOT_SENT)
        raise Rejected(SERVER_DRAINS)

    @property
    def server_name(self) -> str:
        return NAME

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        # Nothing is to be told: the server's side sees it in `forget`.
        incoming = transaction.incoming
        return Outcome.NOT_RUN if incoming is not None and incoming.state is QUEUED else Outcome.UNKNOWN

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        return False

    def forget(self, transaction: OutgoingRequest) -> None:
        # After the client's side has ended, so that it is in a register until then.
        incoming = transaction.incoming
        if incoming is not None:
            if incoming.cancel():
                self._inbox.remove((incoming,))
            transaction.incoming = None


class LocalSender(RequestSender):
    """Sends the requests of a local bus.

    Args:
        to_server: their way.
        encode: None where they pass as they are.
    """

    __slots__ = ("_encode", "_to_server")

    def __init__(self, to_server: ToServer, encode: Encode[Any] | None) -> None:
        self._to_server = to_server
        self._encode = encode

    def send(
        self,
        owner: object,
        request: Any,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        idempotent: bool,
    ) -> ClientTransaction[Any, Any]:
        message = request if self._encode is None else self._encode(request)
        if timeout is None:
            deadline = inherited_deadline()
        else:
            check_timeout(timeout)
            deadline = request_deadline(timeout)
        if metadata is not None:
            metadata = copy_metadata(metadata)
        transaction = self._to_server.ask(owner, request, message, deadline, metadata)
        if deadline is not None:
            transaction.end_at(deadline)
            if timeout is not None:
                transaction.note_timeout(timeout)
        return transaction

    def cast(
        self, owner: object, request: Any, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> None:
        check_timeout(timeout)
        message = request if self._encode is None else self._encode(request)
        if metadata is not None:
            metadata = copy_metadata(metadata)
        self._to_server.tell(owner, message, time_left(request_deadline(timeout)), metadata)

    def encode_many(self, requests: list[Any], metadata: Mapping[str, str] | None) -> list[Any]:
        encode = self._encode
        return requests if encode is None else [encode(request) for request in requests]

    def send_some(self, owner: object, many: ManyRequests) -> None:
        index = len(many.outcomes)
        metadata = None if many.metadata is None else dict(many.metadata)
        self._to_server.ask(owner, many.requests[index], many.messages[index], many.deadline, metadata, many)
