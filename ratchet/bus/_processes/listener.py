"""A worker's listener: its clients are those that the supervisor has accepted and hands over."""

from __future__ import annotations

import socket as _socket
import ssl
from collections.abc import Callable

from ratchet.bus._core.address import Address
from ratchet.bus._processes.channel import Channel, ChannelClosed, SocketLost
from ratchet.bus._socket.accept import OUT_OF_SOMETHING, Exhausted, NotListening, take_client
from ratchet.bus._transport.transport import Transport


class ChannelListener:
    """See `Listener`.

    Args:
        channel: where the sockets come from; it is the listener's from now on.
        family: their address family.
        address: where the supervisor listens.
        ssl_context: that of TLS, for each client.
        on_received: called when a socket has come; it must not block.

    Attributes:
        received: how many sockets have come in all.
    """

    def __init__(
        self,
        channel: Channel,
        family: int,
        address: Address,
        ssl_context: ssl.SSLContext | None,
        on_received: Callable[[], object],
    ) -> None:
        self._channel = channel
        self._attributes = family, int(_socket.SOCK_STREAM), 0
        self._ssl_context = ssl_context
        self.address = address
        self.received = 0
        self._on_received = on_received

    @property
    def listens(self) -> bool:
        """See `Listener`; a forked child has no clients of its own."""
        return False

    def fileno(self) -> int:
        """See `Listener`."""
        return self._channel.fileno()

    def share(self) -> None:
        """See `Listener`."""

    def accept(self) -> tuple[Transport, Address]:
        """See `Listener`."""
        try:
            return take_client(
                self._channel.receive_socket, self._attributes, self._note_client, self._ssl_context
            )
        except ChannelClosed as error:
            raise NotListening from error
        except SocketLost:
            # It is gone, but it has come: the supervisor counts those that are still on their way.
            self._count_client()
            raise
        except OSError as error:
            if error.errno in OUT_OF_SOMETHING:
                raise Exhausted from error
            raise

    def _note_client(self, peer: Address) -> Address:
        """Count a client that has come, and return its address as it is."""
        self._count_client()
        return peer

    def _count_client(self) -> None:
        self.received += 1
        self._on_received()

    def close(self) -> None:
        """See `Listener`."""
        self._channel.close()
