"""The memory for requests of one server, and each connection's share of it."""

from __future__ import annotations

from collections.abc import Iterator

import gevent
import pytest
from gevent.hub import get_hub

from helpers import turns
from ratchet.bus._socket.budget import RESERVED, Budget, Share
from ratchet.bus._socket.read_size import HEAD_READ_SIZE

MIB = 1024 * 1024
MOST = 64 * MIB


class Connection:
    """One that takes as much as it may, whenever it is told to look."""

    def __init__(self, budget: Budget, wants: int = 0) -> None:
        self.share = Share(budget, self)
        self._budget = budget
        self.wants = wants
        self.looks = 0
        self.came: list[int] = []
        self.closed = False

    @property
    def held(self) -> int:
        return self.share.held

    def take(self, size: int) -> bool:
        """Have something come whole, if there is room."""
        if not self.share.begin(size):
            self.share.wait()
            return False
        # It is whole now, and counted as such.
        self.share.drop_begun()
        self.came.append(size)
        self.share.size += size
        self._budget.taken += size
        return True

    def begin(self, size: int) -> bool:
        """Have something begin to come."""
        return self.share.begin(size)

    def fill(self, size: int) -> None:
        while self.take(size):
            pass

    def give_back(self) -> None:
        """Finish what came first."""
        size = self.came.pop(0)
        self.share.size -= size
        self._budget.give_back(size)

    def look_again(self) -> None:
        self.looks += 1
        if self.take(self.wants):
            self.share.leave()

    def took_too_long(self) -> None:
        self.closed = True
        self.share.drop_begun()


@pytest.fixture
def budget() -> Iterator[Budget]:
    budget = Budget(get_hub(), MOST, timeout=5.0)
    yield budget
    budget.close()


def test_a_single_connection_has_half(budget: Budget) -> None:
    only = Connection(budget)
    only.fill(1024)
    assert only.held == MOST // 2


@pytest.mark.parametrize("count", [2, 10, 100])
def test_of_many_each_has_as_much_as_the_others_and_as_much_is_left(budget: Budget, count: int) -> None:
    connections = [Connection(budget) for _ in range(count)]
    while sum(each.take(16 * 1024) for each in connections):
        pass
    share = MOST / (count + 1)
    for each in connections:
        assert abs(each.held - share) <= 32 * 1024
    assert budget.has_room(0, 1)


def test_what_each_has_of_its_own_nobody_can_take(budget: Budget) -> None:
    others = [Connection(budget) for _ in range(100)]
    for each in others:
        each.fill(MIB)
    assert budget.taken >= MOST
    assert Connection(budget).take(RESERVED)
    assert not Connection(budget).take(RESERVED + 1)


def test_one_message_is_begun_as_long_as_anything_is_free(budget: Budget) -> None:
    large = [Connection(budget) for _ in range(5)]
    assert [each.take(16 * MIB) for each in large] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("taken", "held", "size"),
    [
        (0, 0, 65_536),
        (MOST // 2 - 1, 0, 65_536),
        (MOST // 2 + 512, 0, 65_535),
        (MOST - 512_000, 512_000, 1000),
        (MOST, 0, RESERVED // 512),
        (MOST, RESERVED, HEAD_READ_SIZE),
        (2 * MOST, RESERVED, HEAD_READ_SIZE),
    ],
)
def test_no_more_is_read_at_once_than_there_is_room_for_whatever_comes(
    budget: Budget, taken: int, held: int, size: int
) -> None:
    budget.taken = taken
    assert budget.read_size(held, 65_536) == size


def test_who_waits_goes_on_when_a_part_has_become_free(budget: Budget) -> None:
    others = [Connection(budget) for _ in range(4)]
    for each in others:
        each.fill(MIB)
        each.share.leave()
    waiting = Connection(budget, wants=16 * MIB)
    budget.taken = MOST
    assert not waiting.take(16 * MIB)
    others[0].give_back()
    turns(2)
    assert waiting.looks == 0
    for _ in range(3):
        others[0].give_back()
    turns(2)
    assert (waiting.looks, waiting.held) == (1, 16 * MIB)
    for _ in range(8):
        others[0].give_back()
    turns(2)
    assert waiting.looks == 1


def test_who_waits_is_looked_at_at_the_latest_when_nothing_is_left(budget: Budget) -> None:
    holder, waiting = Connection(budget), Connection(budget, wants=MIB)
    holder.take(MIB)
    holder.take(MIB)
    waiting.share.wait()
    holder.give_back()
    turns(2)
    assert waiting.looks == 0
    holder.give_back()
    turns(2)
    assert waiting.looks == 1


def test_who_found_more_taken_than_others_who_wait_does_not_wait_until_these_have_room(
    budget: Budget,
) -> None:
    half = Connection(budget)
    half.fill(1024)
    assert budget.taken == MOST // 2
    waiting = Connection(budget, wants=MIB)
    budget.taken = MOST
    assert not waiting.take(MIB)
    budget.give_back(MOST // 16)
    turns(2)
    assert waiting.held == MIB


def test_looking_at_those_who_wait_costs_next_to_nothing_for_each_request(budget: Budget) -> None:
    holder = Connection(budget)
    holder.fill(16 * 1024)
    holder.share.leave()
    crowd = [Connection(budget, wants=16 * MIB) for _ in range(50)]
    budget.taken += MOST
    for each in crowd:
        assert not each.take(16 * MIB)
    while holder.came:
        holder.give_back()
        gevent.sleep(0)
    # Two thousand have been finished, and half of all has become free.
    assert all(each.looks <= 9 for each in crowd)
    assert all(each.looks for each in crowd)


def test_what_is_on_its_way_is_counted_by_what_it_will_take(budget: Budget) -> None:
    one = Connection(budget)
    assert one.begin(MIB)
    assert one.begin(MIB)
    assert one.begin(3 * MIB)
    assert (one.held, budget.taken) == (3 * MIB, 3 * MIB)
    one.take(3 * MIB)
    assert (one.held, budget.taken) == (3 * MIB, 3 * MIB)
    one.begin(MIB)
    one.share.drop_begun()
    one.give_back()
    assert (one.held, budget.taken) == (0, 0)


def test_one_at_a_time_finishes_although_there_is_no_room(budget: Budget) -> None:
    one, other = Connection(budget), Connection(budget)
    for each in (one, other):
        assert each.begin(MIB)
    budget.taken = MOST
    assert one.begin(2 * MIB)
    assert not other.begin(2 * MIB)
    assert one.begin(3 * MIB)
    one.take(3 * MIB)
    assert other.begin(2 * MIB)


@pytest.mark.virtual_time
def test_who_takes_too_long_is_closed_while_others_wait_and_most_of_the_room_is_unfinished() -> None:
    budget = Budget(get_hub(), MOST, timeout=5.0)
    slow = [Connection(budget) for _ in range(4)]
    for each in slow:
        each.begin(16 * MIB)
    gevent.sleep(8.0)
    # Nobody waits.
    assert not any(each.closed for each in slow)
    waiting = Connection(budget, wants=MIB)
    assert not waiting.take(MIB)
    gevent.sleep(5.5)
    assert [each.closed for each in slow] == [True, True, False, False]
    assert waiting.held == MIB
    budget.close()


@pytest.mark.virtual_time
def test_who_gets_on_is_not_closed() -> None:
    budget = Budget(get_hub(), MOST, timeout=5.0)
    waiting = Connection(budget, wants=MIB)
    for _ in range(4):
        slow = Connection(budget)
        slow.begin(16 * MIB)
        budget.taken += MOST
        assert not waiting.take(MIB)
        gevent.sleep(4.0)
        assert not slow.closed
        slow.share.drop_begun()
        budget.taken -= MOST
    budget.close()


def test_clients_that_do_not_read_take_half_of_the_room_from_the_others(budget: Budget) -> None:
    deaf = [Connection(budget) for _ in range(10)]
    for each in deaf:
        each.share.note_unsent(16 * MIB)
    assert budget.taken == MOST // 2
    assert not any(each.begin(MIB) for each in deaf)
    others = [Connection(budget) for _ in range(3)]
    assert all(each.begin(8 * MIB) for each in others)
    for each in deaf:
        each.share.note_unsent(0)
    assert budget.taken == 24 * MIB
    assert all(each.begin(MIB) for each in deaf)


def test_what_is_counted_again_is_what_is_held(budget: Budget) -> None:
    connections = [Connection(budget) for _ in range(3)]
    for each in connections:
        each.take(MIB)
        each.share.note_unsent(20 * MIB)
    taken, budget.taken = budget.taken, 0
    budget.count_again(each.share for each in connections)
    assert budget.taken == taken == 35 * MIB
