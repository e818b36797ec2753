"""The bus inside one process: requests pass between threads as they are.

No bytes and no sockets; a codec only if one is given, to see what a socket would do.
Both sides look at the same object, so nothing has to be told, and nothing crosses on
the way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

from gevent.hub import get_hub

from ratchet._wait import check_hub, check_timeout
from ratchet.bus._core.client import ClientSide
from ratchet.bus._core.deadline import (
    deadline_after,
    inherited_deadline,
    is_over,
    request_deadline,
    time_left,
)
from ratchet.bus._core.faults import (
    DRAINING,
    ErrorTexts,
    Reason,
    check_size,
    encode_metadata,
    error_from_reason,
)
from ratchet.bus._core.incoming import ANSWERED, ANSWERING, QUEUED, TAKEN, PendingRequest
from ratchet.bus._core.limits import checked_limits
from ratchet.bus._core.outgoing import ClientTransaction
from ratchet.bus._core.server import ServerSide
from ratchet.bus._core.stats import Stats
from ratchet.bus.codecs import Codec, Decode, Encode, client_functions, server_functions
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

# How often it is looked in vain for a thread that takes what was cast: one that was
# attached only now has some turns of the loop to get there.
_UNSERVED_LOOKS: Final = 5


class LocalTransaction(ClientTransaction[Request, Response], PendingRequest[Request, Response]):
    """A request on a local bus: both sides look at the same one."""

    _bus: LocalBus[Request, Response]
    # With a codec: the request's parts, and the object that was made of them.
    _message: Any

    def __init__(self, bus: LocalBus[Request, Response], request: Request) -> None:
        self._bus = bus
        self.request = request
        self._one_way = False
        self._state = QUEUED
        self._deadline = None
        self._decoded = False
        self._done = False
        self._error = None
        self._value = None
        self._waiters = None
        self._timer = None
        self._seconds = 0.0

    @property
    def _peer(self) -> str:
        return self._bus.name

    def _response(self) -> Response:
        if self._bus._codec is not None and not self._decoded:
            response = self._bus._codec.response_from_bus(self._value, None)
            # Another thread may have decoded it meanwhile; all get the same one.
            if not self._decoded:
                self._value = response
                self._decoded = True
        return self._value  # type: ignore[no-any-return]

    def _withdraw(self) -> Outcome:
        # Nothing is to be told: the server's side sees it in `_forget`.
        return Outcome.NOT_RUN if self._state is QUEUED else Outcome.UNKNOWN

    def _forget(self) -> None:
        # After the client's side has ended, so that it is in a register until then.
        self._cancel()
        if self._error is not None and self._error.outcome is Outcome.NOT_RUN:
            self._bus._inbox.remove((self,))

    def _claim(self) -> bool:
        # Its client may have been told that it was not run, and no more.
        if self._state is not QUEUED or self._done:
            return False
        if self._deadline is not None and is_over(self._deadline):
            # The hub is late, or the timer would have given the request up.
            self._end_given_up(BusTimeout(self._time_over, outcome=Outcome.NOT_RUN))
            return False
        self._bus._in_flight.add(self)
        self._state = TAKEN
        return True

    def _decode(self) -> None:
        assert self._bus._codec is not None
        self._message = self._bus._codec.request_from_bus(self._message, None)

    @property
    def _taken(self) -> Request:
        return self.request if self._bus._codec is None else self._message

    def _reply(self, response: Response) -> bool:
        value: Any = response
        if self._bus._codec is not None and not self._one_way:
            value = self._bus._codec.response_to_bus(response)
            _check_size(value)
            # The client may have given up while the codec blocked.
            if self._state is not ANSWERING:
                return self._refuse_answer()
        self._succeed(value)
        self._state = ANSWERED
        return not self._one_way

    def _reply_error(self, number: Reason, texts: ErrorTexts) -> bool:
        self._fail(error_from_reason(number, texts))
        return not self._one_way

    def _settle(self) -> None:
        ClientTransaction._settle(self)
        PendingRequest._settle(self)


class _Functions(NamedTuple):
    """A codec as a bus calls it."""

    request_to_bus: Encode[Any]
    request_from_bus: Decode[Any]
    response_to_bus: Encode[Any]
    response_from_bus: Decode[Any]


def _check_size(parts: Sequence[bytes]) -> None:
    """Refuse what a socket would refuse by its default limits."""
    limits = checked_limits(None)
    check_size(parts, limits.max_message, limits.max_parts)


class LocalBus(ClientSide[Request, Response], ServerSide[Request, Response]):
    """Both sides of a bus between threads of this process; see `new_local`.

    `with bus:` closes it on leaving.  Its calls raise `WrongThread` in another OS
    thread than the one that made it.
    """

    address = None
    """A local bus listens nowhere."""
    name = "the local bus"

    def __init__(self, maxsize: int | None = None, codec: Codec[Request, Response] | None = None) -> None:
        if maxsize is not None and (not isinstance(maxsize, int) or isinstance(maxsize, bool)):
            raise TypeError(f"maxsize must be a number or None, not {maxsize!r}")
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"maxsize must be above 0, or None for no bound, not {maxsize!r}")
        self._codec: _Functions | None = None
        if codec is not None:
            encode_request, decode_response = client_functions(None, None, codec)
            decode_request, encode_response = server_functions(None, None, codec)
            self._codec = _Functions(encode_request, decode_request, encode_response, decode_response)
        super().__init__(maxsize=maxsize)
        self._decodes = self._codec is not None
        self._bounded = maxsize is not None

    def __repr__(self) -> str:
        return (
            f"<LocalBus at {id(self):#x}: {self._state},"
            f" queued={len(self._inbox)}, in_flight={len(self._in_flight)}>"
        )

    def send_request(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> LocalTransaction[Request, Response]:
        transaction = LocalTransaction(self, request)
        if self._codec is not None:
            transaction._message = self._encoded(request)
        if timeout is None and metadata is None and inherited_deadline() is None:
            self._send(transaction, None)
            return transaction
        if metadata is not None:
            # Checked as on a socket, and a copy, as over a socket.
            encode_metadata(metadata)
            transaction._metadata = dict(metadata)
        check_timeout(timeout)
        deadline = request_deadline(timeout)
        transaction._deadline = deadline
        self._send(transaction, time_left(deadline))
        if deadline is not None:
            transaction._end_at(deadline)
        if timeout is not None:
            transaction._note_timeout(timeout)
        return transaction

    def cast(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        check_timeout(timeout)
        transaction = LocalTransaction(self, request)
        if self._codec is not None:
            transaction._message = self._encoded(request)
        transaction._one_way = True
        if metadata is not None:
            encode_metadata(metadata)
            transaction._metadata = dict(metadata)
        # Its own time is not bounded, but how long it waits for room is.
        self._send(transaction, time_left(request_deadline(timeout)))

    def wait_connected(self, timeout: float | None = None) -> None:
        check_hub(self._hub, self)
        check_timeout(timeout)
        if self._inbox.closed:
            self._refuse_sender()

    def _encoded(self, request: Request) -> Sequence[bytes]:
        assert self._codec is not None
        parts = self._codec.request_to_bus(request)
        _check_size(parts)
        return parts

    def _send(self, transaction: LocalTransaction[Request, Response], timeout: float | None) -> None:
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        inbox = self._inbox
        if inbox.closed:
            self._refuse_sender()
        if timeout == 0:
            raise BusTimeout("the time of the request was over before it was sent", outcome=Outcome.NOT_SENT)
        if self._bounded and inbox.full:
            try:
                inbox.wait_for_room(timeout)
            except BusClosed:
                self._refuse_sender()
        inbox.put(transaction)

    def _refuse_sender(self) -> NoReturn:
        if self._inherited:
            reason = "was made before fork(), by the parent process; the child has to make its own"
            raise BusClosed(f"{self.name} {reason}", outcome=Outcome.NOT_SENT)
        if self._closed:
            raise BusClosed(f"{self.name} is closed", outcome=Outcome.NOT_SENT)
        raise Rejected(DRAINING)

    def close(self) -> None:
        """Close both sides at once.

        Every thread that waits on the bus gets `BusClosed`, and a thread that
        handles a request in `serve` or `with transaction:` is interrupted.
        Does not block.  Closing twice is fine.
        """
        check_hub(self._hub, self)
        self._cut_off = self._cut_off or bool(self._in_flight)
        self._close_and_tell()

    def _close(self) -> int:
        """Close, and return how many casts will not be run; also from a hub callback."""
        self._closed = True
        casts = self._drop_casts()
        for pending in (*self._inbox.close(), *self._in_flight):
            assert isinstance(pending, LocalTransaction)
            pending._give_up(BusClosed, "the local bus was closed")
        self._forget_takers()
        self._wake_drain()
        return casts

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if error_type is None and not self._closed:
                check_hub(self._hub, self)
                deadline = deadline_after(checked_limits(None).stall_timeout)
                unserved_looks = count()
                self._wait_until("with", lambda: self._casts_are_taken(unserved_looks), deadline)
        finally:
            self.close()

    def _casts_are_taken(self, unserved_looks: Iterator[int]) -> bool:
        """Whether nothing that was cast is queued, or nobody has been there to take it for some looks."""
        if not any(pending._one_way for pending in self._inbox):
            return True
        served = self._inbox.has_receivers or self._in_flight or self._workers
        return not served and next(unserved_looks) >= _UNSERVED_LOOKS

    def stats(self) -> Stats:
        return self._counters.snapshot(connections=0, queued=len(self._inbox), in_flight=len(self._in_flight))

    def _settle(self) -> None:
        if self._closed and not self._inherited:
            self._close()
        for pending in self._inbox:
            pending._settle()
        super()._settle()

    def _after_fork(self) -> None:
        open_transactions = [*self._inbox, *self._in_flight]
        super()._after_fork()
        self._closed = self._inherited = self._inbox.closed = True
        for pending in open_transactions:
            assert isinstance(pending, LocalTransaction)
            # Who waits is the parent's thread, and is not to wake.
            pending._waiters = None
            pending._fail(BusClosed("the request was sent before fork(), by the parent process"))

    def _refuse_new(self) -> None:
        """Nothing to tell: `send_request` looks for itself."""


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
    number, and for what is not a codec.

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
