"""Detection of the end of delivery: the peer's side has got all that was sent, or takes no more.

A connection that was reset delivers nothing more.  Its reader hears of that, too, but only when the
loop next polls, and not at all once it has stopped reading.

It asks again and again, because the system tells nobody.  It looks at the last
bytes of a connection alone, so that this costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gevent.hub import Hub

from ratchet.bus._core.watch import Watch
from ratchet.bus._transport.transport import Transport

# How often it is asked, in seconds, and how often in a row nothing may have moved.
_LOOK: Final = 0.01
_LOOKS: Final = 200


class DeliveryWatch(Watch):
    """Calls `on_end` once nothing is undelivered any more, or nothing moves.

    Args:
        transport: the connection.
        on_end: called by `begin` itself if there are none, or else from the hub.
    """

    __slots__ = ("_left", "_looks", "_on_end", "_transport")

    _keeps_loop_alive = True

    def __init__(self, hub: Hub, transport: Transport, on_end: Callable[[], None]) -> None:
        super().__init__(hub)
        self._transport = transport
        self._on_end = on_end
        # What was undelivered at the last look, and for how many looks in a row.
        self._left = 0
        self._looks = 0

    def begin(self) -> None:
        """Start to watch, when all is sent; do nothing if it is being watched already."""
        if self.timer is None:
            self._look()

    def _look(self) -> None:
        left = self._transport.undelivered()
        self._looks = self._looks + 1 if left == self._left else 0
        self._left = left
        if not left or self._looks > _LOOKS or self._transport.is_broken():
            self._on_end()
            self.close()
        else:
            self.look_in(_LOOK)
