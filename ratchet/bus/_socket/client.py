"""The client's side of a bus over sockets: connections to its servers, made again when they are lost.

How a request gets to the connection that it goes on is in `sender`; what becomes of it there
in `client_connection`, which servers and connections there are in `servers` and `connections`,
connecting in `dial`, and sending again in `retry`.

Nothing that the loop keeps alive refers to the client but an open request.  So a
client that is dropped without `close()` is collected, and closes its connection.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger
from ratchet._wait import check_hub, check_may_wait, check_timeout
from ratchet.bus._core.address import Address, address_of
from ratchet.bus._core.client import ClientSide
from ratchet.bus._core.client_middleware import ClientMiddleware
from ratchet.bus._core.deadline import deadline_after, time_left
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.middleware import Middleware
from ratchet.bus._core.retry import Retrier, Retry
from ratchet.bus._core.side import CLOSED, INHERITED, OPEN, wait_until_done
from ratchet.bus._core.stats import Counters, Stats
from ratchet.bus._socket.sender import Sender
from ratchet.bus._socket.servers import Servers
from ratchet.bus._transport.dropped import CASTS_NOT_SENT, DroppedClient
from ratchet.bus._transport.transport import Socket
from ratchet.bus.codecs import Decode, Encode

Request = TypeVar("Request")
Response = TypeVar("Response")


class ClientBus(ClientSide[Request, Response]):
    """The client's side of a bus over sockets; see `new_client` and `connect`.

    Any number of threads may use it at once.  Leaving `with bus:` without an error
    waits until what was cast has left, and closes it.  It belongs to the OS thread
    that made it: its calls raise `WrongThread` in another one.
    """

    def __init__(
        self,
        name: str,
        encode: Encode[Request],
        decode: Decode[Response],
        limits: Limits,
        plain: bool,
        retry: Retry | None,
        begin: Callable[[Servers], object],
    ) -> None:
        super().__init__()
        self._counters = Counters()
        self._limits = limits
        retrier = Retrier(self._hub, self._counters, name, retry)
        self._servers = Servers(self._hub, name, decode, limits, plain, self._counters, retrier)
        self._sender: Sender = Sender(self._servers, encode, limits, plain)
        retrier.sender = self._sender
        begin(self._servers)

    @property
    def name(self) -> str:
        return self._servers.name

    def __repr__(self) -> str:
        servers = self._servers
        state = servers.state if servers.life is OPEN else servers.life.name.lower()
        return f"<ClientBus at {id(self):#x} to {servers.name}: {state}, in_flight={servers.in_flight}>"

    def wait_connected(self, timeout: float | None = None) -> None:
        check_hub(self._hub, self)
        check_timeout(timeout)
        deadline = deadline_after(timeout)
        while True:
            self._sender.check_open()
            if self._servers.let_in:
                return
            if not self._servers.connected:
                self._sender.dial_or_refuse()
                if self._servers.connected:
                    continue
            if not self._servers.waiters.awaiting_hello.wait("wait_connected", self, time_left(deadline)):
                raise self._sender.not_connected(timeout)

    def drain(self, timeout: float | None = None) -> bool:
        """Send nothing new, wait for what is open and for what was sent to arrive, then close; blocks.

        Args:
            timeout: seconds until what is left is cut off; None for ever.

        Returns:
            Whether every request has ended, and all that was ever cast has reached the
            kernel of the server's side, as far as this side can tell.

        .. code-block:: python

            from ratchet import Ratchet, bus

            with Ratchet() as kernel, bus.listen("127.0.0.1:0") as server:
                kernel.attach_background(server.serve, lambda line: print(line.decode()))
                client = bus.connect(server.address)
                client.cast(b"one way")
                print(client.drain(timeout=5), server.drain(timeout=5))

        .. code-block:: text

            one way
            True True
        """
        check_hub(self._hub, self)
        check_timeout(timeout)
        check_may_wait("drain")
        if self._servers.life is INHERITED:
            self._sender.check_open()
        deadline = deadline_after(timeout)
        try:
            self._servers.begin_drain()
        except BaseException:
            settle_soon(self._hub)
            raise
        quiet = wait_until_done("drain", self, self._is_quiet, deadline)
        unsent = self._close()
        return quiet and not unsent and not self._servers.lost_casts

    def close(self) -> None:
        """Close the connection at once.

        What is written is handed to the kernel, as far as it takes it at once.  Every
        thread that waits to send a request or for a response gets `BusClosed`, and
        the server is told that nobody waits any more.  Does not block.  Closing twice
        is fine.
        """
        check_hub(self._hub, self)
        self._close()

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        try:
            if error_type is None and self._servers.life < CLOSED:
                check_hub(self._hub, self)
                deadline = deadline_after(self._limits.stall_timeout)
                wait_until_done("with", self, self._casts_are_delivered, deadline)
        finally:
            self.close()

    def __del__(self) -> None:
        # Nobody can call it any more, and no request is open.
        servers: Servers | None = getattr(self, "_servers", None)
        if servers is None or servers.life >= CLOSED or not servers.needs_close:
            return
        try:
            DroppedClient(self._hub, servers).close_soon()
        except BaseException:
            # From `__del__` it is only printed, and nothing would close the connections later.
            DroppedClient(self._hub, servers).close_soon()
            raise
        warnings.warn(f"{self!r} was dropped without close()", ResourceWarning, source=self, stacklevel=1)

    def stats(self) -> Stats:
        servers = self._servers
        return self._counters.snapshot(
            connections=len(servers.connections),
            queued=len(servers.waiters.senders),
            in_flight=servers.in_flight,
        )

    def _after_fork(self) -> None:
        self._servers.leave_to_parent()

    def _settle(self) -> None:
        self._servers.settle()

    def _close(self) -> int:
        """Close, and return how many casts have not left."""
        try:
            unsent = self._servers.close()
        except BaseException:
            settle_soon(self._hub)
            raise
        if unsent:
            bus_logger.warning(CASTS_NOT_SENT, self._servers.name, unsent)
        return unsent

    def _casts_are_delivered(self) -> bool:
        delivered = all(connection.casts.are_delivered for connection in self._servers.connections)
        # A cast that has lost its connection may be about to go out on another.
        return delivered and not self._servers.retrier.casts

    def _is_quiet(self) -> bool:
        """Whether nothing is open, and the server's side has all that was written."""
        undelivered = sum(connection.casts.look_undelivered() for connection in self._servers.connections)
        return not self._servers.in_flight and not undelivered and self._casts_are_delivered()


class ClientBusWithMiddleware(ClientMiddleware[Request, Response], ClientBus[Request, Response]):
    """A `ClientBus` whose calls pass through middleware."""

    def __init__(self, middleware: tuple[Middleware, ...], *arguments: Any) -> None:
        # First: once the bus is open, it may be called.
        self._middleware = middleware
        super().__init__(*arguments)


def check_connected(socket: Socket) -> Address:
    """The address of a socket's peer; refuses anything but a connected stream socket."""
    if not hasattr(socket, "getpeername"):
        raise TypeError(f"new_client needs a connected socket, not {socket!r}")
    try:
        return address_of(socket.family, socket.getpeername())
    except OSError as error:
        raise ValueError(f"new_client needs a connected socket; {socket!r} is not: {error}") from error
