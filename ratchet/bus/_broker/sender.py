"""Sending a client's requests to its broker.

Each is encoded and checked in the thread that sends it, and waits until the link takes it, but no longer
than its own time-out: until there is a link, while the broker takes nothing, or while too many requests
are open.  What becomes of it after that is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gevent.hub import Hub

from ratchet._interrupts import settle_soon
from ratchet._wait import WaitQueue, check_hub, check_may_wait, check_timeout
from ratchet.bus._broker.client_link import ClientLink
from ratchet.bus._broker.connection import Connection
from ratchet.bus._broker.content import Content
from ratchet.bus._core.client import ClientTransaction, RequestSender
from ratchet.bus._core.deadline import (
    deadline_after,
    in_words,
    inherited_deadline,
    request_deadline,
    time_left,
)
from ratchet.bus._core.faults import MADE_BEFORE_FORK, check_size, copy_metadata
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import ENDED, IDEMPOTENT, OutgoingRequest
from ratchet.bus._core.retry import Retrier
from ratchet.bus._core.side import CLOSED, INHERITED, OPEN, Life
from ratchet.bus.codecs import Encode
from ratchet.errors import BusClosed, BusTimeout, ConnectionLost, Outcome


class BrokerSender(RequestSender):
    """Sends the requests of one client.

    Attributes:
        connection: its link; set before anything is sent.
        life: how far the client has got.
        senders: the threads that wait to send.
        awaiting_link: those that wait for a link.
        tries: see `Resender`.
    """

    __slots__ = (
        "_encode",
        "_hub",
        "_limits",
        "_name",
        "_retrier",
        "_wake_scheduled",
        "awaiting_link",
        "connection",
        "life",
        "senders",
        "tries",
    )

    connection: Connection[ClientLink]

    def __init__(self, hub: Hub, name: str, encode: Encode[Any], limits: Limits, retrier: Retrier) -> None:
        self._hub = hub
        self._name = name
        self._encode = encode
        self._limits = limits
        self._retrier = retrier
        self._wake_scheduled = False
        self.life = Life.OPEN
        self.senders = WaitQueue()
        self.awaiting_link = WaitQueue()
        self.tries = 0

    def send(
        self,
        owner: object,
        request: Any,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        idempotent: bool,
    ) -> ClientTransaction[Any, Any]:
        check_timeout(timeout)
        deadline = inherited_deadline() if timeout is None else request_deadline(timeout)
        flags = IDEMPOTENT if idempotent else 0
        transaction = self._send(owner, request, flags, deadline, metadata, one_way=False)
        if timeout is not None:
            transaction.note_timeout(timeout)
        return transaction

    def cast(
        self, owner: object, request: Any, timeout: float | None, metadata: Mapping[str, str] | None
    ) -> None:
        check_timeout(timeout)
        check_may_wait("cast")
        deadline = request_deadline(timeout)
        transaction = self._send(owner, request, 0, deadline, metadata, one_way=True)
        try:
            transaction.wait(time_left(deadline))
        except BusTimeout:
            text = f"{self._name} did not confirm the cast within {in_words(timeout or 0.0)}"
            transaction.give_up(BusTimeout, text)
        except BaseException:
            transaction.cancel()
            raise
        transaction.result(None)

    def _send(
        self,
        owner: object,
        request: Any,
        flags: int,
        deadline: float | None,
        metadata: Mapping[str, str] | None,
        *,
        one_way: bool,
    ) -> ClientTransaction[Any, Any]:
        """Send a request of `owner`, the client; blocks only while there is no room."""
        check_hub(self._hub, owner)
        content = self._content(request, {} if metadata is None else copy_metadata(metadata), one_way)
        transaction: ClientTransaction[Any, Any] | None = None
        try:
            link = self._find_link(owner, deadline)
            self.tries += 1
            transaction = link.send(owner, request, content, deadline, flags)
            if deadline is not None and not one_way:
                transaction.end_at(deadline)
            return transaction
        except BaseException as error:
            if transaction is not None:
                transaction.cancel()
            if isinstance(error, ConnectionLost):
                # By a signal handler that has closed the bus, perhaps.
                self.check_open()
            if not isinstance(error, Exception) or isinstance(error, (RecursionError, MemoryError)):
                settle_soon(self._hub)
            raise

    def _content(self, request: Any, metadata: Mapping[str, str], one_way: bool) -> Content:
        parts = self._encode(request) or [b""]
        check_size(parts, self._limits.max_message, self._limits.max_parts, self._name)
        return Content(parts, metadata, one_way)

    def encode_many(self, requests: list[Any], metadata: Mapping[str, str] | None) -> list[Any]:
        copied = {} if metadata is None else copy_metadata(metadata)
        return [self._content(request, copied, False) for request in requests]

    def send_some(self, owner: object, many: ManyRequests) -> None:
        link = self._find_link(owner, many.deadline)
        flags = IDEMPOTENT if many.idempotent else 0
        begun = len(many.outcomes)
        for index in range(begun, len(many.requests)):
            try:
                link.send(owner, many.requests[index], many.messages[index], many.deadline, flags, many)
            except (RecursionError, MemoryError):
                # They may have struck anywhere.
                raise
            except Exception:
                # It was not sent; the next call says why, if it is not the first one.
                many.outcomes[index:] = []
                if index == begun:
                    self.check_open()
                    raise
                return
            self.tries += 1
            if link.obstacle:
                return

    def send_again(self, transaction: OutgoingRequest) -> None:
        """Send a request whose last attempt has failed, unless it has ended; see `Retrier`."""
        link = self._find_link(self, None)
        if transaction.state not in ENDED:
            link.send_again(transaction)

    @property
    def name(self) -> str:
        """The service and its broker, for people."""
        return self._name

    def check_open(self) -> None:
        """Raise `BusClosed` if the bus is draining, closed or a parent process's, or why it is of no use."""
        if self.life is INHERITED:
            raise BusClosed(f"the bus to {self._name} {MADE_BEFORE_FORK}", outcome=Outcome.NOT_SENT)
        if self.life is not OPEN:
            text = f"the bus to {self._name} is {self.life.name.lower()}"
            raise BusClosed(text, outcome=Outcome.NOT_SENT)
        hopeless = None if self.connection.current is not None else self.connection.hopeless()
        if hopeless is not None:
            raise hopeless

    def _find_link(self, owner: object, deadline: float | None) -> ClientLink:
        """The link for the next request; blocks while none takes one."""
        link = self.connection.current
        if link is not None:
            link.link.stream.read_if_late()
            link = self.connection.current
        if link is None or self.life is not OPEN or self.senders.waits or link.obstacle:
            return self._wait_for_link(owner, deadline)
        return link

    def _wait_for_link(self, owner: object, deadline: float | None) -> ClientLink:
        """Wait until it is this thread's turn, and there is a link that takes a request; blocks."""
        check_may_wait("send_request")
        timeout, my_turn = time_left(deadline), False
        while True:
            self.check_open()
            link = self.connection.current
            if link is not None and (my_turn or not self.senders.waits) and not link.obstacle:
                return link
            my_turn = self.senders.wait("send_request", owner, time_left(deadline))
            if not my_turn:
                self.check_open()
                raise self._not_sent(timeout or 0.0)

    def wait_connected(self, owner: object, timeout: float | None) -> None:
        """Wait until there is a link; see `ClientSide.wait_connected`."""
        deadline = deadline_after(timeout)
        while True:
            self.check_open()
            if self.connection.current is not None:
                return
            if not self.awaiting_link.wait("wait_connected", owner, time_left(deadline)):
                raise self._not_sent(timeout or 0.0)

    def _not_sent(self, seconds: float) -> BusTimeout:
        """The error of a thread that has waited in vain."""
        link = self.connection.current
        if link is None:
            return self.connection.failure.not_connected(seconds, silent=False)
        text = (
            f"{self._name} took nothing within {in_words(seconds)}: {link.obstacle or 'others waited, too'}"
        )
        return BusTimeout(text, outcome=Outcome.NOT_SENT)

    def wake(self) -> None:
        """Let those who wait look again; does not block."""
        if (self.senders.waits or self.awaiting_link.waits) and not self._wake_scheduled:
            self._hub.loop.run_callback(self._let_go_on)
            self._wake_scheduled = True

    def _let_go_on(self) -> None:
        """Hub callback: let as many go on as the link takes; all, if they are to hear that there is none."""
        self._wake_scheduled = False
        self.awaiting_link.wake_all()
        for _ in range(len(self.senders)):
            link = self.connection.current
            if link is None:
                in_vain = self.life is not OPEN or self.connection.hopeless() is not None
                if not in_vain:
                    return
            elif link.obstacle:
                return
            self.senders.wake_next()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._wake_scheduled = False
        self.wake()

    def close(self) -> int:
        """Close the link, and end what is open; also from a hub callback.

        Returns 0: a cast that is not confirmed still has a thread that waits for that.
        """
        self.life = max(self.life, CLOSED)
        # First, so that nothing that fails now is sent again.
        self._retrier.close()
        for link in list(self.connection.all):
            link.close()
        self.connection.close()
        self.wake()
        return 0

    def leave_to_parent(self) -> None:
        """In a forked child: all is the parent's."""
        self.life = INHERITED
        self.senders.clear()
        self.awaiting_link.clear()
        self._retrier.active = False
        self.connection.leave_to_parent()
        self._retrier.leave_to_parent()
