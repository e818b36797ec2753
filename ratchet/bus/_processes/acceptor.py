"""The supervisor's side of a listening socket: each client is accepted, and handed over.

Its owner decides to whom.  While nobody takes a client, nothing is accepted, and those who come
after it wait in the system's backlog.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gevent.event import Event

from ratchet import _clock
from ratchet.bus._core.address import Address
from ratchet.bus._socket.accept import Exhausted, Listener, NotListening
from ratchet.bus._transport.transport import Transport

# How many clients are accepted before other threads get their turn.
_MOST_ACCEPTS: Final = 100
# The most that are accepted in the end.
_LAST_ACCEPTS: Final = 5000
# Seconds without accepting when the system is out of something; doubled up to the last.
_FIRST_BACK_OFF, _LAST_BACK_OFF = 0.01, 1.0


class Acceptor:
    """Accepts clients and hands them over.

    Args:
        listener: where they come from.
        hand_over: called with a client's descriptor and address; returns whether somebody has
            taken it, and must not block.
        changed: set when somebody may take a client that nobody took before.
    """

    def __init__(self, listener: Listener, hand_over: Callable[[int, Address], bool], changed: Event) -> None:
        self._listener = listener
        self._hand_over = hand_over
        self._changed = changed

    def run(self) -> None:
        """A thread: accept clients, until another process shuts the socket down."""
        back_off = _FIRST_BACK_OFF
        while True:
            try:
                for _ in range(_MOST_ACCEPTS):
                    if not self._accept():
                        _clock.wait_read(self._listener.fileno())
                    back_off = _FIRST_BACK_OFF
                _clock.sleep(0)
            except Exhausted:
                _clock.sleep(back_off)
                back_off = min(2 * back_off, _LAST_BACK_OFF)
            except NotListening:
                return

    def run_last(self) -> None:
        """Accept those who have connected already, so that they are told to go elsewhere; does not block."""
        try:
            for _ in range(_LAST_ACCEPTS):
                if not self._accept(waits=False):
                    return
        except (Exhausted, NotListening):
            pass

    def _accept(self, waits: bool = True) -> bool:
        """Accept a client, and hand it over; blocks while nobody takes it, if `waits`.

        False if there is none to accept.  Raises `Exhausted` and `NotListening`.
        """
        try:
            transport, peer = self._listener.accept()
        except BlockingIOError:
            return False
        except OSError:
            # A client that went away before it was accepted is no trouble.
            return True
        try:
            self._pass_on(transport, peer, waits)
        finally:
            # Whoever has taken it has a descriptor of its own.
            transport.close()
        return True

    def _pass_on(self, transport: Transport, peer: Address, waits: bool) -> None:
        self._changed.clear()
        while not self._hand_over(transport.fileno(), peer) and waits:
            self._changed.wait()
            self._changed.clear()
