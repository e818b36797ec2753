"""A connected socket as a connection uses it: bytes in, bytes out, never blocking.

It alone reads and writes sockets.  Each call does what can be done at once;
`BlockingIOError` says that nothing can.  It knows no messages and no watchers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket as _socket
import ssl
import struct
import sys
import termios
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Protocol

# The system notices within about 30 s that a peer's machine has vanished.  It
# answers for a peer that is merely busy, which a heartbeat of ours would not.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 10, 5, 4
_INTERNET: Final = (_socket.AF_INET, _socket.AF_INET6)
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
# What TLS puts into one record.
_RECORD_SIZE: Final = 16 * 1024
# What OpenSSL calls the alerts about a certificate, behind the name of the protocol
# that had them first.  Up to TLS 1.2, one that is missing is a mere handshake failure.
_REFUSALS: Final = {
    "ACCESS_DENIED",
    "BAD_CERTIFICATE",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_UNKNOWN",
    "HANDSHAKE_FAILURE",
    "NO_CERTIFICATE",
    "UNKNOWN_CA",
    "UNSUPPORTED_CERTIFICATE",
}


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
    plain: _socket.socket = raw
    return plain


class Transport:
    """A plain socket, without TLS."""

    __slots__ = ("_raw", "_socket", "ready", "receive", "send")

    receive: Callable[[int], bytes]
    """Read what the peer has sent, up to this many bytes; empty if it sends no more."""
    send: Callable[[bytes | memoryview], int]
    """Write what the socket takes at once; returns how many bytes that was."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._raw = raw_of(socket)
        self._raw.setblocking(False)
        set_options(self._raw)
        # The socket's own, without a function of ours in between.
        self.receive, self.send = self._raw.recv, self._raw.send
        # Whether messages may pass; False while hands are still shaken.
        self.ready = True

    @property
    def wants_write(self) -> bool:
        """Whether it must be called again when the socket is writable, for its own sake."""
        return False

    def fileno(self) -> int:
        return self._raw.fileno()

    def shake_hands(self) -> None:
        """Continue the handshake; `ready` says whether it is complete."""

    def send_buffers(self, buffers: Sequence[bytes | memoryview]) -> int:
        """Write several buffers in order, as `send` does; without TLS in one system call."""
        return self._raw.sendmsg(buffers)

    def undelivered(self) -> int:
        """Count the sent bytes that the peer's kernel has not got yet; 0 where that cannot be told."""
        if self._raw.family not in _INTERNET:
            return 0  # what is sent is delivered
        try:
            # The system goes on counting what a reset has thrown away.
            self._raw.getpeername()
            answer = fcntl.ioctl(self._raw.fileno(), termios.TIOCOUTQ, bytes(_C_INT.size))
        except (OSError, ValueError):
            return 0  # it is closed, or broken
        (count,) = _C_INT.unpack(answer)
        return int(count)

    @property
    def tells_answers(self) -> bool:
        """Whether `awaited_answer` can tell anything."""
        return _TELLS_ANSWERS and self._raw.family in _INTERNET

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

    def close(self) -> None:
        self._socket.close()


class TlsTransport(Transport):
    """A socket that speaks TLS.

    After a send that would block, OpenSSL wants the same data once more.  So a
    record that it could not send is kept here, and counts as taken.
    """

    __slots__ = ("_kept", "_read_wants_write")

    _raw: ssl.SSLSocket

    def __init__(self, socket: Any, *, ready: bool) -> None:
        # Neither ssl's sockets nor gevent's switch if they are told not to block.
        socket.setblocking(False)
        set_options(socket)
        self._socket = self._raw = socket
        self.receive, self.send = self._receive_records, self._send_records
        self.ready = ready
        self._kept: bytes | None = None
        self._read_wants_write = False

    @property
    def wants_write(self) -> bool:
        return self._kept is not None or self._read_wants_write

    def shake_hands(self) -> None:
        self._read_wants_write = False
        try:
            self._raw.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
            return
        self.ready = True

    def _receive_records(self, size: int) -> bytes:
        self._read_wants_write = False
        try:
            data: bytes = self._raw.recv(size)
            # What OpenSSL has taken from the socket already would wake nobody.
            if self._raw.pending():
                data += self._raw.recv(self._raw.pending())
        except ssl.SSLWantReadError as error:
            raise BlockingIOError from error
        except ssl.SSLWantWriteError as error:
            self._read_wants_write = True
            raise BlockingIOError from error
        except ssl.SSLEOFError:
            # Messages tell their own length, so nobody can cut one short unseen.
            return b""
        return data

    def _send_records(self, data: bytes | memoryview) -> int:
        if self._kept is not None:
            if not self._write(self._kept):
                raise BlockingIOError
            self._kept = None
        view, taken = memoryview(data), 0
        while taken < len(view) and self._kept is None:
            record = view[taken : taken + _RECORD_SIZE]
            try:
                written = self._write(record)
            except OSError:
                if taken:
                    # Those before it have left.  The next call fails as well.
                    return taken
                raise
            taken += len(record)
            if not written:
                self._kept = bytes(record)
        return taken

    def send_buffers(self, buffers: Sequence[bytes | memoryview]) -> int:
        total = 0
        for data in buffers:
            try:
                count = self.send(data)
            except OSError:
                if total:
                    # What is before it has left, or is kept.
                    return total
                raise
            total += count
            if count < len(data):
                break
        return total

    def _write(self, record: bytes | memoryview) -> bool:
        try:
            # gevent's returns 0 where ssl's raises.
            return bool(self._raw.send(record))
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False


def set_options(socket: Socket) -> None:
    """Turn on what every TCP connection has: no delay, and the kernel's keepalive.

    Linux is not given the user time-out: there `AcknowledgeWatch` does better.
    """
    if socket.family not in _INTERNET:
        return
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


def transport_of(socket: Socket) -> Transport:
    """A connected socket's transport; one that speaks TLS has shaken hands already."""
    return TlsTransport(socket, ready=True) if hasattr(socket, "do_handshake") else Transport(socket)


def begin_tls(
    context: ssl.SSLContext, socket: _socket.socket, *, server_side: bool, server_name: str | None = None
) -> TlsTransport:
    """The transport of a connected socket over which TLS has yet to shake hands.

    Takes the socket over, and closes it if that fails: with `OSError`, because the
    peer is gone already, or `ValueError`, because the context is not fit for it.
    """
    try:
        # ssl would find that out as well, but leak what it has taken over by then.
        socket.getpeername()
        socket = context.wrap_socket(
            socket, server_side=server_side, server_hostname=server_name, do_handshake_on_connect=False
        )
        return TlsTransport(socket, ready=False)
    except BaseException:
        socket.close()
        raise


def check_context(context: object, *, server_side: bool) -> None:
    """Refuse anything but a TLS context for this side."""
    if context is None:
        return
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext or None, not {context!r}")
    wrong = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if context.protocol == wrong:
        side = "server" if server_side else "client"
        raise ValueError(f"ssl_context must be one for the {side}'s side, not {context!r}")


def will_never_work(error: BaseException) -> bool:
    """Whether connecting failed for a reason that no retry fixes.

    That is the peer's certificate, which is not trusted or names another host, or
    a host name that cannot exist.  A name that does not resolve now may later.
    """
    # An ssl.SSLCertVerificationError is a ValueError, and so is a UnicodeError.
    return isinstance(error, ValueError)


def refused_us(error: BaseException) -> bool:
    """Whether the TLS peer has let us know that it does not accept our certificate, or the lack of one.

    With TLS 1.3 the handshake is over on our side by then: it is receiving that fails.
    """
    # Only one that OpenSSL raised has a reason.
    reason = getattr(error, "reason", None) if isinstance(error, ssl.SSLError) else None
    return (reason or "").partition("_ALERT_")[2] in _REFUSALS


def quiet_end(error: BaseException) -> bool:
    """Whether a TLS handshake failed only because the peer went away, as health checks do."""
    if isinstance(error, (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return True
    # It was gone before the socket was wrapped.
    return isinstance(error, OSError) and error.errno == errno.ENOTCONN
