"""What either side of a bus is, whatever its kind: open until it is closed, and counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import TypeVar

from gevent.hub import Hub, get_hub

from ratchet._alive import register
from ratchet._interrupts import guard
from ratchet.bus.stats import Counters, Stats

Self = TypeVar("Self", bound="BusSide")


class BusSide(ABC):
    """One side of a bus, of the OS thread that made it.  `with bus:` closes it on leaving."""

    def __init__(self) -> None:
        self._hub: Hub = get_hub()
        self._run_callback: Callable[..., object] = self._hub.loop.run_callback
        self._counters = Counters()
        self._closed = False
        guard(self._hub)
        register(self)

    @abstractmethod
    def close(self) -> None:
        """Close at once: every thread that waits on it gets `BusClosed`.

        Does not block.  Closing twice is fine.
        """

    @abstractmethod
    def stats(self) -> Stats:
        """A snapshot of what it counts.  Does not block."""

    @abstractmethod
    def _after_fork(self) -> None:
        """See `Living`."""

    def _settle(self) -> None:  # noqa: B027  # each kind has its own
        """See `Living`."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()
