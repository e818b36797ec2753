"""The client's side of every kind of bus: what needs only `send_request`.

It knows nothing of how a request travels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from ratchet.bus._core.handle import ClientTransaction
from ratchet.bus._core.side import BusSide

Request = TypeVar("Request")
Response = TypeVar("Response")


class ClientSide(BusSide, Generic[Request, Response]):
    """What the client's side of a local bus and of a socket bus have in common."""

    @abstractmethod
    def send_request(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> ClientTransaction[Request, Response]:
        """Send a request, and return the transaction on which to receive its response.

        Blocks only while there is no room: in a bounded local bus, in the
        connection's unsent bytes, or while there is no connection.

        Args:
            request: the object to send.
            timeout: seconds for the whole transaction, None for ever; after that
                it ends in `BusTimeout`, and the server is told.  Over a socket its
                waiters get up to 0.1 s more, for the server's word on whether it
                ran.  A request that is sent while a thread handles another one
                has no more time than is left of that one's.
            metadata: a dict of strings that goes along, up to 64 KiB as JSON.

        Raises `BusClosed`, `BusTimeout`, `Rejected`, `ConnectionLost` or
        `MessageTooLarge`, what `request_to_bus` raises, or `TypeError` or
        `ValueError` for another argument; then nothing was sent.

        .. code-block:: python

            from ratchet import Ratchet, bus

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, lambda number: number**2)
                transactions = [client.send_request(number, timeout=5) for number in range(5)]
                print([transaction.recv_response() for transaction in transactions])

        .. code-block:: text

            [0, 1, 4, 9, 16]
        """

    @abstractmethod
    def cast(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> None:
        """Send a request to which no response is wanted; none is kept.

        Blocks and raises as `send_request` does.  When it returns, the request has been
        handed over: to the bus inside this process, or to what is sent on a connection.
        Leaving `with bus:` without an error, and `drain()`, wait until it has left.

        Args:
            request: the object to send.
            timeout: seconds for the sending alone, None for ever.
            metadata: as for `send_request`.

        .. code-block:: python

            from ratchet import bus

            server, client = bus.new_local()
            client.cast("started")
            transaction, line = server.recv_request()
            print(line, transaction.send_response("nobody wants this"))

        .. code-block:: text

            started False
        """

    def call(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request, wait for its response, and return that; blocks.

        If the thread is interrupted meanwhile, the request is cancelled.

        Args:
            request: as for `send_request`.
            timeout: as for `send_request`.
            metadata: as for `send_request`.

        Raises what `send_request` and `ClientTransaction.recv_response` raise.

        .. code-block:: python

            from ratchet import Ratchet, RemoteError, bus

            server, client = bus.new_local()
            with Ratchet() as kernel:
                kernel.attach_background(server.serve, lambda number: 100 // number)
                print(client.call(8, timeout=5))
                try:
                    client.call(0, timeout=5)
                except RemoteError as error:
                    print(error)

        .. code-block:: text

            12
            ZeroDivisionError: integer division or modulo by zero
        """
        transaction = None
        try:
            transaction = self.send_request(request, timeout, metadata)
            return transaction.recv_response()
        except BaseException:
            if transaction is not None:
                transaction.cancel()
            raise

    @abstractmethod
    def wait_connected(self, timeout: float | None = None) -> None:
        """Wait until there is a connection over which the server has said hello; blocks.

        A local bus is always connected, and a server that speaks the plain form says no
        hello: there it is enough that it has let this side connect.

        Args:
            timeout: seconds; None for ever.

        Raises `BusTimeout`, with the reason, when the time is over; `ConnectionLost` where
        no further attempt can succeed; and `BusClosed` if the bus is closed.

        .. code-block:: python

            from ratchet import Ratchet, bus

            with Ratchet() as kernel, bus.listen("127.0.0.1:0") as server:
                kernel.attach_background(server.serve, bytes.upper)
                with bus.connect(server.address) as client:
                    client.wait_connected(timeout=5)
                    print(client.stats().connections)

        .. code-block:: text

            1
        """
