"""What was sent on a socket that is closed: it still arrives, or its loss is told."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from helpers import active_watchers, burn, output_of, wait_until
from ratchet import Ratchet, bus, testing, thread
from ratchet.bus._transport.delivery import DeliveryWatch
from ratchet.bus._transport.linger import _lingering, linger
from ratchet.bus._transport.transport import Transport
from robustness.leaks import open_descriptors

MUCH = 256 * 1024


@pytest.fixture
def connection(sockets: Callable[[Any], Any]) -> tuple[Transport, Any]:
    """A transport, and its peer, whose kernel takes little at a time."""
    listener = sockets(socket.socket())
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    connected = sockets(socket.create_connection(listener.getsockname()))
    return Transport(connected), sockets(listener.accept()[0])


@pytest.fixture(autouse=True)
def nothing_lingers() -> Iterator[None]:
    """Every copy is closed in the end."""
    before = open_descriptors()
    yield
    wait_until(lambda: open_descriptors() <= before, "the end of what lingers")


def send_much(transport: Transport) -> int:
    """Send more than the peer's kernel takes; returns how much."""
    sent = 0
    while not transport.undelivered():
        sent += transport.send(bytes(MUCH))
    return sent


def received(peer: Any) -> int:
    """How many bytes there are until the peer's end."""
    count = 0
    while data := peer.recv(MUCH):
        count += len(data)
    return count


def test_what_was_sent_arrives_after_the_socket_was_closed(connection: tuple[Transport, Any]) -> None:
    transport, peer = connection
    told: list[bool] = []
    sent = send_much(transport)
    peer.sendall(b"nobody reads this")
    before = open_descriptors()
    linger(gevent.get_hub(), transport, lambda: told.append(True))
    transport.close()
    assert received(peer) == sent
    wait_until(lambda: open_descriptors() < before, "the end of what lingers")
    assert told == []


@pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
def test_a_peer_that_resets_the_connection_is_a_loss_and_that_is_told_once(
    connection: tuple[Transport, Any], late: bool
) -> None:
    transport, peer = connection
    told: list[bool] = []
    send_much(transport)
    before = open_descriptors()
    linger(gevent.get_hub(), transport, lambda: told.append(True))
    transport.close()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    if late:
        # By its next turn the hub has to look at the delivery, and looks before it reads.
        burn(0.05)
    # What an earlier test has left may be closed just now, and is no sign by itself.
    wait_until(lambda: told and open_descriptors() < before - 1, "the end of what lingers")
    assert told == [True]


def test_a_socket_that_is_closed_already_is_an_error_and_leaves_nothing(
    connection: tuple[Transport, Any],
) -> None:
    transport, _ = connection
    transport.close()
    before = active_watchers()
    with pytest.raises(OSError):
        linger(gevent.get_hub(), transport, None)
    assert active_watchers() == before


def test_a_release_that_is_interrupted_is_completed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its watch had ended by then, and nobody came by again."""
    stop_watching = DeliveryWatch.close
    struck: list[bool] = []

    def strike_once(watch: DeliveryWatch) -> None:
        stop_watching(watch)
        if not struck:
            struck.append(True)
            raise MemoryError

    with testing.virtual_time(), testing.network(faults=testing.Faults(latency=0.01)):
        kernel = Ratchet()
        server = bus.listen("server:80")

        def cast_and_close() -> None:
            client = bus.connect("server:80")
            client.wait_connected()
            client.cast(b"tea")
            client.close()
            assert _lingering
            monkeypatch.setattr(DeliveryWatch, "close", strike_once)
            thread.timer(1)

        kernel.attach(cast_and_close)
        with pytest.raises(MemoryError):
            kernel.loop()
        kernel.loop()
        assert not _lingering
        server.close()


def test_a_program_that_ends_waits_until_its_peer_has_all() -> None:
    program = f"""
    import os, socket, sys
    import gevent
    from ratchet.bus._transport.linger import linger
    from ratchet.bus._transport.transport import Transport

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * 1024)
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    connected = socket.create_connection(listener.getsockname())
    peer = listener.accept()[0]
    listener.close()
    transport = Transport(connected)
    sent = 0
    while not transport.undelivered():
        sent += transport.send(bytes({MUCH}))
    reader = "import sys; print(len(sys.stdin.buffer.read()) == int(sys.argv[1]))"
    stdin = [(os.POSIX_SPAWN_DUP2, peer.fileno(), 0)]
    arguments = [sys.executable, "-c", reader, str(sent)]
    os.posix_spawn(sys.executable, arguments, os.environ, file_actions=stdin)
    peer.close()
    linger(gevent.get_hub(), transport, None)
    transport.close()
    """
    assert output_of(program) == "True\n"
