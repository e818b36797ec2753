"""Bytes to messages and messages to bytes.

It knows no socket, no greenlet and no clock.  Incomplete input is not an error:
`Decoder.feed` returns the messages that are whole, and keeps the rest.  A failure is
sticky: after `Decoder.error` is set, nothing more is decoded.

A message is a head and some parts; the first part is the body, the others are
attachments.  All integers are unsigned and big-endian.

    plain head      u16 parts
    extended head   u16 0x8000 | parts, u8 kind, u8 flags, u32 id, u32 arg
    part            u32 length, then that many bytes
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Final, TypeAlias

from ratchet.bus._core.faults import MAX_ERROR_TEXT, json_object
from ratchet.bus._socket import heads
from ratchet.bus._socket.pages import WORTH_ROOM, with_room
from ratchet.bus._socket.read_size import LARGE_READ_SIZE
from ratchet.errors import BusError, MessageTooLarge, Outcome, ProtocolError

EXTENDED: Final = 0x8000
MAX_PARTS: Final = 0x7FFF
MAX_ID: Final = heads.MAX_ID
# The id of no request: an ERROR for it says why the server takes none on this connection.
NO_ID: Final = 0
MAX_ARG: Final = 0xFFFFFFFF
MAX_HELLO: Final = 64 * 1024
VERSION: Final = 1

# The kinds of extended messages, and PLAIN for a message with a plain head.
PLAIN: Final = heads.PLAIN
REQUEST: Final = heads.REQUEST
RESPONSE: Final = heads.RESPONSE
ERROR: Final = 2
CANCEL: Final = 3
PING: Final = 4
PONG: Final = 5
GOAWAY: Final = 6
HELLO: Final = 7
_LAST_KIND: Final = HELLO
_FIRST_SKIPPED_KIND: Final = 128

# How many parts a kind must have, where that is fixed.
_FIXED_PARTS: Final = {ERROR: 3, CANCEL: 0, PING: 0, PONG: 0, GOAWAY: 0, HELLO: 1}

# Those that ask for something to be done.
REQUESTS: Final = (PLAIN, REQUEST)
# Those that may be large.
LARGE: Final = (PLAIN, REQUEST, RESPONSE, ERROR)

# Bytes of the kinds that carry the library's own texts.
_OWN_LIMITS: Final = {ERROR: 3 * MAX_ERROR_TEXT, HELLO: MAX_HELLO}

# Flags of a REQUEST.
ONE_WAY: Final = heads.ONE_WAY
METADATA: Final = heads.METADATA

# Those of an ERROR: the outcome that the sender vouches for, if not the one of the number.
_OUTCOME_FLAGS: Final = 0b0011
_OUTCOMES: Final = (None, Outcome.NOT_RUN, Outcome.RAN, Outcome.UNKNOWN)


Message = tuple[int, int, int, int, list[bytes]]
"""kind, flags, id, arg, parts.  A bare tuple: a named one takes ten times as
long to make, which is a tenth of an exchange."""

Frame: TypeAlias = "bytes | list[bytes]"
"""A message as it is sent: bytes or, if it is large, pieces that are not worth a copy."""

_PLAIN_HEAD: Final = struct.Struct(">H")
_HEAD: Final = struct.Struct(">HBBII")
_LENGTH: Final = struct.Struct(">I")
_PLAIN_HEAD_AND_LENGTH: Final = struct.Struct(">HI")

# Between two messages.  Nothing is ever put in.
_NO_PARTS: Final[list[bytes]] = []

PART_SIZE: Final = 64
"""About how many bytes of memory a part takes besides what is in it."""


def frame(kind: int, flags: int, id: int, arg: int, parts: Sequence[bytes]) -> Frame:
    """One message to be sent, with a plain head if `kind` is `PLAIN`."""
    if len(parts) == 1 and kind != heads.PLAIN:
        body = parts[0]
        length = len(body)
        if length < heads.WORTH_NO_COPY:
            return heads.join(kind, flags, id, arg, body)
        return [_HEAD.pack(heads.ONE_PART, kind, flags, id, arg) + _LENGTH.pack(length), body]
    if kind == PLAIN:
        if len(parts) == 1 and len(parts[0]) < heads.WORTH_NO_COPY:
            return _PLAIN_HEAD_AND_LENGTH.pack(1, len(parts[0])) + parts[0]
        head = _PLAIN_HEAD.pack(len(parts))
    else:
        head = _HEAD.pack(EXTENDED | len(parts), kind, flags, id, arg)
    pieces = [head]
    for part in parts:
        pieces += (_LENGTH.pack(len(part)), part)
    return pieces if max(map(len, parts), default=0) >= heads.WORTH_NO_COPY else b"".join(pieces)


def encode(kind: int, flags: int, id: int, arg: int, parts: Sequence[bytes]) -> bytes:
    """One message as bytes, with a plain head if `kind` is `PLAIN`."""
    whole = frame(kind, flags, id, arg, parts)
    return whole if isinstance(whole, bytes) else b"".join(whole)


def encode_error(id: int, number: int, texts: Sequence[str], outcome: Outcome | None = None) -> bytes:
    """An ERROR message; its texts are cut to what any receiver takes."""
    parts = [text.encode("utf-8", "backslashreplace")[:MAX_ERROR_TEXT] for text in texts]
    return encode(ERROR, _OUTCOMES.index(outcome), id, number, parts)


def outcome_of(flags: int) -> Outcome | None:
    """The outcome that the flags of an ERROR vouch for; None if it is the one of its number."""
    return _OUTCOMES[flags & _OUTCOME_FLAGS]


@dataclass(frozen=True, kw_only=True)
class Hello:
    """The limits that a peer declares first; None where it declares nothing.

    Attributes:
        max_message: bytes of the largest message that it takes.
        max_parts: the most parts of a message that it takes.
        max_in_flight: requests of one connection that it takes at once.
        server: names the server's process.
        features: words for what else it understands.
    """

    max_message: int | None = None
    max_parts: int | None = None
    max_in_flight: int | None = None
    server: str | None = None
    features: tuple[str, ...] = ()


def encode_hello(hello: Hello) -> bytes:
    """A HELLO message."""
    members = {name: value for name, value in asdict(hello).items() if value is not None}
    return encode(HELLO, 0, VERSION, 0, [json.dumps(members, separators=(",", ":")).encode()])


def decode_hello(part: bytes) -> Hello:
    """Decode the part of a HELLO; unknown members are ignored.  Raises `ProtocolError`."""
    members = json_object(part, "HELLO")
    numbers = {name: members.get(name) for name in ("max_message", "max_parts", "max_in_flight")}
    for name, number in numbers.items():
        if number is not None and (type(number) is not int or number < 1):
            raise ProtocolError(f"{name} in HELLO must be a number above 0, not {number!r}")
    server, features = members.get("server"), members.get("features", [])
    if server is not None and not isinstance(server, str):
        raise ProtocolError(f"server in HELLO must be a string, not {server!r}")
    if not isinstance(features, list) or not all(isinstance(word, str) for word in features):
        raise ProtocolError(f"features in HELLO must be a list of strings, not {features!r}")
    return Hello(**numbers, server=server, features=tuple(features))


class Sink:
    """Takes messages of one part as they are decoded."""

    __slots__ = ()

    def take(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> bool:
        """Take one.  False if no more are to come for now."""
        raise NotImplementedError


class _Messages(Sink):
    """Keeps them, in the list of all that is decoded."""

    __slots__ = ("_messages",)

    def __init__(self, messages: list[Message]) -> None:
        self._messages = messages

    def take(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> bool:
        self._messages.append((kind, flags, id, arg, [body]))
        return True


class Decoder:
    """Takes bytes as they come, and gives back the messages that are whole.

    It never holds more than it was fed, and never more than one message of at
    most `max_message` bytes in all parts and `max_parts` parts.  Of one that is skipped
    it holds nothing.

    Attributes:
        error: the sticky failure, if the peer violated the format or a limit.
        refused: kind and id of the message that `error` is about, if its head
            was read.
        partial: whether it is in the middle of a message.
    """

    __slots__ = (
        "_head",
        "_held",
        "_length",
        "_max_message",
        "_max_parts",
        "_needed",
        "_parts",
        "_parts_left",
        "_room",
        "_size",
        "error",
        "partial",
        "refused",
    )

    def __init__(self, max_message: int, max_parts: int) -> None:
        self.error: BusError | None = None
        self.partial = False
        self.refused: tuple[int, int] | None = None
        self._max_message = max_message
        self._max_parts = max_parts
        # What is held of the current message's head, length or part, and how much
        # of it there must be to go on.  A `BytesIO` grows in place, and gives out
        # what it holds without another copy.
        self._held: BytesIO | None = None
        self._needed = 0
        # How many bytes of a very large part, which does not come at once, there is room for.
        self._room = 0
        # The current message, once its head is read.
        self._head: tuple[int, int, int, int] | None = None
        self._parts: list[bytes] = _NO_PARTS
        self._parts_left = 0
        self._size = 0
        # The current part's length, once it is read.
        self._length: int | None = None

    def feed(self, data: bytes) -> list[Message]:
        """Decode `data`, which follows what was fed before; see `error` afterwards."""
        messages: list[Message] = []
        if self.error is not None:
            return messages
        if self._head is None and self._held is None:
            position = self.decode_short(data, 0, _Messages(messages))
            if position == len(data):
                return messages
            data = data[position:]
        if self._held is not None:
            rest = self._fill(self._held, data, messages)
            if rest is None:
                return messages
            data = rest
        rest = data[self._decode(data, messages) :]
        if self.error is not None:
            self._head = self._length = None
            self._parts = _NO_PARTS
        elif rest and self._in_skipped_part:
            self._size += len(rest)
            self._needed = self._length = self.missing - len(rest)
        elif rest:
            self._held, self._room = BytesIO(), WORTH_ROOM
            self._held.write(rest)
        self.partial = self._held is not None or self._head is not None
        return messages

    @property
    def kind(self) -> int | None:
        """The kind of the current message, once its head is read."""
        return None if self._head is None else self._head[0]

    @property
    def size(self) -> int:
        """About how many bytes the current message's parts take, as far as their lengths are read."""
        return self._size + (self._length or 0) + PART_SIZE * len(self._parts)

    @property
    def missing(self) -> int:
        """Bytes that are still to come of the current part; 0 if no length has been read."""
        if self._length is None:
            return 0
        return self._needed - (0 if self._held is None else self._held.tell())

    def give_back(self) -> bytes:
        """Give back what is held of the current part; it is fed again when all of the part is here."""
        held, self._held = self._held, None
        return b"" if held is None else held.getvalue()

    @property
    def _in_skipped_part(self) -> bool:
        """Whether what comes is a part of a message that is skipped, and so nothing to be held."""
        return self._length is not None and self._head is not None and self._head[0] >= _FIRST_SKIPPED_KIND

    def _fill(self, held: BytesIO, data: bytes, messages: list[Message]) -> bytes | None:
        """Add to what is held; None if that is not enough to go on, else what to go on with."""
        missing = self._needed - held.tell()
        if len(data) < missing:
            if self._needed > LARGE_READ_SIZE and held.tell() + len(data) > self._room:
                held, self._room = with_room(held, len(data), self._needed)
                self._held = held
            held.write(data)
            return None
        self._held = None
        if self._length is None:
            held.write(data)
            return held.getvalue()
        held.write(memoryview(data)[:missing])
        self._end_part(held.getvalue(), messages)
        return data[missing:]

    def _decode(self, data: bytes, messages: list[Message]) -> int:
        """Decode what is whole, and return where the rest begins."""
        position = 0
        while True:
            if self._head is None:
                position = self.decode_short(data, position, _Messages(messages))
                next_position = self._decode_head(data, position)
                if next_position is not None and not self._parts_left:
                    self._end_message(messages)
            elif self._length is None:
                next_position = self._decode_length(data, position)
            else:
                next_position = self._decode_part(data, position, messages)
            if next_position is None:
                return position
            position = next_position

    def decode_short(self, data: bytes, position: int, sink: Sink) -> int:
        """Decode the common case in one go: requests and responses of one part, as many as are whole.

        Only between messages.  Returns where the rest begins.
        """
        end, max_message = len(data), self._max_message
        last = end - heads.SIZE
        while position <= last:
            word, kind, flags, id, arg, length = heads.split(data, position)
            start = position + heads.SIZE
            stop = start + length
            if word == 1:
                # In the plain form, whose head is shorter by 10 bytes.
                length = kind << 24 | flags << 16 | id >> 16
                start = position + _PLAIN_HEAD_AND_LENGTH.size
                stop = start + length
                if stop > end or length > max_message:
                    break
                kind, flags, id, arg = heads.PLAIN, 0, 0, 0
            elif (
                stop > end
                or word != heads.ONE_PART
                or kind > heads.RESPONSE
                or flags & heads.CRITICAL_UNKNOWN_FLAGS
                or length > max_message
            ):
                break
            position = stop
            if not sink.take(kind, flags, id, arg, heads.part(data, start, stop)):
                break
        return position

    def _decode_head(self, data: bytes, position: int) -> int | None:
        left = len(data) - position
        if left < _PLAIN_HEAD.size:
            self._needed = _PLAIN_HEAD.size
            return None
        (word,) = _PLAIN_HEAD.unpack_from(data, position)
        if not word & EXTENDED:
            head = (PLAIN, 0, 0, 0)
            position += _PLAIN_HEAD.size
        elif left < _HEAD.size:
            self._needed = _HEAD.size
            return None
        else:
            _, kind, flags, id, arg = _HEAD.unpack_from(data, position)
            head = (kind, flags, id, arg)
            position += _HEAD.size
        self.error = self._flaw(*head[:2], word & MAX_PARTS)
        if self.error is not None:
            self.refused = (head[0], head[2])
            return None
        self._head = head
        self._parts = []
        self._parts_left = word & MAX_PARTS
        self._size = 0
        return position

    def _flaw(self, kind: int, flags: int, parts: int) -> BusError | None:
        if _LAST_KIND < kind < _FIRST_SKIPPED_KIND:
            return ProtocolError(f"a message of the unknown kind {kind}")
        if flags & heads.CRITICAL_UNKNOWN_FLAGS:
            return ProtocolError(f"a message with unknown flags {flags:#010b}")
        if parts != _FIXED_PARTS.get(kind, parts):
            return ProtocolError(f"a message of kind {kind} has {parts} parts, not {_FIXED_PARTS[kind]}")
        if parts > self._max_parts and kind not in _FIXED_PARTS:
            return ProtocolError(f"a message of {parts} parts is over the limit of {self._max_parts}")
        if kind == REQUEST and flags & METADATA and not parts:
            return ProtocolError("a request with the flag for metadata has no part for it")
        return None

    def _decode_length(self, data: bytes, position: int) -> int | None:
        if len(data) - position < _LENGTH.size:
            self._needed = _LENGTH.size
            return None
        length: int = _LENGTH.unpack_from(data, position)[0]
        assert self._head is not None
        # These are not the user's messages, so the user's limit does not apply to them.
        limit = _OWN_LIMITS.get(self._head[0], self._max_message)
        if self._size + length > limit:
            self.refused = (self._head[0], self._head[2])
            text = f"a message of {self._size + length} bytes or more is over the limit of {limit}"
            self.error = ProtocolError(text) if self._head[0] == HELLO else MessageTooLarge(text)
            return None
        self._length = length
        return position + _LENGTH.size

    def _decode_part(self, data: bytes, position: int, messages: list[Message]) -> int | None:
        assert self._length is not None
        stop = position + self._length
        if stop > len(data):
            self._needed = self._length
            return None
        self._end_part(data[position:stop], messages)
        return stop

    def _end_part(self, part: bytes, messages: list[Message]) -> None:
        self._length = None
        self._size += len(part)
        assert self._head is not None
        if self._head[0] < _FIRST_SKIPPED_KIND:
            self._parts.append(part)
        self._parts_left -= 1
        if not self._parts_left:
            self._end_message(messages)

    def _end_message(self, messages: list[Message]) -> None:
        assert self._head is not None
        if self._head[0] < _FIRST_SKIPPED_KIND:
            messages.append((*self._head, self._parts))
        self._head = None
        self._parts = _NO_PARTS
