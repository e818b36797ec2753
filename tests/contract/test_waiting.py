"""Threads and waiting: what a wait leaves behind, who is woken, and what interrupts it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import gevent
import pytest
from gevent import GreenletExit

from contract.buses import Bus, OpenBus, OpenClient, Start, on_every_kind, on_local, on_sockets_of_each_form
from helpers import LONG, active_watchers, burn, in_os_thread, turns, wait_until
from ratchet import (
    Alarm,
    BusTimeout,
    ConnectionLost,
    Ratchet,
    RemoteError,
    thread,
)
from ratchet.bus import Limits

# Threads that are interrupted in a blocking call.


@dataclass
class BlockingCall:
    """A call that blocks, what must hold for it to block, and what puts things right afterwards."""

    call: Callable[[Bus], object]
    prepare: Callable[[Bus], Any] = lambda bus: None
    clean_up: Callable[[Bus, Any], object] = lambda bus, prepared: None


def take_and_answer(bus: Bus, prepared: object = None) -> None:
    bus.take().send_response("answer")


def answer_and_drain(bus: Bus, transaction: Any) -> None:
    transaction.send_response("answer")
    assert bus.server.drain(LONG) is True


def clean_up_call(bus: Bus, prepared: object) -> None:
    if bus.plain:  # which cannot tell a server that the client gave up
        take_and_answer(bus)
    else:
        wait_until(lambda: bus.server.stats().cancelled == 1, "the server to be told")


def send_and_take(bus: Bus) -> Any:
    bus.client.send_request("question")
    return bus.take()


BLOCKING_CALLS = {
    "recv_request": BlockingCall(lambda bus: bus.server.recv_request()),
    "recv_request with a timeout": BlockingCall(lambda bus: bus.server.recv_request(LONG)),
    "recv_requests": BlockingCall(lambda bus: bus.server.recv_requests(10)),
    "recv_requests with a timeout": BlockingCall(lambda bus: bus.server.recv_requests(10, LONG)),
    "iteration": BlockingCall(lambda bus: next(iter(bus.server))),
    "serve": BlockingCall(lambda bus: bus.server.serve(lambda request: request, workers=2)),
    "recv_response": BlockingCall(
        lambda bus: bus.client.send_request("question").recv_response(), clean_up=take_and_answer
    ),
    "recv_response with a timeout": BlockingCall(
        lambda bus: bus.client.send_request("question").recv_response(LONG), clean_up=take_and_answer
    ),
    "call": BlockingCall(lambda bus: bus.client.call("question"), clean_up=clean_up_call),
    "call_many": BlockingCall(lambda bus: bus.client.call_many(["question"]), clean_up=clean_up_call),
    "call_many with a timeout": BlockingCall(
        lambda bus: bus.client.call_many(["question"], timeout=LONG), clean_up=clean_up_call
    ),
    "call with a timeout": BlockingCall(
        lambda bus: bus.client.call("question", timeout=LONG), clean_up=clean_up_call
    ),
}
DRAIN = BlockingCall(lambda bus: bus.server.drain(), prepare=send_and_take, clean_up=answer_and_drain)

each_blocking_call = pytest.mark.parametrize("blocking", BLOCKING_CALLS.values(), ids=BLOCKING_CALLS.keys())


@on_every_kind
@each_blocking_call
def test_a_thread_killed_in_a_blocking_call_leaves_nothing_behind(
    bus: Bus, start: Start, blocking: BlockingCall
) -> None:
    bus.check_works()
    watchers = active_watchers()
    victim = start(blocking.call, bus)
    victim.wait_until_blocked()
    victim.kill()
    blocking.clean_up(bus, None)
    bus.check_works()
    wait_until(lambda: active_watchers() <= watchers, "its watchers to be gone")


@pytest.mark.virtual_time
@on_every_kind
@each_blocking_call
def test_an_alarm_that_rings_in_a_blocking_call_passes_through_and_leaves_nothing_behind(
    bus: Bus, blocking: BlockingCall
) -> None:
    bus.check_works()
    watchers = active_watchers()
    alarm = thread.alarm(0.005)
    with pytest.raises(Alarm) as raised:
        blocking.call(bus)
    assert raised.value is alarm
    blocking.clean_up(bus, None)
    bus.check_works()
    wait_until(lambda: active_watchers() <= watchers, "its watchers to be gone")


@pytest.mark.virtual_time
@on_every_kind
@each_blocking_call
def test_a_caller_s_own_gevent_timeout_passes_through_untouched(bus: Bus, blocking: BlockingCall) -> None:
    with gevent.Timeout(0.005) as own:
        with pytest.raises(gevent.Timeout) as raised:
            blocking.call(bus)
    assert raised.value is own
    blocking.clean_up(bus, None)
    bus.check_works()


@on_every_kind
def test_a_thread_killed_in_drain_leaves_nothing_behind(bus: Bus, start: Start) -> None:
    transaction = DRAIN.prepare(bus)
    victim = start(DRAIN.call, bus)
    victim.wait_until_blocked()
    victim.kill()
    DRAIN.clean_up(bus, transaction)
    assert transaction.cancelled is False


@on_every_kind
def test_a_caller_s_own_gevent_timeout_passes_through_drain(bus: Bus) -> None:
    transaction = DRAIN.prepare(bus)
    with gevent.Timeout(0.005) as own:
        with pytest.raises(gevent.Timeout) as raised:
            DRAIN.call(bus)
    assert raised.value is own
    DRAIN.clean_up(bus, transaction)


@on_local
def test_a_thread_killed_while_it_waits_for_room_leaves_nothing_behind(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(maxsize=1)
    bus.client.send_request(1)
    victim, other = start(bus.client.send_request, 2), start(bus.client.send_request, 3)
    victim.wait_until_blocked()
    other.wait_until_blocked()
    victim.kill()
    assert bus.server.recv_request(LONG)[1] == 1
    assert other.result().request == 3
    assert bus.server.recv_request(LONG)[1] == 3
    bus.check_works()


@on_local
def test_a_caller_s_own_gevent_timeout_passes_through_a_wait_for_room(open_bus: OpenBus) -> None:
    bus = open_bus(maxsize=1)
    bus.client.send_request(1)
    with gevent.Timeout(0.005) as own:
        with pytest.raises(gevent.Timeout) as raised:
            bus.client.send_request(2)
    assert raised.value is own
    assert bus.server.stats().queued == 1


@on_local
def test_a_bounded_bus_lets_senders_in_first_come_first_served(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(maxsize=2)
    senders = [start(bus.client.send_request, number) for number in range(6)]
    senders[-1].wait_until_blocked()
    assert bus.server.stats().queued == 2
    assert [bus.server.recv_request(LONG)[1] for _ in senders] == list(range(6))
    assert [sender.result().request for sender in senders] == list(range(6))


@on_local
def test_a_wait_for_room_ends_with_the_request_s_own_timeout(open_bus: OpenBus) -> None:
    bus = open_bus(maxsize=1)
    bus.client.send_request(1)
    with pytest.raises(BusTimeout) as raised:
        bus.client.send_request(2, timeout=0.01)
    assert raised.value.outcome == "NOT_SENT"
    assert bus.server.recv_request(LONG)[1] == 1
    bus.check_works()


# Just as a request arrives.


@on_every_kind
@pytest.mark.parametrize("death", [GreenletExit, gevent.Timeout])
@pytest.mark.parametrize("another_waits", [False, True])
@pytest.mark.parametrize("turns_before", range(-1, 7))
@pytest.mark.parametrize("many", [False, True])
def test_killed_in_recv_request_just_as_a_request_arrives_loses_nothing(
    bus: Bus, start: Start, death: type[BaseException], another_waits: bool, turns_before: int, many: bool
) -> None:
    received: list[object] = []

    def receive() -> None:
        taken = bus.server.recv_requests(10) if many else [bus.server.recv_request()]
        received.extend(request for _, request in taken)

    victim = start(receive)
    victim.wait_until_blocked()
    other = start(receive) if another_waits else None
    if other is not None:
        other.wait_until_blocked()
    # With -1 the kill is on its way before the request, with 6 surely after it.
    if turns_before < 0:
        victim.thread.kill(death, block=False)
    bus.client.send_request("question")
    turns(turns_before)
    victim.thread.kill(death, block=False)
    victim.thread.join(LONG)
    if other is None and not received:
        receive()
    wait_until(lambda: received)
    assert received == ["question"]
    assert bus.server.stats().queued == 0


@on_every_kind
def test_killed_waiters_pass_a_burst_of_requests_on_in_order(bus: Bus, start: Start) -> None:
    received: list[object] = []

    def receive() -> None:
        received.append(bus.server.recv_request()[1])

    waiters = [start(receive) for _ in range(6)]
    waiters[-1].wait_until_blocked()
    for number in range(3):
        bus.client.send_request(number)
    for victim in waiters[::2]:
        victim.thread.kill(block=False)
    wait_until(lambda: len(received) == 3)
    assert received == [0, 1, 2]


@on_every_kind
@pytest.mark.parametrize("turns_before", range(6))
def test_a_time_out_of_recv_request_just_as_a_request_arrives_loses_nothing(
    bus: Bus, start: Start, turns_before: int
) -> None:
    waiter = start(bus.server.recv_request, 0.005)
    waiter.wait_until_blocked()
    burn(0.004)
    turns(turns_before)
    bus.client.send_request("question")
    try:
        request = waiter.result()[1]
    except BusTimeout:
        request = bus.server.recv_request(LONG)[1]
    assert request == "question"
    assert bus.server.stats().queued == 0


# In the middle of a send.

# More than a socket's buffers take, so that a part of it stays unsent.
BIG = "x" * (8 * 1024 * 1024)


@on_sockets_of_each_form
@pytest.mark.parametrize("interrupt", ["kill", "cancel", "time-out"])
def test_killed_in_the_middle_of_a_send_frames_stay_whole_and_the_next_request_works(
    bus: Bus, start: Start, interrupt: str
) -> None:
    if interrupt == "kill":
        caller = start(bus.client.call, BIG)
        caller.wait_until_blocked()
        caller.kill()
    elif interrupt == "cancel":
        bus.client.send_request(BIG).cancel()
    else:
        with pytest.raises(BusTimeout):
            bus.client.call(BIG, timeout=0.1)
    start(bus.server.serve, lambda request: len(request))
    assert bus.client.call("next") == 4
    assert bus.server.stats().connections == 1


@on_sockets_of_each_form
def test_a_thread_killed_while_it_waits_to_send_takes_its_request_with_it(
    open_client: OpenClient, start: Start, kind: str
) -> None:
    client, raw = open_client()
    client.send_request(BIG)
    victim, other = start(client.send_request, "victim"), start(client.send_request, "other")
    victim.wait_until_blocked()
    other.wait_until_blocked()
    victim.kill()
    requests = [raw.receive_message()[4][0] for _ in range(2)]
    assert len(requests[0]) == len(BIG) + 2
    assert requests[1] == b'"other"'
    assert other.result().request == "other"


@on_sockets_of_each_form
def test_a_request_cancelled_before_a_byte_of_it_was_sent_is_taken_back(open_client: OpenClient) -> None:
    client, raw = open_client(limits=Limits(high_water=64 * 1024 * 1024))
    client.send_request(BIG)
    unsent, last = client.send_request("unsent"), client.send_request("last")
    unsent.cancel()
    with pytest.raises(Exception, match="cancelled") as raised:
        unsent.recv_response(LONG)
    assert getattr(raised.value, "outcome", None) == "NOT_SENT"
    raw.receive_message()
    assert raw.receive_message()[4] == [b'"last"']
    assert last.done is False


@on_sockets_of_each_form
def test_a_thread_killed_while_send_response_waits_disturbs_no_other_answer(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(server_limits=Limits(high_water=1024))
    raw = bus.raw_client()
    for id in (1, 2, 3):
        if bus.plain:
            raw.send(bytes.fromhex("0001 00000001") + b"0")
        else:
            raw.request(id)
    first, second, third = (bus.take() for _ in range(3))
    assert first.send_response(BIG) is True
    victim, other = start(second.send_response, BIG), start(third.send_response, "third")
    victim.wait_until_blocked()
    other.wait_until_blocked()
    victim.kill()
    assert len(raw.receive_message()[4][0]) == len(BIG) + 2
    if bus.plain:
        # A plain peer cannot be told that its second request is abandoned.
        assert raw.receive_rest() == b""
    else:
        answers = {message[2]: message for message in (raw.receive_message(), raw.receive_message())}
        assert answers[2][0] == 2  # ERROR
        assert answers[3][4] == [b'"third"']
    other.result()


# Several threads wait for the same.


@on_every_kind
def test_several_threads_in_recv_request_are_served_first_come_first_served(bus: Bus, start: Start) -> None:
    waiters = [start(bus.server.recv_request) for _ in range(5)]
    waiters[-1].wait_until_blocked()
    for number in range(5):
        bus.client.send_request(number)
    assert [waiter.result()[1] for waiter in waiters] == list(range(5))


@on_every_kind
def test_a_thread_that_comes_later_goes_to_the_end_of_the_line(bus: Bus, start: Start) -> None:
    waiter = start(bus.server.recv_request)
    waiter.wait_until_blocked()
    bus.client.send_request("first")
    bus.client.send_request("second")
    assert bus.server.recv_request(LONG)[1] == "second"
    assert waiter.result()[1] == "first"


@on_every_kind
def test_several_threads_in_recv_response_of_one_transaction_all_get_the_same_response(
    bus: Bus, start: Start
) -> None:
    sent = bus.client.send_request("question")
    waiters = [start(sent.recv_response) for _ in range(5)]
    waiters[-1].wait_until_blocked()
    bus.take().send_response({"the": "answer"})
    responses = [waiter.result() for waiter in waiters]
    assert responses == [{"the": "answer"}] * 5
    assert all(response is responses[0] for response in responses)
    assert sent.recv_response() is responses[0]
    assert sent.recv_response(0) is responses[0]


def test_several_threads_in_recv_response_of_one_transaction_all_get_the_same_error(
    bus: Bus, start: Start
) -> None:
    sent = bus.client.send_request("question")
    waiters = [start(sent.recv_response) for _ in range(5)]
    waiters[-1].wait_until_blocked()
    bus.take().send_error(ValueError("wrong"))
    for result in [waiter.result for waiter in waiters] + [sent.recv_response] * 2:
        with pytest.raises(RemoteError, match="wrong") as raised:
            result()
        assert raised.value.remote_type == "ValueError"
        assert raised.value.outcome == "RAN"


@on_every_kind
def test_one_of_several_waiters_may_be_killed(bus: Bus, start: Start) -> None:
    sent = bus.client.send_request("question")
    waiters = [start(sent.recv_response) for _ in range(3)]
    waiters[-1].wait_until_blocked()
    waiters[1].kill()
    bus.take().send_response("answer")
    assert [waiters[0].result(), waiters[2].result()] == ["answer", "answer"]


# Time-outs.


@on_every_kind
def test_a_time_out_of_recv_response_ends_only_this_wait(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    for timeout in (0.005, 0, -1):
        with pytest.raises(BusTimeout):
            sent.recv_response(timeout)
        assert sent.done is False
    transaction = bus.take()
    assert transaction.cancelled is False
    assert transaction.send_response("answer") is True
    assert sent.recv_response(LONG) == "answer"


@on_every_kind
def test_a_time_out_of_one_recv_response_leaves_the_other_waiters_alone(bus: Bus, start: Start) -> None:
    sent = bus.client.send_request("question")
    other = start(sent.recv_response)
    other.wait_until_blocked()
    with pytest.raises(BusTimeout):
        sent.recv_response(0.005)
    bus.take().send_response("answer")
    assert other.result() == "answer"


@on_every_kind
def test_recv_request_ends_after_its_timeout(bus: Bus) -> None:
    for timeout in (0.005, 0, -1):
        with pytest.raises(BusTimeout) as raised:
            bus.server.recv_request(timeout)
        assert isinstance(raised.value, TimeoutError)
    bus.check_works()


@on_every_kind
def test_recv_request_with_a_timeout_of_0_takes_what_is_there(bus: Bus) -> None:
    bus.client.send_request("question")
    bus.wait_for_queued()
    assert bus.server.recv_request(0)[1] == "question"


@pytest.mark.virtual_time
def test_a_time_out_given_to_send_request_ends_the_transaction_and_the_server_is_told(bus: Bus) -> None:
    sent = bus.client.send_request("question", timeout=0.3)
    transaction = bus.take()
    with pytest.raises(BusTimeout):
        sent.recv_response(LONG)
    assert sent.done is True
    wait_until(lambda: transaction.cancelled)
    assert bus.server.stats().cancelled == 1
    assert transaction.send_response("late") is False
    assert bus.server.stats().dropped_late == 1
    with pytest.raises(BusTimeout):
        sent.recv_response()
    bus.check_works()


@pytest.mark.virtual_time
def test_a_time_out_given_to_call_ends_the_transaction_and_the_server_is_told(bus: Bus) -> None:
    # Once it is connected, a request leaves before its time is over.
    bus.check_works()
    with pytest.raises(BusTimeout):
        bus.client.call("question", timeout=0.05)
    wait_until(lambda: bus.server.stats().cancelled == 1)
    bus.check_works()


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["tcp-plain", "unix-plain"])
def test_a_late_answer_to_a_plain_request_is_counted_and_dropped(bus: Bus) -> None:
    first = bus.client.send_request("question", timeout=0.3)
    late = bus.take()
    with pytest.raises(BusTimeout):
        first.recv_response(LONG)
    second = bus.client.send_request("another")
    assert late.send_response("late") is True  # nobody told the server
    bus.take().send_response("in time")
    assert second.recv_response(LONG) == "in time"
    assert bus.client.stats().dropped_late == 1


@on_every_kind
@pytest.mark.parametrize("timeout", [0, -1.5])
def test_a_request_whose_time_is_over_already_is_not_sent(bus: Bus, timeout: float) -> None:
    with pytest.raises(BusTimeout) as raised:
        bus.client.call("question", timeout=timeout)
    assert raised.value.outcome == "NOT_SENT"
    bus.check_works()


@on_every_kind
def test_a_very_long_timeout_is_as_good_as_none(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    for timeout in (1e9, float("inf")):
        assert bus.client.call("question", timeout=timeout) == "question"
    sent = bus.client.send_request("question")
    assert sent.recv_response(float("inf")) == "question"


@on_every_kind
def test_recv_request_with_an_endless_timeout_waits(bus: Bus, start: Start) -> None:
    waiter = start(bus.server.recv_request, float("inf"))
    waiter.wait_until_blocked()
    bus.client.send_request("question")
    assert waiter.result()[1] == "question"


@on_every_kind
def test_with_the_hub_late_a_timeout_counts_from_when_it_was_set(bus: Bus) -> None:
    # The loop's own idea of the time is old when the timers start.
    burn(0.05)
    began = time.monotonic()
    with pytest.raises(BusTimeout):
        bus.server.recv_request(0.03)
    assert time.monotonic() - began >= 0.029
    sent = bus.client.send_request("question")
    transaction = bus.take()
    burn(0.05)
    began = time.monotonic()
    with pytest.raises(BusTimeout):
        sent.recv_response(0.03)
    assert time.monotonic() - began >= 0.029
    transaction.send_response("answer")
    burn(0.05)
    began = time.monotonic()
    with pytest.raises(BusTimeout):
        bus.client.call("question", timeout=0.03)
    assert time.monotonic() - began >= 0.029


@on_every_kind
def test_being_late_alone_never_breaks_a_connection(bus: Bus, start: Start) -> None:
    def handler(request: float) -> str:
        burn(request)
        return "done"

    start(bus.server.serve, handler)
    calls = [start(bus.client.call, 0.02) for _ in range(5)]
    assert [call.result() for call in calls] == ["done"] * 5


# Signals, and other OS threads.


@on_every_kind
def test_signals_have_no_effect_on_a_waiting_call(bus: Bus, start: Start) -> None:
    seen: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGUSR1, on_signal)
    try:
        receiver = start(bus.server.recv_request)
        sent = bus.client.send_request("question")
        caller = start(sent.recv_response)
        for count in range(1, 6):
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_until(lambda count=count: len(seen) == count)  # type: ignore[misc]
            turns(2)
        transaction, request = receiver.result()
        assert request == "question"
        assert not caller.ended
        transaction.send_response("answer")
        assert caller.result() == "answer"
    finally:
        signal.signal(signal.SIGUSR1, before)


@on_every_kind
def test_ctrl_c_in_loop_comes_out_of_loop_and_the_bus_stays_usable(bus: Bus) -> None:
    responses: list[object] = []

    def serve() -> None:
        for transaction, request in bus.server:
            transaction.send_response(request)

    def ask() -> None:
        responses.append(bus.client.call("question"))

    def press_ctrl_c() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        thread.timer(0)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        kernel = Ratchet()
        server = kernel.attach_background(serve)
        kernel.attach(press_ctrl_c)
        kernel.attach(ask)
        with pytest.raises(KeyboardInterrupt):
            kernel.loop()
        assert not server.dead
        kernel.attach(ask)
        kernel.loop()
    finally:
        signal.signal(signal.SIGINT, before)
        kernel.close()
    assert responses == ["question", "question"]


@on_every_kind
def test_ctrl_c_while_loop_waits_comes_out_of_loop_and_the_bus_stays_usable(bus: Bus) -> None:
    def press_ctrl_c() -> None:
        os.kill(os.getpid(), signal.SIGINT)

    # The handshake is over: what strikes in the middle of that ends the connection.
    bus.check_works()
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        kernel = Ratchet(lambda: bus.take().send_response("answer"))
        finger = threading.Timer(0.02, press_ctrl_c)
        # By the hub, which runs only when `loop()` waits.
        gevent.get_hub().loop.run_callback(finger.start)
        with pytest.raises(KeyboardInterrupt):
            kernel.loop()
        finger.join(LONG)
        assert kernel.num_threads == 1
        sent = bus.client.send_request("question")
        kernel.loop()
        assert sent.recv_response(LONG) == "answer"
    finally:
        signal.signal(signal.SIGINT, before)
        kernel.close()
    bus.check_works()


def enter(transaction: Any) -> None:
    with transaction:
        pass


CALLS_OF_A_BUS: dict[str, Callable[[Bus], object]] = {
    "send_request": lambda bus: bus.client.send_request("question"),
    "call": lambda bus: bus.client.call("question"),
    "cast": lambda bus: bus.client.cast("notice"),
    "recv_request": lambda bus: bus.server.recv_request(0),
    "iteration": lambda bus: next(iter(bus.server)),
    "serve": lambda bus: bus.server.serve(lambda request: request),
    "drain": lambda bus: bus.server.drain(0),
    "close of the server": lambda bus: bus.server.close(),
    "close of the client": lambda bus: bus.client.close(),
}
CALLS_OF_A_TRANSACTION: dict[str, Callable[[Any, Any], object]] = {
    "recv_response": lambda sent, taken: sent.recv_response(0),
    "cancel": lambda sent, taken: sent.cancel(),
    "send_response": lambda sent, taken: taken.send_response("answer"),
    "send_error": lambda sent, taken: taken.send_error(ValueError("no")),
    "with": lambda sent, taken: enter(taken),
}


@on_every_kind
@pytest.mark.parametrize("call", CALLS_OF_A_BUS.values(), ids=CALLS_OF_A_BUS.keys())
def test_a_call_of_a_bus_from_another_os_thread_is_a_clear_error_at_once(
    bus: Bus, call: Callable[[Bus], object]
) -> None:
    error = in_os_thread(lambda: call(bus))
    assert isinstance(error, RuntimeError)
    assert "another OS thread" in str(error)
    bus.check_works()


@on_every_kind
@pytest.mark.parametrize("call", CALLS_OF_A_TRANSACTION.values(), ids=CALLS_OF_A_TRANSACTION.keys())
def test_a_call_of_a_transaction_from_another_os_thread_is_a_clear_error_at_once(
    bus: Bus, call: Callable[[Any, Any], object]
) -> None:
    sent = bus.client.send_request("question")
    taken = bus.take()
    error = in_os_thread(lambda: call(sent, taken))
    assert isinstance(error, RuntimeError)
    assert "another OS thread" in str(error)
    assert taken.send_response("answer") is True
    assert sent.recv_response(LONG) == "answer"


# A peer that does not read.


@on_sockets_of_each_form
def test_a_peer_that_does_not_read_makes_writers_wait_with_their_own_time_out(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client()
    client.send_request(BIG)
    with pytest.raises(BusTimeout) as raised:
        client.send_request("more", timeout=0.01)
    assert raised.value.outcome == "NOT_SENT"
    waiter = start(client.send_request, "patient")
    waiter.wait_until_blocked()
    raw.receive_message()
    assert raw.receive_message()[4] == [b'"patient"']
    assert waiter.result().done is False


@on_sockets_of_each_form
def test_a_writer_that_waits_is_told_when_the_connection_is_lost(
    open_client: OpenClient, start: Start
) -> None:
    client, raw = open_client()
    client.send_request(BIG)
    waiter = start(client.send_request, "more")
    waiter.wait_until_blocked()
    raw.close()
    with pytest.raises(ConnectionLost) as raised:
        waiter.result()
    assert raised.value.outcome == "NOT_SENT"
