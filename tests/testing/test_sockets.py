"""In-memory sockets under a bus."""

from __future__ import annotations

import ssl

import gevent
import pytest

from helpers import LONG
from ratchet import BusClosed, ConnectionLost, Ratchet, WrongThread, bus, testing
from ratchet.bus import codecs
from ratchet.testing import Faults


def test_a_bus_works_over_a_pair_of_sockets() -> None:
    with testing.virtual_time() as clock:
        listening, connected = testing.socket_pair(Faults(latency=0.5))
        with Ratchet() as kernel, bus.new_server(listening, codec=codecs.json) as server:
            kernel.attach_background(server.serve, sum)
            with bus.new_client(connected, codec=codecs.json) as client:
                assert client.call([1, 2, 3], timeout=5) == 6
                assert server.stats().connections == 1
        assert clock.now == pytest.approx(1.0, abs=0.01)
        assert clock.loop.descriptors == {}


def test_a_plain_bus_works_over_a_pair_of_sockets() -> None:
    with testing.virtual_time():
        listening, connected = testing.socket_pair()
        with Ratchet() as kernel, bus.new_server(listening) as server:
            kernel.attach_background(server.serve, bytes.upper)
            with bus.new_client(connected, plain=True) as client:
                assert client.call(b"tea", timeout=5) == b"TEA"


@pytest.mark.parametrize("faults", [Faults(), Faults(split=1, partial=1, latency=(0, 0.1), send_buffer=999)])
def test_large_messages_arrive_as_they_were_sent(faults: Faults) -> None:
    with testing.virtual_time(1):
        listening, connected = testing.socket_pair(faults)
        with Ratchet() as kernel, bus.new_server(listening) as server:
            kernel.attach_background(server.serve, lambda data: data[::-1])
            with bus.new_client(connected) as client:
                data = bytes(range(256)) * 200
                assert client.call(data, timeout=600) == data[::-1]


def test_the_other_side_learns_that_a_bus_is_closed() -> None:
    with testing.virtual_time():
        listening, connected = testing.socket_pair()
        with bus.new_server(listening) as server, bus.new_client(connected) as client:
            sent = client.send_request(b"tea", timeout=5)
            server.recv_request(timeout=5)
            server.close()
            with pytest.raises(ConnectionLost):
                sent.recv_response()


def test_what_was_cast_last_is_delivered_although_the_client_closes() -> None:
    """Closing with an answer unread resets, but for the copy that lingers."""
    with testing.virtual_time():
        listening, connected = testing.socket_pair(Faults(latency=1.0, send_buffer=1 << 20))
        sizes: list[int] = []

        def note_size(data: bytes) -> bytes:
            sizes.append(len(data))
            return b""

        with Ratchet() as kernel, bus.new_server(listening) as server:
            kernel.attach_background(server.serve, note_size)
            client = bus.new_client(connected)
            # The server's hello is still to come.
            client.cast(b"x" * 100_000)
            client.close()
            gevent.sleep(60)
        assert sizes == [100_000]


def test_a_drain_waits_until_all_has_arrived() -> None:
    with testing.virtual_time() as clock:
        listening, connected = testing.socket_pair(Faults(latency=3.0))
        with Ratchet() as kernel, bus.new_server(listening) as server:
            kernel.attach_background(server.serve, lambda data: b"")
            client = bus.new_client(connected)
            client.cast(b"tea")
            assert client.drain(timeout=60)
            assert 3.0 <= clock.now < 3.1


def test_a_server_is_not_stalled_by_a_client_that_does_not_read() -> None:
    """The peer's window is closed: a kernel would still answer the probes of it."""
    with testing.virtual_time():
        listening, connected = testing.socket_pair(Faults(send_buffer=1000, receive_buffer=1000))
        with Ratchet() as kernel, bus.new_server(listening) as server:
            kernel.attach_background(server.serve, lambda data: data * 1000)
            for n in range(5):
                connected.send(b"\x80\x01\x00\x00" + bytes([0, 0, 0, n + 1]) + bytes(4) + b"\0\0\0\1x")
            gevent.sleep(120)
            assert server.stats().connections == 1
        connected.close()


def test_an_unaccepted_connection_is_reset_when_the_server_closes() -> None:
    with testing.virtual_time():
        listening, connected = testing.socket_pair()
        with bus.new_client(connected) as client:
            sent = client.send_request(b"tea", timeout=5)
            bus.new_server(listening).close()
            with pytest.raises(ConnectionLost):
                sent.recv_response()


def test_outside_virtual_time_there_are_none() -> None:
    with pytest.raises(
        RuntimeError, match=r"needs virtual time; call it inside `with testing.virtual_time\(\):`"
    ):
        testing.socket_pair()


def test_the_wrong_one_of_the_pair_is_refused() -> None:
    with testing.virtual_time():
        listening, connected = testing.socket_pair()
        with pytest.raises(TypeError, match="needs a socket that listens"):
            bus.new_server(connected)
        with pytest.raises(ValueError, match="needs a connected socket"):
            bus.new_client(listening)
        connected.close()
        with pytest.raises(ValueError, match="needs a connected socket"):
            bus.new_client(connected)
        listening.close()
        with pytest.raises(ValueError, match="needs a socket that listens"):
            bus.new_server(listening)


def test_tls_is_refused() -> None:
    with testing.virtual_time():
        listening, connected = testing.socket_pair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with pytest.raises(ValueError, match="sockets in memory cannot speak TLS"):
            bus.new_server(listening, ssl_context=context)
        connected.close()
        listening.close()


def test_closing_twice_is_fine() -> None:
    with testing.virtual_time() as clock:
        for each in testing.socket_pair():
            each.close()
            each.close()
            assert each.fileno() == -1
        assert clock.loop.descriptors == {}


def test_a_dropped_client_closes_its_socket() -> None:
    with testing.virtual_time():
        listening, connected = testing.socket_pair()
        with bus.new_server(listening) as server:
            client = bus.new_client(connected)
            client.wait_connected(LONG)
            with pytest.warns(ResourceWarning, match="dropped without close"):
                del client
            gevent.sleep(1)
            assert server.stats().connections == 0
            with pytest.raises(BusClosed):
                server.close()
                server.recv_request(timeout=1)


def test_a_pair_of_sockets_is_of_one_hub() -> None:
    def use(words: str) -> None:
        with pytest.raises(WrongThread, match=f"this MemoryListener belongs to {words}"):
            bus.new_server(listener)
        with pytest.raises(WrongThread, match=f"this MemorySocket belongs to {words}"):
            bus.new_client(connected)

    with testing.virtual_time():
        listener, connected = testing.socket_pair()
        with testing.virtual_time():
            # Of the same numbers as those from outside.
            testing.socket_pair()
            use("another gevent hub of this OS thread")
    use("a gevent hub that has been destroyed")
