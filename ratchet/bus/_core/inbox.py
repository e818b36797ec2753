"""The queue of requests that wait for a thread, the same for every kind of bus.

An item stays in the queue until the very thread that takes it runs, and has
claimed it.  Waking a thread hands nothing over, so a thread that is killed while it waits, or
just as an item comes, takes nothing with it.

Waiters are served first come, first served: a thread that comes while others
wait goes to the end of the line, even if there is an item.  Only a worker of `serve` that has
answered goes before the others of its team, which saves a switch for each request; until its
slice of time is over, and then the hub has its turn.  `fair_queue` decides which item is next.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from gevent.hub import get_hub

from ratchet._run_queue import run_queue_of
from ratchet._sleep import Dispatcher
from ratchet._wait import Wait, WaitQueue, check_may_wait
from ratchet.bus._core import lines
from ratchet.bus._core.deadline import in_words
from ratchet.bus._core.fair_queue import FairQueue, Flow, Queued
from ratchet.bus._core.limits import countable
from ratchet.bus._core.load import Load, Named
from ratchet.errors import BusClosed, BusTimeout, Outcome


class Inbox(Dispatcher):
    """Items, threads that wait for one, and threads that wait for room.

    Args:
        owner: the bus, for texts.
        load: how long its requests take.
        maxsize: how many items there may be before `wait_for_room` waits;
            None for any number.
        max_queued: how many items there may be before it is overfull; None for any number.

    Attributes:
        closed: whether nothing is put in any more.
        overfull: whether it has reached `max_queued`, and has not come down to half of that
            since.  The first free place is not enough, or all connections would look again
            after each request.
        on_low: called from the hub when it is overfull no longer.
    """

    def __init__(
        self, owner: Named, load: Load, maxsize: int | None = None, max_queued: int | None = None
    ) -> None:
        self._owner = owner
        self._load = load
        # 0 for any number, which a compiled class can count.
        self._maxsize = countable(maxsize or 0)
        self._max_queued = countable(max_queued or 0)
        hub = get_hub()
        self._run_callback: Callable[..., object] = hub.loop.run_callback
        self._run_queue = run_queue_of(hub)
        self._queue = FairQueue()
        self._items = self._queue.items
        self._receivers = WaitQueue()
        self._senders = WaitQueue()
        self._wake_scheduled = False
        # Made once: with one client at a time, each exchange takes it.
        self._wake_callback = self._wake
        self.closed = False
        self.overfull = False
        self.on_low: Callable[[], None] = _do_nothing

    def __repr__(self) -> str:
        waiting = f"receivers={len(self._receivers)}, senders={len(self._senders)}"
        return f"<Inbox at {id(self):#x} of {self._owner!r}: items={len(self)}, {waiting}>"

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Any]:
        """The items as they are now, in the order in which they came."""
        return iter(list(self._items))

    @property
    def full(self) -> bool:
        """Whether a new sender has to wait: for room, or behind those who do."""
        return self._is_full() or bool(self._senders.waits)

    @property
    def has_receivers(self) -> bool:
        """Whether a thread waits for an item."""
        return bool(self._receivers.waits)

    def wait_for_room(self, timeout: float | None) -> None:
        """Wait until it is this sender's turn to `put`.

        Raises `BusTimeout` or `BusClosed`, both with the outcome `NOT_SENT`.
        """
        check_may_wait("send_request")
        woken = self._senders.wait("send_request", self._owner, timeout)
        if self.closed:
            raise BusClosed(f"{self._owner.name} is closed", outcome=Outcome.NOT_SENT)
        if not woken:
            text = f"no room in {self._owner.name} within {in_words(timeout or 0.0)}"
            raise BusTimeout(text, outcome=Outcome.NOT_SENT)

    def put(self, item: Queued) -> None:
        """Add an item; does not block, also from a hub callback."""
        if self._receivers.waits and not self._wake_scheduled:
            # First, so that an item which is there is sure to be taken.
            self._schedule_wake()
        queue = self._queue
        if item.flow is queue.only_flow and (item.deadline is not None) is queue.only_has_deadline:
            # As `FairQueue.put` does: nine of ten come this way, and the call would take as long again.
            queue.items[item] = None
        else:
            queue.put(item)
        if self._max_queued and len(self._items) >= self._max_queued:
            self.overfull = True

    def note_backlog(self, flow: Flow) -> None:
        """Note that there is more of a flow than is here."""
        self._queue.note_backlog(flow)

    def first(self, timeout: float | None, idle: set[Wait] | None = None) -> Any:
        """The next item, waiting for one if need be; the thread claims it, and then `drop`s it.

        Args:
            timeout: seconds; None for ever.
            idle: if the thread is a worker of `serve`, the waits of those of its team that wait here.

        Raises `BusTimeout`, or `BusClosed` if there is none and none will come.
        """
        if not self._items or (self._receivers.waits if idle is None else self._has_had_its_turn(idle)):
            if self.closed and not self._items:
                raise BusClosed(f"{self._owner.name} is closed", outcome=Outcome.NOT_RUN)
            if not self._receivers.wait("recv_request", self._owner, timeout, idle):
                text = f"no request came to {self._owner.name} within {in_words(timeout or 0.0)}"
                raise BusTimeout(text, outcome=Outcome.NOT_RUN)
        queue = self._queue
        if queue.only_flow is not None:
            first = lines.first_of(self._items)
            if first is not None and first.deadline is None:
                return first
        if (item := queue.next(self._load.time_needed)) is not None:
            return item
        # Also if a signal handler has closed the bus just now.
        raise BusClosed(f"{self._owner.name} is closed", outcome=Outcome.NOT_RUN)

    def present(self) -> Any:
        """The next item, as `first`, but None if there is none: for a thread whose turn it has been."""
        return self._queue.next(self._load.time_needed)

    def _has_had_its_turn(self, idle: set[Wait]) -> bool:
        """Whether a worker of `serve` is to let others go first; if so, they are woken in the next turn."""
        if len(self._receivers.waits) <= len(idle) and not self._run_queue.slice_is_over():
            return False
        if not self._wake_scheduled:
            self._wake_next_turn()
        return True

    def drop(self, item: Queued, claimed: bool) -> None:
        """Remove an item: a thread has claimed it, or nobody will."""
        if self._senders.waits and not self._wake_scheduled:
            self._schedule_wake()
        if self._queue.only_flow is not None:
            self._items.pop(item, None)
        elif claimed:
            self._queue.take(item)
        else:
            self._queue.remove(item)
        if self.closed and not self._items:
            # Nothing will come any more for those who still wait.
            self._run_callback(self._wake_at_end)
        if self.overfull:
            self._look_whether_low()

    def remove(self, items: Collection[Queued]) -> None:
        """Take back items that nobody has taken yet; those that are not here any more are skipped."""
        if self._senders.waits and not self._wake_scheduled:
            self._schedule_wake()
        for item in items:
            self._queue.remove(item)
        if self.closed and not self._items:
            self._run_callback(self._wake_at_end)
        if self.overfull:
            self._look_whether_low()

    def close(self) -> list[Any]:
        """Let nobody in any more, wake all who wait in vain, and return what is there.

        What is not removed is still taken.
        """
        self._run_callback(self._senders.wake_all)
        self._run_callback(self._wake_at_end)
        self.closed = True
        return list(self._items)

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._schedule_wake()
        self._look_whether_low()
        if self.closed:
            self._run_callback(self._senders.wake_all)
            self._run_callback(self._wake_at_end)

    def forget_all(self) -> None:
        """Drop every item and waiter, and wake nobody: they are a parent process's."""
        self._queue = FairQueue()
        self._items = self._queue.items
        self._receivers.clear()
        self._senders.clear()
        self.overfull = False

    def _look_whether_low(self) -> None:
        if self.overfull and len(self._items) <= self._max_queued // 2:
            self._run_callback(self.on_low)
            self.overfull = False

    def next_wait(self) -> Wait | None:
        """See `Dispatcher`: what `_wake` would do, without the hub."""
        if not self._items or not self._receivers.waits:
            return None
        wait: Wait = self._receivers.waits[0]
        return None if wait.greenlet is None else wait

    def _schedule_wake(self) -> None:
        self._run_callback(self._wake_callback)
        self._run_queue.inbox = self
        self._wake_scheduled = True

    def _wake_next_turn(self) -> None:
        """Have those who wait woken once the hub has looked for what else there is to do."""
        self._run_queue.inbox = None
        self._run_queue.call_next_turn(self._wake_callback)
        self._wake_scheduled = True

    def _wake_at_end(self) -> None:
        """Hub callback: nothing is put in any more, and perhaps nothing is left."""
        if self.closed and not self._items:
            self._receivers.wake_all()

    def _wake(self) -> None:
        """Hub callback: each thread that is woken takes its item, or puts it, at once."""
        self._wake_scheduled = False
        self._run_queue.begin_turn()
        # What is dropped is not to be kept by it.
        self._run_queue.inbox = None
        receivers = self._receivers
        # Counted beforehand: threads that feed each other must not hold the hub.
        for woken in range(len(self._items)):
            if not self._items or not receivers.waits or (woken and self._run_queue.slice_is_over()):
                break
            receivers.wake_next()
        if self._senders.waits:
            self._wake_senders()
        if self._items and receivers.waits and not self._wake_scheduled:
            self._wake_next_turn()

    def _wake_senders(self) -> None:
        for _ in range(self._maxsize - len(self._items)):
            if not self._senders.waits or self._is_full():
                break
            self._senders.wake_next()
        if self._senders.waits and not self._is_full() and not self._wake_scheduled:
            self._schedule_wake()

    def _is_full(self) -> bool:
        return 0 < self._maxsize <= len(self._items)


def _do_nothing() -> None:
    pass
