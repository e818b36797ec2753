"""Connecting once, and again and again."""

from __future__ import annotations

import errno
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import gevent.event
import pytest
from gevent import socket

from certificates import client_context
from endpoints import at, exchange, fill_backlog, listen, needs_ipv6
from helpers import LONG, active_watchers, output_of, turns, wait_until
from ratchet.bus._core.address import Address, TcpEndpoint
from ratchet.bus._transport.dial import Dialer, dial
from ratchet.bus._transport.tls import will_never_work
from ratchet.bus._transport.transport import Transport
from robustness.leaks import open_descriptors


def test_dialling_where_nobody_listens_is_an_os_error_and_leaves_no_watcher(folder: Path) -> None:
    listener = listen(TcpEndpoint("127.0.0.1", 0))
    endpoint = TcpEndpoint(*listener.getsockname())
    listener.close()
    before = active_watchers()
    with pytest.raises(ConnectionRefusedError):
        dial(endpoint)
    with pytest.raises(FileNotFoundError):
        dial(at("missing.sock"))
    listen(at("a.sock")).close()
    with pytest.raises(ConnectionRefusedError):
        dial(at("a.sock"))
    assert active_watchers() <= before


def test_a_socket_that_fails_to_connect_is_closed(folder: Path) -> None:
    before = open_descriptors()
    with pytest.raises(OSError):
        dial(at("missing/a.sock"))
    assert open_descriptors() == before


# Names and numbers of hosts


class Resolver:
    """Takes the place of the hub's, and is asked for names alone."""

    def __init__(self, *found: Any) -> None:
        self.found = found
        self.asked: list[Any] = []

    def getaddrinfo(self, host: Any, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        if not self.found:
            raise socket.gaierror(socket.EAI_NONAME, "not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", sockaddr) for sockaddr in self.found]

    def close(self) -> None:
        """As the hub wants it."""


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    """One that finds nothing, unless it is told what to find."""
    resolver = Resolver()
    monkeypatch.setattr(gevent.get_hub(), "resolver", resolver)
    return resolver


@pytest.fixture
def refused(sockets: Callable[[Any], Any]) -> tuple[str, int]:
    """An address on which nobody listens, and which stays taken."""
    taken = sockets(socket.socket())
    taken.bind(("127.0.0.1", 0))
    address: tuple[str, int] = taken.getsockname()
    return address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", pytest.param("::1", marks=needs_ipv6)])
def test_a_number_needs_no_resolver(host: str, resolver: Resolver, sockets: Callable[[Any], Any]) -> None:
    listener = sockets(listen(TcpEndpoint(host, 0)))
    exchange(listener, TcpEndpoint(*listener.getsockname()[:2]))
    sockets(listen(TcpEndpoint("", 0)))
    assert resolver.asked == []


@needs_ipv6
def test_a_number_with_a_scope_needs_no_resolver(resolver: Resolver) -> None:
    for scope in ("lo", "missing"):
        with pytest.raises(OSError) as raised:
            dial(TcpEndpoint(f"fe80::1%{scope}", 1))
        assert not will_never_work(raised.value)
    assert "'missing'" in str(raised.value)
    assert resolver.asked == []


def test_a_forked_child_dials_numbers_and_listens_on_them_although_its_threads_are_gone() -> None:
    program = """
    import os, gevent
    from ratchet.bus._core.address import Address, TcpEndpoint
    from ratchet.bus._transport.dial import Dialer, dial
    from ratchet.bus._socket.listen import open_listener

    listener, _ = open_listener(TcpEndpoint("localhost", 0))  # starts the threads of the resolver
    child = os.fork()
    with gevent.Timeout(10):
        if not child:
            own, _ = open_listener(TcpEndpoint("127.0.0.1", 0))
            dial(TcpEndpoint(*own.getsockname()))[0].close()
            own.close()
            os._exit(7)
    listener.close()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """
    assert output_of(program) == "7\n"


def test_each_address_of_a_name_is_tried(
    resolver: Resolver, refused: tuple[str, int], sockets: Callable[[Any], Any]
) -> None:
    listener = sockets(listen(TcpEndpoint("127.0.0.1", 0)))
    resolver.found = (refused, listener.getsockname())
    assert exchange(listener, TcpEndpoint("some.example", 1)) == listener.getsockname()
    assert resolver.asked == ["some.example"]


def test_if_each_address_of_a_name_fails_the_error_is_that_of_the_last(
    resolver: Resolver, refused: tuple[str, int]
) -> None:
    # Of the first, the system knows at once that it does not lead there.
    resolver.found = (("255.255.255.255", 1), refused)
    before = open_descriptors()
    with pytest.raises(ConnectionRefusedError):
        dial(TcpEndpoint("some.example", 1))
    assert open_descriptors() == before


@pytest.mark.parametrize(
    "host",
    [
        "",
        ".",
        "a b",
        "a/b",
        "a\0b",
        "user@host",
        "*.example",
        "a..b",
        ".a",
        "a..",
        "x" * 64,
        "\u00e4" * 60,
        "x." * 127,
        "1:2",
        "lo%lo",
        "\ud800",
    ],
)
def test_a_name_that_no_host_can_have_is_refused_for_good(host: str, resolver: Resolver) -> None:
    with pytest.raises(ValueError, match="cannot be the name of a host") as raised:
        dial(TcpEndpoint(host, 80))
    assert repr(host) in str(raised.value)
    assert will_never_work(raised.value)
    assert resolver.asked == []


@pytest.mark.parametrize(
    "host",
    ["localhost", "a.example.", "_srv.a_b.example", "b\u00fccher.example", "1.2.3.4.5", "x." * 126 + "x"],
)
def test_a_name_that_does_not_resolve_now_may_later(host: str, resolver: Resolver) -> None:
    with pytest.raises(socket.gaierror) as raised:
        dial(TcpEndpoint(host, 80))
    assert not will_never_work(raised.value)
    assert resolver.asked == [host]


# Bounds of dialing


@pytest.fixture
def silent(sockets: Callable[[Any], Any]) -> tuple[str, int]:
    """An address that answers no attempt to connect."""
    listener = sockets(listen(TcpEndpoint("127.0.0.1", 0)))
    address: tuple[str, int] = listener.getsockname()
    fill_backlog(listener, address, sockets)
    return address


def test_connecting_is_bounded_in_time(silent: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.bus._transport.dial._CONNECT_TIMEOUT", 0.1)
    before = open_descriptors(), active_watchers()
    with pytest.raises(TimeoutError, match=r"no connection within 0\.1 s"):
        dial(TcpEndpoint(*silent))
    assert (open_descriptors(), active_watchers()) == before


def test_dialing_that_is_interrupted_leaves_nothing_open(silent: tuple[str, int]) -> None:
    before = open_descriptors(), active_watchers()
    dialing = gevent.spawn(dial, TcpEndpoint(*silent))
    wait_until(lambda: open_descriptors() > before[0], "the attempt")
    dialing.kill()
    assert (open_descriptors(), active_watchers()) == before


def test_a_full_backlog_of_a_unix_socket_is_an_error_at_once(
    folder: Path, sockets: Callable[[Any], Any]
) -> None:
    listener = sockets(listen(at("a.sock")))
    fill_backlog(listener, "a.sock", sockets)
    before = open_descriptors(), active_watchers()
    with gevent.Timeout(LONG):
        with pytest.raises(OSError, match="more connections waiting than it takes") as raised:
            dial(at("a.sock"))
    assert raised.value.errno == errno.EAGAIN
    assert not will_never_work(raised.value)
    assert (open_descriptors(), active_watchers()) == before


def test_the_whole_handshake_is_bounded_in_time_and_not_each_step(
    sockets: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.bus._transport.dial._CONNECT_TIMEOUT", 0.2)
    listener = sockets(listen(TcpEndpoint("127.0.0.1", 0)))

    def drip() -> None:
        accepted = sockets(listener.accept()[0])
        with pytest.raises(ConnectionError):
            # The head of a record of a handshake, and what could be its body.
            accepted.sendall(bytes.fromhex("16 0303 4000"))
            while True:
                accepted.sendall(b"\x02")
                gevent.sleep(0.01)

    dripping = gevent.spawn(drip)
    before = active_watchers()
    with pytest.raises(TimeoutError, match=r"TLS handshake took more than 0\.2 s"):
        dial(TcpEndpoint(*listener.getsockname()), client_context())
    dripping.get(timeout=LONG)
    assert active_watchers() <= before


# Again and again


class Interrupt(BaseException):
    """What a signal handler raises."""


class Client:
    """Notes what a dialer tells it."""

    def __init__(self) -> None:
        self.used: list[tuple[Transport, Address]] = []
        self.failures: list[Exception] = []

    def use(self, transport: Transport, peer: Address) -> None:
        self.used.append((transport, peer))

    def on_dial_failed(self, error: Exception) -> None:
        self.failures.append(error)


class Network:
    """Connects, or fails in what is told it, and counts the attempts."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.attempts = 0
        self.reachable = gevent.event.Event()
        self.reachable.set()
        self.transports: list[Transport] = []

    def dial(self) -> tuple[Transport, Address]:
        self.attempts += 1
        self.reachable.wait(LONG)
        if self.failures:
            raise self.failures.pop(0)
        ours, theirs = socket.socketpair()
        theirs.close()
        self.transports.append(Transport(ours))
        return self.transports[-1], ("server", 1)


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture(autouse=True)
def short_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ratchet.bus._transport.dial._FIRST_BACK_OFF", 0.001)


def close_all(network: Network) -> None:
    for transport in network.transports:
        transport.close()


def test_a_dialer_tries_until_there_is_a_connection_and_no_longer(client: Client) -> None:
    failures = [ConnectionRefusedError(1), TimeoutError(2), ValueError(3)]
    network = Network(*failures)
    dialer = Dialer(client, network.dial)
    dialer.start()
    dialer.start()
    wait_until(lambda: client.used)
    turns()
    assert client.failures == failures
    assert network.attempts == 4
    assert client.used == [(network.transports[0], ("server", 1))]
    close_all(network)


def test_the_pause_before_an_attempt_doubles_and_is_bounded(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.bus._transport.dial._LAST_BACK_OFF", 0.004)
    network = Network(*[ConnectionRefusedError() for _ in range(4)])
    seen: list[float] = []

    def dial_and_note() -> tuple[Transport, Address]:
        seen.append(dialer.back_off)
        return network.dial()

    dialer = Dialer(client, dial_and_note)
    dialer.start()
    wait_until(lambda: client.used)
    assert seen == [0.001, 0.002, 0.004, 0.004, 0.004]
    close_all(network)


def test_a_dialer_connects_once_more_when_it_is_started_again(client: Client) -> None:
    network = Network()
    dialer = Dialer(client, network.dial)
    for count in (1, 2):
        dialer.start()
        wait_until(lambda: len(client.used) == count)  # noqa: B023
    close_all(network)


def test_a_dialer_that_is_stopped_makes_no_more_attempts(client: Client) -> None:
    network = Network()
    network.reachable.clear()
    dialer = Dialer(client, network.dial)
    dialer.start()
    wait_until(lambda: network.attempts)
    dialer.stop()
    network.reachable.set()
    dialer.start()
    turns()
    assert network.attempts == 1
    assert not client.used
    assert not client.failures


def test_where_connecting_takes_no_waiting_it_is_done_on_the_spot(client: Client) -> None:
    network = Network()
    dialer = Dialer(client, network.dial, waits=False)
    dialer.start_at_once()
    assert client.used == [(network.transports[0], ("server", 1))]
    # It may be lost at once, again and again: the next one comes after a pause.
    dialer.start_at_once()
    assert len(client.used) == 1
    wait_until(lambda: len(client.used) == 2)
    dialer.back_off = 0.0
    dialer.stop()
    dialer.start_at_once()
    turns()
    assert network.attempts == 2
    close_all(network)


def test_what_fails_on_the_spot_is_tried_again_in_the_background_and_told_from_there(client: Client) -> None:
    failures = [ConnectionRefusedError(1), ConnectionRefusedError(2)]
    network = Network(*failures)
    dialer = Dialer(client, network.dial, waits=False)
    dialer.start_at_once()
    assert client.failures == []
    dialer.start_at_once()
    wait_until(lambda: client.used)
    assert client.failures == failures[1:]
    assert network.attempts == 3
    close_all(network)


def test_where_connecting_may_wait_nothing_is_done_on_the_spot(client: Client) -> None:
    network = Network()
    Dialer(client, network.dial).start_at_once()
    assert network.attempts == 0
    wait_until(lambda: client.used)
    close_all(network)


def test_a_client_that_nobody_refers_to_ends_its_dialer(client: Client) -> None:
    network = Network(ConnectionRefusedError())
    network.reachable.clear()
    dropped = Client()
    reference = weakref.ref(dropped)
    Dialer(dropped, network.dial).start()
    wait_until(lambda: network.attempts)
    del dropped
    assert reference() is None
    network.reachable.set()
    turns()
    assert network.attempts == 1


def test_what_strikes_an_attempt_does_not_end_the_attempts(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    network = Network(Interrupt())
    Dialer(client, network.dial).start()
    wait_until(lambda: client.used)
    assert network.attempts == 2
    assert client.failures == []
    assert "Interrupt" in capsys.readouterr().err
    close_all(network)
