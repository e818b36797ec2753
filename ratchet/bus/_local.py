"""The bus inside one process: requests pass between threads as they are.

No bytes and no sockets; a codec only if one is given, to see what a socket would do.
Each side of a request knows the other one, so what one of them says, the other has at
once, and nothing crosses on the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from gevent.hub import get_hub

from ratchet._interrupts import settle_soon
from ratchet._wait import check_hub, check_timeout
from ratchet.bus._core.client import ClientSide, ClientTransaction
from ratchet.bus._core.deadline import deadline_after, inherited_deadline, request_deadline, time_left
from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import (
    MADE_BEFORE_FORK,
    SENT_BEFORE_FORK,
    SERVER_DRAINS,
    ErrorTexts,
    Reason,
    check_size,
    copy_metadata,
    error_from_reason,
)
from ratchet.bus._core.inbox import Inbox
from ratchet.bus._core.incoming import IncomingRequest, Route
from ratchet.bus._core.incoming_requests import IncomingRequests
from ratchet.bus._core.incoming_states import ANSWERING, QUEUED
from ratchet.bus._core.limits import checked_limits
from ratchet.bus._core.many import ManyRequests
from ratchet.bus._core.outgoing import UNENDED, ClientRoute, OutgoingRequest
from ratchet.bus._core.server import ServerSide
from ratchet.bus._core.side import CLOSED, INHERITED, wait_until_done
from ratchet.bus._core.stats import Counters, Stats
from ratchet.bus.codecs import Codec, Encode, client_functions, server_functions
from ratchet.errors import BusClosed, BusTimeout, Outcome, Rejected

if TYPE_CHECKING:
    # Only a type checker knows defaults before Python 3.13: `new_local()` without a
    # codec needs no annotation.
    from typing_extensions import TypeVar

    Request = TypeVar("Request", default=Any)
    Response = TypeVar("Response", default=Any)
else:
    from typing import TypeVar

    Request = TypeVar("Request")
    Response = TypeVar("Response")

_NAME: Final = "the local bus"
# Looks for a thread that takes the casts, before giving up: one that was
# attached only now has some turns of the loop to get there.
_UNSERVED_LOOKS: Final = 5


class _ToClient(Route):
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
        # No circle is to keep the two in memory.
        client.incoming = None
        return True

    def fail(self, request: IncomingRequest, reason: Reason, texts: ErrorTexts) -> bool:
        client = request.client
        if client is None:
            return False
        client.fail(
            client.time_over(Outcome.NOT_RUN)
            if reason is Reason.OUT_OF_TIME
            else error_from_reason(reason, texts)
        )
        client.incoming = None
        return True


class _ToServer(ClientRoute):
    """The way there, to the server's side of each request."""

    __slots__ = ("_inbox",)

    def __init__(self, requests: IncomingRequests, inbox: Inbox) -> None:
        # Its counters are nobody's: each request is counted once, at the server's side.
        super().__init__(requests.hub, Counters(), server_address=None)
        self._inbox = inbox

    @property
    def server_name(self) -> str:
        return _NAME

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


def _checked(encode: Encode[Any]) -> Encode[Any]:
    """Refuse what a socket would refuse by its default limits."""
    limits = checked_limits(None)

    def encode_and_check(message: Any) -> Sequence[bytes]:
        parts = encode(message)
        check_size(parts, limits.max_message, limits.max_parts)
        return parts

    return encode_and_check


class LocalBus(ClientSide[Request, Response], ServerSide[Request, Response]):
    """Both sides of a bus between threads of this process; see `new_local`.

    `with bus:` closes it on leaving.  Its calls raise `WrongThread` in another OS
    thread than the one that made it.
    """

    address = None
    """A local bus listens nowhere."""
    name = _NAME

    def __init__(self, maxsize: int | None = None, codec: Codec[Request, Response] | None = None) -> None:
        if maxsize is not None and (not isinstance(maxsize, int) or isinstance(maxsize, bool)):
            raise TypeError(f"maxsize must be a number or None, not {maxsize!r}")
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"maxsize must be above 0, or None for no bound, not {maxsize!r}")
        encode_request = decode_response = decode_request = encode_response = None
        if codec is not None:
            encode_request, decode_response = client_functions(None, None, codec)
            decode_request, encode_response = server_functions(None, None, codec)
            encode_request, encode_response = _checked(encode_request), _checked(encode_response)
        super().__init__(decode_request, encode_response, maxsize)
        # None where requests and responses pass as they are.
        self._encode_request = encode_request
        self._decode_response = decode_response
        self._to_server = _ToServer(self._intake.requests, self._intake.inbox)
        self._to_client = _ToClient()
        self._bounded = maxsize is not None

    def __repr__(self) -> str:
        return (
            f"<LocalBus at {id(self):#x}: {self._intake.life.name.lower()},"
            f" queued={len(self._intake.inbox)}, in_flight={len(self._intake.requests.in_flight)}>"
        )

    def send_request(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> ClientTransaction[Request, Response]:
        message = request if self._encode_request is None else self._encode_request(request)
        if timeout is None:
            deadline = inherited_deadline()
        else:
            check_timeout(timeout)
            deadline = request_deadline(timeout)
        if metadata is not None:
            metadata = copy_metadata(metadata)
        transaction = self._ask(request, message, deadline, metadata)
        if deadline is not None:
            transaction.end_at(deadline)
            if timeout is not None:
                transaction.note_timeout(timeout)
        return transaction

    def cast(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        check_timeout(timeout)
        message = request if self._encode_request is None else self._encode_request(request)
        incoming = IncomingRequest(self._intake.requests, self._to_client, message, True, None)
        if metadata is not None:
            incoming.metadata = copy_metadata(metadata)
        check_hub(self._hub, self)
        # Its own time is not bounded, but how long it waits for room is.
        self._wait_for_room(time_left(request_deadline(timeout)))
        self._intake.inbox.put(incoming)
        if self._intake.inbox.closed:
            self._look_whether_let_in(incoming)

    def wait_connected(self, timeout: float | None = None) -> None:
        check_hub(self._hub, self)
        check_timeout(timeout)
        if self._intake.inbox.closed:
            self._refuse_sender()

    def _encode_many(self, requests: Sequence[Request], metadata: Mapping[str, str] | None) -> Sequence[Any]:
        encode = self._encode_request
        return requests if encode is None else [encode(request) for request in requests]

    def _send_some(self, many: ManyRequests) -> None:
        index = len(many.outcomes)
        metadata = None if many.metadata is None else dict(many.metadata)
        self._ask(many.requests[index], many.messages[index], many.deadline, metadata, many)

    def _ask(
        self,
        request: Request,
        message: object,
        deadline: float | None,
        metadata: Mapping[str, str] | None,
        many: ManyRequests | None = None,
    ) -> ClientTransaction[Request, Response]:
        """Put a request into the inbox; blocks while there is no room.

        Args:
            many: those that it is one of, if there are others; it is added to them first.
        """
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        left = None if deadline is None else time_left(deadline)
        inbox = self._intake.inbox
        if inbox.closed or left == 0 or (self._bounded and inbox.full):
            self._wait_for_room(left)
        transaction: ClientTransaction[Request, Response] = ClientTransaction(
            self, self._to_server, request, self._decode_response
        )
        half_time = 0.0 if deadline is None or left is None else deadline - left / 2
        incoming = IncomingRequest(
            self._intake.requests, self._to_client, message, False, deadline, 0, transaction, half_time
        )
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
            settle_soon(self._hub)
        return transaction

    def _wait_for_room(self, timeout: float | None) -> None:
        """Wait until a request may be put into the inbox; refuse one that never may."""
        inbox = self._intake.inbox
        if inbox.closed:
            self._refuse_sender()
        if timeout == 0:
            raise BusTimeout("the time of the request was over before it was sent", outcome=Outcome.NOT_SENT)
        if self._bounded and inbox.full:
            try:
                inbox.wait_for_room(timeout)
            except BusClosed:
                self._refuse_sender()

    def _look_whether_let_in(self, incoming: IncomingRequest) -> None:
        """Take back a request if a signal handler has closed the inbox, and did not see it yet."""
        if incoming.state is QUEUED:
            self._intake.inbox.remove((incoming,))
            self._refuse_sender()

    def _refuse_sender(self) -> NoReturn:
        if self._intake.life is INHERITED:
            raise BusClosed(f"{self.name} {MADE_BEFORE_FORK}", outcome=Outcome.NOT_SENT)
        if self._intake.life is CLOSED:
            raise BusClosed(f"{self.name} is closed", outcome=Outcome.NOT_SENT)
        raise Rejected(SERVER_DRAINS)

    def close(self) -> None:
        """Close both sides at once.

        Every thread that waits on the bus gets `BusClosed`, and a thread that
        handles a request in `serve` or `with transaction:` is interrupted.
        Does not block.  Closing twice is fine.
        """
        super().close()

    def _close(self) -> int:
        """See `ServerSide`."""
        self._intake.life = max(self._intake.life, CLOSED)
        casts = self._intake.drop_casts()
        for request in (*self._intake.inbox.close(), *self._intake.requests.in_flight):
            if request.client is None:
                request.cancel()
            else:
                request.client.give_up(BusClosed, "the local bus was closed")
        self._intake.let_go()
        self._intake.requests.wake_drain()
        return casts

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if error_type is None and self._intake.life < CLOSED:
                check_hub(self._hub, self)
                deadline = deadline_after(checked_limits(None).stall_timeout)
                unserved_looks = count()
                wait_until_done("with", self, lambda: self._casts_are_taken(unserved_looks), deadline)
        finally:
            self.close()

    def _casts_are_taken(self, unserved_looks: Iterator[int]) -> bool:
        """Whether nothing that was cast is queued, or nobody has been there to take it for some looks."""
        if not any(request.one_way for request in self._intake.inbox):
            return True
        served = self._intake.inbox.has_receivers or self._intake.requests.in_flight or self._intake.workers
        return not served and next(unserved_looks) >= _UNSERVED_LOOKS

    def stats(self) -> Stats:
        return self._intake.stats(connections=0)

    def _settle(self) -> None:
        if self._intake.life is CLOSED:
            self._close()
        for request in (*self._intake.inbox, *self._intake.requests.in_flight):
            if request.client is not None:
                request.client.settle()
        super()._settle()

    def _after_fork(self) -> None:
        open_requests = [*self._intake.inbox, *self._intake.requests.in_flight]
        super()._after_fork()
        self._intake.life = INHERITED
        self._intake.inbox.closed = True
        for request in open_requests:
            if request.client is not None:
                request.client.leave_to_parent()
                request.client.fail(BusClosed(SENT_BEFORE_FORK))

    def _refuse_new(self) -> None:
        """Tell nobody: `send_request` looks for itself."""


def new_local(
    maxsize: int | None = None, *, codec: Codec[Request, Response] | None = None
) -> tuple[LocalBus[Request, Response], LocalBus[Request, Response]]:
    """A bus between threads of this process.  Does not block.

    Requests and responses pass as they are, without a copy.

    Args:
        maxsize: how many requests may be queued before `send_request` waits
            for room; None for any number.
        codec: encodes and decodes each message on its way, as on a socket: a test
            sees with it what a socket would do.

    Returns:
        The same object twice, to have one name for each side.

    Raises `ValueError` for a `maxsize` below 1, and `TypeError` for one that is not a
    number, and for a wrong codec.

    .. code-block:: python

        from ratchet import Ratchet, bus

        def pack(basket):
            basket.append("bread")
            return basket

        server, client = bus.new_local()
        basket = ["tea"]
        with Ratchet() as kernel:
            kernel.attach_background(server.serve, pack)
            print(client.call(basket, timeout=5) is basket)
        print(basket)

    .. code-block:: text

        True
        ['tea', 'bread']
    """
    bus: LocalBus[Request, Response] = LocalBus(maxsize, codec)
    return bus, bus
