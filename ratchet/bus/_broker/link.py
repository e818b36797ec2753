"""One connection to a broker: `LinkProtocol` over a socket, with its timers, from greeting to goodbye.

It dials nobody.  When the broker lets it in, it sends the methods of its set-up at once, which the
broker answers in order, and is ready with the last answer; so no thread waits here.  It ends once, and
tells its user, whatever ended it: the broker, the network, silence, or something that struck in the
middle of a call.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from gevent.hub import Hub
from pamqp import base

from ratchet import _clock
from ratchet._loop import Watcher
from ratchet.bus._broker import frames
from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.bus._broker.interfaces import CLOSED, CLOSING, OPEN, LinkFailure
from ratchet.bus._broker.link_protocol import TICKS, LinkProtocol, OnReply
from ratchet.bus._broker.properties import Properties
from ratchet.bus._broker.stream import ByteStream
from ratchet.bus._broker.topology import Methods
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.address import Address
from ratchet.bus._core.limits import Limits
from ratchet.bus._transport.transport import Transport
from ratchet.errors import BusError, ConnectionLost, reason_of

# Seconds until a broker that does not let this side in, or does not answer its goodbye, is given up.
_OPENING: Final = 10.0
_GOODBYE: Final = 2.0
# The first that has time-outs in quorum queues.
_OLDEST: Final = (3, 10)
# What takes the place, and the number, of a message that was taken back: it goes to no queue.
_NOWHERE: Final = "ratchet.nowhere"


class LinkUser(Protocol):
    """Callbacks of a link, from the hub; they must not block."""

    def link_ready(self) -> None:
        """The set-up is done: anything may be sent."""

    def delivered(self, delivery: Delivery) -> None:
        """See `LinkListener`, for this and the next three."""

    def returned(self, returned: Returned) -> None: ...

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None: ...

    def blocked(self, reason: str | None) -> None: ...

    def writable(self) -> None:
        """What is unsent fell below the high-water mark."""

    def link_lost(self, failure: LinkFailure) -> None:
        """The link has ended.  Called again where it was interrupted."""


class Link:
    """One connection to a broker.

    Args:
        hub: the side's.
        transport: the socket.
        peer: the node.
        url: how to log in.
        limits: the side's.
        heartbeat: as for `LinkProtocol`.
        user: who is told.
        set_up: what is declared before it is ready.

    Attributes:
        peer: the node.
        stream: its bytes.
        ready: whether the set-up is done.
        ended: how it ended; None while it has not.
    """

    __slots__ = (
        "_held",
        "_hub",
        "_protocol",
        "_set_up",
        "_timer",
        "_unanswered",
        "_user",
        "ended",
        "peer",
        "ready",
        "stream",
    )

    def __init__(
        self,
        hub: Hub,
        transport: Transport,
        peer: Address,
        url: BrokerUrl,
        limits: Limits,
        heartbeat: int,
        user: LinkUser,
        set_up: Methods,
    ) -> None:
        self._hub = hub
        self._user = user
        self._set_up = set_up
        self._unanswered = 0
        # What is to be said of deliveries; None if that is said at once.
        self._held: deque[tuple[Callable[[int], None], int]] | None = None
        self.peer = peer
        self.ready = False
        self.ended: LinkFailure | None = None
        self.stream = ByteStream(hub, transport, limits.high_water, self)
        self._protocol = LinkProtocol(url, limits.max_message, heartbeat, self, self.stream.write)
        # Of the opening, then of heartbeats, at last of the goodbye.
        self._timer: Watcher | None = None

    def __repr__(self) -> str:
        return f"<Link at {id(self):#x}: {self._protocol!r}, unsent={self.stream.unsent}>"

    @property
    def is_open(self) -> bool:
        """Whether anything may be sent."""
        return self._protocol.state is OPEN

    @property
    def version(self) -> tuple[int, ...]:
        """The broker's."""
        return self._protocol.version

    @property
    def published(self) -> int:
        """The number of the message that was published last."""
        return self._protocol.published

    @property
    def blocked_reason(self) -> str | None:
        """Why the broker takes no messages for now; None if it does."""
        return self._protocol.blocked

    def open(self) -> None:
        """Greet the broker; not before whoever is to close the link knows it."""
        self._set_timer(_OPENING, self._on_late_opening)
        self._protocol.start()
        self.stream.open()

    def publish(
        self, exchange: str, key: str, properties: Properties, body: bytes, *, mandatory: bool = True
    ) -> tuple[int, int]:
        """See `LinkProtocol.publish`."""
        try:
            return self._protocol.publish(exchange, key, properties, body, mandatory=mandatory)
        except BaseException:
            self._look_whether_broken()
            raise

    def call(self, method: base.Frame, on_reply: OnReply) -> None:
        """See `LinkProtocol.call`."""
        try:
            self._protocol.call(method, on_reply)
        except BaseException:
            self._look_whether_broken()
            raise

    def acknowledge(self, tag: int) -> None:
        """See `LinkProtocol.acknowledge`."""
        if self._held is None:
            self._protocol.acknowledge(tag)
        else:
            self._held.append((self._protocol.acknowledge, tag))

    def reject(self, tag: int) -> None:
        """See `LinkProtocol.reject`."""
        if self._held is None:
            self._protocol.reject(tag)
        else:
            self._held.append((self._protocol.reject, tag))

    def hold_acknowledgements(self) -> None:
        """Keep what `acknowledge` and `reject` are to say, until `release_acknowledgements`."""
        if self._held is None:
            self._held = deque()

    def release_acknowledgements(self) -> None:
        """Say what was held, if anything was."""
        while self._held:
            say, tag = self._held.popleft()
            say(tag)
        self._held = None

    def take_back(self, frame_number: int) -> bool:
        """Take back a message of which nothing has left; False if it is too late for that."""
        nothing = frames.publish("", _NOWHERE, Properties(), b"", mandatory=False, frame_max=frames.MIN_FRAME)
        assert isinstance(nothing, bytes)
        return self.stream.take_back(frame_number, nothing)

    def close(self) -> None:
        """Say goodbye behind all that was sent, and close when the broker has, too; does not block."""
        if self.ended is not None:
            return
        self._protocol.close()
        if self._protocol.state is CLOSING:
            self._set_timer(_GOODBYE, self._on_late_goodbye)
            # A program that ends now gives the hub no other turn.
            self.stream.flush()

    def leave_to_parent(self) -> None:
        """In a forked child: the socket is the parent's."""
        self.ended = LinkFailure(None)
        self._protocol.lose_place(self.ended)
        self._close_timer()
        self.stream.abandon()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        self._look_whether_broken()
        self.stream.settle()
        if self.ended is not None:
            self._close_timer()
            self._user.link_lost(self.ended)
        elif self._timer is not None and not self._timer.active:
            self._start_beating()

    def _look_whether_broken(self) -> None:
        """End it soon if something struck in the middle of a call: nobody was told of that."""
        failure = self._protocol.failure
        if failure is not None and self.ended is None:
            self._hub.loop.run_callback(self._end, failure)

    def _end(self, failure: LinkFailure) -> None:
        """Close the socket, and tell the user; also a hub callback."""
        if self.ended is not None:
            return
        if self._protocol.state is not CLOSED:
            self._protocol.lose_place(failure)
        self._close_timer()
        # The broker is to read what this side said last.
        self.stream.flush()
        self.stream.abandon()
        self.ended = failure
        self._user.link_lost(failure)

    def _set_timer(self, seconds: float, callback: Callable[[], object], repeat: float = 0.0) -> None:
        self._close_timer()
        timer = _clock.timer(self._hub, seconds, repeat, ref=False)
        self._timer = timer
        timer.start(callback)

    def _close_timer(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()

    def _on_late_opening(self) -> None:
        """Hub callback: the broker has not let this side in."""
        self._end(LinkFailure(ConnectionLost(f"the broker did not let this side in within {_OPENING:g} s")))

    def _on_late_goodbye(self) -> None:
        """Hub callback: the broker does not say goodbye."""
        self._end(LinkFailure(None))

    def _start_beating(self) -> None:
        period = self._protocol.heartbeat / TICKS
        if period:
            self._set_timer(period, self._protocol.tick, period)
        else:
            self._close_timer()

    # See `LinkListener`.

    def link_opened(self) -> None:
        version = self._protocol.version
        if version and version < _OLDEST:
            found, oldest = (".".join(map(str, numbers)) for numbers in (version, _OLDEST))
            text = f"the broker is RabbitMQ {found}, and {oldest} is the oldest that will do"
            self._end(LinkFailure(BusError(text), fatal=True))
            return
        self._unanswered = len(self._set_up)
        for method in self._set_up:
            self._protocol.call(method, self._on_set_up)

    def _on_set_up(self, answer: object) -> None:
        self._unanswered -= 1
        if self._unanswered == 0 and self.ended is None:
            self._start_beating()
            self.ready = True
            self._user.link_ready()

    def delivered(self, delivery: Delivery) -> None:
        self._user.delivered(delivery)

    def returned(self, returned: Returned) -> None:
        self._user.returned(returned)

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None:
        self._user.confirmed(number, multiple, accepted)

    def blocked(self, reason: str | None) -> None:
        self._user.blocked(reason)

    def consumer_cancelled(self, consumer_tag: str) -> None:
        text = f"the broker has ended the consumer of {consumer_tag}: its queue is gone"
        self._end(LinkFailure(ConnectionLost(text)))

    def link_closed(self, failure: LinkFailure) -> None:
        self._end(failure)

    # See `StreamOwner`.

    def bytes_received(self, data: bytes) -> None:
        self._protocol.receive(data)

    def eof_received(self) -> None:
        self._protocol.eof_received()

    def writable(self) -> None:
        self._user.writable()

    def connection_lost(self, error: BaseException) -> None:
        if self._protocol.state is CLOSING:
            self._end(LinkFailure(None))
        elif isinstance(error, BusError):
            self._end(LinkFailure(error))
        else:
            failure = LinkFailure(ConnectionLost(reason_of(error)))
            assert failure.error is not None
            failure.error.__cause__ = error.with_traceback(None)
            self._end(failure)
