"""A network in memory, under programs that know nothing of it."""

from __future__ import annotations

import errno
import ssl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import gevent
import pytest

from helpers import in_os_thread
from ratchet import BusTimeout, ConnectionLost, Ratchet, WrongThread, bus, testing
from ratchet.bus import ClientBus, ServerBus
from ratchet.testing import Clock, Faults, Network

Shop = tuple[ServerBus[bytes, bytes], ClientBus[bytes, bytes], Network, Clock]


@contextmanager
def a_shop(faults: Faults | None = None, address: str = "shop:80") -> Iterator[Shop]:
    """A server that answers in capitals, and a client that is connected to it."""
    with testing.virtual_time(0) as clock, testing.network(faults=faults) as net:
        with Ratchet() as kernel, bus.listen(address) as server, bus.connect(address) as client:
            kernel.attach_background(server.serve, bytes.upper)
            client.wait_connected(timeout=60)
            yield server, client, net, clock


@pytest.mark.parametrize("address", ["shop:80", "127.0.0.1:80", "[::1]:80", "unix:/nowhere/shop", "unix:\0x"])
def test_a_program_runs_unchanged_whatever_its_addresses(address: str) -> None:
    with a_shop(address=address) as (server, client, _, _):
        assert client.call(b"tea", timeout=5) == b"TEA"
        with bus.connect(server.address) as another:
            assert another.call(b"cake", timeout=5) == b"CAKE"


def test_a_connection_takes_a_round_trip_and_so_does_a_call() -> None:
    with testing.virtual_time() as clock, testing.network(faults=Faults(latency=0.5)):
        with Ratchet() as kernel, bus.listen("shop:80") as server, bus.connect("shop:80") as client:
            kernel.attach_background(server.serve, bytes.upper)
            client.wait_connected(timeout=5)
            # The server has answered the client's hello.
            assert clock.now == pytest.approx(2.0, abs=0.001)
            began = clock.now
            client.call(b"tea", timeout=5)
            assert clock.now - began == pytest.approx(1.0, abs=0.001)


def test_port_0_is_a_free_one() -> None:
    with testing.virtual_time(), testing.network():
        with bus.listen("shop:0") as one, bus.listen("shop:0") as other:
            assert one.address != other.address
            assert isinstance(one.address, tuple)
            host, port = one.address
            assert host == "shop"
            assert int(port) > 0


def test_an_address_in_use_is_refused_until_it_is_free() -> None:
    with testing.virtual_time(), testing.network():
        with bus.listen("shop:80"):
            with pytest.raises(OSError, match="cannot listen on") as refused:
                bus.listen("shop:80")
            assert refused.value.errno == errno.EADDRINUSE
            bus.listen("shop:81").close()
            bus.listen("inn:80").close()
        bus.listen("shop:80").close()


def test_whoever_connects_where_nobody_listens_is_refused_and_tries_again() -> None:
    with testing.virtual_time() as clock, testing.network():
        with bus.connect("shop:80") as client:
            with pytest.raises(BusTimeout, match="Connection refused"):
                client.call(b"tea", timeout=3)
            assert clock.now == pytest.approx(3.0, abs=0.001)
            with Ratchet() as kernel, bus.listen("shop:80") as server:
                kernel.attach_background(server.serve, bytes.upper)
                assert client.call(b"tea", timeout=30) == b"TEA"


def test_a_wildcard_is_every_host() -> None:
    with testing.virtual_time(), testing.network():
        with Ratchet() as kernel, bus.listen(("", 80)) as server, bus.connect("anything:80") as client:
            assert server.address == ("0.0.0.0", 80)
            kernel.attach_background(server.serve, bytes.upper)
            assert client.call(b"tea", timeout=5) == b"TEA"
            with pytest.raises(OSError, match="in use"):
                bus.listen("0.0.0.0:80")


def test_localhost_has_three_names() -> None:
    with testing.virtual_time(), testing.network():
        with bus.listen("127.0.0.1:80"), bus.connect("localhost:80") as client:
            client.wait_connected(timeout=5)


def test_the_server_sees_who_its_clients_are() -> None:
    with testing.virtual_time(), testing.network():
        with bus.listen("shop:80") as server, bus.connect("shop:80") as client:
            client.send_request(b"tea", timeout=5)
            transaction, _ = server.recv_request(timeout=5)
            assert isinstance(transaction.from_, tuple)
            host, port = transaction.from_
            assert host == "client"
            assert int(port) > 0
            transaction.send_response(b"")


def test_refused_attempts_have_their_probability() -> None:
    with testing.virtual_time(3), testing.network(faults=Faults(refused=1)):
        with bus.listen("shop:80"), bus.connect("shop:80") as client:
            with pytest.raises(BusTimeout):
                client.wait_connected(timeout=60)


def test_a_connection_that_takes_too_long_is_given_up() -> None:
    with testing.virtual_time(), testing.network(faults=Faults(latency=6)):
        with bus.listen("shop:80"), bus.connect("shop:80") as client:
            with pytest.raises(BusTimeout, match="no connection within 10 s"):
                client.wait_connected(timeout=15)


def test_a_cut_breaks_every_connection_of_an_address() -> None:
    with a_shop(Faults(latency=0.1)) as (_, client, net, _):
        with bus.listen("inn:80") as inn, bus.connect("inn:80") as guest:
            guest.wait_connected(timeout=5)
            sent = client.send_request(b"tea", timeout=60)
            net.cut("shop:80")
            with pytest.raises(ConnectionLost):
                sent.recv_response()
            assert client.call(b"tea", timeout=60) == b"TEA"
            assert inn.stats().connections == 1
            net.cut()
            gevent.sleep(0.001)
            assert inn.stats().connections == 0


def test_a_partition_holds_up_what_is_sent_until_it_is_healed() -> None:
    with a_shop(Faults(latency=0.1)) as (server, client, net, clock):
        net.partition("shop")
        began = clock.now
        sent = client.send_request(b"tea", timeout=60)
        gevent.sleep(20)
        assert server.stats().connections == 1
        net.heal()
        assert sent.recv_response() == b"TEA"
        assert clock.now - began == pytest.approx(20.1, abs=0.2)


@pytest.mark.parametrize("sends", [False, True])
def test_a_partition_that_lasts_is_noticed_by_both_sides(sends: bool) -> None:
    with a_shop(Faults(latency=0.1)) as (server, client, net, clock):
        net.partition("shop:80")
        began = clock.now
        if sends:
            with pytest.raises(ConnectionLost):
                client.call(b"tea", timeout=100)
            assert 29 < clock.now - began < 40
        gevent.sleep(41 - (clock.now - began))
        assert server.stats().connections == 0
        assert client.stats().connections == 0
        net.heal()
        assert client.call(b"tea", timeout=60) == b"TEA"


def test_who_is_cut_off_cannot_be_connected_to() -> None:
    with testing.virtual_time(), testing.network() as net:
        with bus.listen("shop:80"), bus.listen("inn:80"):
            net.partition("shop")
            with bus.connect("shop:80") as shop, bus.connect("inn:80") as inn:
                inn.wait_connected(timeout=1)
                with pytest.raises(BusTimeout, match="no connection within 10 s"):
                    shop.wait_connected(timeout=15)
                net.heal()
                shop.wait_connected(timeout=30)


def test_whoever_is_cut_off_while_he_connects_does_not_get_through() -> None:
    with testing.virtual_time() as clock, testing.network(faults=Faults(latency=1)) as net:
        with bus.listen("shop:80"), bus.connect("shop:80") as client:
            gevent.spawn_later(0.5, net.partition, "shop")
            with pytest.raises(BusTimeout, match="no connection within 10 s"):
                client.wait_connected(timeout=11)
            net.heal()
            client.wait_connected(timeout=30)
            assert clock.now > 10


def test_networks_may_be_left_in_any_order() -> None:
    with testing.virtual_time() as clock:
        with testing.network() as around:
            first, second = testing.network(), testing.network()
            first.__enter__()
            inner = second.__enter__()
            first.__exit__(None, None, None)
            assert clock.loop.network is inner
            second.__exit__(None, None, None)
            assert clock.loop.network is around


def test_a_network_is_of_one_hub() -> None:
    def use(words: str) -> None:
        for call in (net.cut, net.heal, partial(net.partition, "shop")):
            with pytest.raises(WrongThread, match=words):
                call()

    with testing.virtual_time(), testing.network() as net:
        assert in_os_thread(partial(use, "belongs to another OS thread")) is None
        with testing.virtual_time():
            use("another gevent hub of this OS thread")
        with pytest.raises(TypeError, match="needs the names"):
            net.partition()
    use("has been destroyed")


@pytest.mark.parametrize("seed", ["1", 1.5, True])
def test_a_seed_is_an_int(seed: Any) -> None:
    with testing.virtual_time(), pytest.raises(TypeError, match="seed must be an int or None"):
        testing.network(seed).__enter__()


def test_a_network_is_over_with_its_block() -> None:
    with testing.virtual_time() as clock:
        with testing.network() as outer:
            with testing.network() as inner:
                assert clock.loop.network is inner
            assert clock.loop.network is outer
        assert clock.loop.network is None
        # The system's own again.
        with bus.listen("127.0.0.1:0") as server:
            assert server.address[0] == "127.0.0.1"
            assert clock.loop.descriptors == {}


def test_outside_virtual_time_there_is_none() -> None:
    with pytest.raises(RuntimeError, match=r"network\(\) needs virtual time"):
        with testing.network():
            pass


def test_tls_is_refused_at_the_call() -> None:
    with testing.virtual_time(), testing.network():
        with pytest.raises(ValueError, match="sockets in memory cannot speak TLS"):
            bus.listen("shop:80", ssl_context=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        with pytest.raises(ValueError, match="sockets in memory cannot speak TLS"):
            bus.connect("shop:80", ssl_context=context)


def test_a_seed_of_its_own_decides_what_the_network_does() -> None:
    def times(seed: int) -> list[float]:
        found = []
        with testing.virtual_time() as clock, testing.network(seed, Faults(latency=(0, 1))):
            with Ratchet() as kernel, bus.listen("shop:80") as server, bus.connect("shop:80") as client:
                kernel.attach_background(server.serve, bytes.upper)
                for _ in range(3):
                    client.call(b"tea", timeout=60)
                    found.append(round(clock.now, 4))
        return found

    assert times(1) == times(1)
    assert times(1) != times(2)


def test_many_clients_and_nothing_is_left() -> None:
    with testing.virtual_time(5) as clock, testing.network(faults=Faults(latency=(0, 0.1))) as net:
        with ExitStack() as stack, Ratchet() as kernel:
            server = stack.enter_context(bus.listen("shop:80"))
            kernel.attach_background(server.serve, bytes.upper)
            clients = [stack.enter_context(bus.connect("shop:80")) for _ in range(100)]
            for client in clients:
                assert client.call(b"tea", timeout=60) == b"TEA"
            assert "100 connections; listening: shop:80" in repr(net)
        gevent.sleep(10)
        assert clock.loop.descriptors == {}
        assert "0 connections; listening: nobody" in repr(net)
