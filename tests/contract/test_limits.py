"""Limits: sizes, stalls, peers that do not read or send too much, and a system out of descriptors."""

from __future__ import annotations

import logging
import select
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import (
    Bus,
    OpenBus,
    OpenClient,
    Start,
    on_sockets,
    on_sockets_of_each_form,
)
from helpers import LONG, burn, output_of, turns, wait_until
from ratchet import BusTimeout, ConnectionLost, MessageTooLarge, RemoteError
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus, Codec, Limits, ServerBus
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire

PARTS: Codec[Any, Any] = Codec(
    lambda parts: (b"", parts),
    lambda body, parts: parts,
    lambda parts: (b"", parts),
    lambda body, parts: parts,
)


def unsent(bus: object) -> int:
    """How many bytes wait in this process for the peers of a bus."""
    if isinstance(bus, ClientBus):
        return sum(link.stream.output.unsent for link in bus._servers.connections)
    assert isinstance(bus, ServerBus)
    return sum(session.stream.output.unsent for session in bus._admission.connections)


def wait_until_full(client: ClientBus[Any, Any], high_water: int) -> None:
    """Wait until neither the client nor the kernel takes any more."""

    def full() -> bool:
        before = unsent(client)
        (link,) = client._servers.connections
        turns(50)
        _, writable, _ = select.select([], [link.stream._transport], [], 0.02)
        return not writable and before == unsent(client) >= high_water

    wait_until(full)


def wait_for_connections(bus: Bus, count: int) -> None:
    wait_until(lambda: bus.server.stats().connections == count, f"{count} connections")


# A message over the limit.


@on_sockets_of_each_form
@pytest.mark.parametrize("size", [1001, 8_000_000], ids=["by a byte", "by far"])
def test_a_message_over_the_limit_is_its_sender_s_error_and_others_are_not_touched(
    open_bus: OpenBus, start: Start, size: int
) -> None:
    bus = open_bus(codec=None, limits=Limits(), server_limits=Limits(max_message=1000))
    start(bus.server.serve, lambda request: request)
    other = bus.new_client()
    assert other.call(b"x" * 1000, LONG) == b"x" * 1000
    if not bus.plain:
        # The server has told its limits, so this is refused at home.
        bus.client.wait_connected(LONG)
        with pytest.raises(MessageTooLarge) as refused:
            bus.client.call(b"x" * size)
        assert refused.value.outcome == "NOT_SENT"
        assert bus.client.call(b"x" * 1000, LONG) == b"x" * 1000
        bus.client.close()
    # This one has not heard of them.
    newcomer = bus.new_client()
    with pytest.raises(ConnectionLost if bus.plain else MessageTooLarge) as raised:
        newcomer.call(b"x" * size)
    assert raised.value.outcome in (("NOT_SENT", "UNKNOWN") if bus.plain else ("NOT_RUN",))
    wait_until(lambda: newcomer.stats().connections == 0)
    wait_for_connections(bus, 2 if bus.plain else 1)
    assert bus.server.stats().broken == 1
    assert other.call(b"x" * 1000, LONG) == b"x" * 1000


@on_sockets
def test_a_message_over_the_limit_ends_the_earlier_requests_of_its_connection(open_bus: OpenBus) -> None:
    bus = open_bus(server_limits=Limits(max_message=1000))
    raw = bus.raw_client()
    raw.request(1)
    transaction = bus.take()
    raw.request(2, b'"' + b"x" * 1000 + b'"')
    kind, _, id, number, _ = raw.receive_message()
    assert (kind, id, number) == (wire.ERROR, 2, Reason.TOO_LARGE)
    assert raw.receive_rest() == b""
    wait_until(lambda: transaction.cancelled)


@on_sockets
def test_a_message_is_over_the_limit_by_all_its_parts_together(open_bus: OpenBus) -> None:
    bus = open_bus(codec=None, server_limits=Limits(max_message=1000))
    raw = bus.raw_client()
    # Two parts of 600: refused when the second's length is told, before its bytes.
    raw.send(wire.encode(wire.REQUEST, 0, 9, 0, [b"x" * 600, b"x" * 600])[:-600])
    kind, _, id, number, parts = raw.receive_message()
    assert (kind, id, number) == (wire.ERROR, 9, Reason.TOO_LARGE)
    assert b"1200" in parts[1]
    assert raw.receive_rest() == b""


@on_sockets_of_each_form
def test_a_message_over_the_sender_s_own_limit_is_refused_before_a_byte_was_sent(open_bus: OpenBus) -> None:
    bus = open_bus(limits=Limits(max_message=1000))
    for call in (bus.client.send_request, bus.client.call, bus.client.cast):
        with pytest.raises(MessageTooLarge, match="1001 bytes is over the limit of 1000") as raised:
            call("x" * 999)
        assert raised.value.outcome == "NOT_SENT"
    bus.check_works()
    assert bus.server.stats()[3:8] == (1, 0, 0, 0, 0)


@on_sockets
def test_a_message_of_too_many_parts_is_refused_before_a_byte_was_sent(open_bus: OpenBus) -> None:
    bus = open_bus(codec=PARTS, limits=Limits(max_parts=3))
    with pytest.raises(MessageTooLarge, match="4 parts is over the limit of 3") as raised:
        bus.client.send_request([b""] * 3)
    assert raised.value.outcome == "NOT_SENT"
    sent = bus.client.send_request([b"a", b"b"])
    transaction = bus.take()
    assert transaction.request == [b"a", b"b"]
    transaction.send_response([])
    assert sent.recv_response(LONG) == []


@on_sockets
def test_a_message_of_too_many_parts_closes_its_connection_alone(open_bus: OpenBus) -> None:
    bus = open_bus(codec=PARTS, limits=Limits(), server_limits=Limits(max_parts=3))
    other = bus.new_client()
    # It has not heard of the server's limits yet.
    with pytest.raises(ConnectionLost) as raised:
        bus.new_client().call([b""] * 3)
    assert raised.value.outcome == "UNKNOWN"
    bus.client.close()
    wait_for_connections(bus, 1)
    with pytest.raises(MessageTooLarge) as refused:
        other.call([b""] * 3)
    assert refused.value.outcome == "NOT_SENT"
    sent = other.send_request([b"a", b"b"])
    bus.take().send_response([b"c"])
    assert sent.recv_response(LONG) == [b"c"]
    wait_for_connections(bus, 1)
    assert bus.server.stats().broken == 1


@on_sockets
def test_a_response_over_the_server_s_own_limit_is_an_error_of_both_sides(open_bus: OpenBus) -> None:
    bus = open_bus(server_limits=Limits(max_message=1000))
    sent = bus.client.send_request("question")
    with pytest.raises(MessageTooLarge):
        bus.take().send_response("x" * 999)
    with pytest.raises(RemoteError, match="over the limit of 1000"):
        sent.recv_response(LONG)
    bus.check_works()


@on_sockets
def test_a_response_over_the_client_s_limit_is_refused_and_certainly_ran(
    open_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    # The server is one that does not heed what it was told.
    client, raw = open_client(limits=Limits(max_message=1000))
    sent, earlier = (client.send_request(number) for number in range(2))
    with caplog.at_level(logging.WARNING, "ratchet"):
        raw.send(wire.encode(wire.RESPONSE, 0, raw.receive_message()[2], 0, [b"x" * 8_000]))
        with pytest.raises(MessageTooLarge) as raised:
            sent.recv_response(LONG)
        assert raised.value.outcome == "RAN"
        with pytest.raises(ConnectionLost) as lost:
            earlier.recv_response(LONG)
        assert lost.value.outcome == "UNKNOWN"
        wait_until(lambda: caplog.records)
    assert client.stats()[:1] == (0,)
    assert client.stats().broken == 1


# A peer that stalls in the middle of a message.


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_a_peer_that_stalls_in_the_middle_of_a_message_is_closed_after_the_stall_timeout(
    open_bus: OpenBus, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(limits=Limits(stall_timeout=0.1))
    raw = bus.raw_client()
    started = time.monotonic()
    with caplog.at_level(logging.WARNING, "ratchet"):
        raw.send(bytes.fromhex("0001 00000004") + b"13")
        assert raw.receive_rest() == b""
        assert time.monotonic() - started >= 0.1
        wait_until(lambda: caplog.records)
    (record,) = caplog.records
    assert "stalled for 0.1 s" in record.getMessage()
    wait_for_connections(bus, 1)
    assert bus.server.stats().broken == 1
    bus.check_works()


@pytest.mark.virtual_time
@on_sockets
def test_a_server_that_stalls_in_the_middle_of_an_answer_is_given_up_after_the_stall_timeout(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client(limits=Limits(stall_timeout=0.1))
    waiting = start(client.call, "question")
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.RESPONSE, 0, id, 0, [b"7357"])[:-1])
    with pytest.raises(ConnectionLost, match="was lost") as raised:
        waiting.result()
    assert raised.value.outcome == "UNKNOWN"
    assert client.stats().broken == 1


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_a_peer_that_is_slow_but_moves_is_not_closed(open_bus: OpenBus) -> None:
    stall_timeout = 0.15
    bus = open_bus(limits=Limits(stall_timeout=stall_timeout))
    raw = bus.raw_client()
    for byte in bytes.fromhex("0001 00000004") + b"1337":
        raw.send(bytes([byte]))
        # The pace is what this is about: over all it takes twice the stall time-out.
        gevent.sleep(stall_timeout / 5)
    transaction = bus.take()
    assert transaction.request == 1337
    transaction.send_response(7357)
    assert raw.receive_message()[4] == [b"7357"]
    assert bus.server.stats().broken == 0


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_an_idle_connection_is_no_stalled_one(open_bus: OpenBus) -> None:
    bus = open_bus(limits=Limits(stall_timeout=0.02))
    raw = bus.raw_client()
    raw.send_in_single_bytes(bytes.fromhex("0001 00000004") + b"1337")
    transaction = bus.take()
    gevent.sleep(0.1)
    transaction.send_response(7357)
    assert raw.receive_message()[4] == [b"7357"]
    gevent.sleep(0.1)
    bus.check_works()
    assert bus.server.stats()[-1] == 0
    assert bus.server.stats().connections == 2


@on_sockets_of_each_form
def test_a_hub_that_was_late_takes_no_peer_for_one_that_stalls(open_bus: OpenBus) -> None:
    bus = open_bus(limits=Limits(stall_timeout=0.05))
    raw = bus.raw_client()
    raw.send(bytes.fromhex("0001 00000004") + b"13")
    turns(10)
    # The rest comes in time; it is the server that does not look.
    raw.send(b"37")
    burn(0.2)
    transaction = bus.take()
    assert transaction.request == 1337
    transaction.send_response(7357)
    assert raw.receive_message()[4] == [b"7357"]
    assert bus.server.stats().broken == 0


@on_sockets_of_each_form
def test_handlers_that_keep_the_hub_busy_for_longer_than_the_stall_timeout_break_no_connection(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=None, limits=Limits(stall_timeout=0.05))

    def handler(request: bytes) -> bytes:
        burn(0.1)
        return request

    start(bus.server.serve, handler)
    body = b"x" * 3_000_000
    calls = [start(bus.new_client().call, body) for _ in range(4)]
    assert [call.result() == body for call in calls] == [True] * 4
    assert bus.server.stats().broken == 0


# A peer that does not read.


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_writers_to_a_server_that_does_not_read_wait_with_their_own_time_out(
    open_client: OpenClient, start: Start
) -> None:
    high_water, size = 100_000, 20_000
    client, raw = open_client(codec=None, limits=Limits(high_water=high_water))

    def fill() -> None:
        while True:
            client.send_request(b"x" * size)

    filling = start(fill)
    filling.wait_until_blocked()
    wait_until_full(client, high_water)
    assert unsent(client) <= high_water + size + 100
    for _ in range(2):
        with pytest.raises(BusTimeout) as raised:
            client.call(b"late", timeout=0.02)
        assert raised.value.outcome == "NOT_SENT"
    assert unsent(client) <= high_water + size + 100
    in_time = start(client.call, b"in time", timeout=LONG)
    in_time.wait_until_blocked()
    bodies = []
    while b"in time" not in bodies:
        kind, _, id, _, parts = raw.receive_message()
        bodies.append(parts[0])
        if kind == wire.PLAIN:
            raw.send(wire.encode(wire.PLAIN, 0, 0, 0, parts))
        else:
            raw.send(wire.encode(wire.RESPONSE, 0, id, 0, parts))
    assert in_time.result() == b"in time"
    assert b"late" not in bodies
    assert set(bodies) == {b"in time", b"x" * size}


def ask_without_reading(bus: Bus, count: int) -> Any:
    """A raw client that asks so often; its answers stay in the kernel until it reads."""
    raw = bus.raw_client()
    if bus.plain:
        raw.send(wire.encode(wire.PLAIN, 0, 0, 0, [b"big"]) * count)
    else:
        raw.send(b"".join(wire.encode(wire.REQUEST, 0, id, 0, [b"big"]) for id in range(1, count + 1)))
    return raw


@pytest.mark.uncounted
@on_sockets_of_each_form
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_others_are_answered_while_a_client_does_not_read_and_memory_is_bounded(
    open_bus: OpenBus, start: Start, workers: int
) -> None:
    limits = Limits(high_water=200_000)
    bus = open_bus(codec=None, server_limits=limits)
    answers = {b"big": b"x" * 100_000}
    start(bus.server.serve, lambda request: answers.get(request, request), workers)
    raw = ask_without_reading(bus, 150)
    wait_until(lambda: unsent(bus.server) >= limits.high_water)
    most = limits.high_water + 100_100
    if bus.plain:
        # As much again is kept until its turn to be sent has come, and may all be sent at once.
        most *= 2
    for number in range(20):
        assert bus.client.call(b"%d" % number, LONG) == b"%d" % number
        assert unsent(bus.server) <= most
    # Whoever reads late has lost nothing.
    assert all(raw.receive_message()[4] == [answers[b"big"]] for _ in range(150))
    bus.wait_for_in_flight(0)
    stats = bus.server.stats()
    assert (stats.connections, stats.queued, stats.answered) == (2, 0, 170)


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_a_busy_client_is_not_dropped_however_long_it_does_not_read(open_bus: OpenBus, start: Start) -> None:
    limits = Limits(high_water=200_000, stall_timeout=0.05)
    bus = open_bus(codec=None, server_limits=limits)
    answers = {b"big": b"x" * 100_000}
    start(bus.server.serve, lambda request: answers.get(request, request))
    raw = ask_without_reading(bus, 150)
    wait_until(lambda: unsent(bus.server) >= limits.high_water)
    # For many times the stall time-out, which is what this is about.
    gevent.sleep(10 * limits.stall_timeout)
    assert bus.client.call(b"question", LONG) == b"question"
    assert all(raw.receive_message()[4] == [answers[b"big"]] for _ in range(150))
    assert bus.server.stats().broken == 0


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_a_client_that_does_not_read_does_not_keep_a_drain_for_longer_than_the_stall_timeout(
    open_bus: OpenBus, start: Start
) -> None:
    limits = Limits(high_water=200_000, stall_timeout=0.2)
    bus = open_bus(codec=None, server_limits=limits)
    start(bus.server.serve, lambda request: b"x" * 100_000)
    raw = ask_without_reading(bus, 150)
    wait_until(lambda: unsent(bus.server) >= limits.high_water)
    bus.server.drain(LONG)
    assert len(raw.receive_rest()) < 150 * 100_000


@on_sockets
def test_hand_written_code_waits_until_a_client_reads(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=None, server_limits=Limits(high_water=100_000))
    raw = bus.raw_client()
    for id in range(1, 101):
        raw.request(id)
    transactions = [bus.take() for _ in range(100)]

    def answer() -> list[bool]:
        return [transaction.send_response(b"x" * 100_000) for transaction in transactions]

    answering = start(answer)
    wait_until(lambda: unsent(bus.server) >= 100_000)
    turns(10)
    assert not answering.ended
    assert unsent(bus.server) <= 200_100
    assert all(raw.receive_message()[4] == [b"x" * 100_000] for _ in range(100))
    assert answering.result() == [True] * 100


@on_sockets_of_each_form
def test_a_limit_of_any_number_is_none(open_bus: OpenBus) -> None:
    number = 10**30
    limits = Limits(
        max_queued=number,
        max_queued_bytes=number,
        max_connections=number,
        max_in_flight=number,
        high_water=number,
    )
    open_bus(limits=limits, server_limits=limits).check_works()


# A peer that sends faster than the server works.


@on_sockets_of_each_form
def test_of_one_connection_no_more_than_max_in_flight_requests_are_read(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(limits=Limits(max_in_flight=5))
    sent = [bus.client.send_request(number) for number in range(60)]
    bus.wait_for_queued(5)
    turns(20)
    assert bus.server.stats().queued == 5
    # Another connection has its own.
    other = bus.new_client()
    others = [other.send_request(number) for number in range(60, 120)]
    bus.wait_for_queued(10)
    ran: list[int] = []
    peak = 0

    def handler(request: int) -> int:
        nonlocal peak
        ran.append(request)
        stats = bus.server.stats()
        peak = max(peak, stats.queued + stats.in_flight)
        gevent.sleep(0)
        return request + 1

    start(bus.server.serve, handler, workers=3)
    assert [each.recv_response(LONG) for each in sent + others] == list(range(1, 121))
    assert sorted(ran) == list(range(120))
    assert peak <= 10


@on_sockets_of_each_form
def test_a_server_queues_max_queued_and_one_more_of_each_who_has_none_there_and_loses_nothing(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(limits=Limits(max_queued=10))
    clients = [bus.client, bus.new_client(), bus.new_client()]
    wait_for_connections(bus, 3)
    sent = [client.send_request(number) for number in range(50) for client in clients]
    # Ten of them fill it, and no matter whose: each of the others has one there.
    wait_until(lambda: bus.server.stats().queued >= 10, "a full queue")
    turns(20)
    assert 10 <= bus.server.stats().queued <= 12
    late = bus.new_client()
    wait_for_connections(bus, 4)
    before = bus.server.stats().queued
    sent += [late.send_request(number) for number in range(50)]
    bus.wait_for_queued(before + 1)
    turns(20)
    assert bus.server.stats().queued == before + 1
    peak = 0
    ran: list[int] = []

    def handler(request: int) -> int:
        nonlocal peak
        peak = max(peak, bus.server.stats().queued)
        ran.append(request)
        gevent.sleep(0)
        peak = max(peak, bus.server.stats().queued)
        return request + 1

    start(bus.server.serve, handler, workers=3)
    for index, each in enumerate(sent):
        assert each.recv_response(LONG) == each.request + 1, index
    assert sorted(ran) == sorted([*range(50)] * 4)
    assert 0 < peak <= 13


@on_sockets
def test_cancelled_requests_make_room_for_others(open_bus: OpenBus) -> None:
    bus = open_bus(limits=Limits(max_queued=4))
    held_up = [bus.client.send_request(number) for number in range(4)]
    bus.wait_for_queued(4)
    other = bus.new_client()
    sent = other.send_request("another")
    turns(10)
    assert bus.server.stats().queued == 4
    for each in held_up:
        each.cancel()
    for _ in range(4):
        transaction, request = bus.server.recv_request(LONG)
        if request == "another":
            break
        assert transaction.send_response("late") in (True, False)
    else:
        transaction, request = bus.server.recv_request(LONG)
    assert request == "another"
    transaction.send_response("answer")
    assert sent.recv_response(LONG) == "answer"


@on_sockets
def test_who_waits_for_a_place_costs_nothing_until_it_is_there(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=Limits(max_in_flight=1))
    start(bus.server.serve, lambda request: request, workers=1)
    bus.client.call("first", LONG)

    def calls_made(callers: int) -> int:
        """How many functions are called until so many callers at once are answered."""
        made = 0

        def note(frame: object, event: str, arg: object) -> None:
            nonlocal made
            made += event == "call"

        tasks = [start(bus.client.call, number, LONG) for number in range(callers)]
        sys.setprofile(note)
        try:
            assert [task.result() for task in tasks] == list(range(callers))
        finally:
            sys.setprofile(None)
        return made

    assert calls_made(400) < 6 * calls_made(100)


# Out of file descriptors.

OUT_OF_DESCRIPTORS = """
    import errno, os, resource
    import gevent
    from gevent import socket
    from ratchet import bus

    with bus.listen({address!r}) as server, bus.connect(server.address) as client:
        serving = gevent.spawn(server.serve, lambda request: request)
        assert client.call(b"before", {long}) == b"before"
        family = socket.AF_INET if isinstance(server.address, tuple) else socket.AF_UNIX
        where = server.address if family == socket.AF_INET else server.address[len("unix:"):]
        ours = [socket.socket(family) for _ in range(3)]
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError as error:
            assert error.errno == errno.EMFILE
        for each in ours:
            each.connect(where)
        for number in range(100):
            assert client.call(b"%d" % number, {long}) == b"%d" % number
        assert server.stats().connections == 1
        for descriptor in taken:
            os.close(descriptor)
        others = [bus.new_client(each) for each in ours]
        assert [other.call(b"after", {long}) for other in others] == [b"after"] * 3
        assert client.call(b"after", {long}) == b"after"
        assert server.stats().connections == 4
        for other in others:
            other.close()
    serving.join({long})
    print("ended", serving.successful())
"""


@on_sockets_of_each_form
@pytest.mark.parametrize(
    "name", ["max_queued", "max_queued_bytes", "max_connections", "max_in_flight", "high_water"]
)
def test_more_than_there_can_be_of_anything_is_no_limit(open_bus: OpenBus, start: Start, name: str) -> None:
    bus = open_bus(limits=Limits(**{name: 10**30}))
    start(bus.server.serve, lambda request: request, workers=1)
    assert bus.client.call("question", LONG) == "question"


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_out_of_file_descriptors_on_accept_it_goes_on_with_those_it_has_and_accepts_later(
    family: str, tmp_path: Any
) -> None:
    address = ("127.0.0.1", 0) if family == "tcp" else f"unix:{tmp_path}/bus"
    assert output_of(OUT_OF_DESCRIPTORS.format(address=address, long=LONG)) == "ended True\n"


# A peer's machine that vanishes.


@pytest.mark.parametrize("kind", ["tcp", "tls", "tcp-plain"])
def test_keepalive_and_no_user_time_out_is_set_on_both_sides_of_every_tcp_connection(bus: Bus) -> None:
    bus.check_works()
    client, server = bus.client, bus.server
    assert isinstance(client, ClientBus)
    assert isinstance(server, ServerBus)
    connections = [link.stream for link in client._servers.connections]
    connections += [session.stream for session in server._admission.connections]
    assert len(connections) == 2
    for connection in connections:
        option: Callable[..., int] = connection._transport._raw.getsockopt
        assert option(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert option(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0
        idle = option(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        interval = option(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        probes = option(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
        assert idle + interval * probes == 30
        # It would count a window that is closed.
        assert option(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 0


# Many connections.


def test_of_many_clients_that_come_at_once_each_turn_accepts_more(tmp_path: Any) -> None:
    loop: Any = gevent.get_hub().loop
    with ratchet_bus.listen(f"unix:{tmp_path}/bus") as server, ExitStack() as stack:
        for _ in range(300):
            stack.enter_context(socket.socket(socket.AF_UNIX)).connect(f"{tmp_path}/bus")
        before = loop.iteration
        wait_until(lambda: server.stats().connections == 300, "all clients to be accepted")
        # 1 + 2 + 4 + ... + 64 + 100 + 100
        assert loop.iteration - before < 20


def many_clients(bus: Bus, count: int) -> list[Any]:
    return [bus.client, *(bus.new_client() for _ in range(count - 1))]


def test_drain_with_many_busy_connections_answers_all_that_was_taken_and_rejects_the_rest(
    bus: Bus, start: Start
) -> None:
    go_on = Event()

    def handler(request: int) -> int:
        go_on.wait()
        return request + 1

    serving = start(bus.server.serve, handler, workers=50)
    clients = many_clients(bus, 50)
    sent = [client.send_request(number) for number in range(2) for client in clients]
    wait_until(lambda: bus.server.stats()[1:3] == (50, 50))
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    assert list(bus.server) == []
    go_on.set()
    outcomes = []
    for each in sent:
        try:
            outcomes.append(each.recv_response(LONG))
        except Exception as error:
            outcomes.append((type(error).__name__, getattr(error, "outcome", "")))
    assert sorted(map(str, outcomes)) == sorted(
        [str(each.request + 1) for each in sent if each.error is None]
        + ["('Rejected', <Outcome.NOT_RUN: 'NOT_RUN'>)"] * 50
    )
    assert draining.result() is True
    assert serving.result() is None
    assert bus.server.stats()[:5] == (0, 0, 0, 50, 50)


def test_close_with_many_busy_connections_fails_every_request_and_ends_serve(bus: Bus, start: Start) -> None:
    interrupted = 0

    def handler(request: int) -> None:
        nonlocal interrupted
        try:
            Event().wait()
        finally:
            interrupted += 1

    serving = start(bus.server.serve, handler, workers=50)
    sent = [client.send_request(number) for number in range(2) for client in many_clients(bus, 50)]
    wait_until(lambda: bus.server.stats()[1:3] == (50, 50))
    bus.server.close()
    for each in sent:
        with pytest.raises(Exception, match=r"closed|lost") as raised:
            each.recv_response(LONG)
        assert type(raised.value).__name__ in ("BusClosed", "ConnectionLost")
    assert serving.result() is None
    assert interrupted == 50
    assert bus.server.stats()[:3] == (0, 0, 0)


@on_sockets_of_each_form
def test_small_messages_behind_a_large_one_are_not_held_up(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    large = "x" * 300_000
    requests = [large, "a", "b", large, large, "c", "", large, "d"]
    sent = [bus.client.send_request(request) for request in requests]
    assert [transaction.recv_response(LONG) for transaction in sent] == requests
    assert [bus.client.call(request, timeout=LONG) for request in requests] == requests
