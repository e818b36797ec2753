"""Who asks: what `transaction.peer` says of a client, where somebody vouches for it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from certificates import authority, client_context, server_context
from contract.buses import Bus, Start, each, on_every_kind
from endpoints import on_linux
from helpers import LONG, wait_until
from ratchet import bus as ratchet_bus
from ratchet.bus import PeerCertificate, PeerProcess

pytestmark = on_linux

THIS_PROCESS = PeerProcess(os.getpid(), os.getuid(), os.getgid())
on_each_that_vouches = pytest.mark.parametrize("kind", each("unix", "tls"))


def vouched(kind: str) -> Any:
    """What the server knows of the contract's client."""
    if kind.startswith("unix"):
        return THIS_PROCESS
    return ("email", "client@example.org") if kind == "tls" else None


def told(kind: str, peer: Any) -> Any:
    """What a peer says of itself, to be compared with `vouched`."""
    if kind != "tls":
        return peer
    assert isinstance(peer, PeerCertificate)
    assert [name for name, _ in peer.subject] == ["organizationName", "organizationalUnitName"]
    return peer.names[0] if len(peer.names) == 1 else peer.names


@on_every_kind
def test_a_peer_is_who_somebody_vouches_for_or_none(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    assert told(bus.kind, transaction.peer) == vouched(bus.kind)
    assert transaction.peer == transaction.peer
    transaction.send_response("answer")
    assert sent.recv_response(LONG) == "answer"


def test_a_handler_may_ask(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request, transaction: transaction.peer is not None)
    assert bus.client.call("question", LONG) is (bus.kind in ("unix", "tls"))


@on_each_that_vouches
@pytest.mark.parametrize("ask_before", [True, False], ids=["asked before", "not asked before"])
def test_a_peer_that_has_gone_with_a_request_open_is_still_known(bus: Bus, ask_before: bool) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    if ask_before:
        assert transaction.peer is not None
    bus.client.close()
    wait_until(lambda: not bus.server.stats().connections, "the end of the connection")
    assert transaction.cancelled
    assert told(bus.kind, transaction.peer) == vouched(bus.kind)


@on_each_that_vouches
def test_a_peer_that_has_cast_and_gone_is_still_known(bus: Bus) -> None:
    with bus.client:
        bus.client.cast("one way")
    wait_until(lambda: not bus.server.stats().connections, "the end of the connection")
    assert told(bus.kind, bus.take().peer) == vouched(bus.kind)


@on_each_that_vouches
def test_a_peer_is_forgotten_when_its_requests_are_answered_and_it_has_gone(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    transaction.send_response("answer")
    assert sent.recv_response(LONG) == "answer"
    assert transaction.peer is not None
    bus.client.close()
    wait_until(lambda: not bus.server.stats().connections, "the end of the connection")
    assert transaction.peer is None


@on_each_that_vouches
def test_a_peer_is_known_after_the_server_has_closed(bus: Bus) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    bus.server.close()
    assert told(bus.kind, transaction.peer) == vouched(bus.kind)


class Secure:
    """A server over TLS, and clients of it."""

    def __init__(self, stack: ExitStack, context: ssl.SSLContext, address: str = "127.0.0.1:0") -> None:
        self._stack = stack
        self.server = stack.enter_context(ratchet_bus.listen(address, ssl_context=context))

    def peer_of(self, context: ssl.SSLContext) -> Any:
        """Who a client is to the server."""
        client = self._stack.enter_context(ratchet_bus.connect(self.server.address, ssl_context=context))
        client.cast(b"one way")
        return self.server.recv_request(LONG)[0].peer


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_tls_client_without_a_certificate_is_nobody(stack: ExitStack) -> None:
    assert Secure(stack, server_context(mutual=False)).peer_of(client_context(certificate=False)) is None


def test_a_certificate_that_nobody_asked_for_vouches_for_nobody(stack: ExitStack) -> None:
    assert Secure(stack, server_context(mutual=False)).peer_of(client_context()) is None


def optional() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("127.0.0.1").configure_cert(context)
    authority().configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def test_where_certificates_are_optional_each_client_is_who_it_shows_itself_to_be(stack: ExitStack) -> None:
    secure = Secure(stack, optional())
    assert secure.peer_of(client_context(certificate=False)) is None
    assert secure.peer_of(client_context()).names == (("email", "client@example.org"),)


def test_a_certificate_tells_its_common_name_and_all_other_names(stack: ExitStack) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    authority().issue_cert("billing.example.org", "10.0.0.1", common_name="billing").configure_cert(context)
    peer = Secure(stack, server_context()).peer_of(context)
    assert ("commonName", "billing") in peer.subject
    assert peer.names == (("DNS", "billing.example.org"), ("IP Address", "10.0.0.1"))
    assert "'billing.example.org'" in repr(peer)


@pytest.mark.uncounted
def test_over_tls_on_a_unix_socket_the_certificate_goes_before_the_process(
    stack: ExitStack, tmp_path: Path
) -> None:
    secure = Secure(stack, optional(), f"unix:{tmp_path}/socket")
    nameless, named = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (nameless, named):
        context.check_hostname = False
        authority().configure_trust(context)
    authority().issue_cert("client@example.org").configure_cert(named)
    assert secure.peer_of(nameless) == THIS_PROCESS
    assert secure.peer_of(named).names == (("email", "client@example.org"),)


def test_who_a_peer_is_can_be_compared_and_not_changed() -> None:
    assert PeerProcess(1, 2, 3) == PeerProcess(1, 2, 3) != PeerProcess(1, 2, 4)
    assert repr(PeerProcess(1, 2, 3)) == "PeerProcess(pid=1, uid=2, gid=3)"
    with pytest.raises(AttributeError):
        PeerProcess(1, 2, 3).uid = 0  # type: ignore[misc]
