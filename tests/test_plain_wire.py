"""Plain messages on the wire: the Ratchet library's own form, as it was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.select import select
from gevent.server import StreamServer

from helpers import LONG, burn, turns, wait_until
from ratchet import bus
from ratchet.bus import ServerBus
from ratchet.bus._socket import wire
from raw_peer import RawPeer

HELLO = bytes.fromhex("0001 00000005 68656c6c6f")
NUMBER = bytes.fromhex("0001 00000004 31333337")
FALCON = bytes.fromhex("0003 00000006 66616c636f6e 00000009 696d706f7274616e74 00000000")
EMPTY = bytes.fromhex("0001 00000000")
ANSWER = bytes.fromhex("0003 00000004 72657370 00000003 6f6e65 00000003 74776f")


def tcp_address(server: ServerBus[Any, Any]) -> tuple[str, int]:
    address = server.address
    assert isinstance(address, tuple)
    return address


def body_and_attachments(body: bytes, attachments: list[bytes]) -> tuple[bytes, list[bytes]]:
    return body, attachments


def as_it_is(message: Any) -> Any:
    return message


@pytest.fixture
def server() -> Iterator[ServerBus[Any, Any]]:
    """A server whose requests and responses are `(body, attachments)`."""
    with bus.listen(("127.0.0.1", 0), body_and_attachments, as_it_is) as server:
        yield server


@pytest.fixture
def peer(server: ServerBus[Any, Any]) -> Iterator[RawPeer]:
    with RawPeer(socket.create_connection(tcp_address(server))) as peer:
        yield peer


Send = Callable[[RawPeer, bytes], None]
whole_and_in_single_bytes = pytest.mark.parametrize(
    "send", [RawPeer.send, RawPeer.send_in_single_bytes], ids=["whole", "in single bytes"]
)


@whole_and_in_single_bytes
@pytest.mark.parametrize(
    ("message", "body", "attachments"),
    [
        (HELLO, b"hello", []),
        (NUMBER, b"1337", []),
        (FALCON, b"falcon", [b"important", b""]),
        (EMPTY, b"", []),
        (bytes.fromhex("0000"), b"", []),
    ],
    ids=["hello", "1337", "falcon with attachments", "an empty body", "zero parts"],
)
def test_a_recorded_request_is_understood_and_gets_the_recorded_form_of_answer(
    server: ServerBus[Any, Any],
    peer: RawPeer,
    send: Send,
    message: bytes,
    body: bytes,
    attachments: list[bytes],
) -> None:
    send(peer, message)
    transaction, request = server.recv_request(LONG)
    assert request == (body, attachments)
    assert transaction.send_response((b"resp", [b"one", b"two"])) is True
    assert peer.receive(len(ANSWER)) == ANSWER
    # The connection stays open for another one.
    send(peer, message)
    transaction, request = server.recv_request(LONG)
    assert request == (body, attachments)
    transaction.send_response(b"hello")
    assert peer.receive(len(HELLO)) == HELLO
    peer.end_input()
    assert peer.receive_rest() == b""


def test_a_client_sends_the_recorded_bytes_and_understands_the_recorded_answer() -> None:
    ours, theirs = socket.socketpair()
    with bus.new_client(ours, as_it_is, body_and_attachments, plain=True) as client, RawPeer(theirs) as lua:
        for request, message in (
            (b"hello", HELLO),
            (b"1337", NUMBER),
            ((b"falcon", [b"important", b""]), FALCON),
            (b"", EMPTY),
        ):
            sent = client.send_request(request)
            assert lua.receive(len(message)) == message
            lua.send_in_single_bytes(ANSWER)
            assert sent.recv_response(LONG) == (b"resp", [b"one", b"two"])


def test_a_client_takes_the_answers_in_the_order_of_its_requests() -> None:
    ours, theirs = socket.socketpair()
    with bus.new_client(ours, plain=True) as client, RawPeer(theirs) as lua:
        sent = [client.send_request(b"hello") for _ in range(3)]
        assert lua.receive(3 * len(HELLO)) == 3 * HELLO
        lua.send(NUMBER + EMPTY + HELLO)
        assert [transaction.recv_response(LONG) for transaction in sent] == [b"1337", b"", b"hello"]


def test_an_answer_of_zero_parts_is_an_empty_body() -> None:
    ours, theirs = socket.socketpair()
    with bus.new_client(ours, plain=True) as client, RawPeer(theirs) as lua:
        sent = client.send_request(b"hello")
        lua.send(bytes.fromhex("0000"))
        assert sent.recv_response(LONG) == b""


def test_a_lua_server_closes_the_connection_after_its_one_answer() -> None:
    ours, theirs = socket.socketpair()
    with bus.new_client(ours, plain=True) as client, RawPeer(theirs) as lua:
        sent = client.send_request(b"hello")
        lua.receive(len(HELLO))
        lua.send(NUMBER)
        lua.close()
        assert sent.recv_response(LONG) == b"1337"
        wait_until(lambda: client.stats().connections == 0)


def test_several_requests_at_once_are_answered_in_order_though_the_server_answers_out_of_order(
    server: ServerBus[Any, Any], peer: RawPeer
) -> None:
    peer.send(HELLO + NUMBER + EMPTY + FALCON)
    transactions = [server.recv_request(LONG)[0] for _ in range(4)]
    assert transactions[3].send_response(b"fourth") is True
    assert transactions[1].send_response(b"second") is True
    turns()
    assert transactions[0].send_response(b"first") is True
    expected = b"".join(wire.encode(wire.PLAIN, 0, 0, 0, [body]) for body in (b"first", b"second"))
    assert peer.receive(len(expected)) == expected
    # The fourth waits for the third.
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        peer.receive(1)
    transactions[2].send_response(b"third")
    expected = b"".join(wire.encode(wire.PLAIN, 0, 0, 0, [body]) for body in (b"third", b"fourth"))
    assert peer.receive(len(expected)) == expected


@pytest.mark.parametrize("plain_first", [True, False])
def test_plain_and_extended_requests_share_a_port_and_even_a_connection(
    server: ServerBus[Any, Any], peer: RawPeer, plain_first: bool
) -> None:
    extended = wire.encode(wire.REQUEST, 0, 7, 0, [b"extended"])
    peer.send(HELLO + extended if plain_first else extended + HELLO)
    for _ in range(2):
        transaction, request = server.recv_request(LONG)
        transaction.send_response(request)
    answers = [peer.receive_message() for _ in range(2)]
    assert sorted(answers) == [
        (wire.PLAIN, 0, 0, 0, [b"hello"]),
        (wire.RESPONSE, 0, 7, 0, [b"extended"]),
    ]
    with RawPeer(socket.create_connection(tcp_address(server))) as other:
        other.send(wire.encode(wire.REQUEST, 0, 1, 0, [b"from another"]))
        transaction, request = server.recv_request(LONG)
        transaction.send_response(request)
        assert other.receive_message() == (wire.RESPONSE, 0, 1, 0, [b"from another"])


def test_an_extended_answer_does_not_wait_for_a_plain_one(server: ServerBus[Any, Any], peer: RawPeer) -> None:
    peer.send(HELLO)
    peer.request(7)
    plain, extended = server.recv_request(LONG)[0], server.recv_request(LONG)[0]
    extended.send_response(b"now")
    assert peer.receive_message() == (wire.RESPONSE, 0, 7, 0, [b"now"])
    plain.send_response(b"later")
    assert peer.receive_message() == (wire.PLAIN, 0, 0, 0, [b"later"])


@pytest.mark.parametrize("workers", [1, 8])
def test_a_plain_request_whose_handler_raises_closes_the_connection_after_the_earlier_answers(
    server: ServerBus[Any, Any], peer: RawPeer, workers: int
) -> None:
    def handler(request: tuple[bytes, list[bytes]]) -> bytes:
        if request[0] == b"hello":
            # The later ones are done sooner.
            turns()
        if request[0] == b"1337":
            raise ValueError("this one is wrong")
        return request[0]

    serving = gevent.spawn(server.serve, handler, workers)
    try:
        peer.send(HELLO + EMPTY + NUMBER + HELLO)
        assert peer.receive_rest() == HELLO + EMPTY
        wait_until(lambda: server.stats().connections == 0)
    finally:
        serving.kill(timeout=LONG)
    assert server.stats().failed == 1


def test_a_plain_request_that_is_abandoned_closes_the_connection_without_an_answer(
    server: ServerBus[Any, Any], peer: RawPeer
) -> None:
    peer.send(HELLO)
    server.recv_request(LONG)  # and dropped
    assert peer.receive_rest() == b""


def test_a_plain_peer_is_told_nothing_of_a_drain_but_gets_its_answer(
    server: ServerBus[Any, Any], peer: RawPeer
) -> None:
    peer.send(HELLO)
    transaction, _ = server.recv_request(LONG)
    draining = gevent.spawn(server.drain)
    turns()
    transaction.send_response(b"1337")
    assert peer.receive_rest() == NUMBER
    assert draining.get(timeout=LONG) is True


def test_a_server_that_closes_after_each_answer_is_connected_to_again_for_a_request_alone() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.settimeout(LONG)
        with bus.connect(listener.getsockname(), plain=True) as client:
            for number in range(3):
                answer = gevent.spawn(client.call, b"%d" % number)
                connection, _ = listener.accept()
                with RawPeer(connection) as peer:
                    assert peer.receive_message()[4] == [b"%d" % number]
                    peer.send(HELLO)
                    assert answer.get(timeout=LONG) == b"hello"
                wait_until(lambda: client.stats().connections == 0, "the client to see the close")
                turns()
                assert select([listener], [], [], 0)[0] == []


@pytest.mark.parametrize("limit", [1, 1024])
def test_requests_large_and_empty_are_answered_in_their_order(limit: int) -> None:
    sizes = [300_000, 0, 0, 0, 0, 0, 300_001, 1]
    with bus.listen("127.0.0.1:0", limits=bus.Limits(max_in_flight=limit)) as server:
        serving = gevent.spawn(server.serve, lambda request: b"%d" % len(request))
        with RawPeer(socket.create_connection(tcp_address(server))) as peer:
            # No parts, which makes the head of the next large one come with these.
            peer.send(
                b"".join(wire.encode(wire.PLAIN, 0, 0, 0, [b"x" * size] if size else []) for size in sizes)
            )
            assert [peer.receive_message()[4] for _ in sizes] == [[b"%d" % size] for size in sizes]
        server.drain(LONG)
        serving.join(LONG)
        assert serving.ready()


def test_large_answers_that_wait_for_an_earlier_one_are_bounded(server: ServerBus[Any, Any]) -> None:
    high_water = bus.Limits().high_water
    with RawPeer(socket.create_connection(tcp_address(server))) as peer:
        peer.send(HELLO * 100)
        first, _ = server.recv_request(LONG)
        serving = gevent.spawn(server.serve, lambda request: (b"x" * 100_000, []), 1)
        wait_until(lambda: next(iter(server._admission.connections)).gate.parked, "requests to be set aside")
        assert next(iter(server._admission.connections)).protocol.kept < high_water + 200_000
        first.send_response((b"answer", []))
        assert len([peer.receive_message() for _ in range(100)]) == 100
        server.close()
        serving.join(LONG)


def test_calls_one_after_another_to_a_server_that_closes_after_each_answer() -> None:
    def answer(connection: Any, _: object) -> None:
        with RawPeer(connection) as peer:
            peer.receive_message()
            peer.send(HELLO)

    with StreamServer(("127.0.0.1", 0), answer) as listener:
        listener.start()
        with bus.connect(("127.0.0.1", int(listener.server_port or 0)), plain=True) as client:
            for _ in range(5):
                assert client.call(b"question", timeout=LONG) == b"hello"
                # The close has come, and nobody has looked yet.
                burn(0.01)
