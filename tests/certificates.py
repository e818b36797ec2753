"""TLS for tests: certificates of an authority that lives as long as the test run.

Sockets that gevent's contexts wrap let other greenlets run while they block,
those that the standard library's wrap do not.
"""

from __future__ import annotations

import ssl
from functools import cache
from pathlib import Path
from typing import Any

import trustme
from gevent import ssl as gevent_ssl

from helpers import wait_until


@cache
def authority() -> trustme.CA:
    """The one that both sides trust."""
    return trustme.CA()


@cache
def server_context(*, mutual: bool = True, gevents: bool = False) -> Any:
    """A server on the loopback; if `mutual`, it lets in only clients with a certificate."""
    context = (gevent_ssl if gevents else ssl).SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1").configure_cert(context)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        authority().configure_trust(context)
    return context


@cache
def client_context(*, certificate: bool = True, trusts_server: bool = True, gevents: bool = True) -> Any:
    """A client; it may have no certificate, or trust another authority than the server's."""
    context = (gevent_ssl if gevents else ssl).SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    (authority() if trusts_server else trustme.CA()).configure_trust(context)
    if certificate:
        authority().issue_cert("client@example.org").configure_cert(context)
    return context


def client_certificates(directory: Path) -> tuple[str, str]:
    """The files of a client in another process: whom it trusts, and its own certificate and key."""
    trusted, own = str(directory / "trusted.pem"), str(directory / "client.pem")
    authority().cert_pem.write_to_path(trusted)
    authority().issue_cert("client@example.org").private_key_and_cert_chain_pem.write_to_path(own)
    return trusted, own


def shaken_hands(context: ssl.SSLContext, connected: Any) -> Any:
    """A socket of the standard library over which TLS has shaken hands; other greenlets run meanwhile."""
    connected.setblocking(False)
    wrapped = context.wrap_socket(connected, server_hostname="127.0.0.1", do_handshake_on_connect=False)

    def shake() -> bool:
        try:
            wrapped.do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        return True

    wait_until(shake, "the handshake")
    return wrapped
