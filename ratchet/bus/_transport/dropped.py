"""Closing the connections of a client that was dropped without `close()`.

The last reference may go in any OS thread, and in the middle of anything, so nothing is
closed in place: the hub does that.  Until it has, what is left of the client is known here,
or an interrupt would leave the connections open, and a forked child would use the parent's.
"""

from __future__ import annotations

import logging
from typing import Any, Final, Protocol

from gevent.hub import Hub

from ratchet._log import bus_logger, log_soon
from ratchet.bus._transport.linger import keep, let_go

CASTS_NOT_SENT: Final = "casts not sent when the bus to %s was closed: %d"


class Connected(Protocol):
    """All that keeps a client connected."""

    @property
    def name(self) -> str:
        """The servers, for people."""

    def close(self) -> int:
        """Close it all, and return how many casts have not left; also from a hub callback."""

    def leave_to_parent(self) -> None:
        """In a forked child: it is the parent's."""


class DroppedClient:
    """What is left of one client, until its hub has closed it."""

    def __init__(self, hub: Hub, connected: Connected) -> None:
        self._hub = hub
        self._connected = connected

    def close_soon(self) -> None:
        """Have the hub close it; may be called in any OS thread."""
        loop: Any = self._hub.loop
        if loop is not None:
            keep(self)
            loop.run_callback_threadsafe(self._settle)

    def _settle(self) -> None:
        """Hub callback: close it; see `Living`."""
        unsent = self._connected.close()
        if unsent:
            log_soon(bus_logger, logging.WARNING, CASTS_NOT_SENT, self._connected.name, unsent)
        let_go(self)

    def _after_fork(self) -> None:
        """See `Living`."""
        self._connected.leave_to_parent()
        let_go(self)

    def _forget(self) -> None:
        """See `Leftover`: the collector closes the sockets."""
