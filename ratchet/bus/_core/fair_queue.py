"""Whose request is next: flows take turns, and each flow keeps the order of arrival.

A flow is what came from one connection; a local bus has one.  Flows with one request at a
time come before those with a backlog, as the new flows of FQ-CoDel do (RFC 8290), but the
backlogged ones get as many of the turns as is due to their number, up to every second one.
Among either kind, turns go round.

Only while the oldest requests of a flow lose half of their time by waiting, and have for a
while, do those with a deadline come newest first: in the order of arrival, each would be
answered just too late.  That is the adaptive LIFO of "Fail at Scale" (Maurer, 2015), with
CoDel's test of when.  Requests without a deadline keep their order even then, and get every
second turn of their flow.

A call takes constant time, however many flows and items there are; only `_spread`, which ends
the short cut below, takes longer, once.  An interrupted call may leave an item in its flow that
has been taken or removed: whoever gets it checks the item's own state.  And a signal handler may
take everything out between any two lines.

Every exchange passes through here.  So as long as all items are of one flow, all or none have a
deadline, and the oldest has time, which is usual when there is not too much work, they are only
in `items`, and not in their flow as well.
"""

from __future__ import annotations

import math
from typing import Any, Final

from ratchet import _clock
from ratchet.bus._core import lines
from ratchet.bus._core.linked import Linked

# Seconds for which the oldest of a flow are late, before its newest come first: CoDel's
# interval.  A burst that is worked off sooner keeps its order.
_INTERVAL: Final = 0.1


class Queued(Linked):
    """An item of the queue; its own class says what it is.

    Attributes:
        flow: where it came from.
        deadline: when it must be over; None for never.
        half_time: when half of the time that it had on arrival is over; only if there is a deadline.
        run: the number of the run in which it came, once it is in its flow; see `Flow.run`.
    """

    __slots__ = ("deadline", "flow", "half_time", "run")

    run: int

    def __init__(self, flow: Flow, deadline: float | None, half_time: float) -> None:
        self.flow = flow
        self.deadline = deadline
        self.half_time = half_time


# In place of those that a flow makes when it needs them: most connections are idle most of the
# time, and an empty `OrderedDict` takes 128 bytes.  Nothing is ever put in.
_NONE: Final = lines.new_flow_line()


class Flow(Linked):
    """The items of one connection that wait.

    Attributes:
        has_backlog: whether its connection has more requests than are here.
        without_deadline: its items without a deadline, oldest first.
        with_deadline: the same for those with a deadline.
        run: the number of the latest run of items that all have a deadline, or all have none.
        last_has_deadline: whether the items of that run have one.
        late_since: since when the oldest with a deadline have lost half of their time by
            waiting, as far as anybody has looked; infinity if they have not.
        next_without_deadline: whether it is the turn of one without a deadline, while the newest
            come first.
    """

    __slots__ = (
        "has_backlog",
        "last_has_deadline",
        "late_since",
        "next_without_deadline",
        "run",
        "with_deadline",
        "without_deadline",
    )

    def __init__(self) -> None:
        self.has_backlog = False
        self.without_deadline = _NONE
        self.with_deadline = _NONE
        self.run = 0
        self.last_has_deadline = False
        self.late_since = math.inf
        self.next_without_deadline = False

    def next_beside(self, oldest: Queued, time_needed: float) -> Any:
        """The item whose turn it is, if this is the oldest that has a deadline.

        It may be one that has less time left than is needed, for its taker to refuse it.
        """
        now = _clock.monotonic()
        if now < oldest.half_time:
            self.late_since = math.inf
        elif self.late_since > now:
            self.late_since = now
        elif now - self.late_since >= _INTERVAL:
            return self._next_of_overloaded(oldest, now + time_needed)
        first = lines.first_of(self.without_deadline)
        return oldest if first is None or first.run > oldest.run else first

    def _next_of_overloaded(self, oldest: Queued, end: float) -> Any:
        """The item whose turn it is, while the newest come first; one begun now would end at `end`."""
        assert oldest.deadline is not None
        if oldest.deadline < end:
            return oldest
        item = lines.first_of(self.without_deadline) if self.next_without_deadline else None
        if item is None:
            item = lines.last_of(self.with_deadline)
        return oldest if item is None else item


class FairQueue:
    """The items of all flows that wait.

    Attributes:
        items: all of them, oldest first.
        only_flow: the flow that all items are of; then they are not in it, and the inbox puts them
            into `items` and takes them out directly.  None if each item is also in its flow.
        only_has_deadline: whether the items of `only_flow` have a deadline, each or none of them.
    """

    def __init__(self) -> None:
        self.items = lines.new_line()
        self.only_flow: Flow | None = None
        self.only_has_deadline = False
        # The flows with items: those with a single one, and the rest.
        self._fresh = lines.new_line()
        self._backlogged = lines.new_line()
        # How many turns in a row were of fresh flows.
        self._fresh_turns = 0

    def put(self, item: Queued) -> None:
        """Add an item."""
        has_deadline = item.deadline is not None
        if not self.items:
            self.only_has_deadline = has_deadline
            self.only_flow = item.flow
        elif item.flow is not self.only_flow or has_deadline is not self.only_has_deadline:
            self._spread()
            self._put_in_flow(item)
        self.items[item] = None

    def _spread(self) -> None:
        """Put all items into their flows, too."""
        if self.only_flow is not None:
            # First: if this is interrupted, the next call does it again, to the same end.
            for item in list(self.items):
                self._put_in_flow(item)
            self.only_flow = None

    def _put_in_flow(self, item: Queued) -> None:
        flow = item.flow
        if flow.without_deadline or flow.with_deadline or flow.has_backlog:
            self._move_to_backlogged(flow)
        else:
            self._fresh[flow] = None
        has_deadline = item.deadline is not None
        if has_deadline is not flow.last_has_deadline:
            flow.run += 1
            flow.last_has_deadline = has_deadline
        item.run = flow.run
        if has_deadline:
            if flow.with_deadline is _NONE:
                flow.with_deadline = lines.new_flow_line()
            flow.with_deadline[item] = None
        else:
            if flow.without_deadline is _NONE:
                flow.without_deadline = lines.new_flow_line()
            flow.without_deadline[item] = None

    def note_backlog(self, flow: Flow) -> None:
        """Count a flow among those with a backlog: its connection has more than is here."""
        if self.only_flow is None:
            self._move_to_backlogged(flow)

    def _move_to_backlogged(self, flow: Flow) -> None:
        if flow not in self._backlogged:
            self._backlogged[flow] = None
            self._fresh.pop(flow, None)

    def next(self, time_needed: float) -> Any:
        """The item whose turn it is, which stays here; None if there is none."""
        if self.only_flow is not None:
            first = lines.first_of(self.items)
            if first is None or first.deadline is None:
                return first
            if _clock.monotonic() < first.half_time:
                first.flow.late_since = math.inf
                return first
            self._spread()
        fresh, backlogged = self._fresh, self._backlogged
        while fresh or backlogged:
            if not backlogged:
                turns = fresh
            elif not fresh or self._fresh_turns * len(backlogged) >= max(len(fresh), len(backlogged)):
                turns = backlogged
            else:
                turns = fresh
            flow = lines.first_of(turns)
            if flow is None:
                continue
            oldest = lines.first_of(flow.with_deadline)
            if oldest is not None:
                return flow.next_beside(oldest, time_needed)
            oldest = lines.first_of(flow.without_deadline)
            if oldest is not None:
                return oldest
            # An interrupted call has left the flow here without an item.
            turns.pop(flow, None)
        return None

    def take(self, item: Queued) -> None:
        """Remove an item that has had its turn; does nothing to one that is not here."""
        flow = item.flow
        self.items.pop(item, None)
        has_deadline = item.deadline is not None
        beside = flow.with_deadline if has_deadline else flow.without_deadline
        if item not in beside:
            return
        beside.pop(item, None)
        flow.next_without_deadline = has_deadline
        backlogged = self._backlogged
        if flow in backlogged:
            self._fresh_turns = 0
        else:
            self._fresh_turns += 1
        if flow.without_deadline or flow.with_deadline:
            lines.move_to_end(backlogged, flow)
        else:
            backlogged.pop(flow, None)
        self._fresh.pop(flow, None)

    def remove(self, item: Queued) -> None:
        """Remove an item that has had no turn; does nothing to one that is not here."""
        flow = item.flow
        self.items.pop(item, None)
        (flow.without_deadline if item.deadline is None else flow.with_deadline).pop(item, None)
        if not (flow.without_deadline or flow.with_deadline):
            self._fresh.pop(flow, None)
            self._backlogged.pop(flow, None)
