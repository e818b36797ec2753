"""What was published and is not confirmed yet, by the numbers of the confirms that are to come."""

from __future__ import annotations

from itertools import takewhile
from typing import Generic, TypeVar

Kept = TypeVar("Kept")


class Unconfirmed(Generic[Kept]):
    """Messages that the broker has neither taken nor refused, each with what is kept for that moment."""

    __slots__ = ("_kept", "_last")

    def __init__(self) -> None:
        # In the order of their numbers.
        self._kept: dict[int, Kept] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, number: int, kept: Kept) -> None:
        """Note a message that was published; `number` is that of `LinkProtocol.publish`."""
        self._kept[number] = kept
        if number < self._last:
            # A signal handler has published another one before this one was noted.
            self._kept = dict(sorted(self._kept.items()))
        else:
            self._last = number

    def take(self, number: int, multiple: bool) -> list[Kept]:
        """Remove what a confirm is about, and return what was kept for it; see `LinkListener.confirmed`."""
        if multiple:
            numbers = list(takewhile(lambda each: each <= number, self._kept))
        else:
            numbers = [number] if number in self._kept else []
        return [self._kept.pop(each) for each in numbers]

    def clear(self) -> None:
        """The link has ended: no confirm comes any more."""
        self._kept.clear()
