"""The casts of one connection, and whether the server's side has got them.

Nobody answers a cast.  So what became of one is told from the bytes that have left, and
from what the system says of their arrival; in the plain form, from the answers that a
plain server gives all the same.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Final

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import format_address
from ratchet.bus._core.outgoing import OutgoingRequest
from ratchet.bus._socket.protocol import ClientProtocol
from ratchet.bus._socket.stream import MessageStream
from ratchet.bus._transport.tls import refused_us
from ratchet.errors import reason_of

# Seconds without an answer of a plain server, after which no more are waited for.
_PLAIN_SILENCE: Final = 0.2


class Casts:
    """What was cast on one connection.

    Attributes:
        count: how many there were.
        last_sign: when the last one was cast, or a plain server answered last.
    """

    __slots__ = ("_last", "_protocol", "_seen_undelivered", "_stream", "_unsent", "count", "last_sign")

    def __init__(self, stream: MessageStream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        # Those that may not have left yet, and the number of the last one's frame.
        self._unsent: deque[OutgoingRequest] = deque()
        self._last = 0
        self.count = 0
        self.last_sign = 0.0
        # Bytes that were undelivered when that was asked last.
        self._seen_undelivered = 0

    def note(self, cast: OutgoingRequest) -> None:
        """One has been written."""
        self._last = number = cast.frame_number
        self.last_sign = _clock.monotonic()
        self.count += 1
        unsent, sent = self._unsent, self._stream.output.sent
        while unsent and unsent[0].frame_number <= sent:
            unsent.popleft()
        if number > sent:
            unsent.append(cast)

    @property
    def unsent(self) -> int:
        """How many have not left."""
        return len(self._left_here()) if self._unsent else 0

    def _left_here(self) -> list[OutgoingRequest]:
        """Those that have not left."""
        sent = self._stream.output.sent
        return [cast for cast in list(self._unsent) if cast.frame_number > sent]

    def move(self, send_elsewhere: Callable[[OutgoingRequest], bool]) -> None:
        """Have those that have not left sent on another connection, as far as that is possible."""
        for cast in self._left_here():
            if send_elsewhere(cast):
                self._unsent.remove(cast)

    @property
    def are_delivered(self) -> bool:
        """Whether the server's side has all of them; with them what was written before."""
        if not self._last or self._stream.closed:
            return True
        protocol = self._protocol
        if self._stream.is_tls and not protocol.plain and protocol.hello is None:
            # It may yet refuse this side's certificate, and then has run nothing.
            return False
        if protocol.plain:
            # To a plain server it is a request like any other, and one whose client goes
            # away is not run.  So as long as answers come, they are waited for.
            quiet = _clock.monotonic() - self.last_sign > _PLAIN_SILENCE
            return not protocol.order or (quiet and not self.look_undelivered())
        return self._last <= self._stream.output.sent and not self.look_undelivered()

    def look_undelivered(self) -> int:
        """How many bytes the server's side has not got; remembered, for the end of the connection."""
        self._seen_undelivered = self._stream.output.undelivered
        return self._seen_undelivered

    def tell_lost(self, error: BaseException | None) -> int:
        """Log how many were lost, or may have been, when the connection ends; returns how many."""
        lost = self._doubtful(error)
        if lost:
            if self._protocol.turned_away:
                reason = self._protocol.farewell
            else:
                reason = "the bus was closed" if error is None else reason_of(error)
            self._tell(lost, reason)
        return lost

    def tell_undelivered(self) -> None:
        """Hub callback: the system could not deliver what had left."""
        self._tell(1, "it took no more of what was sent")

    def _tell(self, least: int, reason: str) -> None:
        text = "casts to %s that were lost, or may have been: at least %d; %s"
        log_soon(bus_logger, logging.WARNING, text, format_address(self._stream.peer), least, reason)

    def _doubtful(self, error: BaseException | None) -> int:
        """How many have not left, or may have been lost on their way, when the connection ends."""
        unsent = self.unsent
        if self._protocol.turned_away:
            return self.count
        if error is None:
            # This side has closed it, and what has left is seen delivered all the same.
            return unsent
        if self._protocol.hello is None and refused_us(error):
            return self.count
        on_their_way = bool(self._seen_undelivered or self._stream.left_behind)
        return unsent or int(on_their_way and self.count > 0)

    def clear(self) -> None:
        """They have been told of, or are no longer this process's."""
        self._unsent.clear()
