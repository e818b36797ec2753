"""Deadlines: a timeout becomes a time of the clock, and is inherited."""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from helpers import LONG
from ratchet import _clock, bus
from ratchet.bus._core.deadline import (
    deadline_after,
    enter_scope,
    inherited_deadline,
    leave_scope,
    request_deadline,
    time_left,
)
from ratchet.bus._core.incoming import IncomingRequest


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    stopped = Clock()
    # Of the package alone: the rest of the process goes on with the real clock.
    monkeypatch.setattr(_clock, "monotonic", stopped.monotonic)
    return stopped


def test_deadlines_are_times_of_the_monotonic_clock() -> None:
    before = time.monotonic()
    ends = deadline_after(5)
    assert ends is not None
    assert before + 5 <= ends <= time.monotonic() + 5


def test_no_timeout_is_no_deadline() -> None:
    assert deadline_after(None) is None
    assert request_deadline(None) is None
    assert time_left(None) is None


@pytest.mark.parametrize("timeout", [0, 0.25, 3, 1e6])
def test_the_time_left_of_a_deadline_is_its_timeout_and_runs_down(clock: Clock, timeout: float) -> None:
    ends = deadline_after(timeout)
    assert ends == request_deadline(timeout) == 1000 + timeout
    assert time_left(ends) == timeout
    clock.now += timeout / 2
    assert time_left(ends) == pytest.approx(timeout / 2)


def test_the_time_left_is_never_below_0(clock: Clock) -> None:
    ends = deadline_after(5)
    for later in (5, 5.001, 100):
        clock.now = 1000 + later
        assert time_left(ends) == 0
    assert time_left(deadline_after(-5)) == 0


def test_a_request_without_a_timeout_has_the_inherited_deadline(clock: Clock) -> None:
    token = enter_scope(1007)
    try:
        assert request_deadline(None) == 1007
        clock.now += 20
        assert request_deadline(None) == 1007
    finally:
        leave_scope(token)
    assert request_deadline(None) is None


@pytest.mark.parametrize(("timeout", "ends"), [(5, 1005), (7, 1007), (9, 1007), (0, 1000)])
def test_a_request_has_the_earlier_one_of_its_own_deadline_and_the_inherited_one(
    clock: Clock, timeout: float, ends: float
) -> None:
    token = enter_scope(1007)
    try:
        assert request_deadline(timeout) == ends
    finally:
        leave_scope(token)


def test_only_requests_enter_scope(clock: Clock) -> None:
    token = enter_scope(1007)
    try:
        assert deadline_after(20) == 1020
        assert deadline_after(None) is None
    finally:
        leave_scope(token)


def test_no_deadline_is_nothing_to_enter_scope() -> None:
    token = enter_scope(None)
    assert token is None
    assert request_deadline(None) is None
    leave_scope(token)
    assert request_deadline(None) is None


def test_the_end_of_an_inner_inheritance_brings_the_outer_one_back(clock: Clock) -> None:
    outer = enter_scope(1007)
    inner = enter_scope(1003)
    assert request_deadline(None) == 1003
    leave_scope(inner)
    assert request_deadline(None) == 1007
    nothing = enter_scope(None)
    assert request_deadline(None) == 1007
    leave_scope(nothing)
    assert request_deadline(None) == 1007
    leave_scope(outer)
    assert request_deadline(None) is None


def test_a_thread_inherits_from_no_other_thread_but_by_a_copied_context(clock: Clock) -> None:
    token = enter_scope(1007)
    try:
        context = contextvars.copy_context()
        assert gevent.spawn(request_deadline, None).get(timeout=LONG) is None
        assert gevent.spawn(context.run, request_deadline, None).get(timeout=LONG) == 1007
    finally:
        leave_scope(token)
    # Who leaves ends it for all.
    assert context.run(request_deadline, None) is None


def test_a_scope_is_left_from_any_context(clock: Clock) -> None:
    outer = enter_scope(1007)
    inner = enter_scope(1003)
    gevent.spawn(leave_scope, outer).join(LONG)
    assert request_deadline(None) == 1003
    gevent.spawn(leave_scope, inner).join(LONG)
    assert request_deadline(None) is None


def test_what_a_thread_inherits_ends_with_it(clock: Clock) -> None:
    assert gevent.spawn(enter_scope, 1007).get(timeout=LONG) is not None
    assert request_deadline(None) is None


@pytest.mark.pure
@pytest.mark.parametrize("method", ["begin_handling", "end_handling"])
def test_a_block_that_is_interrupted_at_its_edge_leaves_no_deadline_behind(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The thread would pass it on with whatever it sends from then on."""
    right: Callable[..., None] = getattr(IncomingRequest, method)

    def strike_once(incoming: IncomingRequest, *args: Any) -> None:
        monkeypatch.setattr(IncomingRequest, method, right)
        if method == "begin_handling":
            right(incoming, *args)
        raise KeyboardInterrupt

    server, client = bus.new_local()
    asked = client.send_request("tea", timeout=5)
    transaction, _ = server.recv_request()
    monkeypatch.setattr(IncomingRequest, method, strike_once)
    with pytest.raises(KeyboardInterrupt), transaction:
        pass
    assert inherited_deadline() is None
    with transaction:
        assert inherited_deadline() is not None
        transaction.send_response("black")
    assert inherited_deadline() is None
    assert asked.recv_response() == "black"
