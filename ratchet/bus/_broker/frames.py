"""Bytes of AMQP 0-9-1 to methods and messages, and back.

pamqp knows what is in a frame.  Only those of every message, publish and deliver, are made and read by
hand: with pamqp, to publish takes twice as long, and to receive four times.  So are those with tables that
may be large; see `tables`.

A message is three kinds of frames: a method, a header with the size of the body and the
properties, and the body in as many pieces as are needed.  `Decoder.feed` puts them together again.
It knows no socket, no greenlet and no clock.  Incomplete input is not an error: `feed` returns
what is whole, and keeps the rest.  A failure is sticky: after `Decoder.error` is set,
nothing more is decoded.

Properties come from other clients, of whom the broker forwards whatever they send.  So what cannot be
read there is no failure of the broker's: the message then comes without them.
"""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Final, NamedTuple, TypeAlias

from pamqp import base, commands
from pamqp.commands import Basic, Connection

from ratchet.bus._broker.credit import CreditOk
from ratchet.bus._broker.properties import Properties, decode, encode
from ratchet.bus._broker.tables import (
    UNREADABLE,
    read_long_string,
    read_short_string,
    read_table,
    short_string,
)
from ratchet.errors import MessageTooLarge, ProtocolError

_METHODS: Final = {**commands.INDEX_MAPPING, CreditOk.index: CreditOk}
# No broker sends it, and pamqp warns whoever makes one: a peer could fill a log, or raise here, with it.
del _METHODS[Basic.RecoverAsync.index]

Frame: TypeAlias = "bytes | list[bytes]"
"""What is sent at once: bytes or, with a large body, pieces that are not worth a copy."""

PROTOCOL_HEADER: Final = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME: Final = b"\x08\x00\x00\x00\x00\x00\x00\xce"
MIN_FRAME: Final = 4096
"""Bytes of a frame that every peer has to take."""
MAX_FRAME: Final = 131072
"""Bytes of the largest frame that this side takes."""

# Bytes of the largest frame with properties.  The broker cuts bodies into frames, but no properties: it
# adds to those of a dead letter, and other clients may have agreed on larger frames.
_MAX_HEADER: Final = 1 << 20

_METHOD, _HEADER, _BODY, _HEARTBEAT = 1, 2, 3, 8
_END: Final = b"\xce"
_HEAD: Final = struct.Struct(">BHI")
_INDEX: Final = struct.Struct(">I")
_VERSION: Final = struct.Struct(">BB")
_METHOD_HEAD: Final = struct.Struct(">BHII")
_CONTENT_HEAD: Final = struct.Struct(">HHQ")
_DELIVERY_HEAD: Final = struct.Struct(">QB")
# Bytes of a frame besides what is in it.
FRAME_OVERHEAD: Final = _HEAD.size + len(_END)
# The class of methods about the connection, which have the channel 0; all others have the one
# channel that there is.
_CONNECTION: Final = 10
_CHANNEL: Final = 1
# Bytes of the longest method of a broker's, but for its greeting: that has three strings of 255 bytes.
_LONGEST_METHOD: Final = 1024
# From so many bytes on, a piece of a body is not copied.
_WORTH_NO_COPY: Final = 64 * 1024


class Delivery(NamedTuple):
    """A message for a consumer.

    Attributes:
        consumer_tag: which consumer.
        tag: the number by which it is acknowledged.
        redelivered: whether it may have been delivered before.
        exchange: where it was published, or died to.
        properties: its properties; None if they cannot be read.
        body: its body; None if it is over the limit, and was dropped.
        size: bytes of the body.
    """

    consumer_tag: str
    tag: int
    redelivered: bool
    exchange: str
    properties: Properties | None
    body: bytes | None
    size: int


class Returned(NamedTuple):
    """A message of this side's that the broker could not route.

    Attributes:
        code: why, as a number.
        text: why, for people.
        properties: those that it was sent with.
    """

    code: int
    text: str
    properties: Properties | None


class Heartbeat(NamedTuple):
    """A heartbeat: the peer is alive, and has nothing else to say."""


Event: TypeAlias = "base.Frame | Delivery | Returned | Heartbeat"


def method(value: base.Frame) -> bytes:
    """The frame of a method without content."""
    return _method(value.index, value.marshal())


def _method(index: int, arguments: bytes) -> bytes:
    channel = 0 if index >> 16 == _CONNECTION else _CHANNEL
    return _METHOD_HEAD.pack(_METHOD, channel, _INDEX.size + len(arguments), index) + arguments + _END


def publish(
    exchange: str, key: str, properties: Properties, body: bytes, *, mandatory: bool, frame_max: int
) -> Frame:
    """The frames of a message, to be sent as one.

    Args:
        exchange: where it goes.
        key: which queues it goes to from there.
        properties: what is said of it.
        body: its bytes, of any length.
        mandatory: whether it comes back if no queue takes it.
        frame_max: the largest frame that the peer takes.

    Raises `MessageTooLarge` for properties that do not fit into one frame, and `TypeError` or
    `ValueError` for what no message can have.
    """
    arguments = b"\0\0" + short_string(exchange) + short_string(key) + (b"\1" if mandatory else b"\0")
    header = _CONTENT_HEAD.pack(Basic.frame_id, 0, len(body)) + encode(properties)
    most = frame_max - FRAME_OVERHEAD
    if len(header) > most:
        raise MessageTooLarge(f"properties of {len(header)} bytes are over the broker's limit of {most}")
    method = _method(Basic.Publish.index, arguments)
    pieces = [method, _HEAD.pack(_HEADER, _CHANNEL, len(header)), header, _END]
    for start in range(0, len(body), most):
        piece = body[start : start + most] if len(body) > most else body
        pieces += (_HEAD.pack(_BODY, _CHANNEL, len(piece)), piece, _END)
    return pieces if len(body) >= _WORTH_NO_COPY else b"".join(pieces)


def _start(payload: bytes) -> Connection.Start:
    """The greeting of a broker, of which the properties may be long; raises one of `UNREADABLE`."""
    major, minor = _VERSION.unpack_from(payload, _INDEX.size)
    properties, position = read_table(payload, _INDEX.size + _VERSION.size)
    mechanisms, position = read_long_string(payload, position)
    locales, _ = read_long_string(payload, position)
    return Connection.Start(major, minor, properties, mechanisms, locales)


class _Content:
    """A message of which the body is not whole."""

    __slots__ = ("body", "left", "method", "properties", "size")

    def __init__(self, value: Basic.Return | tuple[str, int, bool, str]) -> None:
        # The tuple is of a delivery: consumer tag, tag, redelivered, exchange.
        self.method = value
        self.properties: Properties | None = None
        # Unknown until the header has come.
        self.size = -1
        self.left = 0
        # None if it is dropped.  It grows in place, however small the pieces are, and gives out what
        # it holds without another copy.
        self.body: BytesIO | None = None


class Decoder:
    """Takes bytes as they come, and gives back the methods and messages that are whole.

    It never holds more than one frame and one body of at most `max_message` bytes.

    Attributes:
        error: the sticky failure, if the peer violated the format.
        frame_max: bytes of the largest frame that is taken, as the two sides agree.
    """

    __slots__ = ("_content", "_held", "_max_message", "_needed", "error", "frame_max")

    def __init__(self, max_message: int) -> None:
        self.error: ProtocolError | None = None
        self.frame_max = MAX_FRAME
        self._max_message = max_message
        # The beginning of a frame, and how much of it there must be to go on.
        self._held = bytearray()
        self._needed = _HEAD.size
        self._content: _Content | None = None

    @property
    def partial(self) -> bool:
        """Whether it is in the middle of a frame or message."""
        return bool(self._held) or self._content is not None

    def feed(self, data: bytes) -> list[Event]:
        """Decode `data`, which follows what was fed before; see `error` afterwards."""
        events: list[Event] = []
        if self.error is not None:
            return events
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return events
            data = bytes(self._held)
        position = 0
        try:
            while (stop := self._frame_end(data, position)) <= len(data):
                event = self._decode(data, position, stop)
                position = stop
                if event is not None:
                    events.append(event)
        except ProtocolError as error:
            self.error = error
            self._content = None
            self._held = bytearray()
            return events
        if self._held or position < len(data):
            self._held = bytearray(memoryview(data)[position:])
        self._needed = stop - position
        return events

    def _frame_end(self, data: bytes, position: int) -> int:
        """Where the frame ends, or where it can be said if too little of it is here."""
        if len(data) - position < _HEAD.size:
            return position + _HEAD.size
        kind, channel, size = _HEAD.unpack_from(data, position)
        if kind not in (_METHOD, _HEADER, _BODY, _HEARTBEAT):
            if data.startswith(PROTOCOL_HEADER[:4], position):
                raise ProtocolError("the broker speaks another version of AMQP")
            raise ProtocolError(f"a frame of the unknown kind {kind}")
        if channel > _CHANNEL:
            raise ProtocolError(f"a frame of the channel {channel}, which is not open")
        most = _MAX_HEADER if kind == _HEADER else self.frame_max
        if size + FRAME_OVERHEAD > most:
            raise ProtocolError(f"a frame of {size + FRAME_OVERHEAD} bytes is over {most}")
        end: int = position + size + FRAME_OVERHEAD
        return end

    def _decode(self, data: bytes, position: int, stop: int) -> Event | None:
        kind, channel, _ = _HEAD.unpack_from(data, position)
        if data[stop - 1] != _END[0]:
            raise ProtocolError("a frame without its end")
        payload = data[position + _HEAD.size : stop - 1]
        if kind == _METHOD:
            return self._decode_method(channel, payload)
        if kind == _HEARTBEAT:
            return Heartbeat()
        content = self._content
        if content is None or channel != _CHANNEL or (kind == _HEADER) is not (content.size < 0):
            raise ProtocolError(f"an unexpected frame of the kind {kind}")
        if kind == _HEADER:
            self._decode_header(content, payload)
        else:
            content.left -= len(payload)
            if content.left < 0:
                raise ProtocolError(f"a body is longer than the {content.size} bytes that were announced")
            if len(payload) == content.size:
                # Almost always: no copy.
                return self._end_content(content, payload)
            if content.body is not None:
                content.body.write(payload)
        if content.left:
            return None
        return self._end_content(content, None if content.body is None else content.body.getvalue())

    def _end_content(self, content: _Content, body: bytes | None) -> Delivery | Returned:
        self._content = None
        value = content.method
        if isinstance(value, Basic.Return):
            return Returned(value.reply_code or 0, value.reply_text or "", content.properties)
        kept = body if content.size <= self._max_message else None
        return Delivery(*value, content.properties, kept, content.size)

    def _decode_method(self, channel: int, payload: bytes) -> base.Frame | None:
        if len(payload) < _INDEX.size:
            raise ProtocolError("a frame of a method without a method")
        (index,) = _INDEX.unpack_from(payload)
        name = f"{index >> 16}.{index & 0xFFFF}"
        if channel != (0 if index >> 16 == _CONNECTION else _CHANNEL):
            raise ProtocolError(f"the method {name} on the channel {channel}")
        if self._content is not None and channel == _CHANNEL:
            raise ProtocolError(f"the method {name} in the middle of a message")
        maker = _METHODS.get(index)
        if maker is None:
            raise ProtocolError(f"the unknown method {name}")
        try:
            if index == Basic.Deliver.index:
                consumer_tag, position = read_short_string(payload, _INDEX.size)
                tag, redelivered = _DELIVERY_HEAD.unpack_from(payload, position)
                exchange, _ = read_short_string(payload, position + _DELIVERY_HEAD.size)
                self._content = _Content((consumer_tag, tag, bool(redelivered), exchange))
                return None
            if index == Connection.Start.index:
                return _start(payload)
            if len(payload) > _LONGEST_METHOD:
                raise ValueError(f"it has {len(payload)} bytes")
            value: base.Frame = maker()
            value.unmarshal(payload[_INDEX.size :])
        except UNREADABLE as error:
            raise ProtocolError(f"the method {name} cannot be read: {error}") from error
        if isinstance(value, Basic.Return):
            self._content = _Content(value)
            return None
        return value

    def _decode_header(self, content: _Content, payload: bytes) -> None:
        if len(payload) < _CONTENT_HEAD.size:
            raise ProtocolError("the header of a message is cut off")
        _, _, size = _CONTENT_HEAD.unpack_from(payload)
        content.size = content.left = size
        if size <= self._max_message:
            content.body = BytesIO()
        try:
            content.properties = decode(payload, _CONTENT_HEAD.size)
        except UNREADABLE:
            content.properties = None
