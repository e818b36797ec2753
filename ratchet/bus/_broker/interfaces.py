"""How far a link to a broker has got, why it ended, and who is told.

Nothing here sends or remembers anything.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

from pamqp import base
from pamqp.commands import Channel, Connection

from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.errors import BusError

NOT_FOUND: Final = 404
"""The code of a broker that does not know an exchange or a queue."""
_ACCESS_REFUSED: Final = 403
_PRECONDITION_FAILED: Final = 406
_NOT_ALLOWED: Final = 530
# What a person can do about what no retry mends.
_ADVICE: Final = {
    _ACCESS_REFUSED: "check the user, the password and the permissions",
    NOT_FOUND: "check the vhost, and what is declared in it",
    _PRECONDITION_FAILED: "all servers of a service need the same redeliver and max_queued: to change them,"
    " delete the queue, or give the service another name",
    _NOT_ALLOWED: "check the vhost in the URL",
}
# The classes of methods that log in and declare: what the broker refuses of these it will refuse again.
_SETTING_UP: Final = (10, 40, 50)


class LinkState(enum.Enum):
    """How far a link has got."""

    GREETING = 1
    """The broker has yet to say who it is."""
    LOGIN = 2
    """It has yet to accept the login."""
    OPENING = 3
    """It has yet to open the vhost."""
    OPENING_CHANNEL = 4
    """It has yet to open the channel."""
    OPEN = 5
    """Anything may be sent."""
    CLOSING = 6
    """This side has said goodbye, and the broker has yet to."""
    CLOSED = 7
    """Nothing more is sent or told; see `LinkProtocol.failure`."""


GREETING, LOGIN, OPENING, OPENING_CHANNEL, OPEN, CLOSING, CLOSED = LinkState

TRANSITIONS: Final[Mapping[tuple[LinkState, type[base.Frame]], LinkState]] = {
    (GREETING, Connection.Start): LOGIN,
    (LOGIN, Connection.Tune): OPENING,
    (OPENING, Connection.OpenOk): OPENING_CHANNEL,
    (OPENING_CHANNEL, Channel.OpenOk): OPEN,
    (CLOSING, Connection.CloseOk): CLOSED,
}
"""Which method leads from which state to another; in any other state these are a violation."""


class LinkFailure(NamedTuple):
    """The end of a link.

    Attributes:
        error: why; None if this side has closed it.
        fatal: whether another link would end in the same way.
        code: the broker's number for it; 0 if it gave none.
    """

    error: BusError | None
    fatal: bool = False
    code: int = 0


def with_advice(code: int, text: str) -> str:
    """A text about what no retry mends, with what a person can do."""
    return f"{text.rstrip('. ')}; {_ADVICE[code]}" if code in _ADVICE else text


class LinkListener(Protocol):
    """Callbacks of a link, from within `receive` and `tick`; they must not block or raise."""

    def link_opened(self) -> None:
        """The handshake is done: the link may be used."""

    def delivered(self, delivery: Delivery) -> None:
        """A message has come for a consumer."""

    def returned(self, returned: Returned) -> None:
        """A mandatory message could not be routed; its confirm, a good one, comes after this."""

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None:
        """The broker has taken a message or, if it is not `accepted`, refused it.

        `number` is the one that `publish` returned; with `multiple`, all up to it are meant.
        """

    def blocked(self, reason: str | None) -> None:
        """The broker takes no messages for now, and says why; None if it takes them again."""

    def consumer_cancelled(self, consumer_tag: str) -> None:
        """The broker has ended a consumer, because its queue is gone."""

    def link_closed(self, failure: LinkFailure) -> None:
        """The link has ended; what it was to answer will not be answered."""


def is_fatal(code: int, text: str, method_class: int) -> bool:
    """Whether no retry helps, by the reason that a broker gives for closing.

    Args:
        code: its number.
        text: its text.
        method_class: the class of the method that it is about.
    """
    if code == _ACCESS_REFUSED:
        return True
    if code == _NOT_ALLOWED:
        # There is no such vhost, or it is not this user's.  A limit of connections may pass.
        return method_class == _SETTING_UP[0] and "limit" not in text
    # An exchange that somebody has deleted is declared again, a limit of queues is none for ever, and a
    # delivery that took too long to be acknowledged (406, too) is not this link's fault.
    if code == _PRECONDITION_FAILED and "queue limit in vhost" in text:
        return False
    return code in (NOT_FOUND, _PRECONDITION_FAILED) and method_class in _SETTING_UP
