"""The hub that a block on virtual time puts aside, and what was made on it.

gevent's objects belong to the hub on which they were made or first waited for.  One that is
from outside of a block would have that hub run within it, in real time, or be told of something
by a callback that never comes: a wait for it is refused, and such callbacks are named.
"""

from __future__ import annotations

from typing import Any, NoReturn

from gevent.hub import Hub

from ratchet._log import safe_repr
from ratchet.errors import WrongThread


class Outside:
    """A hub that nobody may wait on, from `close` until `reopen`."""

    def __init__(self, hub: Hub) -> None:
        self._hub: Any = hub
        # The callbacks that wait there already, and stay the first ones while it stands still.
        self._callbacks_before = len(self._callbacks())

    def close(self) -> None:
        """Have whoever waits on it refused, which raises `WrongThread`."""
        self._hub.switch = _refuse

    def reopen(self) -> None:
        """Let it run again; doing so twice is fine."""
        reopen(self._hub)

    def late_callbacks(self) -> list[str]:
        """Describe the callbacks that have to wait until the block is left."""
        return [safe_repr(callback) for callback in self._callbacks()[self._callbacks_before :]]

    def _callbacks(self) -> list[object]:
        return list(getattr(self._hub.loop, "_callbacks", ()))


def reopen(hub: Hub) -> None:
    """Let a hub run again that an `Outside` has closed, if one has."""
    vars(hub).pop("switch", None)


def _refuse(*_: object) -> NoReturn:
    """Take the place of a hub's `switch`."""
    raise WrongThread(
        "what this waits for belongs to another gevent hub of this OS thread:"
        " it was made outside of the block on virtual time"
    )
