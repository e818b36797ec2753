"""Which worker gets a connection, and which send some away."""

from __future__ import annotations

import random

import pytest

from ratchet.bus._processes.placing import order_of, surplus


@pytest.mark.parametrize(
    ("loads", "last", "order"),
    [
        ([], -1, []),
        ([0, 0, 0], -1, [0, 1, 2]),
        ([0, 0, 0], 0, [1, 2, 0]),
        ([0, 0, 0], 2, [0, 1, 2]),
        ([3, 1, 2], 1, [1, 2, 0]),
        ([1, 0, 1, 0], 1, [3, 1, 2, 0]),
    ],
)
def test_the_fewest_come_first_and_among_equals_whose_turn_it_is(
    loads: list[int], last: int, order: list[int]
) -> None:
    assert order_of(loads, last) == order


@pytest.mark.parametrize(
    ("loads", "moving", "expected"),
    [
        ([], 0, []),
        ([7], 3, [0]),
        ([8, 8, 8, 8], 0, [0, 0, 0, 0]),
        # One more or less is not worth moving a client.
        ([9, 8, 8, 7], 0, [0, 0, 0, 0]),
        ([9, 9, 9, 5], 0, [1, 1, 1, 0]),
        ([0, 11, 11, 10], 0, [0, 3, 3, 2]),
        ([0, 3, 4], 0, [0, 1, 1]),
        # Those of a worker that drains go to the new one.
        ([8, 8, 8, 0], 8, [0, 0, 0, 0]),
        ([16, 16, 0], 0, [5, 5, 0]),
        ([11, 11, 0, 0], 10, [3, 3, 0, 0]),
    ],
)
def test_who_has_more_than_its_share_sends_the_rest_away(
    loads: list[int], moving: int, expected: list[int]
) -> None:
    assert surplus(loads, moving) == expected


def test_whatever_the_loads_all_are_about_even_once_each_client_has_come_back() -> None:
    chance = random.Random(1)
    for _ in range(1000):
        loads = [chance.randrange(20) for _ in range(chance.randrange(1, 6))]
        moving = chance.randrange(10)
        sent_away = surplus(loads, moving)
        assert all(0 <= count <= load for count, load in zip(sent_away, loads, strict=True))
        after = [load - count for load, count in zip(loads, sent_away, strict=True)]
        for _ in range(sum(sent_away) + moving):
            after[order_of(after, -1)[0]] += 1
        assert max(after) - min(after) <= 2
