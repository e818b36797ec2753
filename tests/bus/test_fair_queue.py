"""Whose request is next: turns between flows, and the order within each."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import islice

import pytest

from ratchet import _clock
from ratchet.bus._core.fair_queue import FairQueue, Flow, Queued

NO_TIME = 0.0


class Origin:
    """Where items come from."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.flow: Flow = Flow()


class Item(Queued):
    """One of them; `timeout` is the time that it has from now on."""

    def __init__(self, route: Origin, number: int = 0, timeout: float | None = None) -> None:
        self.route = route
        self.number = number
        now = _clock.monotonic()
        if timeout is None:
            super().__init__(route.flow, None, 0.0)
        else:
            super().__init__(route.flow, now + timeout, now + timeout / 2)

    def __repr__(self) -> str:
        return f"{self.route.name}{self.number}"


class Time:
    """A clock that stands still until it is set."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(_clock, "monotonic", time.monotonic)
    return time


@pytest.fixture
def queue() -> FairQueue:
    return FairQueue()


def put(queue: FairQueue, route: Origin, count: int, timeout: float | None = None) -> list[Item]:
    items = [Item(route, number, timeout) for number in range(count)]
    for item in items:
        queue.put(item)
    return items


def turns(queue: FairQueue, time_needed: float = NO_TIME) -> Iterator[Item]:
    """Take one after the other."""
    while (item := queue.next(time_needed)) is not None:
        queue.take(item)
        yield item


def names(items: Iterator[Item], count: int | None = None) -> list[str]:
    return [str(item) for item in islice(items, count)]


def test_an_empty_queue_has_nothing(queue: FairQueue) -> None:
    assert queue.next(NO_TIME) is None
    assert len(queue.items) == 0
    assert list(queue.items) == []


def test_what_is_next_stays_until_it_is_taken(queue: FairQueue) -> None:
    [item] = put(queue, Origin("a"), 1)
    assert queue.next(NO_TIME) is item
    assert queue.next(NO_TIME) is item
    assert len(queue.items) == 1
    queue.take(item)
    assert queue.next(NO_TIME) is None
    assert len(queue.items) == 0


def test_one_flow_keeps_its_order(queue: FairQueue) -> None:
    put(queue, Origin("a"), 5)
    assert names(turns(queue)) == ["a0", "a1", "a2", "a3", "a4"]


def test_flows_with_a_backlog_take_turns(queue: FairQueue) -> None:
    for name in "abc":
        put(queue, Origin(name), 3)
    assert names(turns(queue)) == ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2", "c2"]


def test_flows_with_a_single_item_come_first_but_a_backlog_has_its_share_of_the_turns(
    queue: FairQueue,
) -> None:
    put(queue, Origin("g"), 10)
    for name in "abc":
        put(queue, Origin(name), 1)
    assert names(turns(queue), 8) == ["a0", "b0", "g0", "c0", "g1", "g2", "g3", "g4"]


def test_a_client_with_one_request_at_a_time_has_every_second_turn_beside_fifty_with_a_backlog(
    queue: FairQueue,
) -> None:
    for number in range(50):
        put(queue, Origin(f"g{number}."), 100)
    polite, taken = Origin("p"), []
    queue.put(Item(polite))
    for item in islice(turns(queue), 100):
        taken.append(item.route)
        if item.route is polite:
            queue.put(Item(polite))
    assert taken.count(polite) == 50


def test_one_with_a_backlog_has_no_more_turns_than_each_of_many_that_ask_one_thing(
    queue: FairQueue,
) -> None:
    greedy = Origin("g")
    put(queue, greedy, 100)
    polite = [Origin(f"p{number}.") for number in range(20)]
    for each in polite:
        queue.put(Item(each))
    taken = []
    for item in islice(turns(queue), 420):
        taken.append(item.route)
        if item.route is not greedy:
            queue.put(Item(item.route))
    assert 18 <= taken.count(greedy) <= 22
    for each in polite:
        assert 18 <= taken.count(each) <= 22


def test_a_flow_that_is_held_back_elsewhere_counts_as_one_with_a_backlog(queue: FairQueue) -> None:
    held, other = Origin("h"), Origin("o")
    held.flow.has_backlog = True
    put(queue, held, 1)
    put(queue, other, 1)
    assert names(turns(queue)) == ["o0", "h0"]
    held.flow.has_backlog = False
    put(queue, held, 1)
    put(queue, other, 1)
    queue.note_backlog(held.flow)
    assert names(turns(queue)) == ["o0", "h0"]


def test_items_can_be_removed_anywhere(queue: FairQueue) -> None:
    one, other = Origin("a"), Origin("b")
    items = [*put(queue, one, 3), *put(queue, other, 2)]
    queue.remove(items[1])
    queue.remove(items[3])
    queue.remove(items[3])
    assert len(queue.items) == 3
    assert list(map(str, queue.items)) == ["a0", "a2", "b1"]
    assert names(turns(queue)) == ["a0", "b1", "a2"]
    queue.take(items[0])
    assert queue.next(NO_TIME) is None


def test_a_flow_that_an_interrupted_call_has_left_empty_is_skipped(queue: FairQueue) -> None:
    empty = Origin("e")
    queue.note_backlog(empty.flow)
    put(queue, Origin("a"), 2)
    assert names(turns(queue)) == ["a0", "a1"]


# Deadlines.


def test_with_time_enough_the_order_is_that_of_arrival(queue: FairQueue, time: Time) -> None:
    origin = Origin("a")
    for number in range(6):
        queue.put(Item(origin, number, 1.0 if number % 2 else None))
    time.now += 0.4
    assert names(turns(queue)) == ["a0", "a1", "a2", "a3", "a4", "a5"]


def test_a_flow_whose_oldest_have_lost_half_of_their_time_for_a_while_comes_newest_first(
    queue: FairQueue, time: Time
) -> None:
    origin = Origin("a")
    put(queue, origin, 5, timeout=1.0)
    taking = turns(queue)
    time.now += 0.6
    # It is not known yet whether that lasts.
    assert names(taking, 1) == ["a0"]
    time.now += 0.09
    assert names(taking, 1) == ["a1"]
    time.now += 0.02
    assert names(taking) == ["a4", "a3", "a2"]


def test_a_burst_that_is_worked_off_soon_keeps_its_order(queue: FairQueue, time: Time) -> None:
    origin = Origin("a")
    put(queue, origin, 3, timeout=1.0)
    time.now += 0.55
    taking = turns(queue)
    assert names(taking, 3) == ["a0", "a1", "a2"]
    put(queue, origin, 3, timeout=1.0)
    time.now += 0.3
    assert names(taking, 1) == ["a0"]
    # What was late before does not count any more.
    time.now += 0.25
    assert names(taking) == ["a1", "a2"]


def test_one_that_cannot_end_in_time_any_more_comes_first_to_be_refused(queue: FairQueue, time: Time) -> None:
    origin = Origin("a")
    put(queue, origin, 4, timeout=1.0)
    time.now += 0.6
    assert str(queue.next(0.3)) == "a0"
    time.now += 0.11
    assert str(queue.next(0.3)) == "a0"
    assert str(queue.next(0.28)) == "a3"


def test_while_the_newest_come_first_every_second_turn_is_of_one_without_a_deadline(
    queue: FairQueue, time: Time
) -> None:
    origin = Origin("a")
    pressed = put(queue, origin, 4, timeout=1.0)
    patient = [Item(origin, 10 + number) for number in range(3)]
    for item in patient:
        queue.put(item)
    time.now += 0.6
    assert queue.next(NO_TIME) is pressed[0]
    time.now += 0.2
    assert names(turns(queue)) == ["a3", "a10", "a2", "a11", "a1", "a12", "a0"]


def test_those_with_a_deadline_have_every_second_turn_behind_many_that_came_before_without_one(
    queue: FairQueue, time: Time
) -> None:
    origin = Origin("a")
    put(queue, origin, 5)
    for number in range(10, 13):
        queue.put(Item(origin, number, timeout=1.0))
    time.now += 0.6
    taking = turns(queue)
    # It is not known yet whether that lasts.
    assert names(taking, 1) == ["a0"]
    time.now += 0.2
    assert names(taking) == ["a12", "a1", "a11", "a2", "a10", "a3", "a4"]


def test_nothing_is_lost_and_no_flow_without_deadlines_is_reordered_whatever_happens(
    queue: FairQueue, time: Time
) -> None:
    chance = random.Random(1)
    origins = [Origin(name) for name in "abcdef"]
    waiting: set[Item] = set()
    taken: dict[Origin, list[Item]] = {origin: [] for origin in origins}
    for number in range(5000):
        time.now += chance.choice((0.0, 0.001, 0.1))
        match chance.randrange(5):
            case 0 | 1:
                item = Item(chance.choice(origins), number, chance.choice((None, 0.2, 1.0)))
                queue.put(item)
                waiting.add(item)
            case 2 | 3 if (found := queue.next(chance.choice((NO_TIME, 0.1)))) is not None:
                queue.take(found)
                waiting.remove(found)
                taken[found.route].append(found)
            case 4 if waiting and chance.random() < 0.3:
                removed = min(waiting, key=lambda item: item.number)
                queue.remove(removed)
                waiting.remove(removed)
        assert len(queue.items) == len(waiting)
    assert set(queue.items) == waiting
    waiting -= set(turns(queue))
    assert not waiting
    for items in taken.values():
        patient = [item.number for item in items if item.deadline is None]
        assert patient == sorted(patient)
