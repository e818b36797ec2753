"""A connected socket that speaks TLS, and how TLS can fail.

Like `transport`, it does what can be done at once, and knows no messages and no watchers.
"""

from __future__ import annotations

import errno
import socket as _socket
import ssl
from collections.abc import Sequence
from typing import Any, Final

from ratchet.bus._core.peer import Peer, PeerCertificate
from ratchet.bus._transport.transport import Socket, Transport, set_options

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
        self._is_internet = set_options(socket, socket.family)
        self._socket = self._raw = socket
        self.receive, self.send = self._receive_records, self._send_records
        self.ready = ready
        self._kept: bytes | None = None
        self._read_wants_write = False

    @property
    def wants_write(self) -> bool:
        return self._kept is not None or self._read_wants_write

    @property
    def pending(self) -> bool:
        return self._raw.pending() > 0

    def _look_who_it_is(self) -> Peer | None:
        certificate: Any = None
        if self._raw.context.verify_mode != ssl.CERT_NONE:
            try:
                certificate = self._raw.getpeercert()
            except ValueError:
                # To OpenSSL, a session that the peer has ended without a goodbye has not begun.
                certificate = _first_of_chain(self._raw)
        return certificate_of(certificate) if certificate else super()._look_who_it_is()

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


def _first_of_chain(socket: ssl.SSLSocket) -> dict[str, Any] | None:
    """The peer's certificate in the chain that was checked; None if nobody knows it."""
    # Only the object behind the socket hands out more than its bytes.
    chain: Any = getattr(getattr(socket, "_sslobj", None), "get_verified_chain", lambda: None)()
    return chain[0].get_info() if chain else None


def certificate_of(certificate: dict[str, Any]) -> PeerCertificate:
    """A certificate as ssl describes it, without what few programs have a use for."""
    # A part of a subject may have several names; a directory's name is no string.
    subject = tuple(pair for part in certificate.get("subject", ()) for pair in part)
    names = tuple(pair for pair in certificate.get("subjectAltName", ()) if isinstance(pair[1], str))
    return PeerCertificate(subject, names)


def transport_of(socket: Socket) -> Transport:
    """A connected socket's transport; one that speaks TLS has shaken hands already.

    A socket that is not of the system is its own transport.
    """
    if isinstance(socket, Transport):
        return socket
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
