"""Connecting in the background, again and again, with pauses that grow.

A dialer holds its client weakly: a client that nobody refers to any more is
collected, however long its server is away.  It tells the client of each attempt's
end, and stops when there is a connection.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import Callable
from typing import Any, Protocol

import gevent

from ratchet.bus.address import Target
from ratchet.bus.transport import Transport

Dial = Callable[[], tuple[Transport, Target]]
"""Connects to the server once; blocks."""

# Seconds between attempts to connect, doubled up to the last one.
_FIRST_BACK_OFF, _LAST_BACK_OFF = 0.05, 5.0


class Client(Protocol):
    """What is told of the attempts."""

    def _on_connected(self, transport: Transport, peer: Target) -> None:
        """There is a connection, which is the client's from now on, to close it if this fails."""

    def _on_dial_failed(self, error: Exception) -> None:
        """An attempt has failed; another one will follow."""


class Dialer:
    """Makes connections for one client.

    Attributes:
        back_off: seconds to wait before the next attempt.
    """

    def __init__(self, client: Client, dial: Dial) -> None:
        self._client = weakref.ref(client)
        self._dial = dial
        self._running: gevent.Greenlet[Any, Any] | None = None
        self._stopped = False
        self.back_off = 0.0

    def start(self) -> None:
        """Connect in the background, if that is not going on already; does not block."""
        if not self._stopped and (self._running is None or self._running.ready()):
            running = gevent.Greenlet(self._run)
            running.rawlink(self._on_end)
            running.start()
            self._running = running

    def stop(self) -> None:
        """Make no more attempts; does not block."""
        self._stopped = True
        if self._running is not None:
            self._running.kill(block=False)

    def _run(self) -> None:
        """What the dialing greenlet does."""
        while not self._connect_once():
            pass

    def _on_end(self, dialing: gevent.Greenlet[Any, Any]) -> None:
        """Hub callback: whatever struck, the client is not to wait for ever."""
        if dialing.exception is not None:
            self.start()

    def _connect_once(self) -> bool:
        """Pause, and make one attempt.  Whether there is no need for another."""
        if self.back_off:
            # Jitter, so that the clients of a server that starts again do not all
            # come at the same instant.
            gevent.sleep(self.back_off * random.uniform(0.5, 1.0))
        self.back_off = min(max(self.back_off * 2, _FIRST_BACK_OFF), _LAST_BACK_OFF)
        try:
            transport, peer = self._dial()
        except Exception as error:
            client = self._client()
            if client is not None:
                client._on_dial_failed(error)
            return client is None
        client = self._client()
        if client is None or self._stopped:
            transport.close()
        else:
            # From here on `start` means another connection.
            self._running = None
            client._on_connected(transport, peer)
        return True
