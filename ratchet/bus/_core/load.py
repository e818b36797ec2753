"""How long requests take, and whether some are refused.

The time that a request needs is learnt from those that ran, as a running quantile: each that
took longer moves it up, and each that took less moves it down, by so much less that it stays
where it is when the right share of requests is above it.  (This is stochastic approximation,
by factors, as nobody knows the scale beforehand.)

A client that is refused is told so in answer to its request.  Here refusals are counted, and
the log says when a server begins to refuse, and when it has stopped.
"""

from __future__ import annotations

import logging
from math import exp
from typing import Final, Protocol

from gevent.hub import Hub

from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.watch import Watch

# The share of requests that take no longer than what is learnt, and so the share that ends in
# time of those begun with just that much time left.
_SHARE: Final = 0.95
# How fast it learns: after a jump to 10 times as much it is there in 25 requests.
_RATE: Final = 0.1
_UP: Final = exp(_RATE * _SHARE)
_DOWN: Final = exp(-_RATE * (1 - _SHARE))
# Seconds.  Requests that take less are not worth refusing.
_LEAST: Final = 0.0001
# A request that has waited for less than this part of its time is begun, whatever is learnt:
# it may be one of the quick ones.
_WAITED_LITTLE: Final = 0.1
_OUT_OF_TIME: Final = "the request's time was over before it ran"
_OVERLOADED: Final = "the server has too much work to answer the request in time"
# Seconds without a refusal after which the server is said to refuse no more.
_QUIET: Final = 5.0


class Named(Protocol):
    """A bus, as far as texts need to know."""

    @property
    def name(self) -> str:
        """The bus, for people."""


class Load(Watch):
    """What one server has learnt about its requests, and how many it has refused.

    Args:
        owner: the bus, for texts.

    Attributes:
        time_needed: seconds that a request must have left to be worth beginning while others
            wait; 0 as long as nothing is known.
    """

    def __init__(self, owner: Named, hub: Hub) -> None:
        super().__init__(hub)
        self._owner = owner
        self.time_needed = 0.0
        # How many were refused since the server began to refuse, and at the last look.
        self._refused = 0
        self._seen = 0

    def learn(self, seconds: float) -> None:
        """Note how long a request has taken."""
        if not self.time_needed:
            self.time_needed = max(seconds, _LEAST)
        elif seconds > self.time_needed:
            self.time_needed *= _UP
        else:
            self.time_needed = max(self.time_needed * _DOWN, _LEAST)

    def note_given_up(self, begun: float, now: float, deadline: float) -> None:
        """Note that a client has given up a request that was begun: it would have taken longer."""
        taken = now - begun
        # If its time was about over, so that its client did not just change its mind, then even
        # all that it had left when it was begun was not enough.
        not_enough = deadline - begun if deadline - now < taken else taken
        if not_enough > self.time_needed:
            self.learn(not_enough)

    def refusal(
        self, now: float, half_time: float, deadline: float, others_wait: bool
    ) -> tuple[Reason, str] | None:
        """Why a request is not to be begun now, as reason and text; None if it may be.

        If no others wait, it is tried however little time it has left: nobody loses by that, and
        something is learnt.
        """
        if now >= deadline:
            # The hub is late, or a timer would have ended the request.
            return Reason.OUT_OF_TIME, _OUT_OF_TIME
        left, allowed = deadline - now, 2 * (deadline - half_time)
        if others_wait and left < self.time_needed and left < allowed * (1 - _WAITED_LITTLE):
            return Reason.OVERLOADED, _OVERLOADED
        return None

    def note_refusal(self, why: str) -> None:
        """Count a refusal; does not block, also from a hub callback."""
        self._refused += 1
        if self.timer is None:
            self._seen = self._refused
            self.look_in(_QUIET)
            log_soon(bus_logger, logging.WARNING, "%s begins to refuse: %s", self._owner.name, why)

    def _look(self) -> None:
        """Hub callback: see whether nothing was refused since the last look."""
        if self._refused > self._seen:
            self._seen = self._refused
            self.look_in(_QUIET)
            return
        text = "%s refuses nothing any more; refused: %d"
        log_soon(bus_logger, logging.WARNING, text, self._owner.name, self._refused)
        self.close()

    def close(self) -> None:
        """Stop watching; what is refused later is counted anew."""
        self._refused = 0
        super().close()
