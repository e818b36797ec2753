"""The server's side of a bus over a broker.

It takes requests from the queue of its service, which other servers may share.  Taking and answering
them belongs to every bus's server side; `server_link` knows what comes on a link, and `connection` how a
link is made.

In a forked child it is dead, with the parent's link, until the child takes a request from it: then
it connects for itself.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeVar

from ratchet._wait import WaitQueue, check_hub, check_timeout
from ratchet.bus._broker.connection import Connection
from ratchet.bus._broker.desk import Desk
from ratchet.bus._broker.server_link import ServerLink
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.handle import ServerTransaction
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.middleware import Middleware
from ratchet.bus._core.server import ServerSide
from ratchet.bus._core.side import CLOSED, INHERITED, OPEN
from ratchet.bus._core.stats import Stats
from ratchet.bus.codecs import Decode, Encode
from ratchet.errors import BusClosed, BusError, Outcome

Request = TypeVar("Request")
Response = TypeVar("Response")


class BrokerServer(ServerSide[Request, Response]):
    """The server's side of a bus over a broker; see `broker_server`.

    `with bus:` closes it on leaving.  It belongs to the OS thread that made it: its calls
    raise `WrongThread` in another one.
    """

    address = None
    """It listens nowhere: clients find it by the service's name."""

    def __init__(
        self,
        url: BrokerUrl,
        service: str,
        decode: Decode[Request],
        encode: Encode[Response],
        limits: Limits,
        ssl_context: ssl.SSLContext | None,
        heartbeat: int,
        prefetch: int,
        redeliver: int,
    ) -> None:
        super().__init__(decode, encode)
        self._awaiting_link = WaitQueue()
        self._desk = desk = Desk(
            self._hub, self._intake, service, url, limits, heartbeat, prefetch, redeliver
        )
        # First: it is the name of the bus.
        self._connection: Connection[ServerLink] = Connection(
            self._hub, f"{service} at {url}", url, ssl_context, partial(ServerLink, desk), self._on_change
        )
        self._connection.start()

    @property
    def name(self) -> str:
        return self._connection.name

    def __repr__(self) -> str:
        life = self._intake.life
        state = life.name.lower()
        if life is OPEN:
            state += f" and {self._connection.state}"
        return (
            f"<BrokerServer at {id(self):#x} of {self.name}: {state}, queued={len(self._intake.inbox)},"
            f" in_flight={len(self._intake.requests.in_flight)}>"
        )

    def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until the broker knows this server and the queue of its service; blocks.

        From then on a client's request finds the queue.

        Args:
            timeout: seconds; None for ever.

        Raises `BusTimeout`, with the reason, when the time is over; `BusError` for what no retry
        mends, such as a wrong password, and `ConnectionLost` for a broker that is not trusted; and
        `BusClosed` if the bus is draining or closed.
        """
        check_hub(self._hub, self)
        check_timeout(timeout)
        self._revive()
        deadline = deadline_after(timeout)
        while True:
            life = self._intake.life
            if life is not OPEN:
                text = f"the bus of {self.name} is {life.name.lower()}"
                raise self._reason(BusClosed(text, outcome=Outcome.NOT_SENT))
            if self._connection.current is not None:
                return
            hopeless = self._connection.hopeless()
            if hopeless is not None:
                raise hopeless
            if not self._awaiting_link.wait("wait_connected", self, time_left(deadline)):
                raise self._connection.failure.not_connected(timeout or 0.0, silent=False)

    # Each raises the `BusError` of a broker that will never let this side in.

    def recv_request(
        self, timeout: float | None = None
    ) -> tuple[ServerTransaction[Request, Response], Request]:
        try:
            return super().recv_request(timeout)
        except BusClosed as closed:
            raise self._reason(closed) from None

    def recv_requests(
        self, most: int, timeout: float | None = None
    ) -> list[tuple[ServerTransaction[Request, Response], Request]]:
        try:
            return super().recv_requests(most, timeout)
        except BusClosed as closed:
            raise self._reason(closed) from None

    def serve(
        self, handler: Callable[..., Response], workers: int = 64, *, middleware: Iterable[Middleware] = ()
    ) -> None:
        super().serve(handler, workers, middleware=middleware)
        if self._connection.fatal is not None:
            raise self._reason(BusClosed())

    def _reason(self, closed: BusClosed) -> BusError:
        fatal = self._connection.fatal
        if fatal is None:
            return closed
        return BusError(f"{fatal.message} ({self.name})", outcome=Outcome.NOT_RUN)

    def close(self) -> None:
        """Close at once.

        A thread that waits in `recv_request` gets `BusClosed`, and one that handles a request
        in `serve` or `with transaction:` is interrupted.  What no thread has taken is refused; a
        client whose request was taken gets `Abandoned`, or another server takes it if the queue
        is meant to redeliver.  Does not block.  Closing twice is fine.
        """
        check_hub(self._hub, self)
        if self._intake.life is not CLOSED:
            super().close()

    def _close(self) -> int:
        """See `ServerSide`."""
        self._intake.life = CLOSED
        left = self._intake.inbox.close()
        for request in left:
            if not request.one_way:
                request.refuse_draining()
        # From here on nothing is acknowledged: the broker has it again.
        self._connection.close()
        casts = self._intake.drop_casts() + self._desk.refused
        for request in (*left, *self._intake.requests.in_flight):
            request.cancel()
        self._intake.inbox.remove(left)
        self._intake.let_go()
        self._intake.requests.wake_drain()
        self._wake_awaiting()
        return casts

    def _wake_awaiting(self) -> None:
        if self._awaiting_link.waits:
            self._hub.loop.run_callback(self._awaiting_link.wake_all)

    def _on_change(self) -> None:
        """Hub callback: there is a link, or none any more."""
        self._wake_awaiting()
        if self._connection.fatal is not None and self._intake.life < CLOSED:
            self._close()
        elif self._intake.requests.drain_waiters.waits:
            self._intake.requests.wake_drain()

    def stats(self) -> Stats:
        parked = sum(len(link.parked) for link in list(self._connection.all))
        return self._intake.stats(int(self._connection.current is not None), parked)

    def _refuse_new(self) -> None:
        self._connection.stop()
        self._wake_awaiting()
        for link in list(self._connection.all):
            link.stop_taking()

    def _finished(self) -> bool:
        if self._intake.requests.in_flight or not all(link.is_done for link in self._connection.all):
            return False
        # The broker says goodbye only after it has read all that was sent.
        self._connection.close()
        return not self._connection.all

    def _leaves_work(self) -> bool:
        unsent = any(link.unsent for link in self._connection.all)
        return super()._leaves_work() or unsent or bool(self._desk.refused)

    def _settle(self) -> None:
        if self._intake.life is CLOSED:
            self._close()
        self._connection.settle()
        super()._settle()

    def _after_fork(self) -> None:
        super()._after_fork()
        self._awaiting_link.clear()
        self._connection.leave_to_parent()
        if self._intake.life < CLOSED:
            # Dead, until `_revive`.
            self._intake.inbox.closed = True
            self._intake.life = INHERITED

    def _revive(self) -> None:
        if self._intake.life is INHERITED:
            self._connection.start_again()
            self._intake.inbox.closed = False
            self._intake.life = OPEN
