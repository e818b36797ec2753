"""A worker's listener: its clients are those that the supervisor has accepted and hands over."""

from __future__ import annotations

import logging
import os
import socket as _socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from itertools import starmap
from typing import Final

from gevent.monkey import get_original

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._processes.channel import Channel, ChannelClosed
from ratchet.bus._socket.accept import NotListening
from ratchet.bus._socket.tls import begin_tls, quiet_end
from ratchet.bus._socket.transport import Transport

# As in `accept`.
_ONCE: Final = ((),)
_SystemSocket: Callable[..., _socket.socket] = get_original("socket", "SocketType")


class ChannelListener:
    """See `Listener`.

    Args:
        channel: where the sockets come from; it is the listener's from now on.
        family: their address family.
        address: where the supervisor listens.
        ssl_context: that of TLS, for each client.
        on_received: called for each socket that has come; it must not block.

    Attributes:
        received: how many sockets have come.
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
        self._family = family
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
        accepted: list[tuple[int, Address]] = []
        socket: _socket.socket | None = None
        try:
            # It is kept before the interpreter looks for signals again.
            accepted.extend(starmap(self._channel.receive_socket, _ONCE))
            descriptor, peer = accepted[0]
            self.received += 1
            self._on_received()
            socket = _SystemSocket(self._family, _socket.SOCK_STREAM, 0, descriptor)
            if self._ssl_context is None:
                return Transport(socket, self._family), peer
            return begin_tls(self._ssl_context, socket, server_side=True), peer
        except BaseException as error:
            if socket is not None:
                socket.close()
            elif accepted:
                # An interrupted constructor has closed it already.
                with suppress(OSError):
                    os.close(accepted[0][0])
            if isinstance(error, ChannelClosed):
                raise NotListening from error
            if accepted and isinstance(error, (OSError, ValueError)):
                # The client has gone away already, or the context is not fit for it.
                if not quiet_end(error):
                    name = format_address(accepted[0][1])
                    log_soon(bus_logger, logging.WARNING, "cannot serve the client %s: %s", name, error)
                raise ConnectionAbortedError from error
            raise

    def close(self) -> None:
        """See `Listener`."""
        self._channel.close()
