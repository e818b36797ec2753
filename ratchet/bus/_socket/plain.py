"""Sending requests in the plain form, whose answers are told by their order.

A signal handler may send a request in the middle of another one's sending.  Its frame
goes behind the other, so that both are noted in the order in which they left.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from ratchet.bus._core.outgoing import OutgoingRequest
from ratchet.bus._socket import wire
from ratchet.bus._socket.casts import Casts
from ratchet.bus._socket.output import Output
from ratchet.bus._socket.protocol import ClientProtocol

DEFERRED: Final = wire.MAX_ID
"""The frame number of a request that is still to be written."""


class PlainSender:
    """Writes the plain requests of one connection."""

    __slots__ = ("_casts", "_deferred", "_output", "_protocol", "_sending")

    def __init__(self, output: Output, protocol: ClientProtocol, casts: Casts) -> None:
        self._output = output
        self._protocol = protocol
        self._casts = casts
        self._sending = False
        # Those that a signal handler sent meanwhile.
        self._deferred: deque[tuple[OutgoingRequest, wire.Frame]] | None = None

    def send(self, transaction: OutgoingRequest, frame: wire.Frame) -> None:
        """Send a request, and note it for its answer; does not block."""
        if self._sending:
            transaction.frame_number = DEFERRED
            if self._deferred is None:
                self._deferred = deque()
            self._deferred.append((transaction, frame))
            return
        try:
            self._sending = True
            self._write(transaction, frame)
            while self._deferred:
                later, frame = self._deferred.popleft()
                self._write(later, frame)
                if self._protocol.open.get(later.id) is not later:
                    self._casts.note(later)
        finally:
            self._sending = False

    def _write(self, transaction: OutgoingRequest, frame: wire.Frame) -> None:
        transaction.frame_number = self._output.write(frame)
        self._protocol.order.append(transaction.id)

    def take_back(self, transaction: OutgoingRequest) -> None:
        """Do not send a request after all, if it has not been written yet."""
        if self._deferred:
            self._deferred = deque(entry for entry in self._deferred if entry[0] is not transaction)
