"""The client's side of every kind of bus: what needs only `send_request`.

Rules of this room: it knows nothing of how a request travels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from ratchet.bus.side import BusSide
from ratchet.bus.transaction import ClientTransaction

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
            timeout: seconds for the whole transaction; after that it ends in
                `BusTimeout`, and the server is told.  Over a socket its waiters
                get up to 0.1 s more, for the server's word on whether it ran.
                A request that is sent
                while a thread handles another one has no more time than is left
                of that one's.
            metadata: a small dict of strings that goes along.

        Raises `BusClosed`, `BusTimeout`, `Rejected`, `ConnectionLost` or
        `MessageTooLarge`, or what `request_to_bus` raises; then nothing was
        sent.
        """

    @abstractmethod
    def cast(self, request: Request) -> None:
        """Send a request to which no response is wanted; none is kept.

        Blocks and raises as `send_request` does.
        """

    def call(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> Response:
        """Send a request and wait for its response; blocks.

        If the thread is interrupted meanwhile, the request is cancelled.
        Raises what `send_request` and `recv_response` raise.
        """
        transaction = self.send_request(request, timeout, metadata)
        try:
            return transaction.recv_response()
        except BaseException:
            transaction.cancel()
            raise
