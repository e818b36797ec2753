"""The requests that are open on a connection, by their ids: a table for the compiled build.

Ids come one after the other, and go in about the same order.  So each request has the slot that
the last bits of its id name, and there is nothing to search.  One whose slot is taken, because a
request has stayed open for long or a peer chooses other ids, goes into a dict beside the slots.
"""

from __future__ import annotations

from collections.abc import Iterator
from operator import attrgetter
from typing import Any, Final

from ratchet.bus._core.numbered import Numbered

_FEWEST: Final = 8
# Of an empty table: most connections are idle most of the time.  Nothing is ever put in.
_NO_SLOTS: Final[list[Any]] = [None]
_NO_OTHERS: Final[dict[int, Any]] = {}
_id_of: Final = attrgetter("id")


class Table:
    """Requests by their ids, with as much of a dict's interface as a connection uses."""

    __slots__ = ("_first_size", "_in_slots", "_others", "_slots")

    def __init__(self) -> None:
        # As many as a power of two; how many are taken; how many to begin with when it is empty.
        self._slots = _NO_SLOTS
        self._in_slots = 0
        self._first_size = _FEWEST
        # Those whose slots were taken when they came.
        self._others = _NO_OTHERS

    def __len__(self) -> int:
        return self._in_slots + len(self._others)

    def __iter__(self) -> Iterator[int]:
        return iter([request.id for request in self.values()])

    def values(self) -> list[Any]:
        """The requests in the order of their ids, in a list of its own."""
        found = [request for request in self._slots if request is not None]
        return sorted([*found, *self._others.values()], key=_id_of)

    def get(self, id: int) -> Any:
        """The request of an id, or None."""
        found: Numbered | None = self._slots[id & (len(self._slots) - 1)]
        if found is not None and found.id == id:
            return found
        return self._others.get(id) if self._others else None

    def setdefault(self, id: int, request: Numbered) -> Any:
        """The request of an id, which is this one from now on if there was none."""
        if self._others and id in self._others:
            return self._others[id]
        slot = id & (len(self._slots) - 1)
        found: Numbered | None = self._slots[slot]
        while found is not None and found.id != id and self._in_slots * 2 >= len(self._slots):
            self._double()
            slot = id & (len(self._slots) - 1)
            found = self._slots[slot]
        if found is None:
            if self._slots is _NO_SLOTS:
                self._slots = [None] * self._first_size
                slot = id & (self._first_size - 1)
            self._slots[slot] = request
            self._in_slots += 1
        elif found.id == id:
            return found
        else:
            if self._others is _NO_OTHERS:
                self._others = {}
            self._others[id] = request
        return request

    def _double(self) -> None:
        """Make twice as many slots: no two requests of different slots come into the same one."""
        slots: list[Any] = [None] * (2 * len(self._slots))
        for request in self._slots:
            if request is not None:
                slots[request.id & (len(slots) - 1)] = request
        self._slots = slots

    def pop(self, id: int, default: None) -> Any:
        """Take out the request of an id, and return it; None if there is none."""
        slot = id & (len(self._slots) - 1)
        found: Numbered | None = self._slots[slot]
        if found is None or found.id != id:
            return self._others.pop(id, None) if self._others else None
        self._slots[slot] = None
        self._in_slots -= 1
        if self._in_slots == 0:
            # It had use for these, and may have again, but is not to keep as many for ever.
            self._first_size = max(len(self._slots) // 2, _FEWEST)
            self._slots = _NO_SLOTS
        return found

    def clear(self) -> None:
        """Take out all."""
        self._slots = _NO_SLOTS
        self._in_slots = 0
        self._others = _NO_OTHERS
