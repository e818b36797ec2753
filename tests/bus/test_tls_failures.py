"""What a TLS connection that fails says: whether to try again, who refused whom, and who just went."""

from __future__ import annotations

import datetime
import errno
import socket as stdlib_socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
import trustme
from gevent import socket

from certificates import authority, client_context
from helpers import LONG, wait_until
from ratchet.bus._core.address import TcpEndpoint
from ratchet.bus._transport.dial import dial
from ratchet.bus._transport.tls import TlsTransport, begin_tls, quiet_end, refused_us, will_never_work

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
of_each_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda version: str(version.name))

# A record that holds the beginning of a client's hello.
BEGUN = bytes.fromhex("16 0301 0200 0100")


class Sides:
    """Both ends of connections over the loopback; all are closed in the end."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.socket())
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.address: tuple[str, int] = self._listener.getsockname()

    def accept(self) -> Any:
        return self._stack.enter_context(self._listener.accept()[0])

    def pair(self) -> tuple[Any, Any]:
        """A client's and a server's socket."""
        client = self._stack.enter_context(socket.create_connection(self.address))
        return client, self.accept()

    def transport(self, context: ssl.SSLContext, connected: Any, name: str | None = None) -> TlsTransport:
        """A client's if it is told the name of a server, and else a server's."""
        transport = begin_tls(context, connected, server_side=name is None, server_name=name)
        self._stack.callback(transport.close)
        return transport

    def errors(self, server: ssl.SSLContext, client: ssl.SSLContext, name: str = "127.0.0.1") -> list[Any]:
        """How it ends for the client and for the server; None for the one that goes first."""
        here, there = self.pair()
        ends = [
            self.transport(client, here, name),
            self.transport(server, there),
        ]
        errors: list[Any] = [None, None]

        def both_have_failed() -> bool:
            for number, end in enumerate(ends):
                errors[number] = errors[number] or failure(end)
            return None not in errors

        wait_until(both_have_failed, "the failures of both sides")
        return errors


@pytest.fixture
def sides() -> Iterator[Sides]:
    with ExitStack() as stack:
        yield Sides(stack)


def failure(transport: TlsTransport) -> OSError | None:
    """Get on with the handshake, or receive, and return what that raises, if anything."""
    try:
        if transport.ready:
            transport.receive(100)
        else:
            transport.shake_hands()
    except BlockingIOError:
        return None
    except OSError as error:
        return error
    return None


def server(version: ssl.TLSVersion) -> ssl.SSLContext:
    """The context of a server that wants a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    authority().issue_cert("127.0.0.1").configure_cert(context)
    context.verify_mode = ssl.CERT_REQUIRED
    authority().configure_trust(context)
    return context


def client_with(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    certificate.configure_cert(context)
    return context


# Who refused whom


def expired() -> trustme.LeafCert:
    begin = datetime.datetime(2020, 1, 1)
    return authority().issue_cert(
        "client@example.org", not_before=begin, not_after=begin + datetime.timedelta(days=1)
    )


@of_each_version
@pytest.mark.parametrize("fault", ["missing", "of another authority", "expired"])
def test_a_client_whose_certificate_is_refused_is_told_so(
    version: ssl.TLSVersion, fault: str, sides: Sides
) -> None:
    if fault == "missing":
        client = client_context(certificate=False, gevents=False)
    elif fault == "expired":
        client = client_with(expired())
    else:
        client = client_with(trustme.CA().issue_cert("client@example.org"))
    told, found = sides.errors(server(version), client)
    assert refused_us(told)
    assert not will_never_work(told)
    assert not quiet_end(told)
    # The server has a reason to speak up, and was not refused itself.
    assert not refused_us(found)
    assert not quiet_end(found)


ABOUT_CERTIFICATES = {
    "handshake failure": 40,
    "bad certificate": 42,
    "unsupported certificate": 43,
    "certificate revoked": 44,
    "certificate expired": 45,
    "certificate unknown": 46,
    "unknown authority": 48,
    "access denied": 49,
    "certificate required": 116,
}
ABOUT_OTHER_THINGS = {
    "unexpected message": 10,
    "illegal parameter": 47,
    "decode error": 50,
    "protocol version": 70,
    "internal error": 80,
    "unrecognized name": 112,
}


@pytest.mark.parametrize("name", [*ABOUT_CERTIFICATES, *ABOUT_OTHER_THINGS])
def test_only_an_alert_about_a_certificate_is_a_refusal(name: str, sides: Sides) -> None:
    here, there = sides.pair()
    client = sides.transport(client_context(gevents=False), here, "127.0.0.1")
    assert failure(client) is None
    alert = (ABOUT_CERTIFICATES | ABOUT_OTHER_THINGS)[name]
    # A record in the clear: type 21, TLS 1.2, two bytes, fatal.
    there.sendall(bytes([21, 3, 3, 0, 2, 2, alert]))
    raised: list[OSError] = []

    def failed() -> bool:
        error = failure(client)
        if error is not None:
            raised.append(error)
        return bool(raised)

    wait_until(failed, "the alert")
    assert refused_us(raised[0]) is (name in ABOUT_CERTIFICATES)
    assert not will_never_work(raised[0])


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "reset"),
        ssl.SSLError(1, "no reason is known"),
        ssl.SSLEOFError(8, "EOF"),
        RuntimeError("anything"),
    ],
)
def test_what_is_no_alert_is_no_refusal(error: BaseException) -> None:
    assert not refused_us(error)


# What no retry fixes


@of_each_version
@pytest.mark.parametrize("fault", ["not trusted", "of another host"])
def test_a_server_whose_certificate_is_refused_stays_so(
    version: ssl.TLSVersion, fault: str, sides: Sides
) -> None:
    trusted = fault == "of another host"
    client = client_context(trusts_server=trusted, gevents=False)
    found, told = sides.errors(server(version), client, "example.org" if trusted else "127.0.0.1")
    assert will_never_work(found)
    assert refused_us(told)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        FileNotFoundError(errno.ENOENT, "no such file"),
        TimeoutError("in vain"),
        stdlib_socket.gaierror(stdlib_socket.EAI_NONAME, "not known"),
        ssl.SSLEOFError(8, "EOF"),
        RuntimeError("can't start new thread"),
        MemoryError(),
    ],
    ids=repr,
)
def test_what_may_work_later_is_worth_a_retry(error: BaseException) -> None:
    assert not will_never_work(error)


# Who just went


def close(client: Any) -> None:
    client.close()


def close_after_a_piece(client: Any) -> None:
    client.sendall(BEGUN)
    client.close()


def send_no_more(client: Any) -> None:
    client.shutdown(socket.SHUT_WR)


def reset(client: Any) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def reset_after_a_piece(client: Any) -> None:
    client.sendall(BEGUN)
    reset(client)


GOING = [close, close_after_a_piece, send_no_more, reset, reset_after_a_piece]


@pytest.mark.parametrize("early", [True, False], ids=["before it is wrapped", "after"])
@pytest.mark.parametrize("go", GOING, ids=lambda go: go.__name__)
def test_a_client_that_just_goes_is_quiet(go: Any, early: bool, sides: Sides) -> None:
    context = server(ssl.TLSVersion.TLSv1_3)
    client, connected = sides.pair()
    if early:
        go(client)
        socket.wait_read(connected.fileno(), timeout=LONG)
    raised: list[OSError] = []
    try:
        transport = sides.transport(context, connected)
    except OSError as error:
        raised.append(error)
    else:
        assert early or failure(transport) is None
        if not early:
            go(client)

        def failed() -> bool:
            error = failure(transport)
            if error is not None:
                raised.append(error)
            return bool(raised)

        wait_until(failed, "the end of the handshake")
    assert quiet_end(raised[0])
    assert not will_never_work(raised[0])


def test_a_client_that_speaks_no_tls_is_not_quiet(sides: Sides) -> None:
    client, connected = sides.pair()
    client.sendall(b"GET / HTTP/1.1\r\n\r\n")
    socket.wait_read(connected.fileno(), timeout=LONG)
    error = failure(sides.transport(server(ssl.TLSVersion.TLSv1_3), connected))
    assert error is not None
    assert not quiet_end(error)


def test_dialling_a_server_that_is_not_trusted_says_that_it_will_never_work(sides: Sides) -> None:
    def serve() -> None:
        transport = sides.transport(server(ssl.TLSVersion.TLSv1_3), sides.accept())
        wait_until(lambda: failure(transport) is not None)

    serving = gevent.spawn(serve)
    with pytest.raises(ssl.SSLCertVerificationError) as raised:
        dial(TcpEndpoint(*sides.address), client_context(trusts_server=False))
    assert will_never_work(raised.value)
    serving.get(timeout=LONG)
