"""What the links of one server have in common."""

from __future__ import annotations

from typing import Any

import gevent

from ratchet.bus import Limits
from ratchet.bus._broker.desk import Desk
from ratchet.bus._broker.url import parse


def test_of_the_cancels_that_came_before_their_requests_the_last_10_000_are_remembered() -> None:
    unused: Any = None
    desk = Desk(gevent.get_hub(), unused, "any", parse("amqp://localhost/"), Limits(), 0, 1, 0)
    for number in range(10_001):
        desk.remember_cancel(("replies", str(number)))
    assert len(desk.cancels) == 10_000
    assert ("replies", "0") not in desk.cancels
    assert ("replies", "10000") in desk.cancels
