"""Errors and signals that strike within a call: the sweep of `robustness.interrupts` in everyday form."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event

from contract.buses import TELLING, Bus, OpenBus, Start, Task, each, on_every_kind, on_local
from helpers import LONG, wait_until
from ratchet import Abandoned, BusClosed, BusError, ConnectionLost, RemoteError
from ratchet._wait import waiting_on

LARGE = "L" * 70_000


def to_the_limit(call: Callable[[], object]) -> None:
    """Call deeper and deeper, until one of the calls has no stack left."""

    def deeper() -> None:
        call()
        deeper()

    with pytest.raises(RecursionError):
        deeper()


def at_the_end_of_the_stack(levels: int, call: Callable[[], object]) -> None:
    """Call where only so many levels of the stack are left; a `RecursionError` is nothing more."""
    depths = itertools.count()
    with suppress(RecursionError):
        sink(depths)
    with suppress(RecursionError):
        descend(next(depths) - levels, call)


def sink(depths: Iterator[int]) -> None:
    next(depths)
    sink(depths)


def descend(more: int, call: Callable[[], object]) -> None:
    if more:
        descend(more - 1, call)
    else:
        call()


@pytest.mark.uncounted
@on_every_kind
@pytest.mark.parametrize("request_", ["x", LARGE], ids=["small", "large"])
def test_a_recursion_error_within_cast_makes_no_later_outcome_false(
    open_bus: OpenBus, start: Start, request_: str
) -> None:
    bus = open_bus()
    ran: list[str] = []

    def handler(request: str) -> str:
        ran.append(request)
        if request == "slow":
            gevent.sleep(0.1)
        return request

    serving = start(bus.server.serve, handler)
    assert bus.client.call("before", LONG) == "before"
    to_the_limit(lambda: bus.client.cast(request_))
    ended: str | None = None
    try:
        bus.client.call("slow", timeout=0.02)
    except BusError as error:
        ended = error.outcome
    bus.new_client().call("after", LONG)
    wait_until(lambda: bus.server.stats()[1:3] == (0, 0), "every request to end")
    assert ran.count("slow") <= (0 if ended in ("NOT_SENT", "NOT_RUN") else 1)
    assert set(ran) <= {"before", "slow", "after", request_}
    assert not serving.ended


@on_every_kind
def test_a_recursion_error_within_call_leaves_no_request_behind(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    to_the_limit(lambda: bus.client.send_request("x", timeout=LONG))
    wait_until(lambda: bus.server.stats()[1:3] == (0, 0), "every request to be answered")
    wait_until(lambda: bus.client.stats().in_flight == 0, "every answer to be there")
    assert bus.new_client().call("after", LONG) == "after"


@on_every_kind
def test_a_recursion_error_within_call_many_leaves_no_request_behind(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    to_the_limit(lambda: bus.client.call_many("xyz", timeout=LONG))
    wait_until(lambda: bus.server.stats()[1:3] == (0, 0), "every request to be answered")
    wait_until(lambda: bus.client.stats().in_flight == 0, "every answer to be there")
    assert bus.new_client().call_many("xyz", LONG) == ["x", "y", "z"]


@on_every_kind
@pytest.mark.parametrize("answer", ["send_response", "send_error"])
def test_a_recursion_error_within_an_answer_is_told_to_the_client_at_once(
    bus: Bus, start: Start, answer: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, "ratchet")
    given: Any = {"send_response": "too deep", "send_error": ValueError("too deep")}[answer]

    def handler(request: str, transaction: Any) -> str:
        def deeper() -> None:
            try:
                deeper()
            except RecursionError:
                # It strikes again within the answer, at every depth at which it can.
                getattr(transaction, answer)(given)

        if request == "fail":
            deeper()
        return request

    serving = start(bus.server.serve, handler, workers=1)
    try:
        assert bus.client.call("fail", LONG / 2) == "too deep"
    except (RemoteError, Abandoned):
        pass
    except ConnectionLost:
        assert bus.plain
    wait_until(lambda: bus.server.stats().in_flight == 0, "the request to be forgotten")
    assert bus.new_client().call("question", LONG) == "question"
    assert not serving.ended


LEVELS = range(1, 13)
"""Of the stack: with the last of them left, every answer is sent."""


@pytest.mark.uncounted
@on_every_kind
@pytest.mark.parametrize("answer", ["send_response", "send_error"])
def test_a_handler_that_goes_on_after_a_recursion_error_within_its_answer_leaves_no_request_behind(
    bus: Bus, start: Start, answer: str
) -> None:
    given: Any = {"send_response": "too deep", "send_error": ValueError("too deep")}[answer]
    kept: list[Any] = []

    def handler(levels: int, transaction: Any) -> str:
        kept.append(transaction)
        at_the_end_of_the_stack(levels, partial(getattr(transaction, answer), given))
        return "too deep"

    serving = start(bus.server.serve, handler, workers=1)
    for levels in LEVELS:
        try:
            assert bus.new_client().call(levels, LONG / 2) == "too deep"
        except (RemoteError, Abandoned):
            pass
        except ConnectionLost:
            # It struck in the middle of a write, or a plain error was to be told.
            assert bus.kind != "local"
        bus.wait_for_in_flight(0)
    assert not serving.ended
    assert len(kept) == len(LEVELS)


@pytest.mark.uncounted
@on_every_kind
@pytest.mark.parametrize("draining", [False, True], ids=["open", "draining"])
def test_a_request_that_is_let_go_after_a_recursion_error_within_its_answer_is_forgotten(
    open_bus: OpenBus, start: Start, draining: bool
) -> None:
    for levels in LEVELS:
        bus = open_bus()
        asked = start(bus.client.call, "question", LONG / 2)
        transaction = bus.take()
        drain = start(bus.server.drain, LONG) if draining else None
        if drain is not None:
            drain.wait_until_blocked()
        at_the_end_of_the_stack(levels, partial(transaction.send_response, "answer"))
        del transaction
        try:
            assert asked.result() == "answer"
        except (RemoteError, Abandoned):
            pass
        except ConnectionLost:
            # It struck in the middle of a write, or a plain error was to be told.
            assert bus.kind != "local"
        bus.wait_for_in_flight(0)
        assert drain is None or drain.result() is True


@on_local
def test_a_request_that_was_answered_and_not_forgotten_is_forgotten_when_it_is_let_go(bus: Bus) -> None:
    asked = bus.client.send_request("question")
    transaction = bus.take()
    assert transaction.send_response("answer") is True
    # As an exception leaves it that strikes in between.
    bus.server._intake.requests.in_flight[transaction._incoming] = None
    assert bus.server.stats().in_flight == 1
    del transaction
    bus.wait_for_in_flight(0)
    assert asked.recv_response(LONG) == "answer"


def has_ended_or_waits(task: Task) -> bool:
    return task.ended or waiting_on(task.thread) is not None


@pytest.mark.uncounted
@pytest.mark.parametrize("kind", each(*TELLING))
def test_a_call_that_ends_in_a_recursion_error_leaves_no_request_that_nobody_waits_for(
    bus: Bus, start: Start
) -> None:
    never = Event()
    start(bus.server.serve, lambda request: never.wait())
    for levels in LEVELS:
        calling = start(at_the_end_of_the_stack, levels, partial(bus.client.call, "question"))
        wait_until(partial(has_ended_or_waits, calling), "its end, or that it waits")
        calling.kill()
        wait_until(lambda: bus.client.stats().in_flight == 0, "the client to give up")
        wait_until(lambda: bus.server.stats()[1:3] == (0, 0), "the server to forget the request")


@pytest.fixture
def own_profile() -> Iterator[None]:
    """The test sets a profile function of its own."""
    before = sys.getprofile()
    yield
    sys.setprofile(before)


def at_call(number: int, strike: Callable[[], None]) -> Callable[..., None]:
    """A profile function that strikes at so many calls of the bus."""
    left = [number]

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call" and f"{os.sep}bus{os.sep}" in frame.f_code.co_filename:
            left[0] -= 1
            if left[0] == 0:
                sys.setprofile(None)
                strike()

    return profile


@pytest.mark.pure
@on_every_kind
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.usefixtures("own_profile")
def test_a_signal_handler_that_casts_within_a_call_tears_no_frame(bus: Bus, start: Start, many: bool) -> None:
    seen: list[str] = []

    def handler(request: str) -> str:
        seen.append(request)
        return request

    start(bus.server.serve, handler)
    assert bus.client.call("before", LONG) == "before"
    before = signal.signal(signal.SIGHUP, lambda *_: bus.client.cast("of the signal"))
    rounds = 30
    try:
        for number in range(1, rounds + 1):
            sys.setprofile(at_call(number, lambda: os.kill(os.getpid(), signal.SIGHUP)))
            if many:
                answers = bus.client.call_many([LARGE, LARGE], LONG)
            else:
                answers = [bus.client.call(LARGE, LONG)]
            sys.setprofile(None)
            assert set(answers) == {LARGE}
    finally:
        signal.signal(signal.SIGHUP, before)
    assert bus.client.call("after", LONG) == "after"
    assert set(seen) <= {"before", "of the signal", LARGE, "after"}
    assert seen.count(LARGE) == (2 if many else 1) * rounds
    assert seen.count("of the signal") >= 1


@on_every_kind
@pytest.mark.parametrize("number", range(1, 40, 2))
@pytest.mark.usefixtures("own_profile")
def test_a_signal_handler_that_closes_the_bus_within_call_many_ends_each_request_once(
    bus: Bus, start: Start, number: int
) -> None:
    start(bus.server.serve, lambda request: request)
    assert bus.client.call("before", LONG) == "before"
    before = signal.signal(signal.SIGHUP, lambda *_: bus.client.close())
    try:
        sys.setprofile(at_call(number, lambda: os.kill(os.getpid(), signal.SIGHUP)))
        with gevent.Timeout(LONG):
            results = bus.client.call_many(["x", LARGE, "y"])
    finally:
        sys.setprofile(None)
        signal.signal(signal.SIGHUP, before)
    for request, result in zip(["x", LARGE, "y"], results, strict=True):
        assert result == request or isinstance(result, BusClosed)
    assert bus.client.stats().in_flight == 0
