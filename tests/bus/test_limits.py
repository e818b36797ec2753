"""The bounds of a bus: their defaults, and which values they refuse."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ratchet import bus
from ratchet.bus._core.limits import Limits

DEFAULTS: dict[str, float] = {
    "max_message": 16 * 1024 * 1024,
    "max_parts": 1024,
    "max_queued": 10_000,
    "max_queued_bytes": 64 * 1024 * 1024,
    "max_connections": 10_000,
    "max_in_flight": 1_024,
    "high_water": 1024 * 1024,
    "stall_timeout": 30.0,
}
COUNTS = [name for name in DEFAULTS if name != "stall_timeout"]


def with_limit(name: str, value: Any) -> Limits:
    return Limits(**{name: value})


def test_the_limits_have_their_documented_defaults() -> None:
    assert dataclasses.asdict(Limits()) == DEFAULTS


def test_limits_are_public() -> None:
    assert bus.Limits is Limits


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_limit_is_settable_and_leaves_the_others(name: str) -> None:
    assert dataclasses.asdict(with_limit(name, 7)) == {**DEFAULTS, name: 7}
    assert getattr(with_limit(name, 1), name) == 1


def test_limits_are_given_by_name_and_do_not_change() -> None:
    with pytest.raises(TypeError):
        Limits(1024)  # type: ignore[call-arg]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Limits().max_parts = 7  # type: ignore[misc]


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [0, -1, -(10**30)])
def test_a_limit_that_is_not_above_0_is_a_value_error_that_names_it(name: str, value: int) -> None:
    with pytest.raises(ValueError) as raised:
        with_limit(name, value)
    assert str(raised.value) == f"{name} must be above 0, not {value!r}"


@pytest.mark.parametrize("name", DEFAULTS)
@pytest.mark.parametrize("value", [None, "7", b"7", True, False, [7], 7j])
def test_a_limit_that_is_no_number_is_a_type_error_that_names_it(name: str, value: object) -> None:
    with pytest.raises(TypeError) as raised:
        with_limit(name, value)
    kind = "a whole number" if name in COUNTS else "a number"
    assert str(raised.value) == f"{name} must be {kind}, not {value!r}"


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [7.0, 0.5, float("inf"), float("nan")])
def test_a_count_is_a_whole_number(name: str, value: float) -> None:
    with pytest.raises(TypeError) as raised:
        with_limit(name, value)
    assert str(raised.value) == f"{name} must be a whole number, not {value!r}"


def test_the_stall_timeout_may_be_a_fraction_and_must_be_a_number() -> None:
    assert Limits(stall_timeout=0.25).stall_timeout == 0.25
    with pytest.raises(ValueError, match="stall_timeout must be above 0, not nan"):
        Limits(stall_timeout=float("nan"))
    with pytest.raises(ValueError, match=r"stall_timeout must be above 0, not -0\.5"):
        Limits(stall_timeout=-0.5)


def test_no_more_parts_are_allowed_than_the_wire_can_say() -> None:
    assert Limits(max_parts=0x7FFF).max_parts == 0x7FFF
    with pytest.raises(ValueError, match=r"at most 32767.*, not 32768"):
        Limits(max_parts=0x8000)


def test_no_longer_message_is_allowed_than_the_wire_can_say() -> None:
    assert Limits(max_message=0xFFFFFFFF).max_message == 0xFFFFFFFF
    with pytest.raises(ValueError, match="at most 4 GiB - 1, not 4294967296"):
        Limits(max_message=0x100000000)
