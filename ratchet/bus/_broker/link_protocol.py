"""A connection to a broker, with its one channel, as a protocol: bytes and calls in, events and frames out.

It shakes hands, matches answers to calls, numbers what is published, and says when the link has ended.
`receive` takes what has come and tells the listener; each call that sends something gives it to
`write` as one frame.

A link ends once.  `failure` then says why, nothing more is sent or told, and the listener learns
of it last, by `link_closed`.  There is one exception: where something strikes in the middle of a call
(`KeyboardInterrupt`, say), nobody could tell any more which number is whose.  Then `failure` is set and
the error goes on its way, and whoever called closes the socket.

No socket, no greenlet, no timer and no log may live here.  The owner has a timer that calls `tick`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

from pamqp import base
from pamqp.commands import Basic, Channel, Connection

from ratchet.bus._broker import frames, handshake
from ratchet.bus._broker.frames import Decoder, Delivery, Event, Frame, Heartbeat, Returned
from ratchet.bus._broker.interfaces import (
    CLOSED,
    CLOSING,
    GREETING,
    LOGIN,
    OPEN,
    OPENING_CHANNEL,
    TRANSITIONS,
    LinkFailure,
    LinkListener,
    is_fatal,
    with_advice,
)
from ratchet.bus._broker.properties import Properties
from ratchet.bus._broker.url import BrokerUrl
from ratchet.errors import BusError, ConnectionLost, Outcome, ProtocolError

OnReply: TypeAlias = Callable[[Any], None]
_Reply: TypeAlias = "tuple[str, str | None]"
"""The name of a method that answers, and the consumer that it is about, if any."""

TICKS: Final = 2
"""How often in each heartbeat `tick` is called."""
# How many heartbeats of silence end the link.
_SILENT: Final = 2

_SUCCESS: Final = 200


_HANDSHAKE: Final = tuple(method for _, method in TRANSITIONS)


class LinkProtocol:
    """This side of a link.

    Args:
        url: how to log in, and where.
        max_message: bytes of the largest body that is taken; see `Delivery`.
        heartbeat: seconds between heartbeats, as this side wants it; 0 for none.
        listener: who is told.
        write: sends a frame, in the order of the calls; returns its number in the outbox.

    Attributes:
        state: how far it has got.
        failure: why it has ended, once it has.
        version: the broker's, such as `(3, 10, 8)`; empty until it has said so.
        heartbeat: seconds between heartbeats, as the two sides agree; 0 for none.
        published: the number of the message that was published last.
        blocked: why the broker takes no messages for now; None if it does.
    """

    __slots__ = (
        "_decoder",
        "_heard",
        "_listener",
        "_publishing",
        "_replies",
        "_said",
        "_silent_ticks",
        "_url",
        "_write",
        "blocked",
        "failure",
        "heartbeat",
        "published",
        "state",
        "version",
    )

    def __init__(
        self,
        url: BrokerUrl,
        max_message: int,
        heartbeat: int,
        listener: LinkListener,
        write: Callable[[Frame], int],
    ) -> None:
        self._url = url
        self._decoder = Decoder(max_message)
        self._listener = listener
        self._write = write
        # For each method that the broker is to answer: by which one, and who is told.
        self._replies: list[tuple[_Reply, OnReply]] = []
        self._heard = self._said = True
        self._silent_ticks = 0
        self.state = GREETING
        self.failure: LinkFailure | None = None
        self.version: tuple[int, ...] = ()
        self.heartbeat = heartbeat
        self.published = 0
        # Whether a message is about to be written and numbered.
        self._publishing = False
        self.blocked: str | None = None

    def __repr__(self) -> str:
        return f"<LinkProtocol with {self._url}: {self.state.name.lower()}>"

    def start(self) -> None:
        """Send the protocol header, which comes before everything else."""
        self._write(frames.PROTOCOL_HEADER)

    def call(self, method: base.Frame, on_reply: OnReply) -> None:
        """Send a method that the broker answers; `on_reply` gets the answer, unless the link ends before.

        A consumer needs a tag, by which its answer is known.
        """
        self._check_open()
        assert method.synchronous, method
        frame = frames.method(method)
        with _Unbroken(self):
            self._replies.append((_reply_to(method, method.valid_responses[0]), on_reply))
            self._send(frame)

    def publish(
        self, exchange: str, key: str, properties: Properties, body: bytes, *, mandatory: bool = True
    ) -> tuple[int, int]:
        """Send a message; see `frames.publish`.

        Returns the number of its frame in the outbox, and that of its confirm, if `Confirm.Select` was
        called before.  Raises `MessageTooLarge` for properties that are over the broker's limit.
        """
        self._check_open()
        frame = frames.publish(
            exchange, key, properties, body, mandatory=mandatory, frame_max=self._decoder.frame_max
        )
        with _Unbroken(self):
            if self._publishing:
                # A signal handler, in the middle of another call: nobody knows which comes first.
                raise ConnectionLost("two messages were published at once")
            self._publishing = True
            frame_number = self._send(frame)
            self.published = number = self.published + 1
            self._publishing = False
        if self.failure is not None:
            # That handler has made it lose its place.
            raise ConnectionLost("the link to the broker was lost while the message was published")
        return frame_number, number

    def acknowledge(self, tag: int) -> None:
        """Have the broker forget a delivery, which is done with; nothing if the link is not open any more."""
        if self.state is OPEN:
            self._send(frames.method(Basic.Ack(delivery_tag=tag)))

    def reject(self, tag: int) -> None:
        """Have the broker make a dead letter of a delivery; nothing if the link is not open any more."""
        if self.state is OPEN:
            self._send(frames.method(Basic.Reject(delivery_tag=tag, requeue=False)))

    def close(self) -> None:
        """Say goodbye behind all that was sent; the listener is told when the broker has, too."""
        if self.state is CLOSED or self.state is CLOSING:
            return
        if self.state is OPEN or self.state is OPENING_CHANNEL:
            self._send(frames.method(_goodbye()))
            self.state = CLOSING
        else:
            # Before that, the broker understands no goodbye.
            self._end(LinkFailure(None))

    def tick(self) -> None:
        """Send a heartbeat if nothing was sent since the last tick, and end a link that is silent too long.

        To be called `TICKS` times in each `heartbeat`.
        """
        if self.state is CLOSED or not self.heartbeat:
            return
        if not self._said:
            self._write(frames.HEARTBEAT_FRAME)
        self._said = False
        self._silent_ticks = 0 if self._heard else self._silent_ticks + 1
        self._heard = False
        if self._silent_ticks >= _SILENT * TICKS:
            text = f"the broker was silent for {_SILENT * self.heartbeat} s"
            self._end(LinkFailure(ConnectionLost(text)))

    def receive(self, data: bytes) -> None:
        """Take what has come."""
        with _Unbroken(self):
            self._heard = True
            for event in self._decoder.feed(data):
                if self.state is CLOSED:
                    return
                try:
                    self._take(event)
                except ProtocolError as error:
                    self._end(LinkFailure(error))
            if self._decoder.error is not None:
                self._end(LinkFailure(self._decoder.error))

    def eof_received(self) -> None:
        """The broker sends no more."""
        if self.state is CLOSING:
            self._end(LinkFailure(None))
            return
        when = "in the middle of a message" if self._decoder.partial else "without a word"
        if self.state is LOGIN:
            # A broker without `authentication_failure_close` refuses a login in this way.
            when = "when it was to accept the login"
        self._end(LinkFailure(ConnectionLost(f"the broker disconnected {when}")))

    def _check_open(self) -> None:
        if self.state is not OPEN:
            text = f"the link to the broker is {self.state.name.lower()}, and not open"
            raise ConnectionLost(text, outcome=Outcome.NOT_SENT)

    def _send(self, frame: Frame) -> int:
        self._said = True
        return self._write(frame)

    def _take(self, event: Event) -> None:
        if isinstance(event, Heartbeat):
            return
        if isinstance(event, Connection.Close):
            self._send(frames.method(Connection.CloseOk()))
            self._closed_by_broker(event)
        elif isinstance(event, Channel.Close):
            # There is no other channel, so the connection is of no use either.
            self._send(frames.method(Channel.CloseOk()))
            self._send(frames.method(_goodbye()))
            self._closed_by_broker(event)
        elif isinstance(event, _HANDSHAKE):
            self._shake_hands(event)
        elif self.state is CLOSING:
            # What was sent before the broker read the goodbye.
            return
        elif isinstance(event, Connection.Blocked):
            self.blocked = event.reason
            self._listener.blocked(self.blocked)
        elif isinstance(event, Connection.Unblocked):
            self.blocked = None
            self._listener.blocked(None)
        elif self.state is not OPEN:
            raise _unexpected(event)
        elif isinstance(event, Delivery):
            self._listener.delivered(event)
        elif isinstance(event, Basic.Ack | Basic.Nack):
            self._confirm(event)
        elif isinstance(event, Returned):
            self._listener.returned(event)
        elif isinstance(event, Basic.Cancel):
            self._listener.consumer_cancelled(event.consumer_tag or "")
        else:
            self._reply(event)

    def _reply(self, event: base.Frame) -> None:
        # Not always the first: a queue answers for itself, and the channel may be ahead of it.
        found = _reply_to(event, event.name)
        for index, (reply, on_reply) in enumerate(self._replies):
            if reply == found:
                del self._replies[index]
                on_reply(event)
                return
        raise _unexpected(event)

    def _confirm(self, event: Basic.Ack | Basic.Nack) -> None:
        number = event.delivery_tag
        # 0 and `multiple`: all that there are.
        if number is None or not 0 <= number <= self.published:
            raise ProtocolError(f"the broker confirmed {number}, where {self.published} were published")
        self._listener.confirmed(number or self.published, event.multiple, isinstance(event, Basic.Ack))

    def _shake_hands(self, event: base.Frame) -> None:
        after = TRANSITIONS.get((self.state, type(event)))
        if after is None:
            raise _unexpected(event)
        if isinstance(event, Connection.Start):
            if refusal := handshake.check_start(event):
                self._end(LinkFailure(BusError(refusal), fatal=True))
                return
            self.version = handshake.version(event)
            self._send(frames.method(handshake.start_ok(self._url)))
        elif isinstance(event, Connection.Tune):
            tune_ok = handshake.tune_ok(event, self.heartbeat)
            self._decoder.frame_max, self.heartbeat = tune_ok.frame_max, tune_ok.heartbeat
            self._send(frames.method(tune_ok))
            self._send(frames.method(Connection.Open(self._url.vhost)))
        elif isinstance(event, Connection.OpenOk):
            self._send(frames.method(Channel.Open()))
        elif isinstance(event, Connection.CloseOk):
            self._end(LinkFailure(None))
            return
        self.state = after
        if after is OPEN:
            self._listener.link_opened()

    def _closed_by_broker(self, close: Connection.Close | Channel.Close) -> None:
        code = close.reply_code or 0
        text = f"the broker closed the link: {code} {close.reply_text}"
        fatal = is_fatal(code, text, close.class_id or 0)
        error = BusError(with_advice(code, text)) if fatal else ConnectionLost(text)
        self._end(LinkFailure(error, fatal, code))

    def _end(self, failure: LinkFailure) -> None:
        if self.state is CLOSED:
            return
        if self.state is CLOSING:
            # However it came: this side wanted it.
            failure = LinkFailure(None)
        self.lose_place(failure)
        self._listener.link_closed(failure)

    def lose_place(self, failure: LinkFailure) -> None:
        """End it, and tell nobody: the owner knows."""
        self.failure = failure
        self.state = CLOSED
        self._replies.clear()


class _Unbroken:
    """A block in which the link loses its place if anything is raised."""

    __slots__ = ("_link",)

    def __init__(self, link: LinkProtocol) -> None:
        self._link = link

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None and self._link.state is not CLOSED:
            self._link.lose_place(LinkFailure(ConnectionLost(f"interrupted by {kind.__name__}")))


def _reply_to(method: base.Frame, name: str) -> _Reply:
    """The key by which a call finds its answer, which has this name."""
    return name, getattr(method, "consumer_tag", None)


def _goodbye() -> Connection.Close:
    return Connection.Close(_SUCCESS, "", 0, 0)


def _unexpected(event: Event) -> ProtocolError:
    name = event.name if isinstance(event, base.Frame) else type(event).__name__
    return ProtocolError(f"the broker sent an unexpected {name}")
