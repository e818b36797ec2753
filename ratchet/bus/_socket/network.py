"""The network that the sockets of a hub are opened on: the system's, or one that a test has set.

A test sets it as the `network` of the hub's loop.  Buses that are opened by an address get
their sockets here, and cannot tell the difference.  The network is looked up when a bus is
opened, not when it is used.
"""

from __future__ import annotations

import ssl
from functools import partial
from typing import Protocol

from gevent.hub import get_hub

from ratchet.bus._core.address import Endpoint, UnixEndpoint
from ratchet.bus._socket.accept import Listener, SocketListener
from ratchet.bus._socket.listen import open_listener
from ratchet.bus._transport.dial import Dial, dial
from ratchet.bus._transport.transport import Socket


class Network(Protocol):
    """A network in place of the system's: the `network` of a loop."""

    def listen(self, endpoint: Endpoint) -> Listener:
        """Listen on an endpoint.  Raises `OSError`."""

    def dialer(self, endpoint: Endpoint) -> Dial:
        """Make a function that connects to an endpoint, on behalf of the current thread."""


def listener(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> Listener:
    """Listen on an endpoint.  Blocks, and raises, as `open_listener` does."""
    network = _network_for(ssl_context)
    if network is not None:
        return network.listen(endpoint)
    socket, file = open_listener(endpoint)
    return SocketListener(socket, ssl_context, file, opened_here=True)


def listener_on(socket: Socket, ssl_context: ssl.SSLContext | None) -> Listener:
    """Make the listener of a listening socket; an in-memory one is its own."""
    if not isinstance(socket, Listener):
        return SocketListener(socket, ssl_context)
    _refuse_tls(ssl_context)
    return socket


def dialer(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> Dial:
    """Make a function that connects to an endpoint.  Does not block."""
    network = _network_for(ssl_context)
    return partial(dial, endpoint, ssl_context) if network is None else network.dialer(endpoint)


def dialing_waits(endpoint: Endpoint, ssl_context: ssl.SSLContext | None) -> bool:
    """Whether the function that `dialer` makes may wait: to a Unix socket, the system connects at once."""
    at_once = isinstance(endpoint, UnixEndpoint) and ssl_context is None
    return not at_once or _network_for(ssl_context) is not None


def _network_for(ssl_context: ssl.SSLContext | None) -> Network | None:
    """The network of this OS thread's hub; None if it is the system's.

    Raises `ValueError` if TLS is asked of another one.
    """
    network: Network | None = getattr(get_hub().loop, "network", None)
    if network is not None:
        _refuse_tls(ssl_context)
    return network


def _refuse_tls(ssl_context: ssl.SSLContext | None) -> None:
    if ssl_context is not None:
        raise ValueError(f"sockets in memory cannot speak TLS: ssl_context must be None, not {ssl_context!r}")
