"""How long to wait before a worker that has died is replaced."""

from __future__ import annotations

from typing import Final

# Seconds: a worker that has lived this long did not die of its start.
_YOUNG: Final = 5.0
_FIRST, _LAST = 0.1, 10.0


class BackOff:
    """The pauses at one place: none after a worker that has lived, growing ones after those that die young.

    Attributes:
        pause: seconds before the next one is started.
    """

    def __init__(self) -> None:
        self.pause = 0.0

    def note_death(self, age: float) -> None:
        """A worker has died at the age of so many seconds."""
        if age >= _YOUNG:
            self.pause = 0.0
        else:
            self.pause = min(2 * self.pause, _LAST) or _FIRST
