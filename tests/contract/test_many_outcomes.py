"""How the requests of one `call_many` end, one by one, and what interrupts them all."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from gevent import GreenletExit
from gevent.event import Event

from contract.buses import (
    Bus,
    OpenBus,
    OpenClient,
    Start,
    is_plain,
    on_each_with_codec,
    on_every_kind,
    on_local,
    on_sockets,
    on_sockets_of_each_form,
    outcomes,
)
from contract.clients import connect
from helpers import LONG, active_watchers, wait_until
from ratchet import (
    BusClosed,
    BusError,
    BusTimeout,
    ConnectionLost,
    Outcome,
    Rejected,
)
from ratchet import (
    bus as ratchet_bus,
)
from ratchet.bus import Codec, Limits, codecs
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire

# Errors of single ones.


@on_every_kind
def test_of_a_closed_bus_each_is_an_error(bus: Bus) -> None:
    bus.client.close()
    assert outcomes(bus.client.call_many([1, 2])) == [(BusClosed, "NOT_SENT")] * 2


@on_every_kind
def test_a_bus_that_is_closed_meanwhile_ends_all(bus: Bus, start: Start) -> None:
    calling = start(bus.client.call_many, [1, 2, 3], LONG)
    bus.wait_for_queued(3)
    bus.take().send_response("one")
    wait_until(lambda: bus.client.stats().answered == 1)
    bus.client.close()
    results = calling.result()
    assert results[0] == "one"
    assert {type(each) for each in results[1:]} == {BusClosed}
    assert {each.outcome for each in results[1:]} <= {Outcome.UNKNOWN, Outcome.NOT_RUN}


@on_local
def test_a_bus_that_is_closed_while_some_wait_for_a_place_ends_all(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(maxsize=2)
    calling = start(bus.client.call_many, range(5))
    calling.wait_until_blocked()
    bus.client.close()
    assert {(type(each), str(each.outcome)) for each in calling.result()} <= {
        (BusClosed, "NOT_SENT"),
        (BusClosed, "NOT_RUN"),
    }


@on_sockets_of_each_form
def test_a_connection_that_is_lost_ends_all_that_went_on_it(
    open_client: OpenClient, start: Start, kind: str
) -> None:
    client, raw = open_client()
    calling = start(client.call_many, [1, 2], LONG)
    if not is_plain(kind):
        raw.receive_hello()
    assert [raw.receive_message()[4] for _ in range(2)] == [[b"1"], [b"2"]]
    calling.wait_until_blocked()
    raw.reset()
    assert outcomes(calling.result()) == [(ConnectionLost, "UNKNOWN")] * 2
    assert outcomes(client.call_many([3])) == [(ConnectionLost, "NOT_SENT")]


@on_sockets
def test_of_a_frame_that_has_left_in_part_only_the_rest_is_not_sent(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client(codec=None, limits=Limits(high_water=64 * 1024 * 1024))
    requests = [b"x" * 1_000_000] * 30
    calling = start(client.call_many, requests)
    wait_until(lambda: client.stats().in_flight == 30)
    calling.wait_until_blocked()
    raw.receive_hello()
    assert raw.receive_message()[4] == [requests[0]]
    raw.reset()
    results = [str(each.outcome) for each in calling.result()]
    assert results[0] == "UNKNOWN"
    assert results[-1] == "NOT_SENT"
    assert results == sorted(results, reverse=True)


def test_a_server_that_drains_refuses_what_it_has_not_taken(bus: Bus, start: Start) -> None:
    calling = start(bus.client.call_many, [1, 2, 3], LONG)
    bus.wait_for_queued(3)
    taken = bus.take()
    draining = start(bus.server.drain, LONG)
    draining.wait_until_blocked()
    taken.send_response("one")
    assert outcomes(calling.result()) == ["one", (Rejected, "NOT_RUN"), (Rejected, "NOT_RUN")]
    assert draining.result() is True


@on_sockets
def test_those_that_were_not_sent_go_to_the_next_connection(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(server_limits=Limits(max_in_flight=2))

    def handle(request: object) -> object:
        gevent.sleep(0.001)
        return request

    with connect(bus) as client:
        client.wait_connected(LONG)
        start(bus.server.serve, handle, workers=1)
        calling = start(client.call_many, range(20), LONG)
        wait_until(lambda: bus.server.stats().answered >= 3)
        client._servers.places[0].current.stream.abort(ConnectionLost("cut"))
        results = calling.result()
    lost = [each for each in results if isinstance(each, BusError)]
    assert 1 <= len(lost) <= 2
    assert {(type(each), each.outcome) for each in lost} <= {(ConnectionLost, Outcome.UNKNOWN)}
    assert [each for each in results if not isinstance(each, BusError)] == [
        number for number, each in enumerate(results) if not isinstance(each, BusError)
    ]


# Codecs on responses.


def refuse_odd(body: bytes) -> Any:
    number = codecs.json.response_from_bus(body)
    if number % 2:
        raise ValueError(f"{number} is odd")
    return number


@on_each_with_codec
def test_a_response_that_cannot_be_decoded_is_an_error_that_says_why(open_bus: OpenBus, start: Start) -> None:
    json = codecs.json
    codec = Codec(json.request_to_bus, json.request_from_bus, json.response_to_bus, refuse_odd)
    bus = open_bus(codec=codec)
    start(bus.server.serve, lambda number: number)
    results = bus.client.call_many([0, 1, 2], LONG)
    assert outcomes(results) == [0, (BusError, "RAN"), 2]
    assert isinstance(results[1].__cause__, ValueError)
    assert "1 is odd" in str(results[1])
    assert bus.client.call_many([4]) == [4]


@on_each_with_codec
@pytest.mark.parametrize("death", [GreenletExit, gevent.Timeout, KeyboardInterrupt])
def test_an_interrupt_in_the_codec_of_a_response_comes_out(
    open_bus: OpenBus, start: Start, death: type[BaseException]
) -> None:
    strikes = [True]

    def strike(body: bytes) -> Any:
        if strikes:
            strikes.clear()
            raise death
        return codecs.json.response_from_bus(body)

    json = codecs.json
    bus = open_bus(codec=Codec(json.request_to_bus, json.request_from_bus, json.response_to_bus, strike))
    start(bus.server.serve, lambda number: number)
    with pytest.raises(death):
        bus.client.call_many([0, 1, 2], LONG)
    assert bus.is_quiet
    assert bus.client.call_many([0, 1, 2], LONG) == [0, 1, 2]


# Time-outs.


@pytest.mark.virtual_time
@on_every_kind
def test_the_time_is_that_of_all_and_ends_those_that_have_no_answer(bus: Bus, start: Start) -> None:
    watchers = active_watchers()
    calling = start(bus.client.call_many, [1, 2, 3], 0.3)
    bus.wait_for_queued(3)
    batch = bus.server.recv_requests(2)
    batch[0][0].send_response("one")
    results = calling.result()
    not_run = "UNKNOWN" if bus.plain else "NOT_RUN"
    assert outcomes(results) == ["one", (BusTimeout, "UNKNOWN"), (BusTimeout, not_run)]
    assert "within 0.3 s" in str(results[2])
    assert bus.client.stats().in_flight == 0
    if not bus.plain:
        wait_until(lambda: batch[1][0].cancelled, "the server to be told")
        wait_until(lambda: bus.server.stats().queued == 0)
        assert bus.client.stats().cancelled == 2
    batch.clear()
    wait_until(lambda: active_watchers() <= watchers, "its watchers to be gone")


@pytest.mark.virtual_time
@on_every_kind
def test_no_time_at_all_sends_nothing(bus: Bus) -> None:
    results = bus.client.call_many([1, 2], 0)
    assert outcomes(results) == [(BusTimeout, "NOT_SENT")] * 2
    assert bus.is_quiet
    assert bus.server.stats().cancelled == 0


@pytest.mark.virtual_time
@on_local
def test_those_that_found_no_place_in_time_were_not_sent(open_bus: OpenBus) -> None:
    bus = open_bus(maxsize=2)
    results = bus.client.call_many(range(4), 0.05)
    expected = [(BusTimeout, "NOT_RUN")] * 2 + [(BusTimeout, "NOT_SENT")] * 2
    assert outcomes(results) == expected
    assert bus.server.stats().queued == 0
    bus.check_works()


@pytest.mark.virtual_time
@on_sockets
def test_those_that_the_server_did_not_take_in_time_were_not_sent(open_bus: OpenBus) -> None:
    bus = open_bus(server_limits=Limits(max_in_flight=2))
    assert isinstance(bus.client, ratchet_bus.ClientBus)
    bus.client.wait_connected(LONG)
    results = bus.client.call_many(range(4), 0.05)
    expected = [(BusTimeout, "NOT_RUN")] * 2 + [(BusTimeout, "NOT_SENT")] * 2
    assert outcomes(results) == expected
    wait_until(lambda: bus.server.stats().queued == 0)
    bus.check_works()


@pytest.mark.virtual_time
@on_sockets
def test_a_server_that_says_nothing_when_the_time_is_over_holds_nobody_up(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client()
    raw.say_hello(server="silent")
    client.wait_connected(LONG)
    results = client.call_many([1, 2], 0.2)
    assert outcomes(results) == [(BusTimeout, "UNKNOWN")] * 2
    raw.receive_hello()
    ids = [raw.receive_message()[2] for _ in range(2)]
    assert [raw.receive_message()[:3] for _ in range(2)] == [(wire.CANCEL, 0, id) for id in ids]
    assert client.stats().in_flight == 0


@on_sockets
def test_a_server_that_sees_the_time_end_first_is_believed(open_client: OpenClient, start: Start) -> None:
    client, raw = open_client()
    raw.say_hello(server="hasty")
    client.wait_connected(LONG)
    raw.receive_hello()
    calling = start(client.call_many, [1, 2], LONG)
    ids = [raw.receive_message()[2] for _ in range(2)]
    raw.send(wire.encode_error(ids[0], Reason.CANCELLED, ("Cancelled", "its time is over", "")))
    raw.send(wire.encode(wire.RESPONSE, 0, ids[1], 0, [b"2"]))
    results = calling.result()
    assert outcomes(results) == [(BusTimeout, "UNKNOWN"), 2]
    assert "within 20 s" in str(results[0])


@pytest.mark.virtual_time
@on_sockets
def test_while_there_is_no_connection_all_wait_for_one_within_their_time(kind: str) -> None:
    with ratchet_bus.connect("127.0.0.1:1", codec=codecs.json) as client:
        results = client.call_many([1, 2], 0.3)
    assert outcomes(results) == [(BusTimeout, "NOT_SENT")] * 2


# Interrupts.


@on_every_kind
@pytest.mark.parametrize("how", [GreenletExit, gevent.Timeout, KeyboardInterrupt])
def test_an_interrupted_call_cancels_what_is_open_and_nothing_else(
    bus: Bus, start: Start, how: type[BaseException]
) -> None:
    # On a plain connection, only a request tells that the server has accepted it.
    bus.check_works()
    watchers = active_watchers()
    other = bus.client.send_request("other")

    def call() -> None:
        with pytest.raises(how):
            bus.client.call_many([1, 2, 3])

    calling = start(call)
    bus.wait_for_queued(4)
    batch = bus.server.recv_requests(3)
    assert batch[1][0].send_response("one") is True
    calling.thread.kill(how)
    calling.result()
    if bus.plain:
        for transaction, _ in batch[:1] + batch[2:]:
            transaction.send_response("too late")
        bus.take().send_response("too late")
    else:
        wait_until(lambda: batch[2][0].cancelled and bus.server.stats().queued == 0, "it to be told")
        assert batch[2][0].send_response("too late") is False
        batch[0][0].send_response("answer")
    assert other.recv_response(LONG) == ("too late" if bus.plain else "answer")
    wait_until(lambda: bus.is_quiet)
    bus.check_works()
    wait_until(lambda: active_watchers() <= watchers, "its watchers to be gone")


@pytest.mark.parametrize("kind", ["local", "tcp", "tls"])
def test_a_call_that_is_killed_while_some_wait_for_room_takes_them_with_it(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(maxsize=2, server_limits=Limits(max_in_flight=2))
    if isinstance(bus.client, ratchet_bus.ClientBus):
        bus.client.wait_connected(LONG)
    victim = start(bus.client.call_many, range(10))
    bus.wait_for_queued(2)
    victim.wait_until_blocked()
    victim.kill()
    wait_until(lambda: bus.is_quiet)
    assert bus.server.stats().cancelled == 2
    bus.check_works()


@on_every_kind
def test_an_interrupted_handler_s_call_is_cancelled(bus: Bus, start: Start) -> None:
    other, other_client = ratchet_bus.new_local()
    begun = Event()

    def handle(request: object) -> object:
        begun.set()
        return other_client.call_many([1, 2, 3])

    if bus.plain:
        other.close()
        return
    start(bus.server.serve, handle)
    sent = bus.client.send_request("question")
    assert begun.wait(LONG)
    wait_until(lambda: other.stats().queued == 3)
    sent.cancel()
    wait_until(lambda: other.stats().queued == 0, "them to be cancelled")
    other.close()
