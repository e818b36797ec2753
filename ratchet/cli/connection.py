"""Connecting from the command line: the options for TLS, and why a connection failed."""

from __future__ import annotations

import argparse
import socket
import ssl

from gevent.hub import get_hub

from ratchet import _clock
from ratchet.bus._core.address import Address, UnixEndpoint, parse
from ratchet.bus._transport.dial import dial
from ratchet.bus._transport.transport import Transport
from ratchet.cli.address import BrokerAddress, Place
from ratchet.cli.common import USAGE, Failure, reason

__all__ = [
    "add_client_tls",
    "add_server_tls",
    "client_context",
    "connect",
    "keep_hub_quiet",
    "server_context",
]


def add_client_tls(parser: argparse.ArgumentParser) -> None:
    """Add the options that `client_context` reads."""
    group = parser.add_argument_group(
        "TLS",
        "Each of these turns TLS on; a broker has TLS if its URL begins with amqps://.\n"
        "The server's certificate is checked, and on a Unix socket, which has no host\n"
        "name, only its authority.",
    )
    group.add_argument(
        "--tls", action="store_true", help="trust the certificate authorities that the system trusts"
    )
    group.add_argument("--ca", metavar="FILE", help="trust the authorities in this PEM file instead")
    group.add_argument("--cert", metavar="FILE", help="present this certificate, a PEM file")
    group.add_argument("--key", metavar="FILE", help="its private key, if it is in a separate file")
    group.add_argument("--insecure", action="store_true", help="do not check who the server is")


def add_server_tls(parser: argparse.ArgumentParser) -> None:
    """Add the options that `server_context` reads."""
    group = parser.add_argument_group(
        "TLS", "A broker, of which the server is a client, has TLS if its URL\nbegins with amqps://."
    )
    group.add_argument(
        "--cert",
        metavar="FILE",
        help="turn TLS on, with this certificate, a PEM file; a broker is presented with it",
    )
    group.add_argument("--key", metavar="FILE", help="its private key, if it is in a separate file")
    group.add_argument(
        "--client-ca",
        metavar="FILE",
        help="let in only clients with a certificate from an authority in this PEM file",
    )
    group.add_argument(
        "--ca",
        metavar="FILE",
        help="trust a broker by the authorities in this PEM file, in place of those that the system trusts",
    )


def client_context(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    """Make the TLS context that the options ask for; None for no TLS.  Raises `Failure`."""
    place: Place = arguments.address
    options = (arguments.tls, arguments.ca, arguments.cert, arguments.key, arguments.insecure)
    if not _has_tls(place, any(options)):
        return None
    context = _new_context(ssl.Purpose.SERVER_AUTH, arguments.ca)
    _load_certificate(context, arguments.cert, arguments.key)
    on_unix_socket = not isinstance(place, BrokerAddress) and isinstance(parse(place), UnixEndpoint)
    if arguments.insecure or on_unix_socket:
        # A Unix socket has no host name that a certificate could be for.
        context.check_hostname = False
    if arguments.insecure:
        context.verify_mode = ssl.CERT_NONE
    return context


def _has_tls(place: Place, asked: bool) -> bool:
    """Whether TLS is spoken, where options ask for it or not.  Raises `Failure`."""
    if not isinstance(place, BrokerAddress):
        return asked
    if asked and not place.broker.tls:
        raise Failure("TLS with a broker needs a URL that begins with amqps://, not amqp://", USAGE)
    return place.broker.tls


def server_context(arguments: argparse.Namespace, place: Place) -> ssl.SSLContext | None:
    """Make the TLS context of a server at `place`, as the options ask; None for no TLS.  Raises `Failure`."""
    if isinstance(place, BrokerAddress):
        # There, the server connects as clients do.
        if not _has_tls(place, any((arguments.ca, arguments.cert, arguments.key))):
            return None
        context = _new_context(ssl.Purpose.SERVER_AUTH, arguments.ca)
        _load_certificate(context, arguments.cert, arguments.key)
        return context
    if arguments.cert is None:
        if arguments.key is not None or arguments.client_ca is not None:
            raise Failure("--key and --client-ca are for TLS, which needs --cert FILE too", USAGE)
        return None
    return server_context_of(arguments.cert, arguments.key, arguments.client_ca)


def server_context_of(cert: str, key: str | None, client_ca: str | None) -> ssl.SSLContext:
    """Make the TLS context of a server from these files, also in a worker process.  Raises `Failure`."""
    context = _new_context(ssl.Purpose.CLIENT_AUTH, client_ca)
    _load_certificate(context, cert, key)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _new_context(purpose: ssl.Purpose, ca: str | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(purpose, cafile=ca)
    except OSError as error:
        raise Failure(
            f"cannot use the authorities in {ca!r} ({_tls_reason(error)}); name a PEM file of certificates",
            USAGE,
        ) from error


def _load_certificate(context: ssl.SSLContext, cert: str | None, key: str | None) -> None:
    if cert is None:
        if key is not None:
            raise Failure("--key needs the certificate that it is for: --cert FILE", USAGE)
        return
    try:
        context.load_cert_chain(cert, key)
    except OSError as error:
        files = repr(cert)
        if key is not None:
            files += f" with the key {key!r}"
        raise Failure(
            f"cannot use the certificate {files} ({_tls_reason(error)});"
            " name PEM files of a certificate and its private key",
            USAGE,
        ) from error


def _tls_reason(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return reason(error)
    # OpenSSL's own word for it, such as KEY_VALUES_MISMATCH.
    return (error.reason or "it is not a PEM file").lower().replace("_", " ")


def keep_hub_quiet() -> None:
    """Ctrl-C strikes in the hub while the program waits, and the hub need not print it."""
    hub = get_hub()
    if KeyboardInterrupt not in hub.NOT_ERROR:
        # Beside what gevent's resolver has put there.
        hub.NOT_ERROR = (*hub.NOT_ERROR, KeyboardInterrupt)


def connect(address: Place, timeout: float, context: ssl.SSLContext | None) -> tuple[Transport, Address]:
    """Connect once, to the first node that takes it if it is a broker; blocks for `timeout` seconds at most.

    Returns what `dial` returns.  Raises `Failure`, which says why it failed.
    """
    keep_hub_quiet()
    try:
        # Looking up a host name knows no time-out of its own.
        with _clock.Timeout(timeout, TimeoutError()):
            if not isinstance(address, BrokerAddress):
                return dial(parse(address), context)
            *others, last = address.broker.endpoints
            for endpoint in others:
                try:
                    return dial(endpoint, context)
                except OSError:
                    continue
            return dial(last, context)
    except (OSError, ValueError) as error:
        raise Failure(_why(error, address, context is not None)) from error


def _why(error: Exception, place: Place, tls: bool) -> str:
    """Explain why a connection failed, and what to do about it."""
    address, whose = (place.broker, "broker") if isinstance(place, BrokerAddress) else (place, "server")
    match error:
        case ConnectionRefusedError():
            return f"nothing listens on {address} ({reason(error)}); is the {whose} running?"
        case FileNotFoundError():
            return f"there is no socket {address} ({reason(error)}); is the server running?"
        case socket.gaierror():
            return f"cannot look up the host of {address} ({reason(error)}); check its name"
        case TimeoutError():
            return f"{address} did not answer in time; check the address, or allow more with --timeout"
        case ssl.SSLCertVerificationError():
            return (
                f"the certificate of {address} is not trusted ({error.verify_message});"
                " name its authority with --ca FILE"
            )
        case ssl.SSLError():
            return f"cannot speak TLS with {address} ({_tls_reason(error)}); does the {whose} use TLS?"
        case ConnectionError() if tls:
            happened = f"{address} disconnected during the TLS handshake ({reason(error)})"
            return f"{happened}; does the {whose} use TLS?"
    return f"cannot connect to {address} ({reason(error)}); check the address"
