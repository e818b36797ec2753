"""A broker that says what a test has it say, made by pamqp, and hears this side's every frame."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pamqp import base, body, commands, frame, header
from pamqp.commands import Basic, Channel, Connection

from ratchet.bus._broker.credit import Credit
from ratchet.bus._broker.frames import Delivery, Frame, Returned
from ratchet.bus._broker.interfaces import LinkFailure
from ratchet.bus._broker.link_protocol import LinkProtocol
from ratchet.bus._broker.url import parse

# For the brokers of tests, which read what this side says by pamqp.
commands.INDEX_MAPPING[Credit.index] = Credit

URL = parse("amqp://me:hush@localhost/production")
START = Connection.Start(
    server_properties={"product": "RabbitMQ", "version": "3.10.8"},
    mechanisms="AMQPLAIN PLAIN",
    locales="en_US",
)
TUNE = Connection.Tune(2047, 131072, 60)
# Bytes of a body in one frame.
_PIECE = 131072 - 8
HANDSHAKE: list[base.Frame] = [START, TUNE, Connection.OpenOk(), Channel.OpenOk()]


def words(*values: Any) -> bytes:
    """Methods as bytes, each on the channel that it belongs to; bytes as they are."""
    return b"".join(
        value if isinstance(value, bytes) else frame.marshal(value, 0 if value.index >> 16 == 10 else 1)
        for value in values
    )


def content(method: base.Frame, properties: Basic.Properties, data: bytes) -> bytes:
    """A message as bytes."""
    pieces = [data[start : start + _PIECE] for start in range(0, len(data), _PIECE)]
    head = frame.marshal(header.ContentHeader(0, len(data), properties), 1)
    return b"".join([words(method), head, *(frame.marshal(body.ContentBody(piece), 1) for piece in pieces)])


class Listener:
    """Notes what it is told, in order, as tuples that begin with the name of the call."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        # Called with each of them.
        self.then: Callable[[tuple[Any, ...]], None] = lambda event: None

    def note(self, *event: Any) -> None:
        self.told.append(event)
        self.then(event)

    def link_opened(self) -> None:
        self.note("opened")

    def delivered(self, delivery: Delivery) -> None:
        self.note("delivered", delivery)

    def returned(self, returned: Returned) -> None:
        self.note("returned", returned)

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None:
        self.note("confirmed", number, multiple, accepted)

    def blocked(self, reason: str | None) -> None:
        self.note("blocked", reason)

    def consumer_cancelled(self, consumer_tag: str) -> None:
        self.note("cancelled", consumer_tag)

    def link_closed(self, failure: LinkFailure) -> None:
        self.note("closed", failure)


class Broker:
    """Both sides of one link.

    Attributes:
        link: this library's side.
        told: what that has told its listener.
        heard: the frames that it has sent, as pamqp reads them.
    """

    def __init__(self, *, max_message: int = 1000, heartbeat: int = 60) -> None:
        self.listener = Listener()
        self.told = self.listener.told
        self.heard: list[Any] = []
        self.writes = 0
        self.on_write: Callable[[], None] = lambda: None
        self.link = LinkProtocol(URL, max_message, heartbeat, self.listener, self.write)
        self.link.start()

    def write(self, sent: Frame) -> int:
        """Take what the link sends."""
        self.on_write()
        data = sent if isinstance(sent, bytes) else b"".join(sent)
        while data:
            size, _, value = frame.unmarshal(data)
            self.heard.append(value)
            data = data[size:]
        self.writes += 1
        return self.writes

    def say(self, *values: Any) -> None:
        """Have the link receive methods, or bytes."""
        self.link.receive(words(*values))

    def names(self) -> list[str]:
        """The names of what was heard since the last time."""
        names = [value.name for value in self.heard]
        self.heard.clear()
        return names

    @property
    def ended(self) -> LinkFailure:
        """How the link has ended, of which the listener was told once, and last."""
        assert [event[0] for event in self.told].count("closed") == 1
        last = self.told[-1]
        assert last == ("closed", self.link.failure)
        failure = last[1]
        assert isinstance(failure, LinkFailure)
        return failure


def opened(**options: int) -> Broker:
    """A link on which anything may be said, and nothing has been."""
    broker = Broker(**options)
    broker.say(*HANDSHAKE)
    assert broker.told == [("opened",)]
    broker.told.clear()
    broker.heard.clear()
    return broker
