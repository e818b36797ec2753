"""The virtual loop against gevent's own on libev: the same programs of watchers, in the same order.

`python -m testing.test_loop_order COUNT`, in `tests/`, holds that many.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import gevent
import pytest

from ratchet.testing._loop import VirtualLoop
from testing.loop_programs import Program, SystemPair, VirtualPair

# How often libev may run a program, until it is late nowhere.
_ATTEMPTS = 20

# Seconds by which it may be late without a timer ringing in another place for it.
_LATE = 0.0012

_IN_ALL = 250
_IN_A_TEST = 50


def on_libev(program: Program) -> tuple[list[str], bool]:
    """What happens on gevent's own loop, and whether the machine had the time for it."""
    new_loop: Any = gevent.config.loop
    began = time.monotonic()
    on_time = began
    late = 0.0

    def look() -> None:
        nonlocal late
        late = max(late, time.monotonic() - on_time)

    def burn(seconds: float) -> None:
        nonlocal on_time
        look()
        on_time = began + seconds
        time.sleep(max(on_time - time.monotonic(), 0.0))
        look()

    happened = program.run(new_loop(default=False), burn, look=look)
    look()
    return happened, late < _LATE


def on_virtual_time(program: Program, pair: type = SystemPair) -> list[str]:
    """What happens on the virtual loop."""
    loop = VirtualLoop()

    def burn(seconds: float) -> None:
        loop.elapsed = round(seconds * 1e9)

    return program.run(loop, burn, pair)


def check(seed: int) -> bool:
    """Hold one program; whether the machine had the time for that."""
    program = Program(seed)
    virtual = on_virtual_time(program)
    if program.pairs == 1:
        # The order of several is the kernel's.
        assert on_virtual_time(program, VirtualPair) == virtual, f"program {seed}, in memory"
    for _ in range(_ATTEMPTS):
        real, in_time = on_libev(program)
        if real == virtual:
            return True
        assert not in_time, f"program {seed}"
    return False


@pytest.mark.parametrize("first", range(0, _IN_ALL, _IN_A_TEST))
def test_things_happen_in_the_order_of_libev(first: int) -> None:
    held = [check(seed) for seed in range(first, first + _IN_A_TEST)]
    assert sum(held) > _IN_A_TEST / 2


if __name__ == "__main__":
    different = []
    held = 0
    for number in range(int(sys.argv[1])):
        try:
            held += check(number)
        except AssertionError:
            different.append(number)
    print(f"held {held}, different {different}")
