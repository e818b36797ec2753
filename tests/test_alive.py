"""Registers of what is alive: complete, in order, and keeping nothing alive."""

from __future__ import annotations

import gc

import pytest

from ratchet import Ratchet, _alive, bus


@pytest.fixture(autouse=True)
def collected() -> None:
    """What earlier tests have left is not alive."""
    gc.collect()


def test_what_is_alive_is_registered_by_kind_and_in_order() -> None:
    before = len(_alive.schedulers.living()), len(_alive.buses.living())
    sides = [bus.new_local()[0] for _ in range(2)]
    kernels = [Ratchet() for _ in range(2)]
    assert _alive.schedulers.living()[before[0] :] == [kernel._scheduler for kernel in kernels]
    assert _alive.buses.living()[before[1] :] == sides


def test_the_schedulers_come_before_all_others() -> None:
    side, kernel = bus.new_local()[0], Ratchet()
    made = [thing for thing in _alive.living() if thing is side or thing is kernel._scheduler]
    assert made == [kernel._scheduler, side]


def test_what_nobody_has_any_more_is_not_alive() -> None:
    kernel = Ratchet()
    count = len(_alive.living())
    assert any(thing is kernel._scheduler for thing in _alive.living())
    del kernel
    gc.collect()
    assert len(_alive.living()) == count - 1
