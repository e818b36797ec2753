"""A server that sends some of its clients away, and goes on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from helpers import LONG, wait_until
from ratchet import bus
from ratchet.bus import codecs
from ratchet.bus._socket import wire
from ratchet.bus._socket.server import admission_of
from ratchet.bus._socket.shedding import shed
from raw_peer import RawPeer


@pytest.fixture
def server() -> Iterator[bus.ServerBus[Any, Any]]:
    with bus.listen("127.0.0.1:0", codec=codecs.json) as server:
        yield server


def plain_socket(server: bus.ServerBus[Any, Any]) -> Any:
    assert isinstance(server.address, tuple)
    return socket.create_connection(server.address)


def raw_client(server: bus.ServerBus[Any, Any]) -> RawPeer:
    peer = RawPeer(plain_socket(server))
    peer.say_hello()
    peer.receive_hello()
    return peer


def test_a_client_is_sent_away_and_comes_again(server: bus.ServerBus[Any, Any]) -> None:
    serving = gevent.spawn(server.serve, lambda request, transaction: transaction.from_[1])
    with bus.connect(server.address, codec=codecs.json) as client:
        before = client.call(None, timeout=LONG)
        assert shed(admission_of(server), 5) == 1
        wait_until(lambda: client.call(None, timeout=LONG) != before, "another connection")
        wait_until(lambda: server.stats().connections == 1, "the end of the first one")
        assert len(admission_of(server).leaving) == 0
    server.close()
    serving.get(timeout=LONG)


def test_what_was_sent_before_is_run_and_what_comes_after_is_refused(server: bus.ServerBus[Any, Any]) -> None:
    with raw_client(server) as peer:
        peer.request(1)
        transaction, _ = server.recv_request(LONG)
        peer.request(2)
        peer.request(3, flags=wire.ONE_WAY)
        wait_until(lambda: server.stats().queued == 2, "what is sent before")
        assert shed(admission_of(server), 1) == 1
        assert len(admission_of(server).leaving) == 1
        # It is told once.
        assert shed(admission_of(server), 1) == 0
        peer.request(4)
        assert peer.receive_message()[:3] == (wire.GOAWAY, 0, 3)
        assert peer.receive_message()[:4] == (wire.ERROR, 0, 4, 3)
        transaction.send_response("first")
        assert peer.receive_message()[:3] == (wire.RESPONSE, 0, 1)
        server.recv_request(LONG)[0].send_response("second")
        assert peer.receive_message()[:3] == (wire.RESPONSE, 0, 2)
        assert server.recv_request(LONG)[1] == "question"
        # What is cast afterwards is run all the same: nobody would learn that it was not.
        peer.request(5, flags=wire.ONE_WAY)
        assert server.recv_request(LONG)[1] == "question"
    assert server.stats().refused_draining == 1


def test_the_quiet_ones_go_first(server: bus.ServerBus[Any, Any]) -> None:
    with raw_client(server) as busy, raw_client(server) as quiet:
        busy.request(1)
        taken = server.recv_request(LONG)
        assert shed(admission_of(server), 1) == 1
        assert quiet.receive_message()[0] == wire.GOAWAY
        taken[0].send_response(None)
        assert busy.receive_message()[0] == wire.RESPONSE


def test_who_cannot_be_told_stays(server: bus.ServerBus[Any, Any]) -> None:
    with plain_socket(server):
        wait_until(lambda: server.stats().connections == 1, "the connection")
        assert shed(admission_of(server), 1) == 0
