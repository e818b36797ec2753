"""Draining over sockets: what is on its way to a client, and what is on its way from one."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
from gevent import socket

from contract.buses import Bus, Start, connected, on_sockets_of_each_form
from helpers import LONG, output_of, turns, wait_until
from ratchet import Rejected
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits, ServerBus
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire
from raw_peer import RawPeer

LARGE = 2_000_000
"""More than the kernel keeps for a connection whose peer does not read."""


@on_sockets_of_each_form
def test_serve_returns_when_the_last_answer_is_sent_and_not_before(bus: Bus, start: Start) -> None:
    serving = start(bus.server.serve, lambda request: "x" * 8_000_000)
    raw = bus.raw_client()
    raw.send(wire.encode(wire.PLAIN, 0, 0, 0, [b'"question"']))
    wait_until(lambda: bus.server.stats().answered == 1)
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    turns()
    assert not serving.ended
    assert len(raw.receive_rest()) > 8_000_000
    raw.close()
    assert draining.result() is True
    assert serving.result() is None


@pytest.mark.parametrize("kind", ["tcp", "tls"])
def test_an_answer_on_its_way_arrives_although_the_client_has_sent_more(
    bus: Bus, kind: str, start: Start
) -> None:
    start(bus.server.serve, lambda request: "x" * LARGE)
    raw = bus.raw_client()
    raw.request(1)
    # All is with the kernel, and the client has read nothing.
    wait_until(lambda: bus.server.stats().answered == 1)
    assert isinstance(bus.server, ServerBus)
    (session,) = (each for each in bus.server._admission.connections if each.protocol.last_id == 1)
    wait_until(lambda: not session.stream.output.unsent or bus.kind == "tls")
    session.stream.pause_reading()
    draining = start(bus.server.drain)
    turns()
    raw.request(2)
    turns()
    data = raw.receive_rest()
    decoder = wire.Decoder(2 * LARGE, 10)
    assert [(kind, id) for kind, _, id, _, _ in decoder.feed(data)] == [(wire.RESPONSE, 1), (wire.GOAWAY, 1)]
    assert draining.result() is True


@pytest.mark.parametrize("kind", ["tcp"])
def test_a_drain_whose_time_is_over_before_an_answer_has_arrived_says_so(
    bus: Bus, kind: str, start: Start
) -> None:
    start(bus.server.serve, lambda request: "x" * 300_000)
    raw = bus.raw_client()
    raw.request(1)
    # All is with the kernel, and the client reads nothing.
    wait_until(lambda: bus.server.stats().answered == 1)
    raw.request(2)
    assert bus.server.drain(0.1) is False


def listening() -> tuple[socket.socket, ServerBus[Any, Any]]:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return listener, ratchet_bus.new_server(listener)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_first_request_that_was_not_read_yet_is_rejected(accepted: bool, start: Start) -> None:
    listener, server = listening()
    with server:
        connected = socket.create_connection(listener.getsockname())
        with ratchet_bus.new_client(connected) as client:
            if accepted:
                wait_until(lambda: server.stats().connections == 1)
            # In this very turn, so that the server has not seen it.
            sent = client.send_request(b"question")
            draining = start(server.drain)
            with pytest.raises(Rejected):
                sent.recv_response(LONG)
            assert draining.result() is True


def test_all_of_a_long_listen_queue_are_told(start: Start) -> None:
    listener, server = listening()
    with ExitStack() as stack:
        stack.callback(server.close)
        clients = []
        for _ in range(120):
            client = stack.enter_context(RawPeer(socket.create_connection(listener.getsockname())))
            client.request(1)
            clients.append(client)
        assert server.drain(LONG) is True
        for client in clients:
            told = [client.receive_message() for _ in range(2)]
            assert sorted((kind, id, arg) for kind, _, id, arg, _ in told) == [
                (wire.ERROR, 1, Reason.DRAINING),
                (wire.GOAWAY, 1, 0),
            ]


def test_what_waits_behind_the_limit_is_rejected_in_its_order(start: Start) -> None:
    with ratchet_bus.listen("127.0.0.1:0", limits=Limits(max_in_flight=2)) as server:
        with RawPeer(connected(server.address, None)) as client:
            for id in range(1, 6):
                client.request(id)
            taken = [server.recv_request(LONG)[0] for _ in range(2)]
            client.request(6)
            for transaction in taken:
                transaction.send_response(b"answer")
            assert server.drain(LONG) is True
            answers = [client.receive_message() for _ in range(7)]
    kinds = [(kind, id) for kind, _, id, _, _ in answers]
    assert kinds[:2] == [(wire.RESPONSE, 1), (wire.RESPONSE, 2)]
    assert sorted(kinds[2:]) == [*((wire.ERROR, id) for id in range(3, 7)), (wire.GOAWAY, 6)]


def test_a_drain_without_descriptors_while_accepting_has_backed_off_ends_well() -> None:
    program = """
        import os, resource, socket, gevent
        from ratchet import bus
        server = bus.listen("127.0.0.1:0")
        client = socket.socket()
        client.connect(server.address)
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, 4096))
        kept = []
        try:
            while True:
                kept.append(os.dup(0))
        except OSError:
            pass
        while server._acceptor.active:
            gevent.sleep(0.001)
        print(server.drain(timeout=2))
        for descriptor in kept:
            os.close(descriptor)
        gevent.sleep(0.2)
        client.close()
    """
    assert output_of(program) == "True\n"


def test_a_socket_that_is_shut_down_for_all_its_processes_keeps_nobody_busy() -> None:
    listener, server = listening()
    with server:
        listener.shutdown(socket.SHUT_RDWR)
        acceptor = server._acceptor
        assert acceptor is not None
        wait_until(lambda: not acceptor.active, "the server to stop accepting")
