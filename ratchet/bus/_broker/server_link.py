"""The requests that a server has taken from its queue on one link, and the way of their answers.

A request is the broker's until it is acknowledged, behind its answer and on the same channel.  If the
link goes before that, the broker tells the client, or gives the request to another server, so nothing
that came on a link outlives it but a cast that is being run.  A message that was with another server
before is not run again, unless the queue is meant to redeliver.

Cancels that are for no request here are kept at the `desk`; see there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any, Final

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet._wait import WaitQueue
from ratchet.bus._broker import message, topology
from ratchet.bus._broker.connection import Connection
from ratchet.bus._broker.desk import Desk
from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.bus._broker.giving_back import GivenBack
from ratchet.bus._broker.intake_end import IntakeEnd
from ratchet.bus._broker.interfaces import LinkFailure
from ratchet.bus._broker.link import Link
from ratchet.bus._broker.message import Answer, Failure
from ratchet.bus._broker.properties import Properties
from ratchet.bus._core.address import Address
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import ErrorTexts, Reason, check_size
from ratchet.bus._core.incoming import IncomingRequest, Route
from ratchet.bus._core.incoming_states import ANSWERING, QUEUED, UNENDED
from ratchet.bus._core.side import OPEN
from ratchet.bus._transport.transport import Transport
from ratchet.errors import Outcome, ProtocolError, reason_of

_GIVEN_UP_BEFORE: Final = "the request was given up before it ran"
_GIVEN_UP_WHILE: Final = "the request was given up while it ran"
_ANOTHERS: Final = "another server had the request, and is gone"


class AnswerRoute(Route):
    """The way back to one client, by way of one link.

    Attributes:
        link: the link.
        reply_to: the client's queue; empty for casts.
        open: the client's requests that are not acknowledged, by their `correlation_id`.
    """

    __slots__ = ("link", "open", "reply_to")

    def __init__(self, link: ServerLink, reply_to: str) -> None:
        super().__init__(in_process=False, peer=reply_to or None, flow=Flow())
        self.link = link
        self.reply_to = reply_to
        self.open: dict[str, IncomingRequest] = {}

    def was_redelivered(self, request: IncomingRequest) -> bool:
        return bool(request.id & 1)

    def is_writable(self, request: IncomingRequest) -> bool:
        return not self.link.link.stream.above_high_water

    def park(self, request: IncomingRequest) -> None:
        self.link.parked[request] = None

    def send(self, request: IncomingRequest, message_parts: Any) -> bool:
        link, limits = self.link, self.link.desk.limits
        check_size(message_parts, limits.max_message, limits.max_parts, self.peer)
        if link.link.stream.above_high_water and not link.wait_until_writable(request):
            return False
        # The client may have given up while a codec blocked, or while this waited.
        if request.state is not ANSWERING:
            return False
        id = link.correlation_of(request)
        if id is None:
            return False
        properties, body = message.answer(Answer(correlation_id=id, parts=message_parts))
        link.publish_answer(self.reply_to, properties, body, mandatory=True)
        return True

    def fail(
        self, request: IncomingRequest, reason: Reason, texts: ErrorTexts, outcome: Outcome | None
    ) -> bool:
        id = self.link.correlation_of(request)
        if id is None:
            return False
        outcome = self.outcome_of(request, reason, outcome)
        failure = Failure(correlation_id=id, reason=reason, texts=texts, outcome=outcome)
        self.link.publish_answer(self.reply_to, *message.failure(failure), mandatory=False)
        return True

    def outcome_of(
        self, request: IncomingRequest, reason: Reason, outcome: Outcome | None = None
    ) -> Outcome | None:
        """What its client is told besides the reason; None where that says it.

        Of a request that another server had, this one knows no more than whether it ran here.
        """
        if not self.was_redelivered(request) or (reason is Reason.HANDLER_RAISED and outcome is None):
            return outcome
        return Outcome.RAN if outcome is Outcome.RAN else Outcome.UNKNOWN

    def give_up(self, request: IncomingRequest) -> None:
        self.link.cancel(request)

    def released(self, request: IncomingRequest) -> None:
        self.link.finish(request)


class ServerLink:
    """The requests of one link.

    A request's `id` is twice the number of its delivery, and 1 more if it was delivered before.

    Attributes:
        desk: what it shares with others of the server.
        link: the link.
        parked: requests whose answers would only wait to be sent.
    """

    __slots__ = (
        "_connection",
        "_end",
        "_given_back",
        "_open",
        "_routes",
        "_writers",
        "desk",
        "link",
        "parked",
    )

    def __init__(
        self, desk: Desk, connection: Connection[ServerLink], transport: Transport, peer: Address
    ) -> None:
        self.desk = desk
        self._connection = connection
        # The clients that have requests here.
        self._routes: dict[str, AnswerRoute] = {}
        # What is not acknowledged, with its `correlation_id`.
        self._open: dict[int, tuple[IncomingRequest, str]] = {}
        self.parked: dict[IncomingRequest, None] = {}
        self._writers = WaitQueue()
        self.link = Link(
            desk.hub, transport, peer, desk.url, desk.limits, desk.heartbeat, self, desk.set_up()
        )
        self._given_back = GivenBack(self.link, desk.service)
        self._end = IntakeEnd(desk.hub, self.link, desk.intake.requests.wake_drain)

    def __repr__(self) -> str:
        return f"<ServerLink at {id(self):#x}: unanswered={len(self._open)}, {self.link!r}>"

    def correlation_of(self, request: IncomingRequest) -> str | None:
        """The `correlation_id` of a request that can be answered; None if it cannot any more."""
        found = self._open.get(request.id)
        return found[1] if found is not None and found[0] is request and self.link.is_open else None

    def publish_answer(self, reply_to: str, properties: Properties, body: bytes, *, mandatory: bool) -> None:
        """Send an answer; one that is `mandatory` is counted if its client is gone."""
        self.link.publish(topology.DEFAULT_EXCHANGE, reply_to, properties, body, mandatory=mandatory)

    def wait_until_writable(self, request: IncomingRequest) -> bool:
        """Wait until the broker takes more; blocks.  False if the request's time is over before that."""
        while self.link.stream.above_high_water and self.link.is_open:
            if not self._writers.wait("send_response", self.link, time_left(request.deadline)):
                self.cancel(request)
                return False
        return True

    def finish(self, request: IncomingRequest) -> None:
        """Acknowledge a request that needs nothing more; the second time, do nothing."""
        found = self._open.get(request.id)
        if found is None or found[0] is not request:
            return
        self.link.acknowledge(request.id >> 1)
        self._forget(request, found[1])

    def _forget(self, request: IncomingRequest, correlation_id: str) -> None:
        self.parked.pop(request, None)
        route = request.route
        assert isinstance(route, AnswerRoute)
        if route.open.get(correlation_id) is request:
            del route.open[correlation_id]
            if not route.open:
                self._routes.pop(route.reply_to, None)
        self._open.pop(request.id, None)

    def cancel(self, request: IncomingRequest) -> None:
        """Its client wants no answer any more, and is told whether it ran; also a hub callback."""
        if self.correlation_of(request) is None or request.state not in UNENDED:
            return
        queued = request.state is QUEUED
        reason = Reason.OUT_OF_TIME if queued else Reason.CANCELLED
        texts = ("Cancelled", _GIVEN_UP_BEFORE if queued else _GIVEN_UP_WHILE, "")
        if not request.one_way:
            # First: the request is acknowledged behind it.
            request.route.fail(request, reason, texts, None)
        if request.cancel():
            self.desk.intake.inbox.remove((request,))

    # Of the server.

    @property
    def is_done(self) -> bool:
        """Whether no more requests come, and what was given back has arrived."""
        return (self._end.reached and not self._given_back) or not self.link.is_open

    @property
    def unsent(self) -> int:
        """Bytes that have not left, and casts that are to be given back."""
        return self.link.stream.unsent + len(self._given_back)

    def stop_taking(self) -> None:
        """Have no more requests come; does not block.  The second time, do nothing."""
        if not self.link.ready:
            self.link.close()
            return
        self._end.begin()
        inbox = self.desk.intake.inbox
        casts = [request for request, _ in self._open.values() if request.one_way and request.state is QUEUED]
        for request, _ in list(self._open.values()):
            if request.state is QUEUED and not request.one_way:
                request.refuse_draining()
        inbox.remove(casts)
        self._give_back(casts)

    def _give_back(self, casts: Iterable[IncomingRequest]) -> None:
        """Have other servers run them."""
        for request in casts:
            if not self.link.is_open:
                return
            self._given_back.add(request, request.id >> 1)
            self._forget(request, self._open[request.id][1])
        self.desk.intake.requests.wake_drain()

    def leave_to_parent(self) -> None:
        self._end.forget()
        self._writers.clear()
        self._open.clear()
        self._routes.clear()
        self.parked.clear()

    def settle(self) -> None:
        for request, _ in list(self._open.values()):
            if request.state not in UNENDED:
                self.finish(request)
        self._end.settle()
        self.writable()

    # See `LinkUser`.

    def link_ready(self) -> None:
        self._connection.on_ready(self)

    def link_lost(self, failure: LinkFailure) -> None:
        self._end.forget()
        intake = self.desk.intake
        left = [request for request, _ in self._open.values()]
        self._open.clear()
        self._routes.clear()
        self.parked.clear()
        self._given_back.clear()
        intake.inbox.remove([request for request in left if request.state is QUEUED])
        for request in left:
            # The broker has them again; only a cast that runs is run to its end.
            if not request.one_way:
                request.cancel()
        if self._writers.waits:
            self.desk.hub.loop.run_callback(self._writers.wake_all)
        self._connection.on_lost(self, failure)
        intake.requests.wake_drain()

    def writable(self) -> None:
        if self._writers.waits:
            self.desk.hub.loop.run_callback(self._writers.wake_all)
        for request in list(self.parked):
            if request.state is QUEUED and self.desk.intake.life is OPEN:
                self.desk.intake.inbox.put(request)
            self.parked.pop(request, None)

    def blocked(self, reason: str | None) -> None:
        """Answers wait in the socket until the broker takes them."""

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None:
        requests = self.desk.intake.requests
        refused = self._given_back.confirmed(number, multiple, accepted)
        self.desk.refused += refused
        requests.counters.failed += refused
        requests.wake_drain()

    def returned(self, returned: Returned) -> None:
        # The client has gone.
        self.desk.intake.requests.counters.dropped_late += 1

    def delivered(self, delivery: Delivery) -> None:
        if delivery.consumer_tag == topology.CONTROL_TAG:
            self._on_cancel(delivery)
            return
        request = self._receive(delivery)
        if request is None:
            return
        desk, correlation_id = self.desk, self._open[request.id][1]
        assert delivery.properties is not None
        key = delivery.properties.reply_to, correlation_id
        if key in desk.cancels:
            del desk.cancels[key]
            request.refuse(Reason.OUT_OF_TIME, ("Cancelled", _GIVEN_UP_BEFORE, ""))
        elif delivery.redelivered and not desk.redeliver:
            if request.one_way:
                # For people to look at.
                self._forget(request, correlation_id)
                self.link.reject(delivery.tag)
            else:
                request.refuse(Reason.ABANDONED, ("Abandoned", _ANOTHERS, ""))
        elif desk.intake.life is OPEN:
            desk.intake.inbox.put(request)
        elif request.one_way:
            self._give_back((request,))
        else:
            request.refuse_draining()

    def _receive(self, delivery: Delivery) -> IncomingRequest | None:
        """The request that has come; None if it is of no use, and so a dead letter."""
        try:
            if delivery.properties is None:
                raise ProtocolError("its properties cannot be read")
            if delivery.body is None:
                limit = self.desk.limits.max_message
                raise ProtocolError(f"its {delivery.size} bytes are over the limit of {limit}")
            received = message.read_request(delivery.properties, delivery.body, self.desk.limits.max_parts)
        except ProtocolError as error:
            self.desk.intake.requests.counters.broken += 1
            text = "a request to %s is of no use: %s"
            log_soon(bus_logger, logging.WARNING, text, self._connection.name, reason_of(error))
            self.link.reject(delivery.tag)
            return None
        route = self._routes.get(received.reply_to)
        if route is None:
            route = self._routes[received.reply_to] = AnswerRoute(self, received.reply_to)
        deadline, half_time = None, 0.0
        left = received.remaining(_clock.wall_time())
        if left is not None:
            now = _clock.monotonic()
            deadline, half_time = now + left, now + left / 2
        request = IncomingRequest(
            self.desk.intake.requests,
            route,
            received.parts,
            not received.reply_to,
            deadline,
            delivery.tag << 1 | delivery.redelivered,
            None,
            half_time,
        )
        if received.metadata:
            request.metadata = received.metadata
        self._open[request.id] = request, received.correlation_id
        route.open[received.correlation_id] = request
        return request

    def _on_cancel(self, delivery: Delivery) -> None:
        try:
            if delivery.properties is None:
                return
            cancel = message.read_cancel(delivery.properties)
        except ProtocolError:
            # Anybody may send one; nothing comes of it.
            return
        route = self._routes.get(cancel.reply_to)
        request = None if route is None else route.open.get(cancel.correlation_id)
        if request is None:
            self.desk.remember_cancel((cancel.reply_to, cancel.correlation_id))
        else:
            self.cancel(request)
