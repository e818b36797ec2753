"""Every error that ratchet raises, in one tree.

It imports nothing of ours, and an error carries facts (`code`, `outcome`), never behaviour.
An error that `except Exception` must not swallow is a `BaseException`: `Alarm` is a
`gevent.Timeout`.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

import gevent

__all__ = [
    "Abandoned",
    "Alarm",
    "AlreadyAnswered",
    "BusClosed",
    "BusError",
    "BusTimeout",
    "Cancelled",
    "ConnectionLost",
    "DeadlockError",
    "MessageTooLarge",
    "NotPaused",
    "Outcome",
    "ProtocolError",
    "RatchetError",
    "Rejected",
    "RemoteError",
    "WrongThread",
]


def __dir__() -> list[str]:
    return __all__


class Outcome(enum.StrEnum):
    """Did the request run?  The one question that a failed request leaves.

    `NOT_SENT` and `NOT_RUN` are certain, and such a request is safe to send
    again.  `RAN` is certain.  Everything else is `UNKNOWN`.  A member equals
    the string of its name.
    """

    NOT_SENT = "NOT_SENT"
    NOT_RUN = "NOT_RUN"
    UNKNOWN = "UNKNOWN"
    RAN = "RAN"


_WORDS: Final = {
    Outcome.NOT_SENT: "nothing was sent",
    Outcome.NOT_RUN: "nothing was run",
    Outcome.UNKNOWN: "the request may have run",
    Outcome.RAN: "the request has run",
}


class RatchetError(Exception):
    """The root of the tree.

    Attributes:
        code: a short string that names the kind of error, the same on every
            release.
    """

    code: ClassVar[str] = "ratchet"


class DeadlockError(RatchetError):
    """No attached thread can ever run again.

    The text names each of them, what it waits for, and where.
    """

    code = "deadlock"


class NotPaused(RatchetError):
    """`unpause()` of a thread that is not paused."""

    code = "not_paused"


class WrongThread(RatchetError, RuntimeError):
    """A call from another OS thread than the owner's, or on a hub that has been destroyed.

    Or on one that has been put aside, by virtual time in a test.
    """

    code = "wrong_thread"


class BusError(RatchetError):
    """A call of a bus failed.

    Attributes:
        outcome: whether the request ran: one of the four of `Outcome`.
        attempts: how often it was sent, or was tried to be sent, at most once unless the
            client retries.

    .. code-block:: python

        from ratchet import BusError, bus

        server, client = bus.new_local()
        client.close()
        try:
            client.call("hello")
        except BusError as error:
            print(error.code, error.outcome)
            print("send it again?", error.outcome in ("NOT_SENT", "NOT_RUN"))

    .. code-block:: text

        bus_closed NOT_SENT
        send it again? True
    """

    code = "bus"
    outcome: Outcome = Outcome.UNKNOWN
    attempts: int = 1

    def __init__(self, message: str = "", *, outcome: Outcome | None = None) -> None:
        super().__init__(message)
        if outcome is not None:
            self.outcome = outcome

    @property
    def message(self) -> str:
        """The description of what happened, without the outcome."""
        return super().__str__()

    def __str__(self) -> str:
        words = _WORDS[self.outcome]
        return f"{self.message}; {words}" if self.message else words

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r}, outcome={self.outcome})"


class BusClosed(BusError):
    """This side of the bus is closed, or draining."""

    code = "bus_closed"


class BusTimeout(BusError, TimeoutError):
    """The time that the call was given is over."""

    code = "bus_timeout"


class ConnectionLost(BusError):
    """The peer is gone, or did not let this side in."""

    code = "connection_lost"


class Rejected(BusError):
    """The server refused the request: overloaded, draining, or out of time."""

    code = "rejected"
    outcome = Outcome.NOT_RUN


class Cancelled(BusError):
    """This side cancelled the request."""

    code = "cancelled"


class Abandoned(BusError):
    """The server took the request and will never answer it."""

    code = "abandoned"


class RemoteError(BusError):
    """The handler raised; or the server's codec did.

    Attributes:
        remote_type: the bare name of the error's class, as a string.
        remote_message: its text.
        remote_traceback: its traceback, as Python prints it.
    """

    code = "remote_error"
    outcome = Outcome.RAN

    def __init__(
        self,
        remote_type: str,
        remote_message: str = "",
        remote_traceback: str = "",
        *,
        outcome: Outcome | None = None,
    ) -> None:
        super().__init__(outcome=outcome)
        # All three are the error's arguments, so that a copy has them too.
        self.args = (remote_type, remote_message, remote_traceback)
        self.remote_type = remote_type
        self.remote_message = remote_message
        self.remote_traceback = remote_traceback

    @property
    def message(self) -> str:
        if not self.remote_message:
            return self.remote_type
        return f"{self.remote_type}: {self.remote_message}"

    def __str__(self) -> str:
        # That it has run goes without saying.
        return self.message if self.outcome is Outcome.RAN else super().__str__()


class AlreadyAnswered(BusError):
    """A second answer to one transaction."""

    code = "already_answered"
    outcome = Outcome.RAN


class ProtocolError(BusError):
    """The peer violated the wire format."""

    code = "protocol_error"


class MessageTooLarge(BusError):
    """A message is over a limit.

    `outcome` says where it was refused: before a byte of it was sent (`NOT_SENT`), by the server
    (`NOT_RUN`), or, if it is the response to a request that has run, by this side (`RAN`).
    """

    code = "message_too_large"
    outcome = Outcome.NOT_SENT


class Alarm(gevent.Timeout):
    """Raised in a thread by its `ratchet.thread.alarm`.

    The object that `alarm()` returns: `cancel()` it, or use it as a context
    manager that cancels on leaving.  It can be copied and pickled: a copy has the
    same `seconds`, and rings nobody.
    """

    def start(self) -> None:
        """Do nothing: `alarm()` has started it, and it rings only once."""

    def __reduce__(self) -> tuple[object, ...]:
        # All but what makes it ring.
        return type(self), (), {name: value for name, value in vars(self).items() if name != "timer"}


def reason_of(error: BaseException | None) -> str:
    """An error as the reason of another one, whose outcome is its own."""
    text = error.message if isinstance(error, BusError) else str(error)
    return text or type(error).__name__
