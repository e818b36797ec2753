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
from itertools import starmap
from typing import Any, Final, Protocol, runtime_checkable

from gevent.monkey import get_original

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, address_of, format_address
from ratchet.bus._socket.listen import SocketFile, listening_address
from ratchet.bus._socket.tls import begin_tls, quiet_end
from ratchet.bus._socket.transport import Socket, Transport, raw_of

# Not gevent's: nobody waits in the calls of an accepted socket, and it takes a fraction of
# the memory.  Nor Python's, which is made of this one: half the memory, and 1 us less.
_SystemSocket: Callable[..., _socket.socket] = get_original("socket", "SocketType")

_ONCE: Final = ((),)
_OUT_OF_SOMETHING: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


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
        self._family, self._kind = int(self._raw.family), int(self._raw.type)
        self._protocol: int = self._raw.proto
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
        accepted: list[tuple[int, Any]] = []
        socket: _socket.socket | None = None
        try:
            # It is kept before the interpreter looks for signals again.
            accepted.extend(starmap(self._raw._accept, _ONCE))
            descriptor, peer = accepted[0]
            # Reuse the listener's attributes; saves a getsockopt for each.
            socket = _SystemSocket(self._family, self._kind, self._protocol, descriptor)
            # First: a transport of TLS that is made is nobody's if something fails then.
            address = address_of(self._family, peer)
            if self._ssl_context is None:
                return Transport(socket, self._family), address
            return begin_tls(self._ssl_context, socket, server_side=True), address
        except BaseException as error:
            if socket is not None:
                socket.close()
            elif accepted:
                # An interrupted constructor has closed it already.
                with suppress(OSError):
                    os.close(accepted[0][0])
            if not accepted and isinstance(error, OSError):
                if error.errno in _OUT_OF_SOMETHING:
                    raise Exhausted from error
                if error.errno == errno.EINVAL:
                    raise NotListening from error
            elif accepted and isinstance(error, (OSError, ValueError)):
                # The client has gone away already, or the context is not fit for it.
                if not quiet_end(error):
                    name = format_address(address_of(self._family, accepted[0][1]))
                    log_soon(bus_logger, logging.WARNING, "cannot serve the client %s: %s", name, error)
                raise ConnectionAbortedError from error
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
