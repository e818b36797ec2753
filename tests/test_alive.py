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
    before = len(_alive.kernels.living()), len(_alive.buses.living())
    made = [bus.new_local()[0], Ratchet(), bus.new_local()[0], Ratchet()]
    kernels, buses = made[1::2], made[::2]
    assert _alive.kernels.living()[before[0] :] == kernels
    assert _alive.buses.living()[before[1] :] == buses


def test_the_schedulers_come_before_all_others() -> None:
    made = [bus.new_local()[0], Ratchet()]
    ours = [thing for thing in _alive.living() if thing in made]
    assert ours == made[::-1]


def test_what_nobody_has_any_more_is_not_alive() -> None:
    kernel = Ratchet()
    count = len(_alive.living())
    assert kernel in _alive.living()
    del kernel
    gc.collect()
    assert len(_alive.living()) == count - 1
