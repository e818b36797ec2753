"""Connecting: one attempt, and one after the other with pauses that grow.

`dial` connects once and blocks.  A `Dialer` does so in the background until there
is a connection; where the first attempt takes no waiting, it is made on the spot.  It
holds its client weakly: a client that nobody refers to any more is collected, however
long its server is away.  It tells the client of each attempt's end, and stops when there
is a connection.
"""

from __future__ import annotations

import errno
import os
import socket as _socket
import ssl
import sys
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

import gevent
from gevent import socket
from gevent.monkey import get_original

from ratchet import _clock
from ratchet._chance import chance
from ratchet._loop import AnyGreenlet
from ratchet.bus._core.address import Address, Endpoint, UnixEndpoint, address_of, check_host
from ratchet.bus._transport.tls import begin_tls
from ratchet.bus._transport.transport import Transport

Dial = Callable[[], tuple[Transport, Address]]
"""Connects to the server once; blocks, except to a Unix socket without TLS."""


class Target(NamedTuple):
    """A server that connections are made to.

    Attributes:
        address: as `connect` takes it.
        dial: connects to it.
        waits: whether `dial` may wait.
    """

    address: Address
    dial: Dial
    waits: bool


# Seconds between attempts to connect, doubled up to the last one.
_FIRST_BACK_OFF, _LAST_BACK_OFF = 0.05, 5.0
# Seconds until an attempt to connect is given up, and after it the TLS handshake.
_CONNECT_TIMEOUT = 10.0
# Bytes that a Unix socket's path may have.
_LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103
_UNIX: Final = int(_socket.AF_UNIX)
# Not blocking from the beginning, where the system can do that.
_STREAM: Final = _socket.SOCK_STREAM | getattr(_socket, "SOCK_NONBLOCK", 0)
_BACKLOG_FULL: Final = "the server has more connections waiting than it takes"

# Those of the system, which never switch.  gevent's `connect` would try without end
# where a Unix socket's backlog is full.  The socket is that of `accept`.
_SystemSocket: Callable[..., _socket.socket] = get_original("socket", "SocketType")
_system_getaddrinfo = get_original("socket", "getaddrinfo")


class Client(Protocol):
    """The client, which is told of each attempt."""

    def use(self, transport: Transport, peer: Address) -> None:
        """Take over the connection that was made, and close it if this fails."""

    def on_dial_failed(self, error: Exception) -> None:
        """Note that an attempt has failed; another one will follow."""


class Dialer:
    """Makes connections for one client.

    Args:
        client: whom they are for.
        dial: makes one.
        waits: whether it may wait.

    Attributes:
        back_off: seconds to wait before the next attempt.
    """

    def __init__(self, client: Client, dial: Dial, waits: bool = True) -> None:
        self._client = weakref.ref(client)
        self._dial = dial
        self._waits = waits
        self._running: AnyGreenlet | None = None
        self._stopped = False
        self.back_off = 0.0

    def start(self) -> None:
        """Connect in the background, if that is not going on already; does not block."""
        # One that has not begun counts as none.
        if not self._stopped and not self._running:
            running = gevent.Greenlet(self._run)
            running.rawlink(self._on_end)
            # First, so that `stop` ends it whatever strikes.
            self._running = running
            running.start()

    def start_at_once(self) -> None:
        """As `start`, but connect before it returns if no pause is due and connecting does not block.

        Without the greenlet, a connection takes a third less of the client's time.
        """
        if not (self._waits or self._stopped or self._running or self.back_off):
            try:
                transport, peer = self._dial()
            except Exception:
                # The next attempt follows at once, and tells why it fails.
                pass
            else:
                self._lengthen_back_off()
                self._use(transport, peer)
                return
        self.start()

    def stop(self) -> None:
        """Make no more attempts; does not block."""
        self._stopped = True
        if self._running is not None:
            self._running.kill(block=False)

    def _run(self) -> None:
        """Attempt until there is a connection: the dialing greenlet."""
        while not self._connect_once():
            pass

    def _on_end(self, dialing: AnyGreenlet) -> None:
        """Hub callback: start again if an exception struck, so that the client does not wait for ever."""
        if dialing.exception is not None:
            self.start()

    def _connect_once(self) -> bool:
        """Pause, and make one attempt; return whether there is no need for another."""
        if self.back_off:
            # Jitter, so that the clients of a server that starts again do not all
            # come at the same instant.
            _clock.sleep(self.back_off * chance.uniform(0.5, 1.0))
        self._lengthen_back_off()
        try:
            transport, peer = self._dial()
        except Exception as error:
            client = self._client()
            if client is not None:
                client.on_dial_failed(error)
            return client is None
        self._use(transport, peer)
        return True

    def _lengthen_back_off(self) -> None:
        self.back_off = min(max(self.back_off * 2, _FIRST_BACK_OFF), _LAST_BACK_OFF)

    def _use(self, transport: Transport, peer: Address) -> None:
        """Give the client its connection."""
        client = self._client()
        if client is None or self._stopped:
            transport.close()
        else:
            # From here on `start` means another connection.
            self._running = None
            client.use(transport, peer)


def dial(endpoint: Endpoint, ssl_context: ssl.SSLContext | None = None) -> tuple[Transport, Address]:
    """Connect to `endpoint`; blocks.

    Returns the transport, over which TLS has shaken hands, and the address.  Raises
    `OSError`, or `ValueError` for a host name that cannot exist.
    """
    opened = _connect(endpoint)
    transport: Transport | None = None
    try:
        if isinstance(endpoint, UnixEndpoint):
            family, name, peer = _UNIX, None, endpoint.address
        else:
            family, name, peer = opened.family, endpoint.host, address_of(opened.family, opened.getpeername())
        if ssl_context is None:
            return Transport(opened, family, blocks=False), peer
        transport = begin_tls(ssl_context, opened, server_side=False, server_name=name)
        _shake_hands(transport)
        return transport, peer
    except BaseException:
        (opened if transport is None else transport).close()
        raise


def _shake_hands(transport: Transport) -> None:
    late = TimeoutError(errno.ETIMEDOUT, f"the TLS handshake took more than {_CONNECT_TIMEOUT:g} s")
    end = _clock.monotonic() + _CONNECT_TIMEOUT
    transport.shake_hands()
    while not transport.ready:
        left = end - _clock.monotonic()
        if left <= 0:
            raise late
        wait = _clock.wait_write if transport.wants_write else _clock.wait_read
        wait(transport.fileno(), timeout=left, timeout_exc=late)
        transport.shake_hands()


def _connect(endpoint: Endpoint) -> _socket.socket:
    """Connect a socket to `endpoint`; try each address of a host in turn."""
    if isinstance(endpoint, UnixEndpoint):
        return _connected(socket.AF_UNIX, fitting(endpoint.path))
    *others, last = resolve(endpoint.host, endpoint.port)
    for family, _, _, _, sockaddr in others:
        try:
            return _connected(family, sockaddr)
        except OSError:
            continue
    return _connected(last[0], last[4])


def _connected(family: int, where: Any) -> _socket.socket:
    connecting = _SystemSocket(family, _STREAM)
    try:
        if connecting.gettimeout() != 0.0:
            connecting.setblocking(False)
        number = connecting.connect_ex(where)
        if number == errno.EINPROGRESS:
            late = TimeoutError(errno.ETIMEDOUT, f"no connection within {_CONNECT_TIMEOUT:g} s")
            _clock.wait_write(connecting.fileno(), timeout=_CONNECT_TIMEOUT, timeout_exc=late)
            number = connecting.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if number:
            full = number == errno.EAGAIN and family == socket.AF_UNIX
            raise OSError(number, _BACKLOG_FULL if full else os.strerror(number))
    except BaseException:
        connecting.close()
        raise
    return connecting


def fitting(path: str) -> str:
    """The path of a Unix socket as the system takes it: a long one from the working directory."""
    if path.startswith("\0") or len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    return os.path.relpath(path)


def resolve(host: str | None, port: int, flags: int = 0) -> Any:
    """The addresses of a host, as `getaddrinfo` has them; blocks if it is a name.

    A number needs no resolver, whose threads a forked child does not have.
    """
    kind = _socket.SOCK_STREAM
    try:
        return _system_getaddrinfo(host, port, type=kind, flags=flags | _socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        if host is None:
            raise
    check_host(host)
    return socket.getaddrinfo(host, port, type=kind, flags=flags)
