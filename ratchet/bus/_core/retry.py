"""Sending a request again that has not run, or may run twice: whether, when, and its state meanwhile.

A `Retry` is what the user allows.  A client has one `Retrier`.  A request that fails is offered to
it; one that it takes has not ended: between two attempts the `Retrier` is its route.  A greenlet
pauses, finds a connection as any sender does, and sends the request again; whatever ends the
request meanwhile ends the greenlet.

How a request is sent is not known here.
"""

from __future__ import annotations

import logging
import sys
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

import gevent
from gevent.hub import Hub

from ratchet import _clock
from ratchet._chance import chance
from ratchet._interrupts import settle_soon
from ratchet._log import bus_logger, log_soon
from ratchet._loop import AnyGreenlet
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.faults import SENT_BEFORE_FORK
from ratchet.bus._core.limits import check_above_zero
from ratchet.bus._core.outgoing import CAST, ENDED, IDEMPOTENT, ClientRoute, OutgoingRequest
from ratchet.bus._core.stats import Counters
from ratchet.errors import BusClosed, BusError, ConnectionLost, MessageTooLarge, Outcome, reason_of

# Seconds over which retries are held against first tries.
_WINDOW: Final = 10.0
# Retries in that time that a client may make in any case: a share of few first tries is less than one.
_FEWEST: Final = 10
# Another attempt would end the same way.
_USELESS: Final = (BusClosed, MessageTooLarge)
# Seconds between two notes of how many first tries there were, at least.
_GRAIN: Final = 1.0


@dataclass(frozen=True, kw_only=True)
class Retry:
    """How a client sends requests again by itself.

    A request that was not run for certain (`NOT_SENT`, `NOT_RUN`) is sent again, within its own
    time, and to another server if there are several.  One that may have run (`UNKNOWN`) is sent
    again only if it was sent with `idempotent=True`.

    Retries of what a server has refused, or may have run, count against `budget`, so that they
    never make an overload worse.  Those of what never reached a server, or only one that drains,
    do not, and the first of them has no pause.

    Attributes:
        attempts: how often a request is sent at most, the first time included.
        back_off: seconds before the first retry, doubled with each further one.  Each pause is
            shortened at random by up to half.
        most: the longest of these pauses, in seconds.
        budget: the most retries for each first try, over the last 10 s; unless it is 0, ten
            are allowed in any case.

    Raises `TypeError` or `ValueError` for a wrong value.

    .. code-block:: python

        from ratchet import bus

        print(bus.Retry(attempts=5))

    .. code-block:: text

        Retry(attempts=5, back_off=0.05, most=2.0, budget=0.1)
    """

    attempts: int = 3
    back_off: float = 0.05
    most: float = 2.0
    budget: float = 0.1

    def __post_init__(self) -> None:
        check_above_zero(self.attempts, "attempts")
        for name, unit in (("back_off", "seconds"), ("most", "seconds"), ("budget", "retries for each try")):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise TypeError(f"{name} must be a number of {unit}, not {value!r}")
            # An int may be more than any float.
            if not 0 <= value <= sys.float_info.max:
                raise ValueError(f"{name} must be a number of {unit} from 0 on, not {value!r}")

    def pause_before(self, attempt: int) -> float:
        """The seconds to wait before an attempt, of which the second one is the first retry."""
        # No more doublings than a float holds.
        return min(self.back_off * 2.0 ** min(attempt - 2, 1000), self.most)


_NO_RETRY: Final = Retry(attempts=1)


class Budget:
    """How many retries one client may still make."""

    __slots__ = ("_notes", "_retries", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        # Times, and how many first tries there were by then: the last note from before the window,
        # those within it, and the latest look.
        self._notes: deque[tuple[float, int]] = deque([(_clock.monotonic(), 0)])
        # When each retry of the window was made.
        self._retries: deque[float] = deque()

    def take(self, tries: int) -> bool:
        """Take one retry, after so many first tries in all; False if there is none left."""
        now = _clock.monotonic()
        while self._retries and self._retries[0] <= now - _WINDOW:
            self._retries.popleft()
        if len(self._retries) >= self._allowed(now, tries):
            return False
        self._retries.append(now)
        return True

    def _allowed(self, now: float, tries: int) -> float:
        notes = self._notes
        if len(notes) > 1 and now - notes[-2][0] < _GRAIN:
            notes[-1] = now, tries
        else:
            notes.append((now, tries))
        while len(notes) > 1 and notes[1][0] <= now - _WINDOW:
            notes.popleft()
        when, tries_then = notes[0]
        # If the first note is older than the window, take the tries since as spread evenly.
        part = _WINDOW / max(now - when, _WINDOW)
        return max(self._share * (tries - tries_then) * part, _FEWEST) if self._share else 0.0


class Resender(Protocol):
    """Sends the requests of one client.

    Attributes:
        tries: how many were sent for the first time.
    """

    tries: int

    def send_again(self, transaction: OutgoingRequest) -> None:
        """Find a connection for a request whose last attempt has failed, and send it there; blocks.

        Does nothing for one that has ended meanwhile.  Raises the `BusError` of one that cannot be
        sent.  The connection becomes the request's route just before it is entered there.
        """


class _Waiting:
    """A request between two attempts."""

    __slots__ = ("error", "greenlet", "pause")

    def __init__(self, error: BusError, pause: float) -> None:
        # That of its last attempt.
        self.error = error
        self.pause = pause
        self.greenlet: AnyGreenlet | None = None


class Retrier(ClientRoute):
    """The requests of one client that are between two attempts.

    Args:
        hub: the client's.
        counters: the client's.
        server: the server, or the servers, for texts.
        policy: what the user allows; None for nothing.

    Attributes:
        sender: sends the client's requests; set before any is sent.
        active: whether requests are retried at all.
        lost_casts: casts that could not be sent again.
    """

    __slots__ = ("_budget", "_policy", "_server", "_waiting", "active", "lost_casts", "sender")

    def __init__(
        self,
        hub: Hub,
        counters: Counters,
        server: str,
        policy: Retry | None,
    ) -> None:
        super().__init__(hub, counters, None)
        self._server = server
        self._policy = policy or _NO_RETRY
        self.sender: Resender
        self._waiting: dict[OutgoingRequest, _Waiting] = {}
        self._budget = Budget(self._policy.budget)
        self.active = self._policy.attempts > 1
        self.lost_casts = 0

    def __len__(self) -> int:
        """How many requests wait, casts included."""
        return len(self._waiting)

    @property
    def casts(self) -> int:
        """How many casts are among them."""
        if not self._waiting:
            # As almost always; closing a connection for one request asks three times.
            return 0
        return sum(bool(transaction.flags & CAST) for transaction in list(self._waiting))

    @property
    def server_name(self) -> str:
        return self._server

    def take(self, transaction: OutgoingRequest, error: BusError, moves: bool) -> bool:
        """Take over a request whose attempt has failed; False if it has to end.  Does not block.

        The route that it had then forgets it and calls `begin`.

        Args:
            transaction: the request.
            error: the error of its attempt.
            moves: whether it only has to go elsewhere: no server has refused it but one that drains.
        """
        attempt = transaction.attempts + 1
        if not self.active or attempt > self._policy.attempts or not self._is_safe(transaction, error):
            return False
        moves = moves and error.outcome is not Outcome.UNKNOWN
        pause = 0.0 if moves and attempt == 2 else self._policy.pause_before(attempt)
        left = time_left(transaction.deadline)
        if (left is not None and pause >= left) or not (moves or self._budget.take(self.sender.tries)):
            return False
        self._waiting[transaction] = _Waiting(error, pause)
        transaction.doubtful = transaction.doubtful or error.outcome is Outcome.UNKNOWN
        transaction.route = self
        return True

    @staticmethod
    def _is_safe(transaction: OutgoingRequest, error: BusError) -> bool:
        if isinstance(error, _USELESS):
            return False
        if error.outcome is Outcome.UNKNOWN:
            return bool(transaction.flags & IDEMPOTENT)
        return error.outcome is not Outcome.RAN

    def begin(self, transaction: OutgoingRequest) -> None:
        """Have a request that was taken sent again; does not block.  Calling it twice is fine."""
        waiting = self._waiting.get(transaction)
        if waiting is None:
            return
        if waiting.greenlet is None:
            greenlet = gevent.Greenlet(self._attempt, transaction, waiting.pause)
            greenlet.rawlink(partial(self._on_end, transaction))
            # First, so that `forget` ends it whatever strikes.
            waiting.greenlet = greenlet
        # Also if it was interrupted before this; nothing starts twice.
        waiting.greenlet.start()

    def _attempt(self, transaction: OutgoingRequest, pause: float) -> None:
        """Pause, and send a request again: the function of its greenlet."""
        if pause:
            _clock.sleep(pause * chance.uniform(0.5, 1.0))
        try:
            self.sender.send_again(transaction)
        except BusError as error:
            self._fail(transaction, error)
        except gevent.GreenletExit:
            # It has ended meanwhile.
            raise
        except BaseException:
            settle_soon(self.hub)
            raise
        if self._is_attempt(gevent.getcurrent(), transaction):
            self._waiting.pop(transaction, None)

    def _is_attempt(self, greenlet: object, transaction: OutgoingRequest) -> bool:
        """Whether a request waits for this greenlet; it may have failed since, and wait for another one."""
        waiting = self._waiting.get(transaction)
        return waiting is not None and waiting.greenlet is greenlet

    def _on_end(self, transaction: OutgoingRequest, greenlet: object) -> None:
        """Hub callback: an attempt is over.  If an exception struck it, begin again or end the request."""
        if not self._is_attempt(greenlet, transaction):
            return
        waiting = self._waiting[transaction]
        if transaction.state in ENDED:
            self._waiting.pop(transaction, None)
        elif transaction.route is self:
            waiting.greenlet, waiting.pause = None, 0.0
            self.begin(transaction)
        else:
            # It struck while the request was being sent.
            route = transaction.route
            error = ConnectionLost(f"the sending to {route.server_name} was interrupted")
            self._fail(transaction, error)
            route.forget(transaction)
            self._waiting.pop(transaction, None)

    def _fail(self, transaction: OutgoingRequest, error: BusError) -> None:
        """End a request in an error that is not retried."""
        if transaction.flags & CAST:
            self.lost_casts += 1
            log_soon(
                bus_logger,
                logging.WARNING,
                "casts to %s that were lost: 1; %s",
                self._server,
                reason_of(error),
            )
        elif transaction.state not in ENDED:
            transaction.end_failed(error)

    # See `ClientRoute`.

    def retry(self, transaction: OutgoingRequest, error: BusError, moves: bool) -> bool:
        # It is here already; an interrupt has left it on the connection, too, which fails now.
        return True

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        waiting = self._waiting.get(transaction)
        return Outcome.NOT_SENT if waiting is None else waiting.error.outcome

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        return False

    def forget(self, transaction: OutgoingRequest) -> None:
        waiting = self._waiting.get(transaction)
        greenlet = None if waiting is None else waiting.greenlet
        if greenlet is not None and greenlet is not gevent.getcurrent():
            greenlet.kill(block=False)
        self._waiting.pop(transaction, None)

    # Of the client.

    def stop(self) -> None:
        """End each request that waits in its last error: nothing is sent any more.  Does not block."""
        self.active = False
        for transaction, waiting in list(self._waiting.items()):
            self._fail(transaction, waiting.error)
            self.forget(transaction)

    def close(self) -> int:
        """End each request that waits, because its bus is closed; also from a hub callback.

        Returns how many casts were among them.
        """
        self.active = False
        casts = self.casts
        for transaction, waiting in list(self._waiting.items()):
            if not transaction.flags & CAST:
                text = f"the bus to {self._server} was closed"
                self._fail(transaction, BusClosed(text, outcome=waiting.error.outcome))
            self.forget(transaction)
        return casts

    def leave_to_parent(self) -> None:
        """In a forked child: end them, but wake nobody."""
        self.active = False
        for transaction in list(self._waiting):
            transaction.leave_to_parent()
            if not transaction.flags & CAST:
                self._fail(transaction, BusClosed(SENT_BEFORE_FORK))
        self._waiting.clear()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        for transaction, waiting in list(self._waiting.items()):
            transaction.settle()
            if waiting.greenlet is not None and waiting.greenlet.ready():
                self._on_end(transaction, waiting.greenlet)
            elif transaction.route is self:
                self.begin(transaction)
            elif waiting.greenlet is None:
                # Its connection was interrupted in handing it over, and fails it again.
                self._waiting.pop(transaction, None)


def checked_retry(retry: Any) -> Retry | None:
    """The `retry` of a user; raises `TypeError` for anything but a `Retry` or None."""
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry or None, not {retry!r}")
    return retry
