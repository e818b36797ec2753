"""Room for requests and for clients: what a server does with more than it has memory for."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import Bus, OpenBus, Start, on_sockets, on_sockets_of_each_form, open_bus
from helpers import LONG, turns, wait_until
from ratchet import BusError, BusTimeout, Outcome, Rejected
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._socket import wire
from raw_peer import RawPeer

KIB = 1024
# Room for about ten requests of one connection, if nobody else has any.
SMALL = Limits(max_message=64 * KIB, max_queued_bytes=1024 * KIB)
LARGE = b'"' + b"x" * 50_000 + b'"'


def held(bus: Bus) -> int:
    """How many bytes of requests the server holds."""
    taken: int = bus.server._admission.budget.taken  # type: ignore[union-attr]
    return taken


def requests_are_paused(bus: Bus) -> bool:
    """Whether the server reads no more requests from some client."""
    connections = bus.server._admission.connections  # type: ignore[union-attr]
    return any(connection.stream.input.requests_paused for connection in connections)


def wait_until_still(bus: Bus) -> int:
    """Wait until the server reads no more; the bytes that it holds."""
    before = -1
    while before != held(bus):
        before = held(bus)
        gevent.sleep(0.01)
        turns(20)
    return before


def request(id: int, body: bytes = LARGE) -> bytes:
    return wire.encode(wire.REQUEST, 0, id, 0, [body])


@on_sockets
def test_a_server_holds_no_more_of_a_client_than_half_of_the_room_and_runs_all_in_the_end(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(server_limits=SMALL)
    raw = bus.raw_client()
    sending = gevent.spawn(raw.send, b"".join(request(id) for id in range(1, 101)))
    wait_until(lambda: held(bus) > 400 * KIB, "half of the room to be taken")
    assert wait_until_still(bus) <= 512 * KIB + len(LARGE) + KIB
    # Others are read all the same.
    queued = bus.server.stats().queued
    bus.client.cast("another")
    wait_until(lambda: bus.server.stats().queued > queued, "the other's request")

    ran: list[Any] = []
    start(bus.server.serve, ran.append, workers=2)
    answers = {raw.receive_message()[2] for _ in range(100)}
    sending.get(timeout=LONG)
    assert answers == set(range(1, 101))
    assert ran.count("another") == 1
    wait_until(lambda: held(bus) == 0, "all to be forgotten")


@on_sockets
def test_what_is_sent_before_the_next_request_is_read_although_there_is_no_room_for_that(
    open_bus: OpenBus,
) -> None:
    bus = open_bus(server_limits=SMALL)
    raw = bus.raw_client()
    # As many as are read: each is there before the next one is sent.
    last = 0
    while not requests_are_paused(bus):
        last += 1
        raw.send(request(last))
        bus.wait_for_queued(last)
    raw.send(wire.encode(wire.PING, 0, 77, 88, ()) + wire.encode(wire.CANCEL, 0, last, 0, ()))
    assert raw.receive_message()[:4] == (wire.PONG, 0, 77, 88)
    assert raw.receive_message()[:4] == (wire.ERROR, 0, last, Reason.OUT_OF_TIME)
    # There is room again.
    raw.send(request(last + 1))
    bus.wait_for_queued(last)


@on_sockets
def test_a_client_has_a_little_room_whatever_others_have_taken(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=SMALL)
    for number in range(30):
        raw = bus.raw_client()
        # All but the last byte of it, and so it is never finished.
        raw.send(request(number + 1)[:-1])
    wait_until(lambda: held(bus) >= 1024 * KIB, "the room to be taken")
    start(bus.server.serve, lambda request: request, workers=1)
    assert bus.client.call("small", LONG) == "small"
    assert bus.new_client().call("small too", LONG) == "small too"


@on_sockets
def test_a_client_that_has_gone_leaves_its_room_to_others(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=SMALL)
    filling = [bus.raw_client() for _ in range(30)]
    for raw in filling:
        raw.send(request(1)[:-1])
    wait_until_still(bus)
    start(bus.server.serve, lambda request: request, workers=1)
    large = "y" * 60_000
    asking = start(bus.client.call, large, LONG)
    turns(20)
    assert bus.server.stats().answered == 0
    for raw in filling:
        raw.close()
    assert asking.result() == large
    wait_until(lambda: held(bus) == 0, "all to be forgotten")


@pytest.mark.pure
@on_sockets
@pytest.mark.parametrize("gone", [False, True], ids=["there", "gone"])
def test_what_is_interrupted_while_it_is_refused_is_forgotten(
    open_bus: OpenBus, monkeypatch: pytest.MonkeyPatch, gone: bool
) -> None:
    bus = open_bus()
    raw = bus.raw_client()
    raw.send(wire.encode(wire.REQUEST, wire.ONE_WAY if gone else 0, 1, 1, [LARGE]))
    bus.wait_for_queued()
    if gone:
        raw.close()
        wait_until(lambda: bus.server.stats().connections == 1, "it to be gone")
    gevent.sleep(0.002)
    release = IncomingRequest._release

    def strike(request: IncomingRequest) -> None:
        monkeypatch.setattr(IncomingRequest, "_release", release)
        raise KeyboardInterrupt

    monkeypatch.setattr(IncomingRequest, "_release", strike)
    with pytest.raises(KeyboardInterrupt):
        bus.server.recv_request(LONG)
    turns(2)
    with pytest.raises(BusTimeout):
        bus.server.recv_request(0.01)
    assert held(bus) == 0


@on_sockets
def test_a_client_that_has_gone_does_not_wait_for_room_while_its_casts_are_run(open_bus: OpenBus) -> None:
    bus = open_bus(server_limits=SMALL)
    budget: Any = bus.server._admission.budget  # type: ignore[union-attr]
    others, gone = bus.raw_client(), bus.raw_client()
    gone.send(b"".join(wire.encode(wire.REQUEST, wire.ONE_WAY, id, 0, [LARGE]) for id in range(1, 10)))
    bus.wait_for_queued(9)
    casts = [bus.take() for _ in range(9)]
    gone.close()
    wait_until(lambda: bus.server.stats().connections == 2, "it to be gone")
    others.send(b"".join(request(id) for id in range(1, 6)))
    bus.wait_for_queued(5)
    # More than what is free is the share of the one that has gone.
    for cast in casts:
        cast.send_response(None)
        turns(2)
    assert not budget.waiting


@pytest.mark.parametrize("body", [b"", b"x" * 10], ids=["empty", "short"])
@pytest.mark.parametrize("form", [wire.REQUEST, wire.PLAIN], ids=["extended", "plain"])
def test_many_small_requests_take_no_more_room_than_large_ones(
    small_tcp_bus: Bus, form: int, body: bytes
) -> None:
    bus = small_tcp_bus
    raws = [bus.raw_client() for _ in range(4)]
    one = wire.encode(form, 0, 1, 0, [body] if body else [])
    many = b"".join(
        one if form == wire.PLAIN else wire.encode(form, wire.ONE_WAY, id, 0, [body]) for id in range(20_000)
    )
    sending = [gevent.spawn(raw.send, many) for raw in raws]
    wait_until(lambda: held(bus) > 700 * KIB, "the room to be taken")
    assert wait_until_still(bus) <= 1024 * KIB + 4 * 32 * KIB
    gevent.killall(sending)


@pytest.mark.parametrize("what", ["parts", "metadata", "unfinished"])
def test_what_takes_more_room_here_than_on_the_wire_is_counted_as_it_is(
    small_tcp_bus: Bus, what: str
) -> None:
    bus = small_tcp_bus
    raw = bus.raw_client()
    short = {f"{number:x}": "" for number in range(2000)}
    if what == "metadata":
        raw.send(wire.encode(wire.REQUEST, wire.METADATA, 1, 0, [b"", json.dumps(short).encode()]))
    else:
        message = wire.encode(wire.REQUEST, 0, 1, 0, [b"ab"] * 1024)
        raw.send(message if what == "parts" else message[:-1])
    # Each text, or part, is an object of at least 32 bytes, and has a place of 8.
    wait_until(lambda: held(bus) >= 1000 * 40, "all of it to be counted")
    raw.close()
    wait_until(lambda: held(bus) == 0, "it to be forgotten")


def test_what_a_client_sends_in_place_of_requests_is_counted_too(small_tcp_bus: Bus) -> None:
    bus = small_tcp_bus
    raw = bus.raw_client()
    raw.send(wire.encode(wire.RESPONSE, 0, 1, 0, [LARGE])[:-1])
    wait_until(lambda: held(bus) >= len(LARGE), "it to be counted")
    raw.send(b"x")
    assert raw.receive_rest() == b""
    wait_until(lambda: held(bus) == 0, "it to be forgotten")


def test_of_a_record_of_tls_no_more_is_taken_than_there_is_room_for(tmp_path: Path) -> None:
    with open_bus("tls", tmp_path, server_limits=SMALL, codec=None) as bus:
        raws = [bus.raw_client() for _ in range(4)]
        # Each fills a record with empty requests, which would take eight times the room.
        for raw in raws:
            raw.send(wire.encode(wire.PLAIN, 0, 0, 0, []) * 8192)
        wait_until(lambda: held(bus) > 700 * KIB, "the room to be taken")
        assert wait_until_still(bus) <= 1024 * KIB + len(raws) * 32 * KIB
        # Side by side: small records that pile up the system drops, and sends again ever later.
        receiving = [gevent.spawn(raw.receive, 6 * 8192) for raw in raws]
        serving = gevent.spawn(bus.server.serve, lambda request: b"", workers=4)
        assert [len(each.get()) for each in receiving] == [6 * 8192] * len(raws)
        wait_until(lambda: held(bus) == 0, "all to be forgotten")
    serving.join()


@pytest.fixture
def small_tcp_bus(tmp_path: Any) -> Any:
    """A bus over TCP with little room."""
    with open_bus("tcp", tmp_path, server_limits=SMALL, codec=None) as bus:
        yield bus


# Connections.


@on_sockets
def test_a_client_too_many_is_told_that_the_server_is_overloaded(
    open_bus: OpenBus, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "ratchet.bus"):
        bus = open_bus(server_limits=Limits(max_connections=2))
        second = bus.new_client()
        start(bus.server.serve, lambda request: request, workers=1)
        assert bus.client.call("one", LONG) == "one"
        assert second.call("two", LONG) == "two"
        if bus.kind != "tls":
            third = bus.new_client()
            with pytest.raises(Rejected, match="too many connections") as raised:
                third.call("three", LONG)
            assert raised.value.outcome is Outcome.NOT_RUN
            with RawPeer(bus.connected()) as raw:
                messages = [raw.receive_message() for _ in range(2)]
                assert [(kind, id) for kind, _, id, *_ in messages] == [(wire.ERROR, 0), (wire.GOAWAY, 0)]
                assert raw.receive_rest() == b""
        else:
            with pytest.raises(OSError):
                bus.connected()
        refused = bus.server.stats().refused_connections
        assert refused == (1 if bus.kind == "tls" else 2)
        turns(5)
        told = [
            record.getMessage() for record in caplog.records if "too many connections" in record.getMessage()
        ]
        assert len(told) == 1
        assert bus.client.call("four", LONG) == "four"
        assert bus.server.stats().connections == 2


@on_sockets
def test_a_client_too_many_is_let_in_as_soon_as_another_one_has_gone(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=Limits(max_connections=1))
    wait_until(lambda: bus.server.stats().connections == 1)
    start(bus.server.serve, lambda request: request, workers=1)
    if bus.kind == "tls":
        bus.client.close()
        wait_until(lambda: bus.server.stats().connections == 0)
        assert bus.new_client().call("next", LONG) == "next"
        return
    assert bus.server.address is not None
    with ratchet_bus.connect(bus.server.address, codec=ratchet_bus.codecs.json) as waiting:
        wait_until(lambda: bus.server.stats().refused_connections >= 1, "it to be turned away")
        bus.client.close()
        waiting.wait_connected(LONG)
        assert waiting.call("next", LONG) == "next"


@on_sockets
def test_answers_that_nobody_reads_take_room_too(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=SMALL)
    start(bus.server.serve, lambda request: "y" * 60_000, workers=1)
    deaf = bus.raw_client()
    sending = gevent.spawn(deaf.send, b"".join(request(id, b"1") for id in range(1, 401)))
    wait_until(lambda: held(bus) > 400 * KIB, "answers to pile up")
    # What was read at once, before anything was answered, comes on top.
    assert wait_until_still(bus) < 2048 * KIB
    assert bus.client.call("another", LONG) == "y" * 60_000
    for _ in range(400):
        deaf.receive_message()
    sending.get(timeout=LONG)
    wait_until(lambda: held(bus) == 0, "all to be forgotten")


@on_sockets
def test_answers_that_nobody_will_read_take_no_room(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=SMALL)
    start(bus.server.serve, lambda request: "y" * 60_000, workers=1)
    deaf = bus.raw_client()
    sending = gevent.spawn(deaf.send, b"".join(request(id, b"1") for id in range(1, 401)))
    wait_until(lambda: held(bus) > 400 * KIB, "answers to pile up")
    wait_until_still(bus)
    sending.kill()
    deaf.reset()
    wait_until(lambda: bus.server.stats().connections == 1, "it to be gone")
    wait_until(lambda: held(bus) == 0, "its answers to be forgotten")


@on_sockets_of_each_form
def test_a_request_that_ends_in_an_error_takes_no_room(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=SMALL)
    start(bus.server.serve, lambda request: 1 / 0, workers=1)
    with pytest.raises(BusError):
        bus.client.call("x" * 50_000, LONG)
    assert bus.server.stats().failed == 1
    wait_until(lambda: held(bus) == 0, "it to be forgotten")


@on_sockets
def test_what_was_cast_is_run_in_order_also_where_a_drain_finds_some_held_and_some_unread(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(server_limits=Limits(max_in_flight=1))
    raw, gate, ran = bus.raw_client(), Event(), []

    def handler(number: int) -> None:
        gate.wait()
        ran.append(number)

    start(bus.server.serve, handler, workers=1)
    for number in range(3):
        raw.request(number + 1, b"%d" % number, flags=wire.ONE_WAY)
    wait_until(
        lambda: any(len(each.gate.held_back) == 2 for each in bus.server._admission.connections),  # type: ignore[union-attr]
        "two to be held",
    )
    raw.request(4, b"3", flags=wire.ONE_WAY)
    gate.set()
    assert bus.server.drain(LONG)
    assert ran == [0, 1, 2, 3]
