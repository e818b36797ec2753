"""The requests of one `call_many`: they are sent as they fit, waited for together, and end together.

Each is a transaction like any other, except that nobody else knows it: the thread that called
sees to their time, with one timer for all, and wakes once for most of them.  How they travel is
not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gevent.hub import Hub

from ratchet import _clock
from ratchet._interrupts import settle_soon
from ratchet._log import safe_repr
from ratchet.bus._core.deadline import seconds_until, time_left
from ratchet.bus._core.outgoing import ENDED, EXPIRED, LAST_WORD_TIMEOUT, WAITING, OutgoingRequest
from ratchet.errors import BusError, BusTimeout, Outcome


class ManyRequests:
    """The requests of one `call_many`, in their order.

    Attributes:
        requests: the objects that are sent.
        messages: each as it travels.
        outcomes: of each one that was sent, its transaction; of each one that could not be
            sent, the error.  The others are still to be sent.
        metadata: what goes along with each.
        deadline: when the time of all is over; None for never.
        idempotent: whether each may run more than once.
    """

    __slots__ = ("_hub", "_seconds", "deadline", "idempotent", "messages", "metadata", "outcomes", "requests")

    def __init__(
        self,
        hub: Hub,
        requests: list[Any],
        messages: list[Any],
        metadata: Mapping[str, str] | None,
        deadline: float | None,
        idempotent: bool,
    ) -> None:
        self._hub = hub
        self.requests = requests
        self.messages = messages
        self.metadata = metadata
        self.deadline = deadline
        self.idempotent = idempotent
        self.outcomes: list[OutgoingRequest | BusError] = []
        # For the texts of errors.
        self._seconds = 0.0 if deadline is None else seconds_until(deadline)

    def note_timeout(self, timeout: float) -> None:
        """Name the user's own number in errors, if it is the one that counts."""
        if self._seconds > timeout / 2:
            self._seconds = timeout

    def add(self, transaction: OutgoingRequest) -> None:
        """Hold the next one, which is about to be sent."""
        if self.deadline is not None:
            transaction.leave_time_to_caller(self._seconds, self.deadline)
        self.outcomes.append(transaction)

    def wait(self) -> None:
        """Wait until each has ended; blocks."""
        if not self._wait_until(self.deadline):
            self._expire()
            if not self._wait_until(_clock.monotonic() + LAST_WORD_TIMEOUT):
                self._expire()

    def _wait_until(self, deadline: float | None) -> bool:
        """Wait until each has ended; False when the time is over."""
        # The last one first: when it has ended, so have most others, and each one that has is
        # passed over.  Answers in random order wake the thread six times for 256 of them.
        for outcome in reversed(self.outcomes):
            if not isinstance(outcome, OutgoingRequest):
                continue
            transaction = outcome
            if transaction.state is WAITING or transaction.state is EXPIRED:
                try:
                    transaction.wait(time_left(deadline))
                except BusTimeout:
                    return False
        return True

    def _open(self) -> Iterator[OutgoingRequest]:
        """Those that were sent and have not ended when it is their turn."""
        for outcome in self.outcomes:
            if isinstance(outcome, OutgoingRequest) and outcome.state not in ENDED:
                yield outcome

    def _expire(self) -> None:
        for transaction in self._open():
            transaction.expire()

    def results(self) -> list[Any]:
        """The responses and errors; decodes, which may block."""
        return [
            _result(outcome) if isinstance(outcome, OutgoingRequest) else outcome for outcome in self.outcomes
        ]

    def give_up(self) -> None:
        """Cancel those that have not ended, because the thread was interrupted; does not block."""
        try:
            self._cancel()
            settle_soon(self._hub)
        except BaseException:
            self._hub.loop.run_callback(self._cancel)
            settle_soon(self._hub)
            raise

    def _cancel(self) -> None:
        """Give up those that have not ended; also a hub callback."""
        for transaction in self._open():
            transaction.end_cancelled()


def _result(transaction: OutgoingRequest) -> Any:
    """The response or the error of a request that has ended; may block."""
    if transaction.error is not None:
        return transaction.error
    if transaction.decode is not None:
        try:
            transaction.load()
        except Exception as error:
            return _undecoded(error)
    return transaction.value


def _undecoded(cause: Exception) -> BusError:
    """The error of a request whose response `response_from_bus` refused.

    Made apart from the frame in which that was raised, or the two would keep each other.
    """
    error = BusError(f"the response could not be decoded: {safe_repr(cause)}", outcome=Outcome.RAN)
    error.__cause__ = cause
    return error
