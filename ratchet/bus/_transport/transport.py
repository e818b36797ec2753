"""A connected socket as a connection uses it: bytes in, bytes out, never blocking.

It alone reads and writes sockets, with TLS by way of `tls`.  Each call does what can be
done at once; `BlockingIOError` says that nothing can.  It knows no messages and no
watchers.
"""

from __future__ import annotations

import fcntl
import os
import socket as _socket
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

from gevent.monkey import get_original

from ratchet.bus._core.peer import Peer, PeerProcess

# The system notices within about 30 s that a peer's machine has vanished.  It
# answers for a peer that is merely busy, which a heartbeat of ours would not.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 10, 5, 4
# Plain numbers: to make an enum's member of one takes longer than a system call.
_INTERNET: Final = (int(_socket.AF_INET), int(_socket.AF_INET6))
_C_INT: Final = struct.Struct("i")
# The beginning of Linux's `struct tcp_info`: tcpi_state to tcpi_last_ack_recv.
# Others that have TCP_INFO fill in another structure.
_TCP_INFO: Final = struct.Struct("8B13I")
_RETRANSMITS, _PROBES, _LAST_ACK_RECV = 2, 3, 20
_TELLS_ANSWERS: Final = sys.platform == "linux" and hasattr(_socket, "TCP_INFO")
# A closed window is probed less and less often; this is the longest pause, so that a
# machine that vanishes behind one is noticed in time too.  Linux knows it from 6.15
# on: an older kernel pauses for up to two minutes.  Python has no name for it yet.
_RTO_MAX_MS: Final = 10_000
_TCP_RTO_MAX_MS: Final = 44
# Where the system does not tell, it gives the peer up itself if what was sent is
# unacknowledged for so long, be it only because a busy peer does not read.
_USER_TIMEOUT_MS: Final = 30_000
# Bytes of late input that one read drops, and how many reads are made at most.
_DISCARD_SIZE: Final = 64 * 1024
_DISCARDS: Final = 100
# Linux's `struct ucred`: pid, uid, gid.
_CREDENTIALS: Final = struct.Struct("iII")
_TELLS_PROCESS: Final = hasattr(_socket, "SO_PEERCRED")

# Not gevent's, as in `accept`.
_system_socket = get_original("socket", "socket")


class Socket(Protocol):
    """A socket of Python's or of gevent's, with or without TLS."""

    @property
    def family(self) -> int: ...
    def fileno(self) -> int: ...
    def close(self) -> None: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def getpeername(self) -> Any: ...
    def getsockname(self) -> Any: ...
    def getsockopt(self, level: int, option: int, /) -> int: ...
    def setsockopt(self, level: int, option: int, value: int, /) -> None: ...


def raw_of(socket: Socket) -> _socket.socket:
    """The socket whose calls do not switch: gevent's wrap one."""
    raw: Any = getattr(socket, "_sock", socket)
    system: _socket.socket = raw
    return system


class _Identified:
    """A socket whose peer is known, also when it is closed."""

    __slots__ = ("_socket", "peer")

    def __init__(self, socket: Socket, peer: Peer | None) -> None:
        self._socket = socket
        self.peer = peer

    def close(self) -> None:
        self._socket.close()


class Transport:
    """A socket without TLS.

    Args:
        socket: the socket.
        family: its address family, where that is known.
        blocks: whether it has to be told not to.
    """

    __slots__ = ("_is_internet", "_raw", "_socket", "ready", "receive", "send")

    receive: Callable[[int], bytes]
    """Read what the peer has sent, up to this many bytes; empty if it sends no more."""
    send: Callable[[bytes | memoryview], int]
    """Write what the socket takes at once; returns how many bytes that was."""

    def __init__(self, socket: Socket, family: int | None = None, blocks: bool = True) -> None:
        self._socket: Socket | _Identified = socket
        self._raw = raw_of(socket)
        if blocks:
            self._raw.setblocking(False)
        self._is_internet = set_options(self._raw, self._raw.family if family is None else family)
        # The socket's own, without a function of ours in between.
        self.receive, self.send = self._raw.recv, self._raw.send
        # Whether messages may pass; False while hands are still shaken.
        self.ready = True

    @property
    def wants_write(self) -> bool:
        """Whether it must be called again when the socket is writable, for its own sake."""
        return False

    @property
    def pending(self) -> bool:
        """Whether there is something to receive that has left the system's buffer: that wakes nobody."""
        return False

    def fileno(self) -> int:
        return self._raw.fileno()

    def shake_hands(self) -> None:
        """Continue the handshake; `ready` says whether it is complete."""

    def send_buffers(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Write several buffers in order, as `send` does; without TLS in one system call."""
        return self._raw.sendmsg(buffers)

    def undelivered(self) -> int:
        """Count the sent bytes that the peer's kernel has not got; 0 where that cannot be told.

        What a reset has thrown away is among them for good.
        """
        if not self._is_internet:
            return 0  # what is sent is delivered
        try:
            answer = fcntl.ioctl(self._raw.fileno(), termios.TIOCOUTQ, bytes(_C_INT.size))
        except (OSError, ValueError):
            return 0  # it is closed
        (count,) = _C_INT.unpack(answer)
        return int(count)

    def is_broken(self) -> bool:
        """Whether nothing more can be delivered: it was reset, or both sides have ended it."""
        try:
            self._raw.getpeername()
        except OSError:
            return True
        return False

    @property
    def tells_answers(self) -> bool:
        """Whether `awaited_answer` can tell anything."""
        return _TELLS_ANSWERS and self._is_internet

    def awaited_answer(self) -> tuple[int, float] | None:
        """The tries in a row that the peer's kernel did not answer, and the seconds since its last answer.

        None if nothing that was sent is undelivered, or the system does not tell.
        """
        if not self.tells_answers or not self.undelivered():
            return None
        try:
            answer = self._raw.getsockopt(_socket.IPPROTO_TCP, _socket.TCP_INFO, _TCP_INFO.size)
        except OSError:
            return None
        info = _TCP_INFO.unpack(answer)
        return info[_RETRANSMITS] + info[_PROBES], info[_LAST_ACK_RECV] / 1000

    def identify(self) -> Peer | None:
        """The peer, as somebody vouches for it; None if nobody does, or does any more."""
        socket = self._socket
        if isinstance(socket, _Identified):
            return socket.peer
        try:
            return None if self._raw.fileno() < 0 else self._look_who_it_is()
        except (OSError, ValueError):
            return None  # it is broken

    def _look_who_it_is(self) -> Peer | None:
        if not _TELLS_PROCESS or self._raw.family != _socket.AF_UNIX:
            return None
        answer = self._raw.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, _CREDENTIALS.size)
        return PeerProcess(*_CREDENTIALS.unpack(answer))

    def keep_identity(self) -> None:
        """Know the peer also when the socket is closed."""
        if not isinstance(self._socket, _Identified):
            self._socket = _Identified(self._socket, self.identify())

    def end_output(self) -> None:
        """Tell the peer that nothing more is sent; past TLS, which may have failed."""
        with suppress(OSError):
            self._raw.shutdown(_socket.SHUT_WR)

    def discard_input(self) -> bool:
        """Drop what has come and is not read: closing would answer it with a reset.

        Returns whether nothing more will come.  Raises `OSError` if the connection is broken.
        """
        try:
            for _ in range(_DISCARDS):
                # Past TLS, which may have failed.
                if not os.read(self._raw.fileno(), _DISCARD_SIZE):
                    return True
        except BlockingIOError:
            pass
        return False

    def duplicate(self) -> Transport:
        """One more descriptor of the same connection, past TLS: it stays open when this one is closed.

        Raises `OSError` if the system has none left.
        """
        descriptor = os.dup(self._raw.fileno())
        try:
            return Transport(_system_socket(fileno=descriptor))
        except BaseException:
            with suppress(OSError):
                os.close(descriptor)
            raise

    def close(self) -> None:
        self._socket.close()


def set_options(socket: Socket, family: int) -> bool:
    """Turn on what every TCP connection has: no delay, and the kernel's keepalive.

    Returns whether it is one.  Linux is not given the user time-out: there `AcknowledgeWatch` does better.
    """
    if family not in _INTERNET:
        return False
    tcp = _socket.IPPROTO_TCP
    socket.setsockopt(tcp, _socket.TCP_NODELAY, 1)
    socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        *(() if _TELLS_ANSWERS else (("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),)),
    ):
        # Not every system has each of them.
        option: int | None = getattr(_socket, name, None)
        if option is not None:
            socket.setsockopt(tcp, option, value)
    if _TELLS_ANSWERS:
        try:
            socket.setsockopt(tcp, _TCP_RTO_MAX_MS, _RTO_MAX_MS)
        except OSError:
            pass  # the kernel is older
    return True
