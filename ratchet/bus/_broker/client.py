"""The client's side of a bus over a broker.

How a request gets to the link is in `sender`, what becomes of it there in `client_link` and `outcomes`,
and how a link is made in `connection`.  Nothing that the loop keeps alive refers to the client but an open
request, so one that is dropped without `close()` is collected, and closes its link.
"""

from __future__ import annotations

import ssl
import warnings
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

from ratchet._interrupts import settle_soon
from ratchet._wait import check_hub, check_may_wait, check_timeout
from ratchet.bus._broker.client_link import ClientLink, ClientOptions
from ratchet.bus._broker.connection import Connection
from ratchet.bus._broker.sender import BrokerSender
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.client import ClientSide
from ratchet.bus._core.client_middleware import ClientMiddleware
from ratchet.bus._core.deadline import deadline_after
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.middleware import Middleware
from ratchet.bus._core.retry import Retrier, Retry
from ratchet.bus._core.side import CLOSED, DRAINING, INHERITED, OPEN, wait_until_done
from ratchet.bus._core.stats import Counters, Stats
from ratchet.bus._transport.dropped import DroppedClient
from ratchet.bus.codecs import Decode, Encode

Request = TypeVar("Request")
Response = TypeVar("Response")


class BrokerClient(ClientSide[Request, Response]):
    """The client's side of a bus over a broker; see `broker_client`.

    Any number of threads may use it at once.  `with bus:` closes it on leaving.  It belongs to
    the OS thread that made it: its calls raise `WrongThread` in another one.
    """

    def __init__(
        self,
        url: BrokerUrl,
        service: str,
        encode: Encode[Request],
        decode: Decode[Response],
        limits: Limits,
        ssl_context: ssl.SSLContext | None,
        heartbeat: int,
        retry: Retry | None,
    ) -> None:
        super().__init__()
        name = f"{service} at {url}"
        self._counters = Counters()
        self._limits = limits
        self._retrier = Retrier(self._hub, self._counters, name, retry)
        self._sender: BrokerSender = BrokerSender(self._hub, name, encode, limits, self._retrier)
        self._retrier.sender = self._sender
        options = ClientOptions(
            self._hub,
            service,
            url,
            decode,
            limits,
            heartbeat,
            self._counters,
            self._retrier,
            self._sender.wake,
        )
        self._connection: Connection[ClientLink] = Connection(
            self._hub, name, url, ssl_context, partial(ClientLink, options), self._sender.wake
        )
        self._sender.connection = self._connection
        self._connection.start()

    @property
    def name(self) -> str:
        return self._sender.name

    def __repr__(self) -> str:
        life = self._sender.life
        state = self._connection.state if life is OPEN else life.name.lower()
        return f"<BrokerClient at {id(self):#x} to {self.name}: {state}, in_flight={self._in_flight}>"

    def wait_connected(self, timeout: float | None = None) -> None:
        check_hub(self._hub, self)
        check_timeout(timeout)
        self._sender.wait_connected(self, timeout)

    def drain(self, timeout: float | None = None) -> bool:
        """Send nothing new, wait for what is open, then close; blocks.

        Args:
            timeout: seconds until what is left is cut off; None for ever.

        Returns:
            Whether every request has ended, and the broker has confirmed every cast.
        """
        check_hub(self._hub, self)
        check_timeout(timeout)
        check_may_wait("drain")
        if self._sender.life is INHERITED:
            self._sender.check_open()
        deadline = deadline_after(timeout)
        try:
            self._sender.life = max(self._sender.life, DRAINING)
            self._sender.wake()
            self._retrier.stop()
        except BaseException:
            settle_soon(self._hub)
            raise
        done = wait_until_done("drain", self, lambda: not self._in_flight, deadline)
        self.close()
        # The broker says goodbye only after it has read all that was sent.
        return wait_until_done("drain", self, lambda: not self._connection.all, deadline) and done

    def close(self) -> None:
        """Close at once.

        Every thread that waits to send a request or for a response gets `BusClosed`, and the
        servers are told that nobody waits any more.  Does not block.  Closing twice is fine.
        """
        check_hub(self._hub, self)
        try:
            self._sender.close()
        except BaseException:
            settle_soon(self._hub)
            raise

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if error_type is None and self._sender.life < CLOSED:
                check_hub(self._hub, self)
                deadline = deadline_after(self._limits.stall_timeout)
                wait_until_done("with", self, self._casts_are_confirmed, deadline)
        finally:
            self.close()

    def __del__(self) -> None:
        # Nobody can call it any more, and no request is open.
        sender: BrokerSender | None = getattr(self, "_sender", None)
        if sender is None or sender.life >= CLOSED or not self._connection.needs_close:
            return
        try:
            DroppedClient(self._hub, sender).close_soon()
        except BaseException:
            # From `__del__` it is only printed, and nothing would close the link later.
            DroppedClient(self._hub, sender).close_soon()
            raise
        warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, source=self, stacklevel=1)

    def _casts_are_confirmed(self) -> bool:
        """Whether no thread is in the middle of a cast."""
        return not any(link.casts for link in self._connection.all)

    @property
    def _in_flight(self) -> int:
        return sum(len(link.open) for link in list(self._connection.all)) + len(self._retrier)

    def stats(self) -> Stats:
        return self._counters.snapshot(
            connections=int(self._connection.current is not None),
            queued=len(self._sender.senders),
            in_flight=self._in_flight,
        )

    def _after_fork(self) -> None:
        self._sender.leave_to_parent()

    def _settle(self) -> None:
        if self._sender.life is CLOSED:
            self._sender.close()
        self._connection.settle()
        self._retrier.settle()
        self._sender.settle()


class BrokerClientWithMiddleware(ClientMiddleware[Request, Response], BrokerClient[Request, Response]):
    """A `BrokerClient` whose calls pass through middleware."""

    def __init__(self, middleware: tuple[Middleware, ...], *arguments: Any) -> None:
        # First: once the bus is open, it may be called.
        self._middleware = middleware
        super().__init__(*arguments)
