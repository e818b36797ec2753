"""Notices that the peer's side has got all that was sent, or takes no more of it.

Rules of this room: it asks again and again, because the system tells nobody.
It looks at the last bytes of a connection alone, so that this costs little.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from gevent.hub import Hub

# How often it is asked, in seconds, and how often in a row nothing may have moved.
_LOOK: Final = 0.01
_LOOKS: Final = 200


class DeliveryWatch:
    """Calls `on_end` once nothing is undelivered any more, or nothing moves.

    Args:
        undelivered: how many bytes are still on their way.
        on_end: called by `begin` itself if there are none, or else from the hub.
    """

    __slots__ = ("_hub", "_on_end", "_timer", "_undelivered")

    def __init__(self, hub: Hub, undelivered: Callable[[], int], on_end: Callable[[], None]) -> None:
        self._hub = hub
        self._undelivered = undelivered
        self._on_end = on_end
        self._timer: Any = None

    def begin(self) -> None:
        """All is sent; does nothing if it is being watched already."""
        if self._timer is None:
            self._look(0, 0)

    def close(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.close()

    def _look(self, before: int, looks: int) -> None:
        """Hub callback."""
        left = self._undelivered()
        looks = looks + 1 if left == before else 0
        if not left or looks > _LOOKS:
            self._on_end()
            return
        self.close()
        self._timer = self._hub.loop.timer(_LOOK)
        self._timer.start(self._look, left, looks, update=True)
