"""The type of a bus, however it is opened: held against what a type checker infers, and run.

There is a test for each overload of `listen`, `connect`, `new_server` and `new_client`, in
pairs, and for each form of `new_local`.  mypy reads them with the rest of the tests.

This folder must not become a package: `tests/` is on the path, and `types` is Python's.
"""

from __future__ import annotations

from typing import Any, assert_type

from gevent import socket

from helpers import LONG
from ratchet import bus, thread
from ratchet.bus import ClientBus, ClientTransaction, Codec, LocalBus, ServerBus, ServerTransaction


def number_to_bus(number: int) -> bytes:
    return b"%d" % number


def number_from_bus(body: bytes) -> int:
    return int(body)


# Requests and responses are of different types, so that neither passes for the other.
LENGTHS: Codec[str, int] = Codec(str.encode, bytes.decode, number_to_bus, number_from_bus)


def length(text: str) -> int:
    return len(text)


def listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener


def connected(server: ServerBus[Any, Any]) -> socket.socket:
    assert isinstance(server.address, tuple)
    return socket.create_connection(server.address)


# A bus without a codec is of bytes.


def test_listen_and_connect() -> None:
    with bus.listen("127.0.0.1:0") as server, bus.connect(server.address) as client:
        assert_type(server, ServerBus[bytes, bytes])
        assert_type(client, ClientBus[bytes, bytes])
        thread.attach_background(server.serve, bytes.upper)
        assert assert_type(client.call(b"x", LONG), bytes) == b"X"


def test_new_server_and_new_client() -> None:
    with bus.new_server(listening()) as server:
        assert_type(server, ServerBus[bytes, bytes])
        with bus.new_client(connected(server)) as client:
            assert_type(client, ClientBus[bytes, bytes])
            thread.attach_background(server.serve, bytes.upper)
            assert assert_type(client.call(b"x", LONG), bytes) == b"X"


# One with a codec is of what the codec takes.


def test_listen_and_connect_with_a_codec() -> None:
    with bus.listen("127.0.0.1:0", codec=LENGTHS) as server:
        assert_type(server, ServerBus[str, int])
        with bus.connect(server.address, codec=LENGTHS) as client:
            assert_type(client, ClientBus[str, int])
            thread.attach_background(server.serve, length)
            assert assert_type(client.call("four", LONG), int) == 4


def test_new_server_and_new_client_with_a_codec() -> None:
    with bus.new_server(listening(), codec=LENGTHS) as server:
        assert_type(server, ServerBus[str, int])
        with bus.new_client(connected(server), codec=LENGTHS) as client:
            assert_type(client, ClientBus[str, int])
            thread.attach_background(server.serve, length)
            assert assert_type(client.call("four", LONG), int) == 4


# One with two functions is of what these take and return.


def test_listen_and_connect_with_functions() -> None:
    with bus.listen("127.0.0.1:0", bytes.decode, number_to_bus) as server:
        assert_type(server, ServerBus[str, int])
        with bus.connect(server.address, str.encode, number_from_bus) as client:
            assert_type(client, ClientBus[str, int])
            thread.attach_background(server.serve, length)
            assert assert_type(client.call("four", LONG), int) == 4


def test_new_server_and_new_client_with_functions() -> None:
    with bus.new_server(listening(), bytes.decode, number_to_bus) as server:
        assert_type(server, ServerBus[str, int])
        with bus.new_client(connected(server), str.encode, number_from_bus) as client:
            assert_type(client, ClientBus[str, int])
            thread.attach_background(server.serve, length)
            assert assert_type(client.call("four", LONG), int) == 4


# A local bus takes anything, unless it is told.


def test_new_local() -> None:
    server, client = bus.new_local()
    assert_type(server, LocalBus[Any, Any])
    with assert_type(client, LocalBus[Any, Any]):
        thread.attach_background(server.serve, length)
        assert assert_type(client.call("four", LONG), Any) == 4


def test_new_local_with_a_codec() -> None:
    server, client = bus.new_local(codec=LENGTHS)
    assert_type(server, LocalBus[str, int])
    with assert_type(client, LocalBus[str, int]):
        thread.attach_background(server.serve, length)
        assert assert_type(client.call("four", LONG), int) == 4


def test_new_local_with_an_annotation() -> None:
    pair: tuple[LocalBus[str, int], LocalBus[str, int]] = bus.new_local(maxsize=1)
    server, client = pair
    with client:
        thread.attach_background(server.serve, length)
        assert assert_type(client.call("four", LONG), int) == 4


# The four calls, whatever the kind.


def test_a_request_on_its_way_over_a_socket() -> None:
    with bus.listen("127.0.0.1:0", codec=LENGTHS) as server:
        with bus.connect(server.address, codec=LENGTHS) as client:
            asked = assert_type(client.send_request("four", LONG), ClientTransaction[str, int])
            transaction, request = server.recv_request(LONG)
            assert_type(transaction, ServerTransaction[str, int])
            assert assert_type(request, str) == "four"
            assert assert_type(transaction.send_response(len(request)), bool)
            assert assert_type(asked.recv_response(LONG), int) == 4


def test_a_request_on_its_way_inside_the_process() -> None:
    server, client = bus.new_local(codec=LENGTHS)
    with client:
        asked = assert_type(client.send_request("four", LONG), ClientTransaction[str, int])
        transaction, request = server.recv_request(LONG)
        assert_type(transaction, ServerTransaction[str, int])
        assert assert_type(request, str) == "four"
        assert assert_type(transaction.send_response(len(request)), bool)
        assert assert_type(asked.recv_response(LONG), int) == 4
