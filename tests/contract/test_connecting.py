"""A client that cannot connect, or not yet: who is told, of what, and how soon."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from certificates import client_context, server_context
from contract.buses import (
    Bus,
    Start,
    client_tls,
    connected,
    on_every_kind,
    on_sockets,
    on_sockets_of_each_form,
    server_tls,
)
from helpers import LONG, turns, wait_until
from ratchet import BusClosed, BusTimeout, ConnectionLost
from ratchet import bus as ratchet_bus


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def nowhere(kind: str, tmp_path: Path, stack: ExitStack) -> Any:
    """An address that is this test's, and where nobody listens."""
    if kind.startswith("unix"):
        return f"unix:{tmp_path}/nowhere"
    keeper = stack.enter_context(socket.socket())
    keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Bound and not listening, it keeps others away, and refuses clients.
    keeper.bind(("127.0.0.1", 0))
    return keeper.getsockname()


def open_client(stack: ExitStack, address: Any, tls: Any = None, **options: Any) -> Any:
    return stack.enter_context(ratchet_bus.connect(address, ssl_context=tls, **options))


REASON = r"[Cc]onnection refused|No such file"


# While nobody listens.


@pytest.mark.virtual_time
@on_sockets
def test_a_client_that_cannot_connect_says_so_once_in_the_log(
    kind: str, nowhere: Any, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ratchet"):
        client = open_client(stack, nowhere, client_tls(kind))
        # Some attempts later.
        with pytest.raises(BusTimeout):
            client.call(b"question", timeout=0.3)
        turns()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    where = str(nowhere[1]) if isinstance(nowhere, tuple) else nowhere
    assert where in record.getMessage()
    assert any(reason in record.getMessage() for reason in ("refused", "No such file"))


@pytest.mark.virtual_time
def test_each_new_reason_is_said_once(
    tmp_path: Path, stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bus"
    with caplog.at_level(logging.WARNING, "ratchet"):
        open_client(stack, f"unix:{path}")
        wait_until(lambda: len(caplog.records) == 1, "the first reason")
        # A file of a server that is no more.
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(path))
        wait_until(lambda: len(caplog.records) == 2, "the second one")
        gevent.sleep(0.3)
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2
    assert "No such file" in texts[0]
    assert "refused" in texts[1]


@pytest.mark.virtual_time
def test_a_client_whose_server_hangs_up_without_a_hello_says_so_once_in_the_log(
    stack: ExitStack, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a client without TLS connects to a server with it."""
    with (
        caplog.at_level(logging.WARNING, "ratchet"),
        ratchet_bus.listen("127.0.0.1:0", ssl_context=server_tls("tls")) as server,
    ):
        client = open_client(stack, server.address)
        lost = [client.send_request(b"question") for _ in range(3)]
        with pytest.raises(ConnectionLost):
            lost[-1].recv_response(LONG)
        wait_until(lambda: "lost" in repr(client) or "connecting (" in repr(client), "the next attempt")
        gevent.sleep(0.3)
    texts = [record.getMessage() for record in caplog.records]
    assert sum("lost the connection to" in text for text in texts) == 1


@pytest.mark.virtual_time
@on_sockets
def test_a_client_that_cannot_connect_says_why_in_its_errors_and_its_repr(
    kind: str, nowhere: Any, stack: ExitStack
) -> None:
    client = open_client(stack, nowhere, client_tls(kind))
    for call in (client.call, client.send_request):
        with pytest.raises(BusTimeout, match=REASON) as raised:
            call(b"question", timeout=0.1)
        assert raised.value.outcome == "NOT_SENT"
        assert "0.1" in str(raised.value)
    assert "refused" in repr(client) or "No such file" in repr(client)


@pytest.mark.virtual_time
@on_sockets
def test_wait_connected_ends_in_time_and_says_why(kind: str, nowhere: Any, stack: ExitStack) -> None:
    client = open_client(stack, nowhere, client_tls(kind))
    with pytest.raises(BusTimeout, match=REASON):
        client.wait_connected(0.1)
    with pytest.raises(BusTimeout):
        client.wait_connected(0)


@on_sockets
def test_wait_connected_ends_with_the_client(kind: str, nowhere: Any, stack: ExitStack, start: Start) -> None:
    client = open_client(stack, nowhere, client_tls(kind))
    waiting = start(client.wait_connected)
    waiting.wait_until_blocked()
    client.close()
    with pytest.raises(BusClosed):
        waiting.result()


@pytest.mark.virtual_time
@on_sockets
def test_wait_connected_returns_when_the_server_comes_up(
    kind: str, nowhere: Any, stack: ExitStack, start: Start
) -> None:
    client = open_client(stack, nowhere, client_tls(kind))
    waiting = [start(client.wait_connected, LONG) for _ in range(3)]
    for each in waiting:
        each.wait_until_blocked()
    server = stack.enter_context(ratchet_bus.listen(nowhere, ssl_context=server_tls(kind)))
    assert [each.result() for each in waiting] == [None] * 3
    start(server.serve, lambda request: request)
    assert client.call(b"question", LONG) == b"question"


@on_every_kind
def test_wait_connected_returns_at_once_when_it_is_connected(bus: Bus) -> None:
    client: Any = bus.client
    assert client.wait_connected(LONG) is None
    assert client.wait_connected(0) is None
    bus.check_works()


@on_sockets_of_each_form
def test_wait_connected_of_a_client_that_is_lost_for_good_says_so(bus: Bus) -> None:
    client: Any = bus.client
    client.wait_connected(LONG)
    bus.server.close()
    wait_until(lambda: client.stats().connections == 0, "the connection to be lost")
    with pytest.raises(ConnectionLost):
        client.wait_connected(LONG)


# What a dial raises.


class FlakyResolver:
    """Fails some times, and then knows every address."""

    def __init__(self, error: BaseException, times: int = 2) -> None:
        self._error = error
        self.left = times

    def getaddrinfo(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        if self.left:
            self.left -= 1
            raise self._error
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    def close(self) -> None:
        """Called by the hub."""


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("can't start new thread"),
        MemoryError(),
        KeyError("host"),
        RecursionError(),
        gevent.Timeout(0.01),
        OSError("out of something"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_dial_raises_there_is_another_one(
    error: BaseException, stack: ExitStack, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Any = stack.enter_context(ratchet_bus.listen("127.0.0.1:0"))
    start(server.serve, lambda request: request)
    resolver = FlakyResolver(error)
    hub: Any = gevent.get_hub()
    monkeypatch.setattr(hub, "resolver", resolver)
    client = open_client(stack, ("localhost", server.address[1]))
    assert client.call(b"question", LONG) == b"question"
    assert resolver.left == 0


def check_fails_at_once(client: Any, reason: str) -> None:
    """Every call ends long before its time-out."""
    for call in (client.wait_connected, lambda timeout: client.call(b"question", timeout)) * 2:
        with pytest.raises(ConnectionLost, match=reason) as raised, gevent.Timeout(LONG / 2):
            call(LONG)
        assert raised.value.outcome == "NOT_SENT"
    assert client.stats().in_flight == client.stats().queued == 0


@pytest.mark.parametrize(
    "host", ["a..b", "a" * 70, "\udcff"], ids=["an empty label", "a long one", "no character"]
)
def test_a_host_name_that_cannot_exist_fails_at_once(host: str, stack: ExitStack) -> None:
    check_fails_at_once(open_client(stack, (host, 1)), "cannot connect to")


@pytest.mark.parametrize("what", ["trust", "name"])
def test_a_server_whose_certificate_will_not_do_fails_at_once(
    what: str, stack: ExitStack, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server: Any = stack.enter_context(ratchet_bus.listen("127.0.0.1:0", ssl_context=server_context()))
    ran: list[bytes] = []
    start(server.serve, ran.append)
    host = "127.0.0.1" if what == "trust" else "localhost"
    context = client_context(trusts_server=what == "name")
    with caplog.at_level(logging.WARNING, "ratchet.bus"):
        client = open_client(stack, (host, server.address[1]), context)
        check_fails_at_once(client, "certificate")
        wait_until(lambda: any("certificate" in record.getMessage() for record in caplog.records))
    assert ran == []


def test_a_request_that_waited_when_it_became_clear_fails_too(stack: ExitStack, start: Start) -> None:
    server: Any = stack.enter_context(ratchet_bus.listen("127.0.0.1:0", ssl_context=server_context()))
    client = open_client(stack, server.address, client_context(trusts_server=False))
    calls = [start(client.call, b"question") for _ in range(3)]
    for call in calls:
        with pytest.raises(ConnectionLost, match="certificate") as raised:
            call.result()
        assert raised.value.outcome == "NOT_SENT"


# Whom a server does not let in.


def test_a_client_that_is_not_let_in_learns_of_it(stack: ExitStack, start: Start) -> None:
    server: Any = stack.enter_context(ratchet_bus.listen("127.0.0.1:0", ssl_context=server_context()))
    ran: list[bytes] = []
    start(server.serve, ran.append)
    for ask in ("wait_connected", "call"):
        client = open_client(stack, server.address, client_context(certificate=False))
        with pytest.raises(ConnectionLost, match="certificate") as raised, gevent.Timeout(LONG / 2):
            if ask == "call":
                client.call(b"question", LONG)
            else:
                client.wait_connected(LONG)
        assert raised.value.outcome == "NOT_RUN"
        client.close()
    assert ran == []


def test_a_health_check_of_a_tls_port_is_quiet(
    stack: ExitStack, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    server: Any = stack.enter_context(ratchet_bus.listen("127.0.0.1:0", ssl_context=server_context()))
    start(server.serve, lambda request: request)
    with caplog.at_level(logging.INFO, "ratchet"):
        for reset in (False, True):
            for _ in range(3):
                checking = connected(server.address)
                wait_until(lambda: server.stats().connections == 1, "the check to be accepted")
                if reset:
                    checking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                checking.close()
                wait_until(lambda: server.stats().connections == 0, "the check to be forgotten")
        turns()
    assert [record.getMessage() for record in caplog.records] == []
    assert server.stats().broken == 0
    assert open_client(stack, server.address, client_context()).call(b"question", LONG) == b"question"


# A Unix server, and one that accepts nobody at the moment.


@pytest.mark.parametrize("plain", [False, True])
def test_a_client_of_a_unix_server_that_is_there_is_connected_at_once(
    plain: bool, tmp_path: Path, stack: ExitStack, start: Start
) -> None:
    server: Any = stack.enter_context(ratchet_bus.listen(f"unix:{tmp_path}/bus"))
    client = open_client(stack, server.address, plain=plain)
    assert client.stats().connections == 1
    start(server.serve, lambda request: request)
    assert client.call(b"question", LONG) == b"question"


def test_a_client_of_a_unix_server_whose_backlog_is_full_waits_without_spinning(
    tmp_path: Path, stack: ExitStack, start: Start
) -> None:
    path = str(tmp_path / "bus")
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    listener.bind(path)
    listener.listen(0)
    in_line = []
    while True:
        waiting = stack.enter_context(socket.socket(socket.AF_UNIX))
        waiting.setblocking(False)
        try:
            waiting.connect(path)
        except BlockingIOError:
            break
        in_line.append(waiting)
    client = open_client(stack, f"unix:{path}")
    call = start(client.call, b"question", LONG)
    loop: Any = gevent.get_hub().loop
    before = loop.iteration
    gevent.sleep(0.3)
    assert loop.iteration - before < 100
    for waiting in in_line:
        waiting.close()
    server = stack.enter_context(ratchet_bus.new_server(listener))
    start(server.serve, lambda request: request)
    assert call.result() == b"question"
