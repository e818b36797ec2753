"""Stand-ins for a bus and for the way by which its answers go back."""

from __future__ import annotations

from typing import Any

from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import ErrorTexts, Reason
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus.codecs import PeerAddress


class Owner:
    name = "the bus"


class Client:
    """A route that takes everything, and keeps it.

    Attributes:
        answers: the responses, and the reasons for which requests failed.
        reasons: the latter alone.
    """

    in_process = True
    peer: PeerAddress = None

    def __init__(self) -> None:
        self.flow: Flow[IncomingRequest] = Flow()
        self.answers: list[Any] = []
        self.reasons: list[Reason] = []

    def is_writable(self, request: IncomingRequest) -> bool:
        return True

    def park(self, request: IncomingRequest) -> None:
        """Not called, as the next one."""

    def give_up(self, request: IncomingRequest) -> None:
        """Not called."""

    def released(self, request: IncomingRequest) -> None:
        """Nothing is kept here for it."""

    def send(self, request: IncomingRequest, message: Any) -> bool:
        self.answers.append(message)
        return True

    def fail(self, request: IncomingRequest, reason: Reason, texts: ErrorTexts) -> bool:
        self.answers.append(reason)
        self.reasons.append(reason)
        return True
