"""The bus inside one process: requests pass between threads as they are.

Rules of this room: no bytes, no sockets, no codecs.  Both sides look at the
same object, so nothing has to be told, and nothing crosses on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NoReturn, TypeVar

from gevent.hub import get_hub

from ratchet._wait import check_hub, check_timeout
from ratchet.bus.client_side import ClientSide
from ratchet.bus.deadline import inherited_deadline, is_over, request_deadline, time_left
from ratchet.bus.pending import CANCELLED, QUEUED, TAKEN, PendingRequest
from ratchet.bus.server_side import ServerSide
from ratchet.bus.stats import Stats
from ratchet.bus.transaction import ClientTransaction, ErrorTexts, error_from_number
from ratchet.bus.wire import ErrorNumber, encode_metadata
from ratchet.errors import BusClosed, BusTimeout, Outcome, Rejected

Request = TypeVar("Request")
Response = TypeVar("Response")


class LocalTransaction(ClientTransaction[Request, Response], PendingRequest[Request, Response]):
    """A request on a local bus: both sides look at the same one."""

    _bus: LocalBus[Request, Response]

    def __init__(self, bus: LocalBus[Request, Response], request: Request) -> None:
        self._bus = bus
        self.request = request
        self._one_way = False
        self._state = QUEUED
        self._deadline = None
        self._done = False
        self._error = None
        self._value = None
        self._waiters = None
        self._timer = None

    def _response(self) -> Response:
        return self._value  # type: ignore[no-any-return]

    def _withdraw(self) -> Outcome:
        if self._cancel():
            self._bus._inbox.remove((self,))
            return Outcome.NOT_RUN
        return Outcome.UNKNOWN

    def _take(self) -> bool:
        if self._deadline is not None and is_over(self._deadline):
            # The hub is late, or the timer would have given the request up.
            self._state = CANCELLED
            self._bus._counters.cancelled += 1
            self._error = BusTimeout("the time of the request is over", outcome=Outcome.NOT_RUN)
            self._end()
            return False
        self._state = TAKEN
        self._bus._in_flight.add(self)
        return True

    def _reply(self, response: Response) -> bool:
        self._succeed(response)
        self._bus._forget(self)
        return not self._one_way

    def _reply_error(self, number: ErrorNumber, texts: ErrorTexts) -> bool:
        self._fail(error_from_number(number, texts))
        return not self._one_way


class LocalBus(ClientSide[Request, Response], ServerSide[Request, Response]):
    """Both sides of a bus between threads of this process; see `new_local`.

    `with bus:` closes it on leaving.  Its calls raise `RuntimeError` in another OS
    thread than the one that made it.
    """

    address = None
    """A local bus listens nowhere."""

    def __init__(self, maxsize: int | None = None) -> None:
        if maxsize is not None and (not isinstance(maxsize, int) or isinstance(maxsize, bool)):
            raise TypeError(f"maxsize must be a number or None, not {maxsize!r}")
        if maxsize is not None and maxsize < 1:
            raise ValueError(f"maxsize must be above 0, or None for no bound, not {maxsize!r}")
        super().__init__(maxsize=maxsize)
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
        return transaction

    def cast(self, request: Request) -> None:
        transaction = LocalTransaction(self, request)
        transaction._one_way = True
        # Its own time is not bounded, but how long it waits for room is.
        self._send(transaction, time_left(request_deadline(None)))

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
        if self._closed:
            raise BusClosed(f"{self!r} is closed", outcome=Outcome.NOT_SENT)
        raise Rejected(f"{self!r} is draining")

    def close(self) -> None:
        """Close both sides at once.

        Every thread that waits on the bus gets `BusClosed`, and a thread that
        handles a request in `serve` or `with transaction:` is interrupted.
        Does not block.  Closing twice is fine.
        """
        check_hub(self._hub, self)
        self._closed = True
        self._cut_off = self._cut_off or bool(self._in_flight)
        for pending in (*self._inbox.close(), *self._in_flight):
            assert isinstance(pending, LocalTransaction)
            pending._give_up(BusClosed, "the bus was closed")
        self._forget_takers()
        self._wake_drain()

    def stats(self) -> Stats:
        check_hub(self._hub, self)
        return self._counters.snapshot(connections=0, queued=len(self._inbox), in_flight=len(self._in_flight))

    def _refuse_new(self) -> None:
        """Nothing to tell: `send_request` looks for itself."""


def new_local(
    maxsize: int | None = None,
) -> tuple[LocalBus[Request, Response], LocalBus[Request, Response]]:
    """A bus between threads of this process.  Does not block.

    Requests and responses pass as they are: no codec, and no copy.

    Args:
        maxsize: how many requests may be queued before `send_request` waits
            for room; None for any number.

    Returns:
        The same object twice, to have one name for each side.

    Raises `ValueError` for a `maxsize` below 1, and `TypeError` for what is no
    number.

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
    bus: LocalBus[Request, Response] = LocalBus(maxsize)
    return bus, bus
