"""Transactions: one answer each, whatever becomes of the threads that hold them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import (
    Bus,
    OpenBus,
    Start,
    on_every_kind,
    on_plain_sockets,
    on_sockets,
    on_sockets_of_each_form,
)
from helpers import LONG, turns, wait_until
from ratchet import Abandoned, AlreadyAnswered, BusTimeout, Cancelled, ConnectionLost, Outcome, RemoteError
from ratchet.bus import codecs

# One answer each.

ANSWERS: dict[str, Callable[[Any], bool]] = {
    "send_response": lambda transaction: transaction.send_response("answer"),
    "send_error": lambda transaction: transaction.send_error(ValueError("wrong")),
}


@on_every_kind
def test_send_response_twice_is_already_answered(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    assert transaction.send_response("first") is True
    for _ in range(2):
        with pytest.raises(AlreadyAnswered) as raised:
            transaction.send_response("second")
        assert raised.value.outcome == "RAN"
    assert sent.recv_response(LONG) == "first"
    assert bus.server.stats().answered == 1


@pytest.mark.parametrize("second", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("first", ANSWERS.values(), ids=ANSWERS.keys())
def test_any_second_answer_is_already_answered(
    bus: Bus, first: Callable[[Any], bool], second: Callable[[Any], bool]
) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    assert first(transaction) is True
    with pytest.raises(AlreadyAnswered):
        second(transaction)
    bus.check_works()


@on_every_kind
def test_a_second_answer_in_a_handler_does_not_harm_the_first(bus: Bus, start: Start) -> None:
    errors: list[BaseException] = []

    def handler(request: object, transaction: Any) -> None:
        transaction.send_response("first")
        try:
            transaction.send_response("second")
        except AlreadyAnswered as error:
            errors.append(error)
            raise

    start(bus.server.serve, handler, workers=1)
    assert [bus.client.call("question") for _ in range(2)] == ["first", "first"]
    wait_until(lambda: len(errors) == 2)
    assert bus.server.stats().failed == 0


@on_every_kind
def test_what_a_handler_answered_itself_is_not_answered_again(bus: Bus, start: Start) -> None:
    def handler(request: object, transaction: Any) -> str:
        transaction.send_response("by hand")
        return "by return"

    start(bus.server.serve, handler)
    assert [bus.client.call("question") for _ in range(3)] == ["by hand"] * 3


# Too late.


@pytest.mark.virtual_time
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize("give_up", ["cancel", "time-out", "go away"])
def test_an_answer_after_the_client_gave_up_returns_false_and_is_counted(
    bus: Bus, give_up: str, answer: Callable[[Any], bool]
) -> None:
    sent = bus.client.send_request("question", timeout=0.3 if give_up == "time-out" else None)
    transaction = bus.take()
    if give_up == "cancel":
        sent.cancel()
    elif give_up == "go away":
        bus.client.close()
    wait_until(lambda: transaction.cancelled)
    assert answer(transaction) is False
    assert transaction.cancelled is True
    stats = bus.server.stats()
    assert (stats.cancelled, stats.dropped_late, stats.answered, stats.failed) == (1, 1, 0, 0)
    with pytest.raises(AlreadyAnswered):
        answer(transaction)


@pytest.mark.parametrize("kind", ["tcp", "tcp-plain"])
def test_an_answer_to_a_client_whose_connection_broke_returns_false(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(bytes.fromhex("0001 00000002") + b"12")
    transaction = bus.take()
    raw.reset()
    wait_until(lambda: transaction.cancelled)
    assert transaction.send_response("late") is False
    assert bus.server.stats().dropped_late == 1


@on_sockets_of_each_form
def test_a_client_that_closed_without_a_word_is_forgotten_once_it_is_answered(bus: Bus) -> None:
    # Until then it cannot be told from one that only shut down its sending side.
    raw = bus.raw_client()
    raw.send(bytes.fromhex("0001 00000002") + b"12")
    transaction = bus.take()
    raw.close()
    assert transaction.send_response("late") in (True, False)
    wait_until(lambda: bus.server.stats().connections == 1)
    bus.check_works()


# Handlers that raise.


def serve_forever(bus: Bus, handler: Callable[[Any], Any]) -> None:
    """A loop written by hand: each request in its own `with transaction:`."""
    for transaction, request in bus.server:
        with transaction:
            transaction.send_response(handler(request))


SERVERS: dict[str, Callable[[Bus, Callable[[Any], Any]], None]] = {
    "serve": lambda bus, handler: bus.server.serve(handler, workers=1),
    "with": serve_forever,
}
in_serve_and_in_with = pytest.mark.parametrize("serve", SERVERS.values(), ids=SERVERS.keys())
Serve = Callable[[Bus, Callable[[Any], Any]], None]


@in_serve_and_in_with
def test_what_a_handler_raises_reaches_the_client_with_type_message_and_traceback(
    bus: Bus, start: Start, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def divide(request: float) -> float:
        return 1 / request

    start(serve, bus, divide)
    with caplog.at_level(logging.WARNING, "ratchet"):
        with pytest.raises(RemoteError) as raised:
            bus.client.call(0)
        error = raised.value
        assert (error.remote_type, error.remote_message) == ("ZeroDivisionError", "division by zero")
        assert "in divide\n    return 1 / request" in error.remote_traceback
        assert error.outcome is Outcome.RAN
        # The worker goes on, and the log has it once.
        assert bus.client.call(2) == 0.5
        wait_until(lambda: caplog.records)
        turns()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)
    assert bus.server.stats().failed == 1


@on_plain_sockets
@in_serve_and_in_with
def test_what_a_handler_raises_closes_a_plain_connection_and_the_worker_goes_on(
    bus: Bus, start: Start, serve: Serve
) -> None:
    start(serve, bus, lambda request: 1 / request)
    with pytest.raises(ConnectionLost) as raised:
        bus.client.call(0)
    assert raised.value.outcome == "UNKNOWN"
    assert bus.new_client().call(2) == 0.5


def test_a_gevent_timeout_that_a_handler_raises_reaches_the_client_and_the_worker_goes_on(
    bus: Bus, start: Start
) -> None:
    def handler(request: str) -> str:
        if request == "slow":
            with gevent.Timeout(0.001):
                gevent.sleep(LONG)
        return request

    start(bus.server.serve, handler, workers=1)
    with pytest.raises(RemoteError) as raised:
        bus.client.call("slow")
    assert raised.value.remote_type == "Timeout"
    assert bus.client.call("quick") == "quick"


def test_a_gevent_timeout_raised_in_with_transaction_reaches_the_client_and_its_owner(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    with gevent.Timeout(0.001) as own:
        with pytest.raises(gevent.Timeout) as raised:
            with transaction:
                gevent.sleep(LONG)
    assert raised.value is own
    with pytest.raises(RemoteError, match="Timeout"):
        sent.recv_response(LONG)


def test_an_exception_in_with_transaction_does_not_leave_the_block(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    with bus.take():
        raise KeyError("wrong")
    with pytest.raises(RemoteError, match="wrong"):
        sent.recv_response(LONG)


def test_an_exception_after_the_answer_in_with_transaction_changes_nothing_for_the_client(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    with bus.take() as transaction:
        transaction.send_response("answer")
        raise KeyError("too late")
    assert sent.recv_response(LONG) == "answer"
    assert bus.server.stats()[3:5] == (1, 0)


class NoText(Exception):
    def __str__(self) -> str:
        raise ValueError("this one has no text")


class WrongText(Exception):
    def __str__(self) -> str:
        return 7  # type: ignore[return-value]


class TextThatEndsThreads(Exception):
    def __str__(self) -> str:
        raise gevent.GreenletExit


class NoTextAtAll(Exception):
    __str__ = __repr__ = NoText.__str__


@pytest.mark.parametrize("error_type", [NoText, WrongText, TextThatEndsThreads, NoTextAtAll])
def test_an_error_that_cannot_be_rendered_is_still_a_remote_error_with_a_stand_in_text(
    bus: Bus, start: Start, error_type: type[Exception]
) -> None:
    def handler(request: str) -> str:
        if request == "raise":
            raise error_type
        return request

    start(bus.server.serve, handler, workers=1)
    with pytest.raises(RemoteError) as raised:
        bus.client.call("raise")
    assert raised.value.remote_type == error_type.__name__
    assert "cannot be shown" in raised.value.remote_message
    assert bus.client.call("next") == "next"


class SlowError(Exception):
    """One whose text takes longer than the client waits."""

    def __str__(self) -> str:
        gevent.sleep(0.1)
        return "slow"


@pytest.mark.virtual_time
@pytest.mark.parametrize("how", ["serve", "send_error", "with"])
def test_a_client_may_give_up_while_an_error_is_rendered(bus: Bus, start: Start, how: str) -> None:
    def fail(request: str) -> str:
        if request == "raise":
            raise SlowError
        return request

    if how == "serve":
        start(bus.server.serve, fail, workers=1)
        with pytest.raises(BusTimeout):
            bus.client.call("raise", timeout=0.05)
        wait_until(lambda: bus.server.stats().in_flight == 0, "the handler to end")
        assert bus.client.call("next", LONG) == "next"
        return
    sent = bus.client.send_request("raise", timeout=0.05)
    transaction = bus.take()
    if how == "send_error":
        assert transaction.send_error(SlowError()) is False
    else:
        with transaction:
            raise SlowError
    with pytest.raises(BusTimeout):
        sent.recv_response(LONG)
    bus.check_works()


@pytest.mark.parametrize("text", ["half of a pair: \ud800", "\0", "", "x" * 1_000_000], ids=len)
def test_any_text_of_an_error_reaches_the_client(bus: Bus, text: str) -> None:
    sent = bus.client.send_request("question")
    bus.take().send_error(ValueError(text))
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    message = raised.value.remote_message
    assert raised.value.remote_type == "ValueError"
    assert message[:10] == text[:10]
    assert len(message) <= 64 * 1024  # a text is for people


# Transactions that nobody will answer.


class Fate(Exception):
    """What a thread dies of here."""


@pytest.fixture
def quiet_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    """gevent does not print the errors of threads that die."""
    monkeypatch.setattr(gevent.get_hub(), "exception_stream", None)


def end_normally(bus: Bus, taken: Event) -> None:
    transaction, _ = bus.server.recv_request()
    taken.set()
    assert transaction.cancelled is False


def end_in_iteration(bus: Bus, taken: Event) -> None:
    for transaction, _ in bus.server:
        taken.set()
        assert transaction.cancelled is False
        return


def die(bus: Bus, taken: Event) -> None:
    transaction, _ = bus.server.recv_request()
    taken.set()
    raise Fate(f"while it has {transaction}")


def take_and_die(bus: Bus) -> None:
    transaction, _ = bus.server.recv_request()
    raise Fate(f"while it has {transaction}")


def die_of_another_error(bus: Bus, taken: Event) -> None:
    try:
        take_and_die(bus)
    except Fate as error:
        taken.set()
        raise RuntimeError("something went wrong") from error


def die_while_handling_an_error(bus: Bus, taken: Event) -> None:
    try:
        take_and_die(bus)
    except Fate:
        taken.set()
        raise RuntimeError("something went wrong")  # noqa: B904  # the context, not the cause


def die_without_showing_why(bus: Bus, taken: Event) -> None:
    try:
        take_and_die(bus)
    except Fate:
        taken.set()
        raise RuntimeError("something went wrong") from None


def die_deep_down(bus: Bus, taken: Event) -> None:
    def handle(transaction: Any) -> None:
        kept = [transaction]
        taken.set()
        raise Fate(f"while it has {kept}")

    handle(bus.take())


def die_of_a_timeout(bus: Bus, taken: Event) -> None:
    transaction = bus.take()
    taken.set()
    with gevent.Timeout(0.001):
        gevent.sleep(LONG)
    transaction.send_response("never")


def wait_to_be_killed(bus: Bus, taken: Event) -> None:
    transaction, _ = bus.server.recv_request()
    taken.set()
    gevent.sleep(LONG)
    transaction.send_response("never")


def wait_in_iteration_to_be_killed(bus: Bus, taken: Event) -> None:
    for transaction, _ in bus.server:
        taken.set()
        gevent.sleep(LONG)
        transaction.send_response("never")


def wait_in_with_to_be_killed(bus: Bus, taken: Event) -> None:
    with bus.take():
        taken.set()
        gevent.sleep(LONG)


def ends_of_threads() -> list[Any]:
    killed = [wait_to_be_killed, wait_in_iteration_to_be_killed, wait_in_with_to_be_killed]
    died = [die, die_deep_down, die_of_a_timeout]
    died += [die_of_another_error, die_while_handling_an_error, die_without_showing_why]
    return [
        *(pytest.param(func, False, id=func.__name__) for func in [end_normally, end_in_iteration, *died]),
        *(pytest.param(func, True, id=func.__name__) for func in killed),
    ]


@pytest.mark.usefixtures("quiet_deaths")
@pytest.mark.parametrize(("taker", "kill"), ends_of_threads())
def test_a_server_thread_that_ends_without_answering_abandons_what_it_took(
    bus: Bus, taker: Callable[[Bus, Event], None], kill: bool
) -> None:
    gc.disable()  # at once, not when a collection happens to run
    try:
        taken = Event()
        # The reference to the thread stays to the end: its error does too, and the frames in it.
        thread = gevent.spawn(taker, bus, taken)
        sent = bus.client.send_request("question")
        assert taken.wait(LONG)
        if kill:
            thread.kill(timeout=LONG)
        with pytest.raises(Abandoned) as raised:
            sent.recv_response(LONG)
        assert raised.value.outcome == "UNKNOWN"
        assert thread.ready()
        assert bus.server.stats().failed == 1
        assert bus.server.stats().in_flight == 0
    finally:
        gc.enable()


def drop_by_del(bus: Bus) -> None:
    transaction, _ = bus.server.recv_request(LONG)
    del transaction


def drop_by_another_value(bus: Bus) -> None:
    transaction, _ = bus.server.recv_request(LONG)
    transaction = None  # type: ignore[assignment]
    assert transaction is None


def drop_without_a_name(bus: Bus) -> None:
    bus.server.recv_request(LONG)


def drop_by_leaving_with(bus: Bus) -> None:
    transaction = bus.take()
    with transaction:
        pass
    assert transaction.cancelled is False


@pytest.mark.parametrize(
    "drop", [drop_by_del, drop_by_another_value, drop_without_a_name, drop_by_leaving_with]
)
def test_a_transaction_that_is_dropped_without_an_answer_is_abandoned(
    bus: Bus, drop: Callable[[Bus], None]
) -> None:
    gc.disable()
    try:
        sent = bus.client.send_request("question")
        drop(bus)
        with pytest.raises(Abandoned):
            sent.recv_response(LONG)
    finally:
        gc.enable()
    assert bus.server.stats().failed == 1
    bus.check_works()


def test_iteration_abandons_one_that_was_not_answered_before_the_next_comes(bus: Bus, start: Start) -> None:
    def serve_badly() -> None:
        for transaction, request in bus.server:
            if request != "ignore me":
                transaction.send_response(request)
            del transaction

    start(serve_badly)
    with pytest.raises(Abandoned):
        bus.client.call("ignore me")
    assert bus.client.call("answer me") == "answer me"


def test_a_handler_whose_thread_is_killed_abandons_its_request_and_serve_goes_on(
    bus: Bus, start: Start
) -> None:
    def handler(request: str) -> str:
        if request == "die":
            raise gevent.GreenletExit
        return request

    start(bus.server.serve, handler, workers=1)
    for _ in range(3):
        with pytest.raises(Abandoned):
            bus.client.call("die")
    assert bus.client.call("live") == "live"


def test_killing_the_thread_in_serve_abandons_what_its_workers_handle(bus: Bus, start: Start) -> None:
    server = start(bus.server.serve, lambda request: gevent.sleep(LONG), workers=2)
    sent = [bus.client.send_request(number) for number in range(3)]
    bus.wait_for_in_flight(2)
    server.kill()
    for transaction in sent[:2]:
        with pytest.raises(Abandoned):
            transaction.recv_response(LONG)
    assert bus.server.recv_request(LONG)[1] == 2


@on_plain_sockets
def test_an_abandoned_plain_request_closes_its_connection(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    drop_without_a_name(bus)
    with pytest.raises(ConnectionLost):
        sent.recv_response(LONG)


# Passing a transaction on.


def pass_on_and_end(bus: Bus, box: list[Any]) -> None:
    box.append(bus.take())


def pass_on_and_die(bus: Bus, box: list[Any]) -> None:
    transaction = bus.take()
    box.append(transaction)
    raise Fate(f"after passing on {transaction}")


def pass_on_and_be_killed(bus: Bus, box: list[Any]) -> None:
    transaction = bus.take()
    box.append(transaction)
    gevent.sleep(LONG)
    transaction.send_response("never")


@pytest.mark.usefixtures("quiet_deaths")
@pytest.mark.parametrize("taker", [pass_on_and_end, pass_on_and_die, pass_on_and_be_killed])
def test_a_transaction_that_was_passed_on_outlives_the_thread_that_took_it(
    bus: Bus, taker: Callable[[Bus, list[Any]], None]
) -> None:
    box: list[Any] = []
    thread = gevent.spawn(taker, bus, box)
    sent = bus.client.send_request("question")
    wait_until(lambda: box)
    thread.kill(timeout=LONG)
    gc.collect()
    turns()
    assert sent.done is False
    assert box.pop().send_response("answer") is True
    assert sent.recv_response(LONG) == "answer"


@pytest.mark.usefixtures("quiet_deaths")
@pytest.mark.parametrize("how", ["killed", "dies", "ends"])
def test_a_transaction_is_abandoned_with_the_thread_that_it_was_passed_on_to(bus: Bus, how: str) -> None:
    def answer(transaction: Any) -> None:
        if how == "killed":
            gevent.sleep(LONG)
        elif how == "dies":
            raise Fate(f"while it has {transaction}")
        assert transaction.cancelled is False

    def take_and_pass_on() -> Any:
        return gevent.spawn(answer, bus.take())

    sent = bus.client.send_request("question")
    thread = take_and_pass_on()
    turns()
    if how == "killed":
        thread.kill(timeout=LONG)
    # The thread is not known as one that takes requests: its error goes with the last reference.
    del thread
    with pytest.raises(Abandoned):
        sent.recv_response(LONG)


# Cancelling, by cancel() or by the client's own time-out.

GIVING_UP = ["cancel", "time-out"]
by_cancel_and_by_time_out = pytest.mark.parametrize("give_up", GIVING_UP)


class Request:
    """A request that its client gives up when told to."""

    def __init__(self, bus: Bus, give_up: str, request: object = "question") -> None:
        self.cancels = give_up == "cancel"
        self.sent = bus.client.send_request(request, timeout=None if self.cancels else 0.1)

    def give_up(self) -> None:
        if self.cancels:
            self.sent.cancel()
        wait_until(lambda: self.sent.done)
        with pytest.raises(Cancelled if self.cancels else TimeoutError):
            self.sent.recv_response()


@pytest.mark.virtual_time
@by_cancel_and_by_time_out
def test_a_request_given_up_while_it_is_queued_is_never_delivered(bus: Bus, give_up: str) -> None:
    request = Request(bus, give_up)
    if request.cancels:
        bus.wait_for_queued(1)
    request.give_up()
    wait_until(lambda: bus.server.stats().cancelled == 1)
    assert bus.server.stats().queued == 0
    assert bus.server.stats().in_flight == 0
    bus.check_works()


@pytest.mark.virtual_time
@by_cancel_and_by_time_out
def test_the_requests_around_one_that_is_given_up_are_delivered(bus: Bus, give_up: str) -> None:
    bus.client.send_request("before")
    request = Request(bus, give_up)
    bus.client.send_request("after")
    if request.cancels:
        bus.wait_for_queued(3)
    request.give_up()
    wait_until(lambda: bus.server.stats().cancelled == 1)
    assert [bus.server.recv_request(LONG)[1] for _ in range(2)] == ["before", "after"]


@pytest.mark.virtual_time
@in_serve_and_in_with
@by_cancel_and_by_time_out
def test_a_request_given_up_while_it_is_handled_interrupts_the_thread_where_it_blocks(
    bus: Bus, start: Start, give_up: str, serve: Serve
) -> None:
    trace: list[object] = []

    def handler(request: str) -> str:
        if request == "next":
            return "done"
        try:
            trace.append("blocks")
            gevent.sleep(LONG)
            trace.append("goes on")
        finally:
            trace.append("finally")
        return "too late"

    start(serve, bus, handler)
    request = Request(bus, give_up)
    wait_until(lambda: trace)
    request.give_up()
    # The only worker goes on with the next request.
    assert bus.client.call("next") == "done"
    assert trace == ["blocks", "finally"]
    stats = bus.server.stats()
    assert (stats.cancelled, stats.failed, stats.answered, stats.dropped_late) == (1, 0, 1, 0)


@pytest.mark.virtual_time
@by_cancel_and_by_time_out
def test_a_thread_that_is_interrupted_goes_on_behind_the_with_block(
    bus: Bus, start: Start, give_up: str
) -> None:
    entered = Event()

    def handle() -> str:
        transaction, _ = bus.server.recv_request()
        with transaction:
            entered.set()
            gevent.sleep(LONG)
            raise AssertionError("it was not interrupted")
        assert transaction.cancelled is True
        return "behind the block"

    handling = start(handle)
    request = Request(bus, give_up)
    assert entered.wait(LONG)
    request.give_up()
    assert handling.result() == "behind the block"


def test_an_interrupted_handler_is_no_error_and_is_not_logged(
    bus: Bus, start: Start, caplog: pytest.LogCaptureFixture
) -> None:
    entered = Event()

    def handler(request: object) -> None:
        entered.set()
        gevent.sleep(LONG)

    with caplog.at_level(logging.INFO, "ratchet"):
        start(bus.server.serve, handler)
        request = Request(bus, "cancel")
        assert entered.wait(LONG)
        request.give_up()
        bus.wait_for_in_flight(0)
        turns()
    assert caplog.records == []


@pytest.mark.virtual_time
@by_cancel_and_by_time_out
def test_a_request_given_up_while_it_is_handled_by_hand_only_says_cancelled(
    bus: Bus, start: Start, give_up: str
) -> None:
    go_on = Event()
    taken: list[Any] = []

    def handle() -> object:
        transaction, _ = bus.server.recv_request()
        taken.append(transaction)
        assert transaction.cancelled is False
        go_on.wait()
        return transaction.send_response("late")

    handling = start(handle)
    request = Request(bus, give_up)
    wait_until(lambda: taken)
    request.give_up()
    wait_until(lambda: taken[0].cancelled)
    turns()
    assert not handling.ended
    go_on.set()
    assert handling.result() is False


def test_a_with_block_entered_after_the_client_gave_up_is_interrupted_where_it_first_blocks(
    bus: Bus, start: Start
) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    sent.cancel()
    wait_until(lambda: transaction.cancelled)

    def handle() -> str:
        with transaction:
            gevent.sleep(LONG)
            raise AssertionError("it was not interrupted")
        return "behind the block"

    assert start(handle).result() == "behind the block"


def test_an_interrupt_that_comes_after_the_block_was_left_hits_nothing(bus: Bus, start: Start) -> None:
    def handler(request: object, transaction: Any) -> object:
        if request == "first":
            # In the very turn in which the client gives up.
            first.cancel()
            wait_until(lambda: transaction.cancelled)
            return "late"
        gevent.sleep(0.001)
        return request

    start(bus.server.serve, handler, workers=1)
    first = bus.client.send_request("first")
    assert bus.client.call("second") == "second"
    with pytest.raises(Cancelled):
        first.recv_response()


def test_a_handler_that_catches_everything_still_cannot_answer_a_given_up_request(
    bus: Bus, start: Start
) -> None:
    answered: list[bool] = []

    def handler(request: object, transaction: Any) -> None:
        try:
            gevent.sleep(LONG)
        finally:
            answered.append(transaction.send_response("late"))

    start(bus.server.serve, handler, workers=1)
    sent = bus.client.send_request("question")
    bus.wait_for_in_flight(1)
    sent.cancel()
    wait_until(lambda: answered)
    assert answered == [False]


@on_every_kind
def test_a_cancelled_request_raises_cancelled_for_everyone_who_waits(bus: Bus, start: Start) -> None:
    sent = bus.client.send_request("question")
    waiters = [start(sent.recv_response) for _ in range(2)]
    waiters[-1].wait_until_blocked()
    sent.cancel()
    assert sent.done is True
    for result in [waiter.result for waiter in waiters] + [sent.recv_response]:
        with pytest.raises(Cancelled):
            result()
    sent.cancel()
    assert bus.client.stats().cancelled == 1


@on_every_kind
def test_cancelling_what_is_answered_does_nothing(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    bus.take().send_response("answer")
    assert sent.recv_response(LONG) == "answer"
    sent.cancel()
    assert sent.recv_response() == "answer"
    assert bus.client.stats().cancelled == 0


def test_the_outcome_of_a_cancelled_request_is_never_said_to_be_more_certain_than_it_is(bus: Bus) -> None:
    queued, taken = bus.client.send_request("queued"), bus.client.send_request("taken")
    # On a local bus all is known.  Over a socket it is, until the request is on its way; to a broker
    # nothing is before the hub's next turn.
    expected = {"local": "NOT_RUN", "broker": "NOT_SENT"}.get(bus.kind, "UNKNOWN")
    transactions = [bus.take(), bus.take()]
    again = bus.client.send_request("queued again")
    for transaction, outcome in ((again, expected), (queued, "UNKNOWN"), (taken, "UNKNOWN")):
        transaction.cancel()
        with pytest.raises(Cancelled) as raised:
            transaction.recv_response()
        assert raised.value.outcome == outcome
    wait_until(lambda: all(transaction.cancelled for transaction in transactions))


def test_a_request_whose_client_closes_interrupts_the_thread_that_handles_it(bus: Bus, start: Start) -> None:
    trace: list[str] = []

    def handler(request: object) -> None:
        try:
            trace.append("blocks")
            gevent.sleep(LONG)
            trace.append("goes on")
        finally:
            trace.append("finally")

    start(bus.server.serve, handler)
    bus.client.send_request("question")
    wait_until(lambda: trace)
    bus.client.close()
    wait_until(lambda: len(trace) > 1)
    assert trace == ["blocks", "finally"]


@on_sockets
def test_a_client_that_goes_away_takes_only_its_own_requests_with_it(bus: Bus, start: Start) -> None:
    other = bus.new_client()
    bus.client.send_request("gone")
    bus.wait_for_queued(1)
    stays = other.send_request("stays")
    bus.wait_for_queued(2)
    bus.client.close()
    wait_until(lambda: bus.server.stats().cancelled == 1)
    transaction, request = bus.server.recv_request(LONG)
    assert request == "stays"
    transaction.send_response("answer")
    assert stays.recv_response(LONG) == "answer"


@on_every_kind
def test_a_call_that_is_interrupted_gives_its_request_up(bus: Bus, start: Start) -> None:
    caller = start(bus.client.call, "question")
    transaction = bus.take()
    caller.kill()
    if bus.plain:
        assert transaction.send_response("late") is True
        wait_until(lambda: bus.client.stats().dropped_late == 1)
    else:
        wait_until(lambda: transaction.cancelled)
        assert transaction.send_response("late") is False
    assert bus.client.stats().in_flight == 0


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_an_answer_that_is_being_encoded_when_the_client_gives_up_returns_false(
    open_bus: OpenBus, start: Start
) -> None:
    go_on = Event()

    def encode_slowly(value: object) -> bytes:
        go_on.wait()
        return b"0"

    slow = codecs.Codec(
        codecs.json.request_to_bus,
        codecs.json.request_from_bus,
        encode_slowly,
        codecs.json.response_from_bus,
    )
    bus = open_bus(codec=slow)
    sent = bus.client.send_request("question")
    answering = start(bus.take().send_response, "answer")
    answering.wait_until_blocked()
    sent.cancel()
    # The next request comes behind the news that the first was given up.
    bus.client.send_request("next")
    bus.wait_for_queued(1)
    go_on.set()
    assert answering.result() is False
    stats = bus.server.stats()
    assert (stats.answered, stats.failed, stats.cancelled) == (0, 0, 1)
