"""Notices that a peer has stopped in the middle of something.

Rules of this room: a hub that is late is not mistaken for a peer that stalls.
What has gone on well costs no more than a timer that runs out once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gevent.hub import Hub

# A peer that seems to stall is looked at again so often, each time after so many
# seconds and thus in a turn of its own.
_LAST_LOOKS: Final = 5
_LAST_LOOK: Final = 0.01


class StallWatch:
    """Sees to it that what began moves on within `timeout` seconds, again and again.

    Args:
        expects_move: whether something has begun that has to go on.
        on_stall: called from the hub when nothing moved for the whole time-out.
    """

    __slots__ = ("_expects_move", "_hub", "_last_move", "_on_stall", "_timeout", "_timer")

    def __init__(
        self, hub: Hub, timeout: float, expects_move: Callable[[], bool], on_stall: Callable[[], None]
    ) -> None:
        self._hub = hub
        self._timeout = timeout
        self._expects_move = expects_move
        self._on_stall = on_stall
        self._last_move = 0.0
        self._timer: Any = None

    def begin(self) -> None:
        """Something has begun; does nothing if it is being watched already."""
        if self._timer is None:
            self.move()
            self._look_after(self._timeout, 0)

    def move(self) -> None:
        """Something has moved."""
        self._last_move = self._hub.loop.now()

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _look_after(self, seconds: float, looks: int) -> None:
        self.close()
        # The connection keeps the loop alive as long as it lives; the timer is not to.
        self._timer = self._hub.loop.timer(seconds, ref=False)
        self._timer.start(self._look, looks, update=True)

    def _look(self, looks: int) -> None:
        """Hub callback."""
        if not self._expects_move():
            self.close()
            return
        left = self._last_move + self._timeout - self._hub.loop.now()
        if left > 0:
            self._look_after(left, 0)
        elif looks < _LAST_LOOKS:
            # It may be the hub that was late.  Then what the peer did meanwhile is
            # seen in the next turns, and several if the peer is on the same hub.
            self._look_after(_LAST_LOOK, looks + 1)
        else:
            self.close()
            self._on_stall()
