"""The bus inside one process: requests pass between threads as they are.

No bytes and no sockets; a codec only if one is given, to see what a socket would do.
Each side of a request knows the other one, so what one of them says, the other has at
once, and nothing crosses on the way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final

from ratchet._wait import check_hub, check_timeout
from ratchet.bus._core.client import ClientSide
from ratchet.bus._core.client_middleware import ClientMiddleware
from ratchet.bus._core.deadline import deadline_after
from ratchet.bus._core.faults import SENT_BEFORE_FORK, check_size
from ratchet.bus._core.limits import checked_limits
from ratchet.bus._core.middleware import Middleware, checked_middleware
from ratchet.bus._core.server import ServerSide
from ratchet.bus._core.side import CLOSED, INHERITED, wait_until_done
from ratchet.bus._core.stats import Stats
from ratchet.bus._local_routes import NAME, LocalSender, ToServer
from ratchet.bus.codecs import Codec, Encode, client_functions, server_functions
from ratchet.errors import BusClosed

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

# Looks for a thread that takes the casts, before giving up: one that was
# attached only now has some turns of the loop to get there.
_UNSERVED_LOOKS: Final = 5


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
    name = NAME

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
        self._to_server = ToServer(self._intake, decode_response, maxsize is not None)
        self._sender = LocalSender(self._to_server, encode_request)

    def __repr__(self) -> str:
        return (
            f"<LocalBus at {id(self):#x}: {self._intake.life.name.lower()},"
            f" queued={len(self._intake.inbox)}, in_flight={len(self._intake.requests.in_flight)}>"
        )

    def wait_connected(self, timeout: float | None = None) -> None:
        check_hub(self._hub, self)
        check_timeout(timeout)
        if self._intake.inbox.closed:
            self._to_server.refuse_sender()

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


class _LocalBusWithMiddleware(ClientMiddleware[Request, Response], LocalBus[Request, Response]):
    """A `LocalBus` whose client's calls pass through middleware."""

    def __init__(
        self,
        middleware: tuple[Middleware, ...],
        maxsize: int | None,
        codec: Codec[Request, Response] | None,
    ) -> None:
        self._middleware = middleware
        super().__init__(maxsize, codec)


def new_local(
    maxsize: int | None = None,
    *,
    codec: Codec[Request, Response] | None = None,
    middleware: Iterable[Middleware] = (),
) -> tuple[LocalBus[Request, Response], LocalBus[Request, Response]]:
    """A bus between threads of this process.  Does not block.

    Requests and responses pass as they are, without a copy.

    Args:
        maxsize: how many requests may be queued before `send_request` waits
            for room; None for any number.
        codec: encodes and decodes each message on its way, as on a socket: a test
            sees with it what a socket would do.
        middleware: functions around the client's calls, as for `connect`.

    Returns:
        The same object twice, to have one name for each side.

    Raises `ValueError` for a `maxsize` below 1, and `TypeError` for one that is not a
    number, and for a wrong codec or middleware.

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
    functions = checked_middleware(middleware)
    bus: LocalBus[Request, Response]
    bus = _LocalBusWithMiddleware(functions, maxsize, codec) if functions else LocalBus(maxsize, codec)
    return bus, bus
