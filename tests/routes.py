"""Stand-ins for a bus and for the way by which its answers go back."""

from __future__ import annotations

from typing import Any

from ratchet.bus._core.fair_queue import Flow
from ratchet.bus._core.faults import ErrorTexts, Reason
from ratchet.bus._core.incoming import IncomingRequest, Route
from ratchet.errors import Outcome


class Owner:
    name = "the bus"


class Client(Route):
    """A route that takes everything, and keeps it.

    Attributes:
        answers: the responses, and the reasons for which requests failed.
        reasons: the latter alone.
    """

    def __init__(self) -> None:
        super().__init__(in_process=True, peer=None, flow=Flow())
        self.answers: list[Any] = []
        self.reasons: list[Reason] = []

    def send(self, request: IncomingRequest, message: Any) -> bool:
        self.answers.append(message)
        return True

    def fail(
        self, request: IncomingRequest, reason: Reason, texts: ErrorTexts, outcome: Outcome | None
    ) -> bool:
        self.answers.append(reason)
        self.reasons.append(reason)
        return True
