"""Detection of a peer whose machine is gone while something sent is on its way to it.

TCP's own keepalive rests as long as anything is unacknowledged, and the kernel
would go on trying for a quarter of an hour.  Its user time-out does not tell a
machine that is gone from a program that does not read: then the window is closed,
and what is behind it waits, but the peer's kernel answers each probe.  So the
kernel is asked what it knows: how often in a row it has tried in vain, and how
long ago the last answer came.  Neither depends on how late our hub is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gevent.hub import Hub

from ratchet.bus._core.watch import Watch
from ratchet.bus._transport.transport import Transport

# How often it is asked, in seconds.
_LOOK: Final = 3.0
# A machine is gone if so many tries in a row had no answer, and no answer came for
# so many seconds.  Keepalive makes sure that the last one is not much older than
# the first try.
_TRIES: Final = 3
_SILENCE: Final = 30.0


class AcknowledgeWatch(Watch):
    """Calls `on_gone` once the peer's machine no longer answers.

    It never does so for a Unix socket, or where the system does not tell.

    Args:
        transport: what the connection sends over.
        on_gone: called from the hub.
    """

    __slots__ = ("_on_gone", "_transport")

    def __init__(self, hub: Hub, transport: Transport, on_gone: Callable[[], None]) -> None:
        super().__init__(hub)
        self._transport = transport
        self._on_gone = on_gone

    def begin(self) -> None:
        """Start to watch, when something was sent; do nothing if it is being watched already."""
        if self.timer is None and self._transport.tells_answers:
            self.look_in(_LOOK)

    def _look(self) -> None:
        awaited = self._transport.awaited_answer()
        if awaited is None:
            self.close()
            return
        tries, silence = awaited
        if tries >= _TRIES and silence >= _SILENCE:
            self._on_gone()
            self.close()
        else:
            self.look_in(_LOOK)
