"""Deadlines: how long a request may take, told to the server and handed on by its handlers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import Bus, OpenBus, Start, on_local, on_sockets
from helpers import LONG, burn, wait_until
from ratchet import BusTimeout, Cancelled, Rejected, RemoteError, thread
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire

SOON = 0.05
# Over a socket a deadline is told in whole milliseconds, rounded up.
ROUNDING = 0.002


@pytest.mark.virtual_time
def test_the_deadline_passes_while_a_request_is_queued_and_it_is_never_delivered(bus: Bus) -> None:
    # Once it is connected, a request leaves before its time is over.
    bus.check_works()
    sent = bus.client.send_request("question", timeout=0.05)
    with pytest.raises(BusTimeout) as raised:
        sent.recv_response(LONG)
    # Over a socket, the server says so.
    assert raised.value.outcome == "NOT_RUN"
    wait_until(lambda: bus.server.stats().cancelled == 1)
    assert bus.server.stats().queued == 0
    bus.check_works()


def test_the_deadline_passes_while_the_hub_is_late_and_the_request_is_never_delivered(bus: Bus) -> None:
    sent = bus.client.send_request("question", timeout=0.02)
    if bus.kind != "local":
        wait_until(lambda: bus.server.stats().queued == 1 or sent.done)
    burn(0.03)
    # No timer has fired yet: the very next call must see the time itself.
    with pytest.raises(BusTimeout):
        bus.server.recv_request(0)
    # On a busy machine the server's word may come before this side's own timer rings.
    with pytest.raises((BusTimeout, Rejected)) as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == "NOT_RUN"
    stats = bus.server.stats()
    assert (stats.queued, stats.in_flight, stats.answered) == (0, 0, 0)
    bus.check_works()


def test_serve_does_not_run_a_request_whose_deadline_passed_while_it_was_queued(
    bus: Bus, start: Start
) -> None:
    ran: list[object] = []

    def handler(request: float) -> None:
        ran.append(request)
        burn(request)

    busy = bus.client.send_request(0.04)
    sent = bus.client.send_request(0, timeout=0.02)
    # Both are there, or else the second one's time would begin after the first.
    wait_until(lambda: bus.server.stats().queued == 2 or sent.done)
    start(bus.server.serve, handler, workers=1)
    with pytest.raises(BusTimeout):
        sent.recv_response(LONG)
    busy.recv_response(LONG)
    bus.client.call(0.001)
    assert ran == [0.04, 0.001]


@on_sockets
def test_a_client_that_still_waits_is_told_that_the_deadline_passed_before_the_request_ran(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.request(7, arg=1)
    raw.request(8)
    bus.wait_for_queued(2)
    burn(0.002)
    transaction = bus.take()
    kind, _, id, arg, _ = raw.receive_message()
    assert (kind, id, arg) == (wire.ERROR, 7, Reason.OUT_OF_TIME)
    transaction.send_response("answer")
    assert raw.receive_message()[2] == 8
    assert bus.server.stats().cancelled == 1


@on_sockets
def test_an_error_of_the_server_out_of_time_is_rejected_and_certainly_not_run(
    open_client: Callable[..., Any],
) -> None:
    client, raw = open_client()
    sent = client.send_request("question", timeout=LONG)
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.ERROR, 0, id, Reason.OUT_OF_TIME, [b"Rejected", b"too late", b""]))
    with pytest.raises(Exception, match="too late") as raised:
        sent.recv_response(LONG)
    assert type(raised.value).__name__ == "Rejected"
    assert getattr(raised.value, "outcome", None) == "NOT_RUN"


@on_sockets
def test_a_deadline_travels_as_the_milliseconds_that_are_left(open_client: Callable[..., Any]) -> None:
    client, raw = open_client()
    client.send_request("question", timeout=20)
    client.send_request("question")
    client.send_request("question", timeout=1e9)
    assert 19_000 < raw.receive_message()[3] <= 20_000
    assert raw.receive_message()[3] == 0
    assert raw.receive_message()[3] == 0xFFFFFFFF


# A handler that itself sends requests.


@pytest.fixture
def back_end(open_bus: OpenBus, start: Start) -> Bus:
    """A second bus, whose requests are answered with the time that they have left."""
    back_end = open_bus()
    start(back_end.server.serve, lambda request, transaction: transaction.remaining)
    return back_end


each_nested_timeout = pytest.mark.parametrize(
    ("own", "least", "most"), [(None, LONG / 2, LONG), (2 * LONG, LONG / 2, LONG), (LONG / 4, 0, LONG / 4)]
)


@each_nested_timeout
def test_a_handler_in_serve_inherits_what_is_left_of_its_own_deadline_unless_it_sets_a_shorter_one(
    bus: Bus, back_end: Bus, start: Start, own: float | None, least: float, most: float
) -> None:
    start(bus.server.serve, lambda request: back_end.client.call(request, timeout=own))
    remaining = bus.client.call("question", timeout=LONG)
    assert least < remaining <= most + ROUNDING


@each_nested_timeout
def test_code_in_with_transaction_inherits_what_is_left_unless_it_sets_a_shorter_one(
    bus: Bus, back_end: Bus, own: float | None, least: float, most: float
) -> None:
    sent = bus.client.send_request("question", timeout=LONG)
    with bus.take() as transaction:
        remaining = back_end.client.call("question", timeout=own)
        transaction.send_response(remaining)
    assert sent.recv_response(LONG) == remaining
    assert least < remaining <= most + ROUNDING
    # Behind the block, the deadline is no longer this thread's.
    assert back_end.client.call("question") is None


def test_a_thread_that_a_handler_attaches_inherits_its_deadline(
    bus: Bus, back_end: Bus, start: Start
) -> None:
    def handler(request: object) -> object:
        remaining: list[float] = []
        attached = thread.attach(lambda: remaining.append(back_end.client.call(request)))
        assert thread.wait_all([attached], timeout=LONG)
        return remaining[0]

    start(bus.server.serve, handler)
    assert LONG / 2 < bus.client.call("question", timeout=LONG) <= LONG + ROUNDING
    assert bus.client.call("question") is None


def test_a_request_without_a_deadline_hands_none_on(bus: Bus, back_end: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: back_end.client.call(request), workers=1)
    assert bus.client.call("question", timeout=LONG) is not None
    assert bus.client.call("question") is None


def test_behind_a_block_within_a_block_the_outer_deadline_holds_again(bus: Bus, back_end: Bus) -> None:
    outer = bus.client.send_request("outer", timeout=LONG)
    inner = bus.client.send_request("inner", timeout=LONG / 2)
    with bus.take() as first:
        with bus.take() as second:
            second.send_response(back_end.client.call("question"))
        first.send_response(back_end.client.call("question"))
    assert inner.recv_response(LONG) <= LONG / 2 + ROUNDING
    assert LONG / 2 < outer.recv_response(LONG) <= LONG + ROUNDING


def test_a_request_made_when_the_inherited_time_is_over_is_not_sent(bus: Bus, back_end: Bus) -> None:
    bus.client.send_request("question", timeout=0.5)
    transaction = bus.take()
    errors: list[BusTimeout] = []
    with transaction:
        burn(0.55)
        try:
            back_end.client.call("question")
        except BusTimeout as error:
            errors.append(error)
        transaction.send_response("late")
    assert [error.outcome for error in errors] == ["NOT_SENT"]
    assert back_end.server.stats().answered == 0


@pytest.mark.virtual_time
def test_waiting_for_a_nested_response_ends_with_the_inherited_deadline(bus: Bus, open_bus: OpenBus) -> None:
    silent = open_bus()
    sent = bus.client.send_request("question", timeout=SOON)
    errors: list[BusTimeout] = []

    def handle() -> None:
        # A copy of the context, as an attached thread has it: nobody interrupts this one.
        try:
            silent.client.call("question")
        except BusTimeout as error:
            errors.append(error)

    with bus.take():
        thread.attach(handle)
        gevent.sleep(LONG)  # until it is interrupted
    wait_until(lambda: errors)
    with pytest.raises(BusTimeout):
        sent.recv_response()


def test_giving_a_request_up_gives_up_what_its_handler_waits_for(
    bus: Bus, open_bus: OpenBus, start: Start
) -> None:
    behind = open_bus()
    start(bus.server.serve, lambda request: behind.client.call(request))
    sent = bus.client.send_request("question")
    inner = behind.take()
    sent.cancel()
    with pytest.raises(Cancelled):
        sent.recv_response()
    wait_until(lambda: inner.cancelled)
    assert inner.send_response("late") is False


def test_an_error_of_a_nested_request_goes_on_to_the_client(
    bus: Bus, open_bus: OpenBus, start: Start
) -> None:
    behind = open_bus()
    start(bus.server.serve, lambda request: behind.client.call(request))
    start(behind.server.serve, lambda request: 1 / request)
    with pytest.raises(RemoteError) as raised:
        bus.client.call(0)
    assert raised.value.remote_type == "RemoteError"
    assert raised.value.remote_message == "ZeroDivisionError: division by zero"


@on_local
def test_a_wait_for_room_ends_with_the_inherited_deadline(bus: Bus, open_bus: OpenBus) -> None:
    full = open_bus(maxsize=1)
    full.client.send_request("fills it")
    bus.client.send_request("question", timeout=SOON)
    errors: list[BusTimeout] = []
    ended = Event()

    def send() -> None:
        try:
            full.client.send_request("no room")
        except BusTimeout as error:
            errors.append(error)
        ended.set()

    with bus.take():
        thread.attach(send)
        gevent.sleep(LONG)  # until it is interrupted
    assert ended.wait(LONG)
    assert [error.outcome for error in errors] == ["NOT_SENT"]
