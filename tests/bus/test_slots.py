"""The table of open requests in the compiled build, against a dict."""

from __future__ import annotations

import random

import pytest

from ratchet.bus._core.numbered import Numbered
from ratchet.bus._socket import wire
from ratchet.bus._socket.slots import Table


def numbered(id: int) -> Numbered:
    request = Numbered()
    request.id = id
    return request


def check(table: Table, expected: dict[int, Numbered]) -> None:
    """See that a table holds what a dict does."""
    assert len(table) == len(expected)
    assert list(table) == sorted(expected)
    assert table.values() == [expected[id] for id in sorted(expected)]


def in_turn(step: int) -> int:
    return step


def round_the_end(step: int) -> int:
    return (wire.MAX_ID - 500 + step) % (wire.MAX_ID + 1)


def of_one_slot(step: int) -> int:
    return step * 4096


def at_random(step: int) -> int:
    return random.Random(step).randrange(2000)


@pytest.mark.parametrize("id_of", [in_turn, round_the_end, of_one_slot, at_random])
@pytest.mark.parametrize("most", [1, 7, 300])
def test_it_does_what_a_dict_does(id_of: object, most: int) -> None:
    assert callable(id_of)
    table, expected = Table(), dict[int, Numbered]()
    choice = random.Random(most)
    for step in range(2000):
        id = id_of(step)
        request = numbered(id)
        assert table.get(id) is expected.get(id)
        assert table.setdefault(id, request) is expected.setdefault(id, request)
        assert table.get(id) is expected[id]
        while len(expected) >= most:
            # In about the order in which they came, as answers do.
            ids = list(expected)
            gone = ids[min(choice.randrange(1 + len(ids) // 4), len(ids) - 1)]
            assert table.pop(gone, None) is expected.pop(gone)
            assert table.pop(gone, None) is None
            assert table.get(gone) is None
        if step % 100 == 0:
            check(table, expected)
    check(table, expected)
    table.clear()
    check(table, {})


def test_one_that_stays_is_found_when_the_ids_have_gone_round() -> None:
    table = Table()
    first = numbered(0)
    table.setdefault(0, first)
    for id in range(1, 1000):
        table.setdefault(id, numbered(id))
        assert table.pop(id, None).id == id
        assert table.get(0) is first
        assert len(table) == 1
