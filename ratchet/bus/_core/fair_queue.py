"""Whose request is next: flows take turns, and within a flow each is in its order.

A flow is what came from one connection; a local bus has one.  Flows with one request at a
time come before those that keep a backlog, as the new flows of FQ-CoDel do (RFC 8290), but
every second turn at least is of the backlogged ones.  Among either kind, turns go round.

Within a flow, the order is that of arrival.  Only while its oldest requests lose half of
their time by waiting, and have for a while, do those with a deadline come newest first: the
old ones would be answered too late, one after the other, and with them all that come
behind.  That is the adaptive LIFO of "Fail at Scale" (Maurer, 2015), with CoDel's test of
when.  A request without a deadline keeps its order, and has every second turn of its flow
then.

Each call takes constant time, however many flows and items there are.  An interrupted call
may leave an item to its flow that does not count any more: whose turn comes is asked for its
own state.  And a signal handler may take everything out between any two lines.

Every exchange comes by.  So as long as all that waits is of one flow, and has time, which is the
rule where there is not too much work, it is in one place and not in two.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from contextlib import suppress
from typing import Any, Final, Generic, Protocol, TypeVar

from ratchet import _clock

# Seconds for which a flow is too long, before its newest come first.  A burst that is
# worked off sooner keeps its order.
_PATIENCE: Final = 0.1


class Queued(Protocol):
    """An item of the queue."""

    @property
    def flow(self) -> Flow[Any]:
        """Where it came from."""

    @property
    def deadline(self) -> float | None:
        """When it must be over; None for never."""

    @property
    def half_time(self) -> float:
        """When half of the time is over that it had when it came; only if it has a deadline."""


Item = TypeVar("Item", bound=Queued)


class Flow(Generic[Item]):
    """The items of one connection that wait.

    Attributes:
        has_backlog: whether there are more of them than are here.
        patient: those without a deadline, and for each how often the kind had changed when it came.
        pressed: the same of those with a deadline.
        changes: how often the kind has changed.
        ends_pressed: whether the last one had a deadline.
        late_since: since when the oldest with a deadline have lost half of their time by waiting.
        patient_next: whether the next is one without a deadline, while the newest come first.
    """

    __slots__ = (
        "changes",
        "ends_pressed",
        "has_backlog",
        "late_since",
        "patient",
        "patient_next",
        "pressed",
    )

    def __init__(self) -> None:
        self.has_backlog = False
        self.patient: OrderedDict[Item, int] = OrderedDict()
        self.pressed: OrderedDict[Item, int] = OrderedDict()
        self.changes = 0
        self.ends_pressed = False
        self.late_since = math.inf
        self.patient_next = False

    def next_beside(self, oldest: Item, time_needed: float) -> Item:
        """The item whose turn it is, if this is the oldest that has a deadline.

        One that has less time left than is needed is to be refused.
        """
        now = _clock.monotonic()
        if now < oldest.half_time:
            self.late_since = math.inf
        elif self.late_since > now:
            self.late_since = now
        elif now - self.late_since >= _PATIENCE:
            return self._next_of_too_long(oldest, now + time_needed)
        for first, changes in self.patient.items():
            return first if changes < self.pressed.get(oldest, changes) else oldest
        return oldest

    def _next_of_too_long(self, oldest: Item, end: float) -> Item:
        assert oldest.deadline is not None
        if oldest.deadline < end:
            return oldest
        if self.patient_next:
            for item in self.patient:
                return item
        return next(reversed(self.pressed), oldest)


class FairQueue(Generic[Item]):
    """The items of all flows that wait.

    Attributes:
        items: all of them, oldest first.
        only: the flow that all are of; None if they are spread over their flows.  As long as
            there is one, items may be put in and taken out here.
    """

    def __init__(self) -> None:
        self.items: OrderedDict[Item, None] = OrderedDict()
        self.only: Flow[Item] | None = None
        # The flows with items: those with a single one, and the rest.
        self._fresh: OrderedDict[Flow[Item], None] = OrderedDict()
        self._backlogged: OrderedDict[Flow[Item], None] = OrderedDict()
        # How many turns in a row were of fresh flows.
        self._fresh_turns = 0

    def put(self, item: Item) -> None:
        """Add an item."""
        if not self.items:
            self.only = item.flow
        elif item.flow is not self.only:
            self._spread()
            self._put_in_flow(item)
        self.items[item] = None

    def _spread(self) -> None:
        if self.only is not None:
            # First: one that is in its flow already is not put there again.
            for item in list(self.items):
                self._put_in_flow(item)
            self.only = None

    def _put_in_flow(self, item: Item) -> None:
        flow = item.flow
        if flow.patient or flow.pressed or flow.has_backlog:
            self._move_to_backlogged(flow)
        else:
            self._fresh[flow] = None
        pressed = item.deadline is not None
        if pressed is not flow.ends_pressed:
            flow.changes += 1
            flow.ends_pressed = pressed
        (flow.pressed if pressed else flow.patient)[item] = flow.changes

    def note_backlog(self, flow: Flow[Item]) -> None:
        """There is more in a flow than one item, here or elsewhere."""
        if self.only is None:
            self._move_to_backlogged(flow)

    def _move_to_backlogged(self, flow: Flow[Item]) -> None:
        if flow not in self._backlogged:
            self._backlogged[flow] = None
            self._fresh.pop(flow, None)

    def next(self, time_needed: float) -> Item | None:
        """The item whose turn it is, which stays here; None if there is none."""
        if self.only is not None:
            for first in self.items:
                if first.deadline is None:
                    return first
                if _clock.monotonic() < first.half_time:
                    first.flow.late_since = math.inf
                    return first
                break
            self._spread()
        fresh, backlogged = self._fresh, self._backlogged
        while fresh or backlogged:
            if not backlogged:
                turns = fresh
            elif not fresh or self._fresh_turns * len(backlogged) >= max(len(fresh), len(backlogged)):
                turns = backlogged
            else:
                turns = fresh
            for flow in turns:
                for oldest in flow.pressed:
                    return flow.next_beside(oldest, time_needed)
                for item in flow.patient:
                    return item
                # An interrupted call has left it behind.
                turns.pop(flow, None)
                break
        return None

    def take(self, item: Item) -> None:
        """Remove an item that has had its turn; does nothing to one that is not here."""
        flow = item.flow
        self.items.pop(item, None)
        pressed = item.deadline is not None
        if (flow.pressed if pressed else flow.patient).pop(item, None) is None:
            return
        flow.patient_next = pressed
        backlogged = self._backlogged
        if flow in backlogged:
            self._fresh_turns = 0
        else:
            self._fresh_turns += 1
        if flow.patient or flow.pressed:
            backlogged[flow] = None
            with suppress(KeyError):
                backlogged.move_to_end(flow)
        else:
            backlogged.pop(flow, None)
        self._fresh.pop(flow, None)

    def remove(self, item: Item) -> None:
        """Remove an item that has had no turn; does nothing to one that is not here."""
        flow = item.flow
        self.items.pop(item, None)
        (flow.patient if item.deadline is None else flow.pressed).pop(item, None)
        if not (flow.patient or flow.pressed):
            self._fresh.pop(flow, None)
            self._backlogged.pop(flow, None)
