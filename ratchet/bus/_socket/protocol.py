"""The two roles on one connection: messages and calls in, events and frames out.

`ServerProtocol` and `ClientProtocol` know which requests are open, by which id or in
which order they are answered, what the other side takes, and who has said hello or
goodbye.  A connection gives them each message that has come, acts on the event that
`receive` returns, and sends the frames that it is given.

A role changes its registers at once where a message says so.  What it sends, it only
encodes: a request is entered, and taken out, by the connection, after the step that can
fail.

No socket, no greenlet, no timer and no log may live here.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from ratchet.bus._core.address import Address
from ratchet.bus._core.faults import SERVER_DRAINS, ErrorTexts, Reason, check_size, decode_metadata
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import heads, table, wire
from ratchet.bus._socket.outbox import size_of
from ratchet.bus._socket.wire import Frame, Hello, Message
from ratchet.errors import BusError, MessageTooLarge, Outcome, ProtocolError

Content = bytes | Sequence[bytes]
"""What a request carries: its parts; or its body by itself, if that is all, as almost always."""

MakeRequest = Callable[[list[bytes], bool, int, int, Mapping[str, str] | None], Any]
"""Makes a request of its parts, whether it is one-way, the milliseconds that are left (0 for no
deadline), its id and its metadata."""


# Of a client that has sent no plain request.  Nothing is ever put in.
_NONE: Final[dict[Any, Frame | None]] = {}


class GivenUp(NamedTuple):
    """A client wants no answer to a request any more."""

    request: Any


class ServerProtocol:
    """The server's role, towards one client.

    Args:
        limits: the server's own.
        hello: the server's HELLO, as a frame.
        peer: the client's address, for texts.

    Attributes:
        extended: whether the client has sent an extended message.  A plain one understands none;
            with an extended one, the end of its input is its end.
        open: the extended requests that are to be answered, by id.
        plain: the plain ones in the order in which they came, each with its answer, if
            that waits for the answers of earlier ones.
        kept: bytes of the answers that wait.
        last_id: of the extended request that came last.
        max_message: bytes of the largest message that the client takes.
        max_parts: the most parts that it takes.
    """

    __slots__ = (
        "_hello",
        "_peer",
        "extended",
        "kept",
        "last_id",
        "max_message",
        "max_parts",
        "open",
        "plain",
    )

    def __init__(
        self,
        limits: Limits,
        hello: bytes,
        peer: Address,
    ) -> None:
        self._hello = hello
        self._peer = peer
        self.open: dict[int, Any] = table.new()
        # Made on first use: most clients never need it.
        self.plain: dict[Any, Frame | None] = _NONE
        self.kept = 0
        # This side's own limits, or the client's if these are lower.
        self.max_message = limits.max_message
        self.max_parts = limits.max_parts
        self.last_id = 0
        self.extended = False

    @property
    def unanswered(self) -> list[Any]:
        """The requests that have no answer yet."""
        return [*self.open.values(), *(request for request, answer in self.plain.items() if answer is None)]

    def receive(self, message: Message, make_request: MakeRequest) -> Any:
        """Take a message that has come.

        Returns a request, which `make_request` has made, the end of one, a frame that is to be
        sent, or None if nothing is to be done.  Raises `ProtocolError`, after which nothing
        more is to be received.
        """
        kind, flags, id, arg, parts = message
        if kind == wire.REQUEST:
            metadata = decode_metadata(parts.pop()) if flags & wire.METADATA else None
            one_way = bool(flags & wire.ONE_WAY)
            request = make_request(parts, one_way, arg, id, metadata)
            if not self.enter(id, one_way, request):
                raise used_twice(id)
            return request
        if kind == wire.PLAIN:
            request = make_request(parts, False, 0, heads.PLAIN_ID, None)
            if self.plain is _NONE:
                self.plain = {}
            self.plain[request] = None
            return request
        self.extended = True
        if kind == wire.CANCEL:
            given_up = self.open.get(id)
            return None if given_up is None else GivenUp(given_up)
        if kind == wire.PING:
            return wire.encode(wire.PONG, 0, id, arg, ())
        if kind == wire.HELLO:
            hello = wire.decode_hello(parts[0])
            self.max_message = min(hello.max_message or self.max_message, self.max_message)
            self.max_parts = min(hello.max_parts or self.max_parts, self.max_parts)
            return self._hello
        if kind != wire.PONG:
            raise ProtocolError(f"a client sent a message of kind {kind}")
        return None

    def enter(self, id: int, one_way: bool, request: Any) -> bool:
        """Note an extended request that has come, and enter it unless it is one-way.

        False if an open one has its id, which is a violation of the format: see `used_twice`.
        """
        self.extended = True
        self.last_id = id
        return one_way or self.open.setdefault(id, request) is request

    def response(self, id: int, parts: Sequence[bytes]) -> Frame:
        """The answer to a request; raises `MessageTooLarge`."""
        if len(parts) != 1 or len(parts[0]) > self.max_message:
            check_size(parts, self.max_message, self.max_parts, self._peer)
        return wire.frame(heads.PLAIN if id == heads.PLAIN_ID else heads.RESPONSE, 0, id, 0, parts)

    def error(self, id: int, reason: Reason, texts: ErrorTexts, outcome: Outcome | None = None) -> bytes:
        """The error that a request ends in; empty for a plain one, whose form has no errors."""
        return b"" if id == heads.PLAIN_ID else wire.encode_error(id, reason, texts, outcome)

    def refusal(self, error: BusError, refused: tuple[int, int] | None) -> bytes:
        """The last word on a request that is too large; empty for all else; see `Decoder.refused`."""
        if isinstance(error, MessageTooLarge) and refused is not None and refused[0] == wire.REQUEST:
            return wire.encode_error(refused[1], Reason.TOO_LARGE, ("MessageTooLarge", error.args[0], ""))
        return b""

    def goaway(self, begun_kind: int | None) -> bytes:
        """Word that no later request than those that came will be run; empty if the client is plain.

        `begun_kind` is the kind of the message that the client is in the middle of.
        """
        if self.extended or begun_kind in (wire.REQUEST, wire.HELLO):
            return wire.encode(wire.GOAWAY, 0, self.last_id, 0, ())
        return b""

    def keep_answer(self, request: Any, frame: Frame) -> None:
        """Keep the answer of a plain request until its turn; an empty one for an error."""
        # Not again, nor one whose sending was interrupted when it had left.
        if request in self.plain and self.plain[request] is None:
            self.kept += size_of(frame)
            self.plain[request] = frame

    def may_answer_now(self, request: Any) -> bool:
        """Whether a plain request is the one that all others wait for."""
        return next(iter(self.plain), None) is request

    def due_answer(self) -> tuple[Any, Frame] | None:
        """The plain request whose turn it is, if it has its answer."""
        for request, frame in self.plain.items():
            return None if frame is None else (request, frame)
        return None

    def answer_sent(self, request: Any, frame: Frame) -> None:
        """The answer that was due has been sent."""
        del self.plain[request]
        self.kept -= size_of(frame)


def used_twice(id: int) -> ProtocolError:
    """The error of a client that asks under an id of a request that is open."""
    return ProtocolError(f"the id {id} is used twice at once")


def _parts_of(content: Content) -> Sequence[bytes]:
    return [content] if isinstance(content, bytes) else content


class ClientState(enum.Enum):
    """How far a client has got with its server."""

    GREETING = 1
    """The server has not said anything."""
    READY = 2
    """It takes requests; a plain server does from the beginning."""
    DRAINING = 3
    """It has said that it runs no more of them."""


GREETING, READY, DRAINING = ClientState

TRANSITIONS: Final[Mapping[tuple[ClientState, int], ClientState]] = {
    (GREETING, wire.HELLO): READY,
    (GREETING, wire.GOAWAY): DRAINING,
    # An older server, which says no hello.
    (GREETING, wire.RESPONSE): READY,
    (GREETING, wire.ERROR): READY,
    (GREETING, wire.PING): READY,
    (GREETING, wire.PONG): READY,
    (READY, wire.GOAWAY): DRAINING,
}
"""Which kind of message leads from which state to another; all others leave it as it is."""


Answer = tuple[Any, int | None, Outcome | None, list[bytes]]
"""A request that is answered, None if nobody waits for it; why it failed, None if it has a
response; the outcome that the server vouches for, None if it is the one of that reason; and
the parts of the response, or type, message and traceback of the error.

A bare tuple, as `wire.Message` is."""


class ClientProtocol:
    """The client's role, towards one server.

    Attributes:
        plain: whether it speaks the plain form.
        state: how far it has got.
        hello: what the server has said of itself; None until it has said anything.
        open: the requests that wait for an answer, by id.
        order: if plain, their ids in the order of the answers; those that were given up
            still have their places.
        max_in_flight: the most requests that the server takes at once.
        farewell: why the server runs no more requests, once it does not.
        turned_away: whether the server has run nothing, because it has too many clients.
        narrow: whether the server takes less than this side's own limits allow.
    """

    __slots__ = (
        "_last_id",
        "_limits",
        "_peer",
        "farewell",
        "hello",
        "max_in_flight",
        "narrow",
        "open",
        "order",
        "plain",
        "state",
        "turned_away",
    )

    def __init__(self, limits: Limits, peer: Address, plain: bool) -> None:
        self._limits = limits
        self._peer = peer
        self.plain = plain
        self.state = READY if plain else GREETING
        self.hello: Hello | None = None
        self.open: dict[int, Any] = table.new()
        self.order: deque[int] = deque()
        self.max_in_flight = wire.MAX_ID
        self.farewell = SERVER_DRAINS
        self.turned_away = False
        self.narrow = False
        self._last_id = 0

    def greeting(self) -> bytes:
        """The first word; empty in the plain form."""
        if self.plain:
            return b""
        limits = self._limits
        return wire.encode_hello(Hello(max_message=limits.max_message, max_parts=limits.max_parts))

    def new_id(self) -> int:
        """The id of a new request, which no open one has."""
        # Noted at once: a signal handler may send something in the middle of this.
        self._last_id = id = self._last_id % heads.MAX_ID + 1
        while self.open.get(id) is not None:
            self._last_id = id = id % heads.MAX_ID + 1
        return id

    def request(self, id: int, flags: int, arg: int, content: Content) -> Frame:
        """The frame of a request with a new id."""
        parts = _parts_of(content)
        if self.plain:
            return wire.frame(heads.PLAIN, 0, 0, 0, parts)
        return wire.frame(heads.REQUEST, flags, id, arg, parts)

    def cancel(self, ids: Sequence[int]) -> bytes:
        """Word that nobody waits for these any more; empty in the plain form."""
        if self.plain:
            return b""
        return b"".join(wire.encode(wire.CANCEL, 0, id, 0, ()) for id in ids)

    def check_size(self, content: Content) -> None:
        """Refuse at home a message that the server would refuse; raises `MessageTooLarge`."""
        assert self.hello is not None
        limits = self._limits
        check_size(
            _parts_of(content),
            min(self.hello.max_message or limits.max_message, limits.max_message),
            min(self.hello.max_parts or limits.max_parts, limits.max_parts),
            self._peer,
        )

    def receive(self, message: Message) -> Answer | list[Any] | bytes | None:
        """Take a message that has come.

        Returns an answer, the requests that a draining server will not run, a frame that is
        to be sent, or None if nothing is to be done; `state` and `hello` may have changed.
        What has its answer is still in `open`: the connection takes it out.  Raises
        `ProtocolError`, after which nothing more is to be received.
        """
        kind, flags, id, arg, parts = message
        event: Answer | list[Any] | bytes | None = None
        if kind == wire.RESPONSE:
            event = self.open.get(id), None, None, parts
        elif kind == wire.ERROR and id == wire.NO_ID:
            self.farewell = parts[1].decode("utf-8", "replace")
            self.turned_away = True
        elif kind == wire.ERROR:
            event = self.open.get(id), arg, wire.outcome_of(flags), parts
        elif kind == wire.PLAIN and self.order:
            event = self.open.get(self.order.popleft()), None, None, parts
        elif kind == wire.GOAWAY:
            event = self._sent_after(id)
        elif kind == wire.PING:
            event = wire.encode(wire.PONG, 0, id, arg, ())
        elif kind == wire.HELLO:
            self._note_hello(wire.decode_hello(parts[0]))
        elif kind != wire.PONG:
            raise ProtocolError(f"the server sent an unexpected message of kind {kind}")
        if self.state is GREETING or kind == wire.GOAWAY:
            self.state = TRANSITIONS.get((self.state, kind), self.state)
            # A server that speaks without a hello is an older one.
            self.hello = self.hello or Hello()
        return event

    def _note_hello(self, hello: Hello) -> None:
        limits = self._limits
        self.narrow = (hello.max_message or limits.max_message) < limits.max_message or (
            hello.max_parts or limits.max_parts
        ) < limits.max_parts
        # There are no more ids.
        self.max_in_flight = min(hello.max_in_flight or self.max_in_flight, wire.MAX_ID)
        self.hello = hello

    def _sent_after(self, last_id: int) -> list[Any]:
        """The open requests that were sent after `last_id`."""
        # Ids go round, so "later" is the shorter way from the last one.
        return [
            request
            for request in self.open.values()
            if 0 < (request.id - last_id) % (wire.MAX_ID + 1) <= wire.MAX_ID // 2
        ]
