"""The server's side of a bus over sockets: accepting clients.

Rules of this room: it accepts connections and owns their sessions; taking and
answering requests is `server_side`, what a client's messages mean is `session`.
"""

from __future__ import annotations

import errno
import logging
import socket as _socket
import ssl
from collections.abc import Collection
from typing import Any, Final, TypeVar

from gevent.monkey import get_original

from ratchet._log import bus_logger, log_soon
from ratchet._wait import check_hub
from ratchet.bus.address import SocketFile, Target, shown
from ratchet.bus.codecs import Address, Decode, Encode
from ratchet.bus.limits import Limits
from ratchet.bus.server_side import ServerSide
from ratchet.bus.session import Session, SessionOwner, SocketRequest
from ratchet.bus.stats import Stats
from ratchet.bus.transport import TlsTransport, Transport

Request = TypeVar("Request")
Response = TypeVar("Response")

# Not gevent's: nobody waits in the calls of an accepted socket, and it takes
# a fraction of the memory.
_plain_socket = get_original("socket", "socket")

_READ = 1  # libev's event bit
# How many clients are accepted before others get their turn.
_ACCEPTS_PER_TURN: Final = 100
# How often so many of them are accepted before a drain, so that it does begin.
_LAST_ACCEPTS: Final = 50
# Seconds without accepting when the system is out of something; doubled up to the last.
_FIRST_BACK_OFF, _LAST_BACK_OFF = 0.01, 1.0
_OUT_OF_SOMETHING: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class ServerBus(ServerSide[Request, Response], SessionOwner):
    """The server's side of a bus, on a socket that listens; see `new_server` and `listen`.

    `with bus:` closes it on leaving.  It belongs to the OS thread that made it: its
    calls raise `RuntimeError` in another one.
    """

    def __init__(
        self,
        socket: Any,
        decode: Decode[Request],
        encode: Encode[Response],
        limits: Limits,
        ssl_context: ssl.SSLContext | None = None,
        socket_file: SocketFile | None = None,
    ) -> None:
        super().__init__()
        self._decode = decode
        self._encode = encode
        self._limits = limits
        self._sessions: set[Session] = set()
        self._socket = socket
        self._raw = getattr(socket, "_sock", socket)
        self._raw.setblocking(False)
        self._ssl_context = ssl_context
        self._socket_file = socket_file
        # Whether nothing is read, because too many requests are queued.
        self.held_up = False
        self._address = shown(self._raw.family, self._raw.getsockname())
        self._back_off = _FIRST_BACK_OFF
        loop: Any = self._hub.loop
        self._acceptor = loop.io(self._raw.fileno(), _READ)
        self._acceptor.start(self._on_acceptable)
        self._retry = loop.timer(0.0)

    def __repr__(self) -> str:
        return (
            f"<ServerBus at {id(self):#x} on {self._address}: {self._state},"
            f" connections={len(self._sessions)}, queued={len(self._inbox)},"
            f" in_flight={len(self._in_flight)}>"
        )

    @property
    def address(self) -> Target:
        """Where it listens, in a form that `connect` takes: `(host, port)` or `"unix:/path"`."""
        return self._address

    def close(self) -> None:
        """Close the listening socket and every connection at once.

        A thread that waits in `recv_request` gets `BusClosed`, and one that
        handles a request in `serve` or `with transaction:` is interrupted.  A
        client that waits for a response gets `ConnectionLost`.  Does not block.
        Closing twice is fine.
        """
        check_hub(self._hub, self)
        if self._closed:
            return
        self._closed = True
        self._cut_off = bool(self._in_flight) or any(
            session.connection.undelivered for session in self._sessions
        )
        self._stop_accepting()
        for session in list(self._sessions):
            session.connection.close()
        # What no connection waits for: one-way requests.
        for pending in (*self._inbox.close(), *self._in_flight):
            pending._cancel()
        self._forget_takers()
        self._wake_drain()

    def stats(self) -> Stats:
        check_hub(self._hub, self)
        parked = sum(len(session.parked) for session in self._sessions)
        return self._counters.snapshot(
            connections=len(self._sessions),
            queued=len(self._inbox) + parked,
            in_flight=len(self._in_flight),
        )

    def _after_fork(self) -> None:
        super()._after_fork()
        for session in self._sessions:
            session.connection.forsake()
        self._sessions.clear()
        self.held_up = False

    def _finished(self) -> bool:
        if self._in_flight:
            return False
        # All answers are written; a connection that is gone has sent its own.
        for session in list(self._sessions):
            session.connection.close_when_sent()
        return not self._sessions

    def _refuse_new(self) -> None:
        # Who has asked already is to hear that it will not be run.
        self._retry.close()
        for _ in range(_LAST_ACCEPTS):
            if not self._on_acceptable():
                break
        self._stop_accepting()
        for session in list(self._sessions):
            session.connection.read_now()
            session.go_away()
            session.refuse_parked()

    def _enqueue(self, request: SocketRequest[Any, Any]) -> None:
        if self._draining:
            request._refuse_draining()
        elif self._inbox.put(request) >= self._limits.max_queued and not self.held_up:
            self._hold_up(True)

    def _dequeue(self, requests: Collection[SocketRequest[Any, Any]]) -> None:
        if requests:
            self._inbox.remove(requests)
            self._go_on_if_room()

    def _go_on_if_room(self) -> None:
        # Not at the first free place, or each request would stop all connections.
        if self.held_up and len(self._inbox) <= self._limits.max_queued // 2:
            self._hold_up(False)

    def _hold_up(self, held_up: bool) -> None:
        """Stop reading from every client, or go on."""
        self.held_up = held_up
        for session in list(self._sessions):
            session.read_or_not()

    def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
            self._retry.close()
            self._socket.close()
            if self._socket_file is not None:
                self._socket_file.remove()

    def _on_acceptable(self) -> bool:
        """Hub callback, and the last thing before a drain.  Whether there may be more."""
        for _ in range(_ACCEPTS_PER_TURN):
            try:
                descriptor, peer = self._raw._accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _OUT_OF_SOMETHING:
                    self._accept_later()
                    return False
                if error.errno == errno.EINVAL:
                    # It does not listen any more: another process has shut it down.
                    self._acceptor.stop()
                    return False
                # A client that went away before it was accepted is no trouble.
                continue
            self._back_off = _FIRST_BACK_OFF
            # What it is told of the socket it need not ask the system for.
            family, kind, protocol = self._raw.family, self._raw.type, self._raw.proto
            socket = _plain_socket(family, kind, protocol, fileno=descriptor)
            self._admit(socket, shown(family, peer))
        return True

    def _admit(self, socket: Any, peer: Address) -> None:
        try:
            if self._ssl_context is None:
                transport = Transport(socket)
            else:
                wrapped = self._ssl_context.wrap_socket(
                    socket, server_side=True, do_handshake_on_connect=False
                )
                transport = TlsTransport(wrapped, ready=False)
        except (OSError, ValueError) as error:
            # The client has gone away already, or the context is not fit for it.
            log_soon(bus_logger, logging.WARNING, "cannot serve the client %s: %s", peer, error)
            socket.close()
            return
        self._sessions.add(Session(self, transport, peer))

    def _accept_later(self) -> None:
        self._acceptor.stop()
        loop: Any = self._hub.loop
        self._retry = loop.timer(self._back_off)
        self._retry.start(self._acceptor.start, self._on_acceptable, update=True)
        self._back_off = min(self._back_off * 2, _LAST_BACK_OFF)


def check_listens(socket: Any) -> None:
    """Refuse what is no listening stream socket."""
    if not hasattr(socket, "accept"):
        raise TypeError(f"new_server needs a socket that listens, not {socket!r}")
    if not socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
        raise ValueError(f"new_server needs a socket that listens; call listen() on {socket!r} first")
