"""How far a connection has got, and who tells whom: a stream, its two halves and its owner; a client.

Nothing here does anything.
"""

from __future__ import annotations

import enum
from typing import Protocol, TypeVar

from ratchet.bus._core.address import Address
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.retry import Retrier
from ratchet.bus._socket.budget import Budget
from ratchet.bus._socket.wire import Message
from ratchet.errors import BusError

Connection = TypeVar("Connection", contravariant=True)


class StreamState(enum.IntEnum):
    """How far a connection has got towards its end; from `BROKEN` on nothing can be sent."""

    OPEN = 1
    """Both sides may speak."""
    CLOSING = 2
    """It closes as soon as all is delivered, and nothing that comes is wanted."""
    BROKEN = 3
    """Nothing can be sent any more; what the peer said before is still read."""
    CLOSED = 4
    """The socket is closed."""


OPEN, CLOSING, BROKEN, CLOSED = StreamState


class Stream:
    """A connection, as its two halves see it.

    A base class, and no protocol, so that the compiled build calls it directly.

    Attributes:
        limits: the bounds of this side.
        peer: the peer's address.
        state: how far it has got towards its end.
    """

    __slots__ = ("limits", "peer", "state")

    def __init__(self, limits: Limits, peer: Address) -> None:
        self.limits = limits
        self.peer = peer
        self.state: StreamState = OPEN

    def catch_up(self, late: float) -> None:
        """Read what has come, if the hub is so many seconds late."""

    def read_on(self) -> None:
        """TLS had to write in order to read, and has."""

    def shake_hands(self) -> None:
        """Get on with the handshake of TLS."""

    def abort(self, error: BaseException | None = None) -> None:
        """Close at once, and tell the owner."""

    def all_sent(self) -> None:
        """All that was written has left, while the connection closes."""

    def send_failed(self, error: OSError) -> None:
        """The socket takes nothing any more."""

    def lose_place(self, error: BaseException) -> None:
        """An exception struck in the middle of a system call."""

    def gone(self) -> None:
        """Hub callback: the peer's machine does not answer any more."""

    def stalled(self) -> None:
        """Hub callback: the peer does not go on with what it has begun, or does not read."""


class StreamOwner(Protocol):
    """Callbacks of a connection, from the hub or from a thread that sends; they must not block."""

    @property
    def budget(self) -> Budget | None:
        """The memory for incoming requests; None for a client, which has asked for all that comes."""

    @property
    def read_size(self) -> int:
        """How many bytes may be read at once; asked over the soft limit, and while requests are paused."""

    def message_begun(self, size: int) -> bool:
        """A message of at least so many bytes has begun to come.  False if the rest is not to be read.

        Called again when more of it has come.
        """

    def message_received(self, message: Message) -> None:
        """See `Recipient`."""

    def short_received(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> None:
        """See `Recipient`."""

    def eof_received(self) -> None:
        """The peer sends no more; it may still read."""

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        """The peer violated the format or a limit, or disconnected in the middle of a message.

        `refused` is as in `Decoder`.
        """

    def note_unsent(self) -> None:
        """The socket takes nothing for now, and something is still unsent."""

    def pause_writing(self) -> None:
        """What is unsent has reached the high-water mark."""

    def resume_writing(self) -> None:
        """What is unsent fell below the high-water mark, and `wants_resume` was set."""

    def socket_closing(self) -> None:
        """The socket is about to be closed: the last time at which it can be asked for something."""

    def connection_lost(self, error: BaseException | None) -> None:
        """The connection is closed; by this side if there is no `error`.

        Called again where it was interrupted.
        """


class ClientConnectionOwner(Protocol[Connection]):
    """A client, as its connections see it."""

    def on_hello(self, connection: Connection) -> None:
        """The server has said hello, or something else, which shows that it says no hello."""

    @property
    def retrier(self) -> Retrier:
        """Whatever sends its requests again."""

    def note_told(self, reason: str) -> bool:
        """Note that this reason for not getting on with the server is told.  True if it was not yet."""

    def on_failures(self, count: int) -> None:
        """So many requests have failed, not because the server drains."""

    def on_answer_after(self, seconds: float) -> None:
        """A request was answered after this time."""

    def on_draining(self, connection: Connection, reason: str) -> None:
        """The server takes no more requests on this connection, and says why."""

    def on_connection_lost(
        self, connection: Connection, error: BaseException | None, lost_casts: int
    ) -> None:
        """It is closed; so many casts were lost with it, or may have been.

        Called again where it was interrupted.
        """

    @property
    def closed(self) -> bool:
        """Whether this side has closed it."""
