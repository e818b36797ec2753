"""Which requests of one connection are let into the inbox, and which have to wait outside.

One that the server has no place for is held back, and its connection's later ones with it.
One whose answer would only wait for the client to read is parked: it was let in before,
and other requests may overtake it.  Both are let in, in order, when there is room.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.limits import countable
from ratchet.bus._socket.admission import Admission
from ratchet.bus._socket.budget import Share

# In place of those that a gate makes when it needs them: most never do.  Nothing is ever put in.
_NONE: Final[dict[IncomingRequest, Any]] = {}


class Gate:
    """The requests of one connection that wait outside the inbox.

    Args:
        admission: what lets them in.
        share: the connection's share of the memory, which counts its unfinished requests.

    Attributes:
        parked: those that were let in, and whose answers would only wait to be read.
        held_back: those that are not let in yet, in order, and how many bytes each takes.
        held_back_size: bytes of all these.
    """

    __slots__ = ("_admission", "_max_in_flight", "_share", "held_back", "held_back_size", "parked")

    def __init__(self, admission: Admission, share: Share) -> None:
        self._admission = admission
        self._share = share
        self._max_in_flight = countable(admission.limits.max_in_flight)
        self.parked: dict[IncomingRequest, None] = _NONE
        self.held_back: dict[IncomingRequest, int] = _NONE
        self.held_back_size = 0

    def has_room(self) -> bool:
        """Whether one more request may be let in.

        One that would be the connection's only one always may: an overfull inbox is full of others'.
        """
        let_in = self._share.unfinished - len(self.held_back)
        return let_in < self._max_in_flight and (not let_in or not self._admission.inbox.overfull)

    @property
    def holds_back_too_much(self) -> bool:
        """Whether no more requests should be read, because so many bytes of them are held back."""
        return self.held_back_size >= self._admission.limits.high_water

    def park(self, request: IncomingRequest) -> None:
        """Keep a request that was let in, until its answer would not only wait to be read."""
        if self.parked is _NONE:
            self.parked = {}
        self.parked[request] = None

    def hold_back(self, request: IncomingRequest) -> None:
        """Do not let a request in yet."""
        flow = request.flow
        if self.held_back is _NONE:
            self.held_back = {}
        self._admission.inbox.note_backlog(flow)
        # The size is kept too: when the request is dropped, it may be finished.
        self.held_back[request] = size = request.size
        self.held_back_size += size
        flow.has_backlog = True

    def drop(self, request: IncomingRequest) -> None:
        """Keep a request here no longer; does nothing to one that is not here."""
        self.parked.pop(request, None)
        self.held_back_size -= self.held_back.pop(request, 0)
        if not self.held_back:
            # An interrupted call may have left the sum wrong; here it is known.
            self.held_back_size = 0
        request.flow.has_backlog = bool(self.held_back)

    def let_in(self, is_writable: Callable[[IncomingRequest], bool]) -> None:
        """Let in what waits, as far as there is room and the client reads."""
        for request in (*self.parked, *self.held_back):
            if request in self.parked and not is_writable(request):
                # A plain one whose turn to be answered is far: it would be parked again.
                continue
            if request in self.held_back and not self.has_room():
                break
            self._enqueue(request)

    def let_casts_in(self) -> None:
        """Let in what was cast, which is run whatever becomes of its sender."""
        for request in list(self.held_back):
            if request.one_way:
                self._enqueue(request)

    def refuse_draining(self) -> None:
        """Refuse what waits, except for casts, because the server takes no new work."""
        self.let_casts_in()
        for request in (*self.parked, *self.held_back):
            request.refuse_draining()
            self.drop(request)

    def _enqueue(self, request: IncomingRequest) -> None:
        # First: one that is in two places is taken once, one that is in none never.
        self._admission.enqueue(request)
        self.drop(request)
