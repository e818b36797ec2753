"""The base of all watches: a timer that looks, again and again.

A watch begins, looks now and then at how something does, and ends by itself
or by `close`.  Its one timer is used up by each look, which starts the next.  An
exception that strikes in a look leaves the timer used up, and the watch would never
look again; `settle` makes it.  When to look, and what for, is not decided here.
"""

from __future__ import annotations

from typing import Final

from gevent.hub import Hub

from ratchet import _clock
from ratchet._loop import Watcher

# Seconds until a watch that was struck in the middle of a look looks again.
_SOON: Final = 0.01


class Watch:
    """A watch; `_look` says what it looks for."""

    __slots__ = ("_hub", "timer")

    # Whether the loop is to go on for it alone.
    _keeps_loop_alive = False

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        # None unless it is watching.
        self.timer: Watcher | None = None

    def close(self) -> None:
        """Stop watching."""
        timer, self.timer = self.timer, None
        if timer is not None:
            timer.close()

    def settle(self) -> None:
        """Go on watching if an exception struck in the middle of a look."""
        if self.timer is not None and not self.timer.active:
            self.look_in(_SOON)

    def look_in(self, seconds: float) -> None:
        """Look once more in so many seconds, and not before."""
        timer = _clock.timer(self._hub, seconds, ref=self._keeps_loop_alive)
        timer.start(self._on_timer)
        # Only now: whatever strikes, there is a next look.
        used_up, self.timer = self.timer, timer
        if used_up is not None:
            used_up.close()

    def _on_timer(self) -> None:
        """Hub callback: look, unless an interrupted `close` has left only the timer."""
        if self.timer is not None:
            self._look()

    def _look(self) -> None:
        raise NotImplementedError
