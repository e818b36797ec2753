"""The line that requests are in, in the compiled build; the pure build has an `OrderedDict` instead.

The items are linked to each other, so that an item enters and leaves it in a twentieth of the time that
a dictionary takes.  Each step is one to signal handlers, as those of a dictionary are, but only in C.

Only `lines` gives these out, so nothing here runs in the pure build.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratchet.bus._core.numbered import Numbered


class Linked(Numbered):
    """What can be in a line, in one at a time: it leaves that when it enters another one."""

    __slots__ = ("_before", "_behind", "_line")

    def __init__(self) -> None:
        # A class of C has these from the beginning, and no subclass calls this.
        self._before: Linked | None = None
        self._behind: Linked | None = None
        self._line: LinkedLine | None = None


class LinkedLine:
    """Items in the order in which they came, with as much of an `OrderedDict` as they need.

    Attributes:
        first: the oldest one; None if there is none.
    """

    __slots__ = ("_last", "_length", "first")

    def __init__(self) -> None:
        self.first: Any = None
        self._last: Any = None
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """The items as they are now."""
        return iter(self._all())

    def _all(self) -> list[Any]:
        items = []
        item = self.first
        while item is not None:
            items.append(item)
            item = item._behind
        return items

    def __setitem__(self, item: Any, nothing: None) -> None:
        """Put an item at the end, if it is not here."""
        self._enter(item)

    def _enter(self, item: Linked) -> None:
        if item._line is not None:
            if item._line is self:
                return
            item._line.pop(item, None)
        last = self._last
        if last is None:
            self.first = item
        else:
            item._before = last
            last._behind = item
        self._last = item
        item._line = self
        self._length += 1

    def pop(self, item: Linked, default: None) -> None:
        """Take an item out, if it is here."""
        if item._line is not self:
            return
        before, behind = item._before, item._behind
        if before is None:
            self.first = behind
        else:
            before._behind = behind
        if behind is None:
            self._last = before
        else:
            behind._before = before
        item._before = item._behind = item._line = None
        self._length -= 1

    def clear(self) -> None:
        """Take all out."""
        while self.first is not None:
            self.pop(self.first, None)
