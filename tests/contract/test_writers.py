"""Several threads that write to one connection whose peer reads slowly."""

from __future__ import annotations

import gevent

from contract.buses import OpenBus, Start, on_every_kind
from helpers import LONG
from ratchet.bus import Limits

WRITERS = 32
LARGE = "x" * 50_000


@on_every_kind
def test_writers_that_wait_at_the_high_water_mark_all_get_their_turn(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(limits=Limits(high_water=1_000))
    start(bus.server.serve, lambda request: len(request))
    callers = [gevent.spawn(bus.client.call, LARGE) for _ in range(WRITERS)]
    gevent.joinall(callers, timeout=LONG)
    assert [caller.value for caller in callers] == [len(LARGE)] * WRITERS
