"""Nothing that a peer does grows without bound, or reaches further than its own requests."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import Bus, OpenBus, Start, Task, on_every_kind, on_sockets
from helpers import LONG, narrow, turns, wait_until
from ratchet import Abandoned, BusClosed, ConnectionLost, Ratchet, RemoteError, thread
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits, ServerBus
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire


def server_of(bus: Bus) -> ServerBus[Any, Any]:
    assert isinstance(bus.server, ServerBus)
    return bus.server


def unsent_of(bus: Bus) -> int:
    return sum(session.stream.output.unsent for session in server_of(bus)._admission.connections)


@on_sockets
def test_a_request_that_a_draining_server_refused_is_not_run_when_its_client_reads_again(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(limits=Limits(high_water=1_000))
    server = server_of(bus)
    raw = bus.raw_client()
    raw.request(1)
    raw.request(2)
    first = bus.take()
    bus.wait_for_queued(1)
    # More than the kernel keeps for a client that does not read.
    first.send_response("x" * 15_000_000)
    taker = start(server.recv_request)
    wait_until(
        lambda: any(session.gate.parked for session in server._admission.connections),
        "a request that is parked",
    )
    draining = start(server.drain)
    answers = {message[2]: message for message in (raw.receive_message() for _ in range(3))}
    assert answers[1][0] == wire.RESPONSE
    assert answers[2][0:4] in (
        (wire.GOAWAY, 0, 2, 0),
        (wire.ERROR, 0, 2, Reason.DRAINING),
    )
    with pytest.raises(BusClosed):
        taker.result()
    assert draining.result() is True
    assert server.stats()[:4] == (0, 0, 0, 1)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_plain_answers_that_wait_for_an_earlier_one_count_as_in_flight(kind: str, open_bus: OpenBus) -> None:
    bus = open_bus(limits=Limits(max_in_flight=4))
    raw = bus.raw_client()
    plain = wire.encode(wire.PLAIN, 0, 0, 0, [b"1"])
    raw.send(plain * 20)
    slow = bus.take()
    for _ in range(3):
        bus.take().send_response("quick")
    turns(20)
    # Four are open, so the fifth is not even read.
    assert bus.server.stats().queued == 0
    slow.send_response("slow")
    assert raw.receive_message()[4] == [b'"slow"']
    bus.wait_for_queued(4)


@on_sockets
def test_a_client_that_only_pings_and_never_reads_grows_nothing(open_bus: OpenBus) -> None:
    limits = Limits(high_water=2_000)
    bus = open_bus(limits=limits)
    raw = bus.raw_client()
    pings = wire.encode(wire.PING, 0, 1, 0, []) * 1_000
    wait_until(lambda: server_of(bus)._admission.connections)
    for connection in server_of(bus)._admission.connections:
        # Or the kernel might take every answer.
        narrow(connection.stream)

    def send_pings() -> None:
        for _ in range(500):
            raw.send(pings)

    flood = gevent.spawn(send_pings)
    try:
        wait_until(lambda: unsent_of(bus) >= limits.high_water or flood.ready())
        assert not flood.ready()
        turns(50)
        # One read may bring some more, of 64 KiB at the most.
        assert unsent_of(bus) < limits.high_water + 64 * 1024
    finally:
        flood.kill()
    bus.check_works()


@on_sockets
def test_a_long_error_fits_whatever_the_limits_are(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(limits=Limits(max_message=500))

    def handler(request: object) -> object:
        raise ValueError("x" * 1_000_000)

    start(bus.server.serve, handler)
    innocent = bus.client.send_request("question")
    for sent in (bus.client.send_request("question"), innocent):
        with pytest.raises(RemoteError) as raised:
            sent.recv_response(LONG)
        assert raised.value.remote_type == "ValueError"
        assert 1_000 < len(raised.value.remote_message) < 100_000


@pytest.mark.parametrize("host", ["a..b", "a" * 70])
def test_an_address_that_no_attempt_can_reach_fails_at_once(host: str) -> None:
    with ratchet_bus.connect(f"{host}:80") as client, pytest.raises(ConnectionLost) as raised:
        client.call(b"question")
    assert raised.value.outcome == "NOT_SENT"


@on_every_kind
def test_a_thread_that_was_handed_a_transaction_and_dies_abandons_it(kind: str, open_bus: OpenBus) -> None:
    if kind.endswith("plain"):
        lost: type[Exception] = ConnectionLost
    else:
        lost = Abandoned
    bus = open_bus()
    died: list[BaseException] = []
    kernel = Ratchet(errh=lambda error, thread: died.append(error))

    def handle(transaction: object) -> None:
        raise ValueError("no answer")

    sent = bus.client.send_request("question")
    handler = kernel.attach(handle, bus.take())
    with pytest.raises(lost):
        sent.recv_response(LONG)
    kernel.loop()
    assert died == [handler.exception]


@on_every_kind
def test_a_bus_that_is_closed_is_not_kept_by_the_threads_that_received_on_it(open_bus: OpenBus) -> None:
    bus = open_bus()
    done = Event()

    def serve_and_go_on() -> None:
        bus.server.recv_request(LONG)[0].send_response("answer")
        done.wait()

    taker = Task(serve_and_go_on)
    assert bus.client.call("question") == "answer"
    bus.client.close()
    bus.server.close()
    wait_until(lambda: not bus.server._intake.takers)
    done.set()
    taker.result()


def test_a_bus_is_free_when_it_is_closed_and_dropped() -> None:
    server, _ = ratchet_bus.new_local()
    kept = weakref.ref(server)
    server.close()
    gevent.sleep(0)
    del server, _
    gc.collect()
    assert kept() is None


@on_every_kind
def test_metadata_of_one_request_cannot_be_written_into_another(bus: Bus) -> None:
    bus.client.send_request("question")
    metadata = bus.take().metadata
    assert metadata == {}
    with pytest.raises(TypeError):
        metadata["tenant"] = "other"


@on_every_kind
def test_a_handler_of_three_arguments_is_refused(bus: Bus) -> None:
    with pytest.raises(TypeError, match="requires 3 arguments"):
        bus.server.serve(lambda request, transaction, more: None)


def test_limits_of_another_type_are_refused() -> None:
    with pytest.raises(TypeError, match="limits must be"):
        ratchet_bus.listen("127.0.0.1:0", limits={"max_message": 1})  # type: ignore[call-overload]


def test_threads_that_a_handler_of_serve_attaches_belong_to_the_scheduler_of_serve() -> None:
    owners = []
    server: ratchet_bus.LocalBus[str, Ratchet]
    server, client = ratchet_bus.new_local()
    with Ratchet() as kernel:
        kernel.attach(server.serve, lambda request: thread.attach(turns).kernel)
        owners.append(client.call("question"))
        server.close()
    assert owners == [kernel]


@pytest.mark.virtual_time
@on_sockets
def test_a_time_out_interrupts_a_handler_even_if_the_client_is_not_read_from(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(limits=Limits(max_in_flight=2))
    start(bus.server.serve, lambda request: gevent.sleep(LONG) if request == "sleep" else request)
    sleepers = [bus.client.send_request("sleep", timeout=0.3) for _ in range(2)]
    for sent in sleepers:
        with pytest.raises(TimeoutError):
            sent.recv_response()
    assert bus.client.call("question", timeout=LONG) == "question"
