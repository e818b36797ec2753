"""Why a client has no connection, and what it says of that in errors, `repr` and log.

Nothing is decided here about connecting again.
"""

from __future__ import annotations

from ratchet.bus._core.deadline import in_words
from ratchet.bus._transport.tls import refused_us, will_never_work
from ratchet.errors import BusError, BusTimeout, ConnectionLost, Outcome, Rejected, reason_of


class Failure:
    """The last failure to get on with one server.

    Attributes:
        error: what it was; None if there was none.
        final: whether no further attempt can help.
    """

    def __init__(self, server: str) -> None:
        self._server = server
        self.error: BaseException | None = None
        self.final = False
        # The reason that was logged last.
        self._told: str | None = None

    def note(self, error: BaseException | None) -> None:
        """There is no connection, and this is why."""
        if error is not None:
            self.final = self.final or will_never_work(error) or refused_us(error)
            self.error = error.with_traceback(None)
        elif not self.final:
            self.error = None

    def note_draining(self, reason: str) -> None:
        """The server takes nothing more."""
        self.error = Rejected(reason)

    def clear(self) -> None:
        """The server lets this side in: nothing is final, and whatever comes next is news."""
        self.final = False
        self._told = None

    def note_told(self, reason: str) -> bool:
        """Note that this reason is told.  True if it was not yet, and so is to be logged."""
        news, self._told = self._told != reason, reason
        return news

    @property
    def suffix(self) -> str:
        """The reason in brackets; empty if there is none."""
        return "" if self.error is None else f" ({reason_of(self.error)})"

    def lost(self) -> BusError:
        """The error of a request on a client that never connects again."""
        if isinstance(self.error, Rejected):
            return Rejected(f"{self.error.message} ({self._server})")
        refused = self.error is not None and refused_us(self.error)
        return ConnectionLost(
            f"the connection to {self._server} was lost: {reason_of(self.error)}",
            outcome=Outcome.NOT_RUN if refused else Outcome.NOT_SENT,
        )

    def hopeless(self) -> ConnectionLost:
        """The error of a request where no further attempt can help."""
        assert self.error is not None
        outcome = Outcome.NOT_RUN if refused_us(self.error) else Outcome.NOT_SENT
        return ConnectionLost(f"cannot connect to {self._server}: {reason_of(self.error)}", outcome=outcome)

    def not_connected(self, seconds: float, silent: bool) -> BusTimeout:
        """The error of waiting in vain; `silent` if there is a connection, but no hello."""
        if silent:
            reason = ": the server lets this side connect, but does not say hello"
        else:
            reason = "" if self.error is None else f": {reason_of(self.error)}"
        return BusTimeout(
            f"not connected to {self._server} within {in_words(seconds)}{reason}", outcome=Outcome.NOT_SENT
        )
