"""TLS: handshakes that fail or never end, who is let in, and what gets through."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from certificates import client_context, server_context, shaken_hands
from contract.buses import Start, connected
from helpers import LONG, wait_until
from ratchet import BusError, ConnectionLost
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus, Limits, ServerBus
from ratchet.bus._core.address import format_address
from raw_peer import RawPeer


class Service:
    """A server that echoes, and clients of it."""

    def __init__(self, stack: ExitStack, start: Start) -> None:
        self._stack = stack
        self._start = start
        self.ran: list[bytes] = []

    def listen(self, limits: Limits | None = None, context: Any = None) -> ServerBus[bytes, bytes]:
        self.server = self._stack.enter_context(
            ratchet_bus.listen(("127.0.0.1", 0), limits=limits, ssl_context=context or server_context())
        )
        self._start(self.server.serve, self._echo)
        return self.server

    def _echo(self, request: bytes) -> bytes:
        self.ran.append(request)
        return request

    def connect(self, context: Any = None) -> ClientBus[bytes, bytes]:
        assert isinstance(self.server.address, tuple)
        return self._stack.enter_context(
            ratchet_bus.connect(self.server.address, ssl_context=context or client_context())
        )

    def raw(self) -> RawPeer:
        """A client that speaks no TLS."""
        return self._stack.enter_context(RawPeer(connected(self.server.address)))


@pytest.fixture
def service(start: Start) -> Iterator[Service]:
    with ExitStack() as stack:
        yield Service(stack, start)


@pytest.mark.virtual_time
@pytest.mark.parametrize("begun", [b"", bytes.fromhex("16 0301 0200 0100")], ids=["silent", "begun"])
def test_a_client_that_never_finishes_its_handshake_holds_up_nobody_and_is_closed_after_the_stall_timeout(
    service: Service, caplog: pytest.LogCaptureFixture, begun: bytes
) -> None:
    server = service.listen(Limits(stall_timeout=0.2))
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "ratchet"):
        raws = [service.raw() for _ in range(3)]
        for raw in raws:
            raw.send(begun)
        client = service.connect()
        assert client.call(b"question", LONG) == b"question"
        assert [raw.receive_rest() for raw in raws] == [b"", b"", b""]
        assert time.monotonic() - started >= 0.2
        wait_until(lambda: len(caplog.records) == 3)
    assert server.stats().broken == 3
    wait_until(lambda: server.stats().connections == 1)
    assert client.call(b"question", LONG) == b"question"


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", bytes.fromhex("0001 00000004") + b"1337", b"\xff" * 100],
    ids=["HTTP", "a request without TLS", "0xff"],
)
def test_what_is_no_tls_closes_its_connection_alone_and_is_counted(
    service: Service, caplog: pytest.LogCaptureFixture, garbage: bytes
) -> None:
    server = service.listen()
    client = service.connect()
    assert client.call(b"question", LONG) == b"question"
    raw = service.raw()
    with caplog.at_level(logging.WARNING, "ratchet"):
        raw.send(garbage)
        raw.receive_rest()
        wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert "the TLS handshake failed" in record.getMessage()
    assert format_address(raw.name) in record.getMessage()
    assert server.stats().broken == 1
    assert server.stats().connections == 1
    assert client.call(b"question", LONG) == b"question"
    assert service.ran == [b"question"] * 2


def test_a_client_that_goes_in_the_midst_of_its_handshake_is_forgotten(service: Service) -> None:
    server = service.listen()
    for begun in (b"", bytes.fromhex("16 0301 0200 0100")):
        raw = service.raw()
        wait_until(lambda: server.stats().connections == 1)
        raw.send(begun)
        raw.close()
        wait_until(lambda: server.stats().connections == 0)
    assert service.connect().call(b"question", LONG) == b"question"


def test_a_client_that_does_not_trust_the_server_sends_nothing(service: Service) -> None:
    service.listen()
    client = service.connect(client_context(trusts_server=False))
    with pytest.raises(ConnectionLost, match=r"cannot connect to .*certificate verify failed") as raised:
        client.call(b"secret", timeout=LONG)
    assert raised.value.outcome == "NOT_SENT"
    assert service.ran == []
    assert service.connect().call(b"question", LONG) == b"question"


def test_a_client_without_a_certificate_is_not_let_in_under_mutual_tls(service: Service) -> None:
    server = service.listen()
    client = service.connect(client_context(certificate=False))
    # TLS 1.3 tells the client only after it has begun to send.
    with pytest.raises(ConnectionLost) as raised:
        client.call(b"secret", timeout=LONG)
    assert raised.value.outcome == "NOT_RUN"
    with pytest.raises(ConnectionLost):
        client.wait_connected(LONG)
    assert server.stats().broken >= 1
    assert service.connect().call(b"question", LONG) == b"question"
    assert service.ran == [b"question"]


def test_a_client_without_a_certificate_is_let_in_if_the_server_asks_for_none(service: Service) -> None:
    service.listen(context=server_context(mutual=False))
    client = service.connect(client_context(certificate=False))
    assert client.call(b"question", LONG) == b"question"


def test_a_client_without_tls_and_a_server_with_it_do_not_understand_each_other(
    service: Service,
) -> None:
    server = service.listen()
    assert isinstance(server.address, tuple)
    with ratchet_bus.connect(server.address) as client:
        with pytest.raises(BusError) as raised:
            client.call(b"question", timeout=LONG)
    assert raised.value.outcome == "UNKNOWN"
    assert service.ran == []


@pytest.mark.parametrize("gevents", [True, False], ids=["gevent.ssl", "ssl"])
def test_either_side_takes_a_context_of_gevent_or_of_the_standard_library(
    service: Service, gevents: bool
) -> None:
    service.listen(context=server_context(gevents=gevents))
    clients = [service.connect(client_context(gevents=each)) for each in (True, False)]
    assert [client.call(b"question", LONG) for client in clients] == [b"question"] * 2


@pytest.mark.parametrize("gevents", [True, False], ids=["gevent.ssl", "ssl"])
def test_big_messages_get_through_whole_both_ways_at_once(
    service: Service, start: Start, gevents: bool
) -> None:
    service.listen(Limits(high_water=100_000), context=server_context(gevents=gevents))
    client = service.connect(client_context(gevents=gevents))
    other = service.connect()
    bodies = [bytes([number]) * (2_000_000 + number) for number in range(4)]
    calls = [start(each.call, body) for body in bodies for each in (client, other)]
    small = [start(client.call, b"%d" % number) for number in range(100)]
    assert [call.result() == body for call, body in zip(calls[::2], bodies, strict=True)] == [True] * 4
    assert [call.result() == body for call, body in zip(calls[1::2], bodies, strict=True)] == [True] * 4
    assert [call.result() for call in small] == [b"%d" % number for number in range(100)]


@pytest.mark.parametrize("gevents", [True, False], ids=["gevent.ssl", "ssl"])
def test_new_client_takes_a_socket_that_either_library_wrapped(
    service: Service, start: Start, gevents: bool
) -> None:
    server = service.listen()
    context = client_context(gevents=gevents)
    if gevents:
        wrapped = context.wrap_socket(connected(server.address), server_hostname="127.0.0.1")
    else:
        wrapped = shaken_hands(context, connected(server.address))
    with ratchet_bus.new_client(wrapped) as client:
        body = b"x" * 3_000_000
        calls = [start(client.call, request) for request in (b"question", body, b"")]
        assert [call.result() for call in calls] == [b"question", body, b""]
    wait_until(lambda: server.stats().connections == 0)
    assert wrapped.fileno() == -1


def test_a_server_that_is_closed_lets_go_of_those_that_still_shake_hands(service: Service) -> None:
    server = service.listen()
    raw = service.raw()
    wait_until(lambda: server.stats().connections == 1)
    server.close()
    assert raw.receive_rest() == b""
    assert server.stats().connections == 0


def test_a_server_that_drains_does_not_wait_for_those_that_still_shake_hands(service: Service) -> None:
    server = service.listen()
    raw = service.raw()
    wait_until(lambda: server.stats().connections == 1)
    assert server.drain(LONG) is True
    assert raw.receive_rest() == b""


def test_a_client_shakes_hands_even_while_the_server_reads_from_nobody(start: Start) -> None:
    limits = Limits(max_queued=2, stall_timeout=0.1)
    with ExitStack() as stack:
        server = stack.enter_context(
            ratchet_bus.listen(("127.0.0.1", 0), limits=limits, ssl_context=server_context())
        )
        assert isinstance(server.address, tuple)
        clients = [
            stack.enter_context(ratchet_bus.connect(server.address, ssl_context=client_context()))
            for _ in range(3)
        ]
        sent = [clients[0].send_request(b"%d" % number, LONG) for number in range(5)]
        wait_until(lambda: server.stats().queued == 2)
        late = [start(client.call, b"late", LONG) for client in clients[1:]]
        wait_until(lambda: server.stats().connections == 3)
        wait_until(lambda: [client.stats().connections for client in clients] == [1, 1, 1])
        assert server.stats().queued == 2
        start(server.serve, bytes)
        assert [each.recv_response(LONG) for each in sent] == [b"0", b"1", b"2", b"3", b"4"]
        assert [call.result() for call in late] == [b"late"] * 2
        assert server.stats().broken == 0
