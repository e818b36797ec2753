"""How much a server can do: what a request needs, and whether some are refused.

What a request takes is learnt from those that ran, as a quantile that runs along: each
that took longer moves it up, each that took less moves it down by so much less that it
stays where it is when the share of those above it is the one that is meant (stochastic
approximation, by factors because nobody knows the unit).

Who is refused is told at the call; here it is counted, and the log is told when a server
begins to refuse, and when it is over.
"""

from __future__ import annotations

import logging
from math import exp
from typing import Final, Protocol

from gevent.hub import Hub

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet._loop import Watcher
from ratchet.bus._core.faults import Reason

# The share of requests that take no longer than what is learnt: of those that are begun
# with just that time left, as many end in time.
_SHARE: Final = 0.95
# How fast it learns: after a jump to 10 times as much it is there in 25 requests.
_RATE: Final = 0.1
_UP: Final = exp(_RATE * _SHARE)
_DOWN: Final = exp(-_RATE * (1 - _SHARE))
# Seconds.  What takes less is not worth refusing anything for.
_LEAST: Final = 0.0001
# Whoever has waited no longer than this part of its time is begun, whatever is learnt: it
# may be one of the quick ones.
_WAITED_LITTLE: Final = 0.1
_OUT_OF_TIME: Final = "the request's time was over before it ran"
_OVERLOADED: Final = "the server has too much work to answer the request in time"
# Seconds without a refusal, after which it is over.
_QUIET: Final = 5.0


class Named(Protocol):
    """A bus, as far as others speak of it."""

    @property
    def name(self) -> str:
        """The bus, for people."""


class Load:
    """What one server has learnt of its load.

    Args:
        owner: the bus, for texts.

    Attributes:
        time_needed: seconds that a request has to have left to be worth beginning, if others
            wait; 0 as long as nothing is known.
    """

    def __init__(self, owner: Named, hub: Hub) -> None:
        self._owner = owner
        self._hub = hub
        self.time_needed = 0.0
        # How many were refused since the last time that it was over.
        self._refused = 0
        # Runs while there are some, and how many there were when it rang last.
        self._timer: Watcher | None = None
        self._seen = 0

    def learn(self, seconds: float) -> None:
        """A request has taken so long."""
        if not self.time_needed:
            self.time_needed = max(seconds, _LEAST)
        elif seconds > self.time_needed:
            self.time_needed *= _UP
        else:
            self.time_needed = max(self.time_needed * _DOWN, _LEAST)

    def note_given_up(self, begun: float, now: float, deadline: float) -> None:
        """A request that was begun has been given up by its client: it would have taken longer."""
        taken = now - begun
        # Where its time was over, and its client did not just change its mind, as much as it
        # had when it was begun has not been enough.
        not_enough = deadline - begun if deadline - now < taken else taken
        if not_enough > self.time_needed:
            self.learn(not_enough)

    def refusal(
        self, now: float, half_time: float, deadline: float, others_wait: bool
    ) -> tuple[Reason, str] | None:
        """Why a request is not to be begun now; None if it may be.

        Without others it is tried, however little time it has left: nobody loses by that, and
        something is learnt.
        """
        if now >= deadline:
            # The hub is late, or a timer would have given the request up.
            return Reason.OUT_OF_TIME, _OUT_OF_TIME
        left = deadline - now
        if (
            others_wait
            and left < self.time_needed
            and left < 2 * (deadline - half_time) * (1 - _WAITED_LITTLE)
        ):
            return Reason.OVERLOADED, _OVERLOADED
        return None

    def note_refusal(self) -> None:
        """Somebody is refused; does not block, also from a hub callback."""
        self._refused += 1
        if self._timer is None:
            timer = _clock.timer(self._hub, _QUIET, _QUIET, ref=False)
            timer.start(self._look)
            self._timer = timer
            self._seen = self._refused
            log_soon(bus_logger, logging.WARNING, "%s has too much work, and refuses some", self._owner.name)

    def _look(self) -> None:
        """Hub callback: see whether it is over."""
        if self._refused > self._seen:
            self._seen = self._refused
            return
        text = "%s refuses no more work; refused: %d"
        log_soon(bus_logger, logging.WARNING, text, self._owner.name, self._refused)
        self._refused = 0
        self.close()

    def close(self) -> None:
        """Look no more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()
