"""Either side of a bus, whatever its kind: open until it is closed, and counted."""

from __future__ import annotations

import atexit
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Final, NoReturn, TypeVar

from gevent.hub import Hub, Waiter, get_hub

from ratchet._alive import buses
from ratchet._interrupts import guard
from ratchet._wait import suspend
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.stats import Counters, Stats

# Seconds between two looks at whether something is done, doubled up to the last.
_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 0.05

Self = TypeVar("Self", bound="BusSide")


class BusSide(ABC):
    """One side of a bus, of the OS thread that made it.  `with bus:` closes it on leaving."""

    def __init__(self) -> None:
        self._hub: Hub = get_hub()
        self._counters = Counters()
        self._closed = False
        # This process is a forked child, and the bus was made by its parent.
        self._inherited = False
        guard(self._hub)
        buses.add(self)

    @abstractmethod
    def close(self) -> None:
        """Close at once: every thread that waits on it gets `BusClosed`.

        Does not block.  Closing twice is fine.
        """

    @abstractmethod
    def stats(self) -> Stats:
        """A snapshot of what it counts.  Does not block; any OS thread may ask for it."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The bus, for people: the address that it listens on or is connected to."""

    @abstractmethod
    def _after_fork(self) -> None:
        """See `Living`."""

    @abstractmethod
    def _settle(self) -> None:
        """See `Living`."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"{self!r} cannot be copied or pickled")

    def _wait_until(self, call: str, condition: Callable[[], bool], deadline: float | None) -> bool:
        """Look again and again, because nobody tells; blocks.  False when the time is over."""
        look = _FIRST_LOOK
        while not condition():
            left = time_left(deadline)
            if self._closed or left == 0:
                return False
            suspend(Waiter(), call, self, look if left is None else min(look, left))
            look = min(2 * look, _LAST_LOOK)
        return True

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def _close_all() -> None:
    """Hand over what was cast as far as possible, and log what was not run: the program ends."""
    for bus in buses.living():
        if bus._hub is get_hub() and not bus._closed:
            bus.close()
    for act in _last_acts:
        act()


_last_acts: list[Callable[[], None]] = []


def after_last_close(act: Callable[[], None]) -> None:
    """Have `act()` called when the program ends and every bus is closed; it may block."""
    _last_acts.append(act)


atexit.register(_close_all)
