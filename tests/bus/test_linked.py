"""The line of requests that are linked to each other: it is an ordered dictionary's in what it does."""

from __future__ import annotations

import random
from collections import OrderedDict

from ratchet.bus._core.linked import Linked, LinkedLine


class Item(Linked):
    """What is in a line."""


def test_it_holds_what_an_ordered_dictionary_would_whatever_happens() -> None:
    chance = random.Random(1)
    items = [Item() for _ in range(8)]
    line, model = LinkedLine(), OrderedDict[Item, None]()
    for _ in range(5000):
        item = chance.choice(items)
        if chance.random() < 0.5:
            line[item] = None
            model[item] = None
        else:
            line.pop(item, None)
            model.pop(item, None)
        assert list(line) == list(model)
        assert len(line) == len(model)
        assert line.first is next(iter(model), None)
    line.clear()
    assert not line
    assert list(line) == []


def test_an_item_leaves_its_line_when_it_enters_another_one() -> None:
    queued, taken = LinkedLine(), LinkedLine()
    first, second = Item(), Item()
    for item in (first, second):
        queued[item] = None
    taken[first] = None
    assert (list(queued), list(taken)) == ([second], [first])
    # It is not there any more.
    queued.pop(first, None)
    assert (list(queued), list(taken)) == ([second], [first])


def test_it_may_change_while_it_is_gone_through() -> None:
    line = LinkedLine()
    items = [Item() for _ in range(4)]
    for item in items:
        line[item] = None
    for seen, item in enumerate(line):
        assert item is items[seen]
        line.pop(item, None)
    assert not line
