"""The lines that requests are in, in the compiled build; the pure build has `OrderedDict` instead.

The items are linked to each other, so that one enters and leaves a line in few steps; `lines.pxd` has
the figures.  No signal handler strikes between these in C.  In Python one would, and so the pure build
keeps dictionaries, whose steps are whole.

Only `lines` gives these out, so nothing here runs in the pure build.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ratchet.bus._core.numbered import Numbered


class Linked(Numbered):
    """An item of a line, and of a flow's line as well; it leaves one when it enters another of that kind.

    Flows have no number, as requests have; but a class of C has only one base.
    """

    __slots__ = ("_before", "_before_in_flow", "_behind", "_behind_in_flow", "_flow_line", "_line")

    def __init__(self) -> None:
        # A class of C has these from the beginning, and no subclass calls this.
        self._before: Linked | None = None
        self._behind: Linked | None = None
        self._line: LinkedLine | None = None
        self._before_in_flow: Linked | None = None
        self._behind_in_flow: Linked | None = None
        self._flow_line: LinkedLine | None = None


class LinkedLine:
    """Items in the order in which they came, with as much of an `OrderedDict` as they need.

    Args:
        of_flow: whether it is one of a flow.

    Attributes:
        first: the oldest one; None if there is none.
        last: the newest one; None if there is none.
    """

    __slots__ = ("_length", "_of_flow", "first", "last")

    def __init__(self, of_flow: bool = False) -> None:
        self._of_flow = of_flow
        self._length = 0
        self.first: Linked | None = None
        self.last: Linked | None = None

    def __len__(self) -> int:
        return self._length

    def __contains__(self, item: Any) -> bool:
        return self._line_of(item) is self

    def __iter__(self) -> Iterator[Any]:
        """The items as they are now."""
        return iter(self._all())

    def _all(self) -> list[Any]:
        items: list[Any] = []
        item = self.first
        while item is not None:
            items.append(item)
            item = item._behind_in_flow if self._of_flow else item._behind
        return items

    def __setitem__(self, item: Any, nothing: None) -> None:
        """Put an item at the end, if it is not here."""
        self.enter(item)

    def enter(self, item: Linked) -> None:
        """Put an item at the end, if it is not here."""
        line = self._line_of(item)
        if line is self:
            return
        if line is not None:
            line.pop(item, None)
        if self.last is None:
            self.first = item
        else:
            self._link(self.last, item)
        self.last = item
        if self._of_flow:
            item._flow_line = self
        else:
            item._line = self
        self._length += 1

    def pop(self, item: Linked, default: None) -> None:
        """Take an item out, if it is here."""
        if self._line_of(item) is not self:
            return
        if self._of_flow:
            self._link(item._before_in_flow, item._behind_in_flow)
            item._before_in_flow = item._behind_in_flow = item._flow_line = None
        else:
            self._link(item._before, item._behind)
            item._before = item._behind = item._line = None
        self._length -= 1

    def _line_of(self, item: Linked) -> LinkedLine | None:
        """The line of this kind that an item is in."""
        return item._flow_line if self._of_flow else item._line

    def _link(self, before: Linked | None, behind: Linked | None) -> None:
        """Make two the neighbours of each other; None stands for either end of the line."""
        if before is None:
            self.first = behind
        elif self._of_flow:
            before._behind_in_flow = behind
        else:
            before._behind = behind
        if behind is None:
            self.last = before
        elif self._of_flow:
            behind._before_in_flow = before
        else:
            behind._before = before

    def clear(self) -> None:
        """Take all out."""
        while self.first is not None:
            self.pop(self.first, None)
