"""What the connections of one server share: above all, the way of a request into its inbox.

Each connection's `gate` decides when a request goes that way.  Nothing here knows what a
connection is, except that it looks again when told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.limits import Limits, countable
from ratchet.bus._core.side import DRAINING
from ratchet.bus._socket.budget import Budget


class Admission:
    """The intake of a server, as its connections use it.

    Attributes:
        intake: the requests of the server.
        requests: what these share.
        inbox: those of them that no thread has taken.
        limits: the server's own.
        budget: the memory for its requests.
        connections: those that are open, each a `budget.Holder`, in the order in which they came.
        leaving: those of them that were told to go elsewhere, while the server goes on.
        hello: the server's own HELLO, as a frame.
        on_connection_lost: hub callback, called after each connection that has gone; None for nobody.
        lost_casts: casts that came too late for a drain to run them.
        takes_bodies: whether requests are the bytes of their first parts, as they are.
        takes_bytes: whether responses are bytes, as they are.
    """

    def __init__(self, intake: Intake, limits: Limits) -> None:
        self.intake = intake
        self.requests = intake.requests
        self.inbox = intake.inbox
        self.limits = limits
        # One message always has room.
        most = countable(max(limits.max_queued_bytes, limits.max_message))
        self.budget = Budget(intake.requests.hub, most, limits.stall_timeout)
        self.connections: dict[Any, None] = {}
        self.leaving: dict[Any, None] = {}
        self.hello = b""
        self.on_connection_lost: Callable[[], object] | None = None
        self.lost_casts = 0
        self.takes_bodies = self.requests.decode is None
        self.takes_bytes = self.requests.encode is None

    def enqueue(self, request: IncomingRequest) -> None:
        """Let a thread take a request that has come."""
        if self.inbox.closed or (self.intake.life is DRAINING and not request.one_way):
            request.refuse_draining()
            self.lost_casts += request.one_way
        else:
            self.inbox.put(request)

    def dequeue(self, requests: Collection[IncomingRequest]) -> None:
        """Let no thread take these queued requests any more."""
        if requests:
            self.inbox.remove(requests)

    def let_in(self) -> None:
        """Hub callback: let in what the clients have sent meanwhile: the inbox has room again."""
        for connection in list(self.connections):
            connection.look_again()
