"""Closing a socket without losing what was sent on it.

A socket that is closed while something from the peer is unread, or that something
comes to later, resets the connection, and what the kernel still holds of what was
sent is lost.  So a copy of it lives on, which ends the sending and drops what comes,
until the peer's side has all, or takes no more of it.  Only a program that ends
waits for that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, Protocol

from gevent.hub import Hub, get_hub

from ratchet import _alive, _clock
from ratchet._loop import loop_of
from ratchet.bus._core.side import after_last_close
from ratchet.bus._transport.delivery import DeliveryWatch
from ratchet.bus._transport.transport import Transport

_READ: Final = 1  # libev's event bit
# Seconds for which a program that ends waits for its peers, and between two looks.
_PATIENCE: Final = 5.0
_LOOK: Final = 0.005


def linger(hub: Hub, transport: Transport, on_undelivered: Callable[[], None] | None) -> None:
    """Deliver what was sent on a connected socket, although it is about to be closed.

    `on_undelivered` is called, in the hub, if that fails.  Does not block.
    """
    _forget_lost_hubs()
    copy: Transport | None = None
    try:
        copy = transport.duplicate()
        Linger(hub, copy, on_undelivered).begin()
    except BaseException:
        if copy is not None:
            copy.close()
        raise


class Linger:
    """One socket that is still to deliver what was sent."""

    def __init__(self, hub: Hub, transport: Transport, on_undelivered: Callable[[], None] | None) -> None:
        self._hub = hub
        self._transport = transport
        self._on_undelivered = on_undelivered
        self._reader = loop_of(hub).io(transport.fileno(), _READ, ref=False)
        self._delivery = DeliveryWatch(hub, transport, self._on_delivery_end)

    def begin(self) -> None:
        """End the sending, and leave the rest to the hub."""
        try:
            keep(self)
            self._transport.end_output()
            self._reader.start(self._on_readable)
            self._delivery.begin()
        except BaseException:
            self._reader.close()
            self._delivery.close()
            let_go(self)
            raise

    def _on_readable(self) -> None:
        """Hub callback: a socket with something unread cannot be closed in peace."""
        try:
            if self._transport.discard_input():
                self._reader.stop()
        except OSError:
            # The peer has reset the connection, and nobody knows what it had read.
            self._end(lost=True)

    def _on_delivery_end(self) -> None:
        """Hub callback: the peer's side has all, or takes no more."""
        self._end(lost=self._transport.undelivered() > 0)

    def _end(self, *, lost: bool) -> None:
        if lost and self._on_undelivered is not None:
            self._on_undelivered()
        with suppress(OSError):
            self._transport.discard_input()
        self._release()

    def _after_fork(self) -> None:
        """See `Living`: the socket is the parent's."""
        self._release()

    def _release(self) -> None:
        self._reader.close()
        self._delivery.close()
        self._transport.close()
        let_go(self)

    def _forget(self) -> None:
        """See `Leftover`."""
        self._transport.close()

    def _settle(self) -> None:
        """See `Living`."""
        if self._delivery.timer is None:
            # It has ended, and its release was interrupted.
            self._release()
        else:
            self._delivery.settle()


class Leftover(_alive.Living, Protocol):
    """What outlives its owner, until its hub is done with it."""

    def _forget(self) -> None:
        """Let go of its sockets: its hub was destroyed, and does nothing any more."""


_lingering: dict[Leftover, None] = {}


def keep(leftover: Leftover) -> None:
    """Keep it alive until it is let go of; also in another OS thread than its hub's."""
    _lingering[leftover] = None
    _alive.lingering.add(leftover)


def let_go(leftover: Leftover) -> None:
    """Its hub is done with it."""
    _lingering.pop(leftover, None)


def _forget_lost_hubs() -> None:
    """Drop what is left of hubs that were destroyed: nothing delivers there any more."""
    for leftover in list(_lingering):
        if leftover._hub.loop is None:
            leftover._forget()
            let_go(leftover)


def _wait_for_delivery() -> None:
    """Give the peers, when the program ends, a little time to take what was sent."""
    end = _clock.monotonic() + _PATIENCE
    while any(leftover._hub is get_hub() for leftover in list(_lingering)) and _clock.monotonic() < end:
        _clock.sleep(_LOOK)
        if not _lingering:
            # What the hub has to say is logged by greenlets of their own.
            _clock.sleep(_LOOK)


after_last_close(_wait_for_delivery)
