"""The end of a server's deliveries, when it drains: the broker is to send no more, and to lose none.

RabbitMQ 3 forgets what is on its way from a queue to a consumer that is cancelled: nobody gets that, and
when the link ends it is a dead letter.  So the consumer is told first that it gets no more, and is
cancelled when what was on its way has come.  Meanwhile nothing is acknowledged, because each
acknowledgement would let another delivery come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gevent.hub import Hub
from pamqp.commands import Basic

from ratchet import _clock
from ratchet._loop import Watcher
from ratchet.bus._broker import topology
from ratchet.bus._broker.credit import Credit, knows_credit
from ratchet.bus._broker.link import Link

# Seconds for what another node of the broker may still send; and for a queue that does not answer, because
# it has no leader.
_ON_ITS_WAY: Final = 0.1
_NO_LEADER: Final = 2.0


class IntakeEnd:
    """Ends the deliveries of one link.

    Args:
        hub: the server's.
        link: the link.
        on_reached: called, from the hub, when no more come.

    Attributes:
        reached: whether no more come.
    """

    __slots__ = ("_begun", "_cancelled", "_hub", "_link", "_on_reached", "_timer", "reached")

    def __init__(self, hub: Hub, link: Link, on_reached: Callable[[], None]) -> None:
        self._hub = hub
        self._link = link
        self._on_reached = on_reached
        self._begun = self._cancelled = self.reached = False
        self._timer: Watcher | None = None

    def begin(self) -> None:
        """Have no more come; does not block.  The second time, do nothing."""
        if self._begun or not self._link.is_open:
            return
        if knows_credit(self._link.version):
            self._link.hold_acknowledgements()
            self._link.call(Credit(topology.REQUESTS_TAG), self._on_credit_ok)
            self._set_timer(_NO_LEADER)
        else:
            self._cancel()
        self._begun = True

    def forget(self) -> None:
        """The link has ended."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        if self._begun and (self._timer is None or not self._timer.active):
            self._cancel()

    def _on_credit_ok(self, answer: object) -> None:
        if not self._cancelled and self._link.is_open:
            self._set_timer(_ON_ITS_WAY)

    def _set_timer(self, seconds: float) -> None:
        self.forget()
        self._timer = timer = _clock.timer(self._hub, seconds, ref=False)
        timer.start(self._cancel)

    def _cancel(self) -> None:
        """Have the consumer cancelled; also a hub callback."""
        self.forget()
        if not self._link.is_open:
            return
        if not self._cancelled:
            self._link.call(Basic.Cancel(consumer_tag=topology.REQUESTS_TAG), self._on_cancelled)
            self._cancelled = True
        self._link.release_acknowledgements()

    def _on_cancelled(self, answer: object) -> None:
        self.reached = True
        self._on_reached()
