"""Detection of a peer that has stopped in the middle of something.

A hub that is late is not mistaken for a peer that stalls.  As long as all goes well, it
costs no more than a timer that runs out once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gevent.hub import Hub

from ratchet import _clock
from ratchet.bus._core.watch import Watch

# How many times a peer that seems to stall is looked at again, and seconds between
# two looks, so that each is in a turn of its own.
_LAST_LOOKS: Final = 5
_LAST_LOOK: Final = 0.01


class StallWatch(Watch):
    """Calls `on_stall` when something that has begun does not move for `timeout` seconds.

    Args:
        expects_move: whether something has begun that has to go on.
        on_stall: called from the hub.
    """

    __slots__ = ("_expects_move", "_last_move", "_looks", "_on_stall", "_timeout")

    def __init__(
        self, hub: Hub, timeout: float, expects_move: Callable[[], bool], on_stall: Callable[[], None]
    ) -> None:
        super().__init__(hub)
        self._timeout = timeout
        self._expects_move = expects_move
        self._on_stall = on_stall
        self._last_move = 0.0
        # How often in a row it seemed to stall.
        self._looks = 0

    def begin(self) -> None:
        """Start to watch, when something has begun; do nothing if it is being watched already."""
        if self.timer is None:
            self.move()
            self._looks = 0
            self.look_in(self._timeout)

    def move(self) -> None:
        """Note that something has moved."""
        self._last_move = _clock.monotonic()

    def _look(self) -> None:
        if not self._expects_move():
            self.close()
            return
        left = self._last_move + self._timeout - _clock.monotonic()
        if left > 0:
            self._looks = 0
            self.look_in(left)
        elif self._looks < _LAST_LOOKS:
            # It may be the hub that was late.  Then what the peer did meanwhile is
            # seen in the next turns, and several if the peer is on the same hub.
            self._looks += 1
            self.look_in(_LAST_LOOK)
        else:
            self._on_stall()
            self.close()
