"""What the two sides of every bus have in common: how far they have got, and waiting for an end."""

from __future__ import annotations

import time
from typing import Any

import gevent
import pytest

from helpers import LONG, wait_until
from ratchet import bus as ratchet_bus
from ratchet._wait import waiting_on
from ratchet.bus import LocalBus
from ratchet.bus._core.side import CLOSED, DRAINING, INHERITED, OPEN, wait_until_done


@pytest.fixture
def bus() -> LocalBus[Any, Any]:
    return ratchet_bus.new_local()[0]


def test_a_life_only_goes_on() -> None:
    assert OPEN < DRAINING < CLOSED < INHERITED


def test_what_is_done_already_is_not_waited_for(bus: LocalBus[Any, Any]) -> None:
    assert wait_until_done("drain", bus, lambda: True, time.monotonic() - 1) is True


def test_what_takes_too_long_is_told_at_the_deadline(bus: LocalBus[Any, Any]) -> None:
    began = time.monotonic()
    assert wait_until_done("drain", bus, lambda: False, began + 0.05) is False
    assert 0.05 <= time.monotonic() - began < LONG


def test_an_end_is_noticed_without_a_deadline_and_the_call_is_named_meanwhile(
    bus: LocalBus[Any, Any],
) -> None:
    done: list[bool] = []
    waiting = gevent.spawn(wait_until_done, "drain", bus, lambda: bool(done), None)
    wait_until(lambda: (waiting_on(waiting) or "").startswith("drain on <LocalBus"), "the wait")
    done.append(True)
    assert waiting.get(timeout=LONG) is True


@pytest.mark.parametrize(("act", "state"), [("close", "closed"), ("drain", "closed"), ("stats", "open")])
def test_the_life_of_a_bus_is_in_its_repr(bus: LocalBus[Any, Any], act: str, state: str) -> None:
    getattr(bus, act)()
    assert f": {state}, " in repr(bus)
    bus.close()
