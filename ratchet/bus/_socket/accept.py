"""Accepting clients: a `Listener` yields a transport and a peer, as `dial` does.

`SocketListener` knows the system's side of a socket that listens: how accepting can
fail, that forked children have a copy of it, and what is to go when it is closed.  When
to accept, and what becomes of a client, is the server's affair.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import socket as _socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import starmap
from typing import Any, Final, Protocol, runtime_checkable

from gevent.monkey import get_original

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, address_of, format_address
from ratchet.bus._socket.listen import SocketFile, listening_address
from ratchet.bus._transport.tls import begin_tls, quiet_end
from ratchet.bus._transport.transport import Socket, Transport, raw_of

# Not gevent's: nobody waits in the calls of an accepted socket, and it takes a fraction of
# the memory.  Nor Python's, which is made of this one: half the memory, and 1 us less.
_SystemSocket: Callable[..., _socket.socket] = get_original("socket", "SocketType")

_ONCE: Final = ((),)
OUT_OF_SOMETHING: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
"""Errors of a system that may have room again before long."""


class Exhausted(Exception):
    """The system is out of descriptors or memory, and cannot accept for now."""


class NotListening(Exception):
    """Another process has shut the socket down."""


@runtime_checkable
class Listener(Protocol):
    """Whatever a server accepts its clients from."""

    @property
    def address(self) -> Address:
        """Where it listens, as `connect` takes it."""

    @property
    def listens(self) -> bool:
        """Whether it still does; another process may have shut it down."""

    def fileno(self) -> int:
        """The descriptor that is readable when there is somebody to accept."""

    def share(self) -> None:
        """This forked child serves too."""

    def accept(self) -> tuple[Transport, Address]:
        """The next client.  Does not block.

        Raises `BlockingIOError` if there is none, `Exhausted`, `NotListening`, or another
        `OSError` for a client that went away before it was accepted.
        """

    def close(self) -> None:
        """Listen no more.  Does not block; closing twice is fine."""


def take_client(
    accept: Callable[[], tuple[int, Any]],
    attributes: tuple[int, int, int],
    address_of_peer: Callable[[Any], Address],
    ssl_context: ssl.SSLContext | None,
) -> tuple[Transport, Address]:
    """Accept a client, and make its transport; see `Listener.accept`.

    Args:
        accept: returns the descriptor and the peer of a connected socket.
        attributes: the family, type and protocol of that socket.
        address_of_peer: makes an address of the peer; called once for each client.
        ssl_context: that of TLS.

    Raises what `accept` raises, and `ConnectionAbortedError` for a client that went away since.
    """
    accepted: list[tuple[int, Any]] = []
    socket: _socket.socket | None = None
    address: Address | None = None
    try:
        # It is kept before the interpreter looks for signals again.
        accepted.extend(starmap(accept, _ONCE))
        descriptor, peer = accepted[0]
        socket = _SystemSocket(*attributes, descriptor)
        # First: a transport of TLS that is made is nobody's if something fails then.
        address = address_of_peer(peer)
        if ssl_context is None:
            return Transport(socket, attributes[0]), address
        return begin_tls(ssl_context, socket, server_side=True), address
    except BaseException as error:
        if socket is not None:
            socket.close()
        elif accepted:
            # An interrupted constructor has closed it already.
            with suppress(OSError):
                os.close(accepted[0][0])
        if accepted and isinstance(error, (OSError, ValueError)):
            # The client has gone away already, or the context is not fit for it.
            if not quiet_end(error):
                name = format_address(address_of_peer(accepted[0][1]) if address is None else address)
                log_soon(bus_logger, logging.WARNING, "cannot serve the client %s: %s", name, error)
            raise ConnectionAbortedError from error
        raise


class SocketListener:
    """A socket of the system that listens; see `Listener`.

    A forked child's copy keeps the port alive, whether its process serves or not.  So
    whoever opened the socket ends it for all when it closes it, unless a child has taken to
    serving too.

    Args:
        socket: the socket, which is the listener's from now on.
        ssl_context: that of TLS, for each client.
        file: the socket's own file, if this process made one.
        opened_here: whether this process opened the socket, and not its user.

    Attributes:
        address: where it listens, as `connect` takes it.
    """

    def __init__(
        self,
        socket: Socket,
        ssl_context: ssl.SSLContext | None = None,
        file: SocketFile | None = None,
        opened_here: bool = False,
    ) -> None:
        self._socket = socket
        # `Any`: the stubs do not know `_accept`.
        self._raw: Any = raw_of(socket)
        self._raw.setblocking(False)
        # Plain numbers, as in `transport`.
        family = int(self._raw.family)
        self._attributes: tuple[int, int, int] = family, int(self._raw.type), self._raw.proto
        self._address_of = partial(address_of, family)
        self._ssl_context = ssl_context
        self._file = file
        self._process = os.getpid()
        # One byte that all forked children share: whether one of them serves too.
        self._served_by_child = mmap.mmap(-1, 1) if opened_here else None
        self.address: Address = listening_address(self._raw)

    def fileno(self) -> int:
        """See `Listener`."""
        descriptor: int = self._raw.fileno()
        return descriptor

    @property
    def listens(self) -> bool:
        """See `Listener`."""
        return bool(self._raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))

    def share(self) -> None:
        """See `Listener`."""
        if self._served_by_child is not None:
            self._served_by_child[0] = 1

    def accept(self) -> tuple[Transport, Address]:
        """See `Listener`."""
        try:
            # Reuse the listener's attributes; saves a getsockopt for each.
            return take_client(self._raw._accept, self._attributes, self._address_of, self._ssl_context)
        except OSError as error:
            if error.errno in OUT_OF_SOMETHING:
                raise Exhausted from error
            if error.errno == errno.EINVAL:
                raise NotListening from error
            raise

    def close(self) -> None:
        """Listen no more, and remove the file.  Does not block; closing twice is fine."""
        shared = self._served_by_child is not None and self._served_by_child[0]
        # Before the socket: afterwards another server may take over the path.
        if self._file is not None and not shared:
            self._file.remove()
        if self._served_by_child is not None and os.getpid() == self._process and not shared:
            # Not every system can do that to a socket that listens.
            with suppress(OSError):
                self._raw.shutdown(_socket.SHUT_RDWR)
        self._socket.close()
