"""What both sides of every kind of bus have in common, and how far each has got.

Where a side keeps its `Life` is its own affair, but it keeps it in one place.
"""

from __future__ import annotations

import atexit
import enum
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Final, NoReturn, TypeVar

from gevent.hub import Hub, get_hub

from ratchet._alive import buses
from ratchet._interrupts import guard
from ratchet._wait import new_wait, suspend
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.stats import Stats

# Seconds between two looks at whether something is done, doubled up to the last.
_FIRST_LOOK: Final = 0.001
_LAST_LOOK: Final = 0.05

Self = TypeVar("Self", bound="BusSide")


class Life(enum.IntEnum):
    """How far a side of a bus has got; from `CLOSED` on it is of no use."""

    OPEN = 1
    """It takes whatever comes."""
    DRAINING = 2
    """Nothing new is sent, or taken; what was begun goes on."""
    CLOSED = 3
    """It was closed by its own process."""
    INHERITED = 4
    """It is the parent's, and this process a forked child; a server may be opened again."""


# Module names, because an enum's attribute takes three times as long to read.
OPEN, DRAINING, CLOSED, INHERITED = Life


class BusFields:
    """The fields of a side of a bus that every exchange reads; fields of C in the compiled build.

    Functions that take one read them without a look-up by name; methods of a class that is both
    sides cannot be of C themselves.  A server has `_intake`, and a client `_sender`.
    """

    __slots__ = ("__weakref__", "_hub", "_intake", "_sender")

    _hub: Hub


class BusSide(BusFields, ABC):
    """One side of a bus, of the OS thread that made it.  `with bus:` closes it on leaving."""

    def __init__(self) -> None:
        self._hub = get_hub()
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

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()


def wait_until_done(call: str, bus: BusSide, is_done: Callable[[], bool], deadline: float | None) -> bool:
    """Look again and again, because nobody tells; blocks.  False when the time is over.

    What `call` waits for on a bus has to be done once that is closed.
    """
    look = _FIRST_LOOK
    while not is_done():
        left = time_left(deadline)
        if left == 0:
            return False
        suspend(new_wait(), call, bus, look if left is None else min(look, left))
        look = min(2 * look, _LAST_LOOK)
    return True


def close_all() -> None:
    """Hand over what was cast as far as possible, and log what was not run: the program ends."""
    for bus in buses.living_on(get_hub()):
        bus.close()
    for act in _last_acts:
        act()


_last_acts: list[Callable[[], None]] = []


def after_last_close(act: Callable[[], None]) -> None:
    """Have `act()` called when the program ends and every bus is closed; it may block."""
    _last_acts.append(act)


atexit.register(close_all)
