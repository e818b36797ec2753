"""Serving, draining and closing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import (
    Bus,
    OpenBus,
    Start,
    connected,
    on_every_kind,
    on_plain_sockets,
    on_sockets_of_each_form,
)
from helpers import LONG, burn, turns, wait_until
from ratchet import BusClosed, BusError, ConnectionLost, Rejected
from ratchet import bus as ratchet_bus

# serve


@on_every_kind
def test_serve_calls_a_handler_of_one_argument_with_the_request(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: [request])
    assert bus.client.call("question") == ["question"]


@on_every_kind
def test_serve_calls_a_handler_of_two_required_arguments_with_the_transaction_too(
    bus: Bus, start: Start
) -> None:
    def handler(request: object, transaction: Any) -> object:
        assert transaction.request == request
        return type(transaction).__name__

    start(bus.server.serve, handler)
    assert bus.client.call("question") == "ServerTransaction"


@on_every_kind
def test_serve_leaves_an_argument_that_is_not_required_alone(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request, count=3: request * count)
    assert bus.client.call("ab") == "ababab"


class Adder:
    def __init__(self, number: int) -> None:
        self.number = number

    def add(self, request: int) -> int:
        return self.number + request

    def __call__(self, request: int, transaction: Any) -> int:
        assert transaction.cancelled is False
        return self.number + request


@on_every_kind
@pytest.mark.parametrize(
    "handler", [Adder(1).add, Adder(1), functools.partial(Adder.add, Adder(1)), (1).__add__]
)
def test_serve_takes_any_callable(bus: Bus, start: Start, handler: Callable[..., int]) -> None:
    start(bus.server.serve, handler)
    assert bus.client.call(2) == 3


@on_every_kind
def test_serve_never_runs_more_handlers_at_once_than_it_has_workers(bus: Bus, start: Start) -> None:
    go_on = Event()
    running: list[int] = []
    most: list[int] = []

    def handler(request: int) -> int:
        running.append(request)
        most.append(len(running))
        go_on.wait()
        running.remove(request)
        return request

    start(bus.server.serve, handler, workers=3)
    sent = [bus.client.send_request(number) for number in range(10)]
    bus.wait_for_in_flight(3)
    bus.wait_for_queued(7)
    assert running == [0, 1, 2]
    go_on.set()
    assert [transaction.recv_response(LONG) for transaction in sent] == list(range(10))
    assert max(most) == 3


@on_every_kind
@pytest.mark.parametrize("workers", [1, 4])
def test_a_long_queue_of_quick_requests_never_holds_the_hub(bus: Bus, start: Start, workers: int) -> None:
    handled: list[int] = []
    looks: list[int] = []

    def look() -> None:
        looks.append(len(handled))

    def handler(request: int) -> int:
        burn(0.0005)
        handled.append(request)
        return request

    sent = [bus.client.send_request(number) for number in range(400)]
    start(bus.server.serve, handler, workers=workers)
    timer = gevent.get_hub().loop.timer(0.001, 0.001)
    timer.start(look)
    assert [transaction.recv_response() for transaction in sent] == list(range(400))
    look()
    timer.close()
    # Twenty fit into a slice of 10 ms, on a busy machine fewer; to read what was sent may take another slice.
    assert max(later - earlier for earlier, later in pairwise([0, *looks])) <= 60


@on_every_kind
def test_a_thread_that_receives_by_hand_has_its_turn_beside_a_busy_team(bus: Bus, start: Start) -> None:
    by_hand: list[object] = []

    def receive() -> None:
        while len(by_hand) < 5:
            transaction, request = bus.server.recv_request()
            by_hand.append(request)
            transaction.send_response(request)

    start(bus.server.serve, lambda request: request, workers=3)
    receiver = start(receive)
    sent = [bus.client.send_request(number) for number in range(100)]
    assert [transaction.recv_response() for transaction in sent] == list(range(100))
    # The team is one participant: after each request of its it lets the other one go first.
    assert receiver.result() is None
    assert len(by_hand) == 5


@on_every_kind
def test_two_threads_may_serve_one_bus(bus: Bus, start: Start) -> None:
    servers = [start(bus.server.serve, lambda request: request, workers=1) for _ in range(2)]
    assert [bus.client.call(number) for number in range(10)] == list(range(10))
    bus.server.close()
    assert [server.result() for server in servers] == [None, None]


@on_every_kind
@pytest.mark.parametrize("end", ["close", "drain"])
def test_serve_returns_when_the_bus_is_closed_or_drained(bus: Bus, start: Start, end: str) -> None:
    server = start(bus.server.serve, lambda request: request)
    assert bus.client.call("question") == "question"
    getattr(bus.server, end)()
    assert server.result() is None


@on_every_kind
def test_serve_returns_at_once_on_a_closed_bus(bus: Bus) -> None:
    bus.server.close()
    bus.server.serve(lambda request: request)
    assert bus.server.stats().answered == 0


@on_every_kind
def test_a_handler_may_close_its_own_bus(bus: Bus, start: Start) -> None:
    server = start(bus.server.serve, lambda request: bus.server.close())
    sent = bus.client.send_request("stop")
    assert server.result() is None
    with pytest.raises((BusClosed, ConnectionLost)):
        sent.recv_response(LONG)


def test_a_handler_that_kills_its_worker_leaves_the_number_of_workers_as_it_was(
    bus: Bus, start: Start
) -> None:
    go_on = Event()

    def handler(request: str) -> str:
        if request == "die":
            gevent.kill(gevent.getcurrent())
        go_on.wait()
        return request

    start(bus.server.serve, handler, workers=2)
    for _ in range(4):
        bus.client.send_request("die")
    wait_until(lambda: bus.server.stats().failed == 4)
    sent = [bus.client.send_request("live") for _ in range(2)]
    bus.wait_for_in_flight(2)
    go_on.set()
    assert [transaction.recv_response(LONG) for transaction in sent] == ["live", "live"]


# Iteration


@on_every_kind
@pytest.mark.parametrize("end", ["close", "drain"])
def test_iteration_ends_when_the_bus_is_closed_or_drained(bus: Bus, start: Start, end: str) -> None:
    def serve() -> int:
        count = 0
        for transaction, request in bus.server:
            transaction.send_response(request)
            count += 1
        return count

    server = start(serve)
    assert [bus.client.call(number) for number in range(3)] == [0, 1, 2]
    getattr(bus.server, end)()
    assert server.result() == 3
    assert list(bus.server) == []


# close


@on_every_kind
def test_close_with_threads_waiting_gives_each_of_them_bus_closed(bus: Bus, start: Start) -> None:
    receivers = [start(bus.server.recv_request) for _ in range(3)]
    receivers[-1].wait_until_blocked()
    bus.server.close()
    for receiver in receivers:
        with pytest.raises(BusClosed):
            receiver.result()


@on_every_kind
def test_closing_the_client_gives_bus_closed_to_each_thread_that_waits_for_a_response(
    bus: Bus, start: Start
) -> None:
    sent = bus.client.send_request("question")
    waiters = [start(sent.recv_response), start(sent.recv_response), start(bus.client.call, "another")]
    waiters[-1].wait_until_blocked()
    transaction = bus.take()
    bus.client.close()
    for waiter in waiters:
        with pytest.raises(BusClosed):
            waiter.result()
    with pytest.raises(BusClosed) as raised:
        sent.recv_response()
    assert raised.value.outcome == "UNKNOWN"
    assert sent.done
    if not bus.plain:
        wait_until(lambda: transaction.cancelled)


@on_every_kind
def test_closing_the_server_fails_each_thread_that_waits_for_a_response(bus: Bus, start: Start) -> None:
    waiters = [start(bus.client.call, number) for number in range(3)]
    transaction = bus.take()
    bus.server.close()
    for waiter in waiters:
        with pytest.raises(BusClosed if bus.kind == "local" else ConnectionLost):
            waiter.result()
    assert transaction.cancelled is True
    assert transaction.send_response("late") is False


@pytest.mark.parametrize("kind", ["local"])
def test_close_gives_bus_closed_to_a_thread_that_waits_for_room(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(maxsize=1)
    queued = bus.client.send_request(1)
    sender = start(bus.client.send_request, 2)
    sender.wait_until_blocked()
    bus.client.close()
    with pytest.raises(BusClosed) as raised:
        sender.result()
    assert raised.value.outcome == "NOT_SENT"
    with pytest.raises(BusClosed) as raised:
        queued.recv_response()
    assert raised.value.outcome == "NOT_RUN"


@on_sockets_of_each_form
def test_close_gives_bus_closed_to_a_thread_that_waits_to_send(
    open_client: Callable[..., Any], start: Start
) -> None:
    client, _ = open_client()
    big = client.send_request("x" * 8 * 1024 * 1024)
    sender = start(client.send_request, "more")
    sender.wait_until_blocked()
    client.close()
    with pytest.raises(BusClosed) as raised:
        sender.result()
    assert raised.value.outcome == "NOT_SENT"
    with pytest.raises(BusClosed) as raised:
        big.recv_response()
    assert raised.value.outcome == "NOT_SENT"  # not as a whole, so it cannot run


@on_every_kind
def test_close_ends_a_drain_that_waits(bus: Bus, start: Start) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    bus.server.close()
    assert draining.result() is False
    assert transaction.cancelled is True


@on_every_kind
def test_closing_twice_is_fine(bus: Bus) -> None:
    for side in (bus.server, bus.client):
        side.close()
        side.close()
    wait_until(lambda: bus.server.stats().connections == 0)
    assert bus.client.stats().connections == 0


@on_every_kind
def test_leaving_a_with_block_closes_the_bus(bus: Bus) -> None:
    for side in (bus.client, bus.server):
        with side as entered:
            assert entered is side
    with pytest.raises(BusClosed):
        bus.server.recv_request()
    with pytest.raises(BusClosed):
        bus.client.send_request("question")


@on_every_kind
def test_a_bus_is_closed_when_an_exception_leaves_its_with_block(bus: Bus) -> None:
    with pytest.raises(KeyError, match="wrong"):
        with bus.client:
            raise KeyError("wrong")
    with pytest.raises(BusClosed):
        bus.client.cast("notice")


@on_every_kind
def test_every_call_of_a_closed_bus_says_bus_closed_at_once(bus: Bus) -> None:
    bus.server.close()
    bus.client.close()
    calls: list[Callable[[], object]] = [
        lambda: bus.client.send_request("question"),
        lambda: bus.client.call("question", timeout=LONG),
        lambda: bus.client.cast("notice"),
        lambda: bus.server.recv_request(),
        lambda: bus.server.recv_request(0),
    ]
    for call in calls:
        with pytest.raises(BusClosed) as raised:
            call()
        assert raised.value.outcome in ("NOT_SENT", "NOT_RUN")


@on_every_kind
@pytest.mark.parametrize("one_way", [False, True])
def test_closing_the_server_interrupts_the_handlers_of_serve(bus: Bus, start: Start, one_way: bool) -> None:
    trace: list[str] = []

    def handler(request: object) -> None:
        try:
            trace.append("blocks")
            gevent.sleep(LONG)
            trace.append("goes on")
        finally:
            trace.append("finally")

    server = start(bus.server.serve, handler)
    if one_way:
        bus.client.cast("notice")
    else:
        bus.client.send_request("question")
    wait_until(lambda: trace)
    bus.server.close()
    assert server.result() is None
    assert trace == ["blocks", "finally"]


@on_every_kind
def test_every_request_is_counted_also_when_the_server_closes(bus: Bus) -> None:
    for number in range(2):
        bus.client.send_request(number)
        bus.client.cast(number)
    bus.wait_for_queued(4)
    taken = [bus.take(), bus.take()]
    bus.server.close()
    stats = bus.server.stats()
    assert (stats.queued, stats.in_flight) == (0, 0)
    # What was cast and not begun was nobody's wish to give up.
    # The plain form has no word for it.
    assert (stats.answered, stats.failed, stats.cancelled) == ((0, 0, 4) if bus.plain else (0, 1, 3))
    assert [transaction.cancelled for transaction in taken] == [True, True]


# drain


@on_every_kind
def test_drain_of_an_idle_bus_returns_true_and_closes_it(bus: Bus) -> None:
    bus.check_works()
    assert bus.server.drain() is True
    with pytest.raises(BusClosed):
        bus.server.recv_request()
    with pytest.raises(BusError) as raised:
        bus.client.call("question")
    # A plain client was not told of the drain, and may send before it sees the end.
    assert bus.plain or raised.value.outcome in ("NOT_SENT", "NOT_RUN")


@on_every_kind
def test_drain_finishes_and_answers_what_was_taken_then_closes(bus: Bus, start: Start) -> None:
    go_on = Event()

    def handler(request: object) -> object:
        go_on.wait()
        return request

    server = start(bus.server.serve, handler)
    sent = [bus.client.send_request(number) for number in range(5)]
    bus.wait_for_in_flight(5)
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    turns()
    assert not any(transaction.done for transaction in sent)
    go_on.set()
    assert [transaction.recv_response(LONG) for transaction in sent] == list(range(5))
    assert draining.result() is True
    assert server.result() is None
    # That of a broker's client is to the broker.
    wait_until(lambda: bus.client.stats().connections == (bus.kind == "broker"))


def test_drain_rejects_requests_that_no_thread_has_taken_as_not_run(bus: Bus, start: Start) -> None:
    first = bus.client.send_request("taken")
    taken = bus.take()
    queued = [bus.client.send_request(number) for number in range(5)]
    bus.wait_for_queued(5)
    draining = start(bus.server.drain)
    for transaction in queued:
        with pytest.raises(Rejected) as raised:
            transaction.recv_response(LONG)
        assert raised.value.outcome == "NOT_RUN"
    assert bus.server.stats().queued == 0
    taken.send_response("answer")
    assert first.recv_response(LONG) == "answer"
    assert draining.result() is True


def test_drain_rejects_requests_also_if_it_has_nothing_else_to_wait_for(bus: Bus) -> None:
    queued = [bus.client.send_request(number) for number in range(5)]
    bus.wait_for_queued(5)
    assert bus.server.drain() is True
    for transaction in queued:
        with pytest.raises(Rejected) as raised:
            transaction.recv_response(LONG)
        assert raised.value.outcome == "NOT_RUN"
    assert bus.server.stats().failed == 5


def test_a_request_made_while_the_server_drains_is_rejected_and_certainly_not_run(
    bus: Bus, start: Start
) -> None:
    first = bus.client.send_request("taken")
    idle = bus.new_client()  # it has sent nothing, so nobody knows in which form to tell it
    taken = bus.take()
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    for client in (bus.client, idle):
        for _ in range(2):
            with pytest.raises(Rejected) as raised:
                client.call("too late")
            assert raised.value.outcome in ("NOT_SENT", "NOT_RUN")
    taken.send_response("answer")
    assert first.recv_response(LONG) == "answer"
    assert draining.result() is True


@on_every_kind
def test_recv_request_of_a_draining_bus_is_bus_closed(bus: Bus, start: Start) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    waiter = start(bus.server.recv_request)
    waiter.wait_until_blocked()
    draining = start(bus.server.drain)
    with pytest.raises(BusClosed):
        waiter.result()
    with pytest.raises(BusClosed):
        bus.server.recv_request()
    transaction.send_response("answer")
    assert draining.result() is True


@on_every_kind
def test_drain_with_a_timeout_returns_false_and_cuts_off_the_work_that_is_left(
    bus: Bus, start: Start
) -> None:
    trace: list[str] = []

    def handler(request: object) -> None:
        try:
            gevent.sleep(LONG)
        finally:
            trace.append("finally")

    server = start(bus.server.serve, handler)
    sent = bus.client.send_request("question")
    bus.wait_for_in_flight(1)
    assert bus.server.drain(timeout=0.005) is False
    assert server.result() is None
    assert trace == ["finally"]
    with pytest.raises((BusClosed, ConnectionLost)) as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == "UNKNOWN"


@on_every_kind
@pytest.mark.parametrize("timeout", [0, -1])
def test_drain_with_no_time_at_all_still_says_whether_work_was_left(bus: Bus, timeout: float) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    assert bus.server.drain(timeout) is False
    assert transaction.cancelled is True


@on_every_kind
def test_several_threads_may_drain_and_all_are_told(bus: Bus, start: Start) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    drains = [start(bus.server.drain) for _ in range(3)]
    drains[-1].wait_until_blocked()
    transaction.send_response("answer")
    assert [drain.result() for drain in drains] == [True, True, True]
    assert bus.server.drain() is True


@on_every_kind
def test_drain_of_a_closed_bus_returns_at_once(bus: Bus) -> None:
    bus.server.close()
    assert bus.server.drain() is True


def test_drain_is_done_when_the_last_taken_request_is_abandoned_or_given_up(bus: Bus, start: Start) -> None:
    given_up = bus.client.send_request("given up")
    bus.client.send_request("abandoned")
    transactions = [bus.take(), bus.take()]
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    given_up.cancel()
    wait_until(lambda: transactions[0].cancelled)
    assert not draining.ended
    transactions.clear()
    assert draining.result() is True


@on_every_kind
def test_drain_hands_over_a_last_answer_of_some_megabytes_before_it_closes(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=None)
    body = b"x" * (8 * 1024 * 1024)
    sent = [bus.client.send_request(b"question"), bus.client.send_request(b"question")]
    transactions = [bus.take(), bus.take()]
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    for transaction in transactions:
        start(transaction.send_response, body)
    assert [transaction.recv_response(LONG) == body for transaction in sent] == [True, True]
    assert draining.result() is True


@on_sockets_of_each_form
def test_a_draining_server_accepts_no_more_clients(bus: Bus, start: Start) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    draining = start(bus.server.drain)
    draining.wait_until_blocked()
    assert isinstance(bus.server, ratchet_bus.ServerBus)
    with pytest.raises(OSError, match=r"refused|No such file"):
        connected(bus.server.address)
    transaction.send_response("answer")
    assert draining.result() is True


@on_plain_sockets
def test_drain_closes_the_connection_of_a_plain_request_that_was_not_taken(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    bus.wait_for_queued(1)
    assert bus.server.drain() is True
    with pytest.raises(ConnectionLost):
        sent.recv_response(LONG)
