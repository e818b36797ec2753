"""The memory for requests of one server, and each connection's share of it.

A connection may go on as long as it holds less than is free, so a single one has about
half, of many each has about as much as the others, and something is left for whoever
comes (Choudhury and Hahne, "Dynamic queue length thresholds", 1998).  A little is every
connection's own: nobody can take so much that another one cannot ask at all.

What is counted is a request from its first byte until it is finished, and then its answer as
long as it is unsent.
"""

from __future__ import annotations

from typing import Final, Protocol

from gevent.hub import Hub

from ratchet import _clock
from ratchet._loop import Watcher
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._socket.read_size import HEAD_READ_SIZE, READ_SIZE

OWN: Final = 16 * 1024
"""Bytes that each connection may hold, whatever the others do."""

OWN_SIZE: Final = 1024
"""About how many bytes a request takes besides its parts."""
# How many bytes a request takes for each that is read: an empty one in the plain form has two.
_GROWTH: Final = OWN_SIZE // 2
# Those who wait are looked at when this part of all has become free since the last look:
# not for each request, as there may be very many.
_STEP: Final = 1 / 16


class Holder(Protocol):
    """A connection, as far as it matters here."""

    def read_or_not(self) -> None:
        """Hub callback: let in what waits, as far as there is room; and read on, unless there is too much."""

    def took_too_long(self) -> None:
        """Hub callback: close it, because others have no room for what it does not get on with."""


class Share:
    """What the requests of one connection take.

    Args:
        budget: that of its server.
        holder: the connection.

    Attributes:
        unfinished: its requests that are not finished, one-way ones included, and about how
            many bytes each takes.
        size: bytes of all these.  The connection counts them in and out itself, as it does what
            the budget has `taken`: calls for that took three in a hundred of an exchange.
        held_back: those that are not let in yet, in order, and how many bytes each takes.
        held_back_size: bytes of all these.
        begun_size: bytes of the one that it is in the middle of, as far as there is room for it.
        unsent: bytes of the answers that the client does not read.
        holder: the connection.
    """

    __slots__ = (
        "_budget",
        "begun_size",
        "held_back",
        "held_back_size",
        "holder",
        "size",
        "unfinished",
        "unsent",
    )

    def __init__(self, budget: Budget, holder: Holder) -> None:
        self._budget = budget
        self.size = 0
        self.begun_size = 0
        self.unsent = 0
        self.holder = holder
        self.unfinished: dict[IncomingRequest, int] = {}
        self.held_back: dict[IncomingRequest, int] = {}
        self.held_back_size = 0

    @property
    def held(self) -> int:
        """About how many bytes all of them take, and the answers."""
        return self.size + self.begun_size + self.unsent

    @property
    def has_room(self) -> bool:
        """Whether it may take more."""
        return self._budget.has_room(self.held)

    def read_size(self, most: int) -> int:
        """How many bytes it may read at once: no more than there is room for, whatever comes."""
        return self._budget.read_size(self.held, most)

    def hold_back(self, request: IncomingRequest) -> None:
        """Do not let a request in yet."""
        # Noted with it: what is let in, and interrupted before it is dropped, may be decoded already.
        self.held_back[request] = size = self.unfinished[request]
        self.held_back_size += size

    def let_go(self, request: IncomingRequest) -> None:
        """It is not held back any more; may be called of one that is not."""
        self.held_back_size -= self.held_back.pop(request, 0)
        if not self.held_back:
            # An interrupted call may have left the sum wrong; here it is known.
            self.held_back_size = 0

    def begin(self, size: int) -> bool:
        """Count in a request of so many bytes, or more, that is on its way.  Whether there is room."""
        more = size - self.begun_size
        if self.begun_size and more <= 0:
            return True
        budget = self._budget
        if not budget.has_room(self.held, more) and not (self.begun_size and budget.may_finish(self)):
            return False
        if more:
            budget.begin(self, more)
            self.begun_size = size
        return True

    def note_unsent(self, size: int) -> None:
        """So many bytes of answers are unsent now."""
        more = size - self.unsent
        self.unsent = size
        if more > 0:
            self._budget.taken += more
        else:
            self._budget.give_back(-more)

    def drop_begun(self) -> None:
        """It is not in the middle of a request any more."""
        begun_size, self.begun_size = self.begun_size, 0
        self._budget.give_back(begun_size)
        self._budget.end(self)

    def wait(self) -> None:
        """Have the holder look again when there is more room."""
        self._budget.wait(self)

    def leave(self) -> None:
        """It does not wait any more."""
        self._budget.leave(self)

    def settle(self) -> None:
        """Count again what an interrupted call may have counted wrongly."""
        self.size = sum(self.unfinished.values())


class Budget:
    """The bytes of all connections of one server.

    Args:
        hub: the server's.
        most: how many there may be, but for one message, and what is each connection's own.
        patience: seconds that a request may take to come while others wait for room, and
            most of it is taken by what is unfinished.

    Attributes:
        taken: how many there are.
        plenty: as long as there are less, nobody has to be asked: each has room.
        waiting: those that would take more.
    """

    def __init__(self, hub: Hub, most: int, patience: float) -> None:
        self._hub = hub
        self._most = most
        self._patience = patience
        self.taken = 0
        # No connection has more than is free then, and a whole read has room whatever comes.
        self.plenty = min(most / 2, most - READ_SIZE * _GROWTH)
        # Those that are in the middle of a request, and since when.
        self._begun: dict[Share, float] = {}
        self.waiting: dict[Share, None] = {}
        # How far `taken` has to fall before they look again.
        self._look_at = 0.0
        # Rings now and then while some wait.
        self._timer: Watcher | None = None
        # The one that has all the same been let go on in the middle of a request.
        self._overdrawn: Share | None = None

    def has_room(self, held: int, more: int = 0) -> bool:
        """Whether a connection that holds so many bytes may take more, so many of them at once."""
        return held < self._most - self.taken or held + more <= OWN

    def may_finish(self, share: Share) -> bool:
        """Whether it may go on with what it has begun, although there is no room.

        One at a time may: they could all wait for each other.
        """
        if self._overdrawn is None:
            self._overdrawn = share
        return self._overdrawn is share

    def read_size(self, held: int, most: int) -> int:
        """See `Share.read_size`."""
        free = self._most - self.taken
        if free > most * _GROWTH:
            return most
        return max(min(max(free, OWN - held) // _GROWTH, most), HEAD_READ_SIZE)

    def begin(self, share: Share, size: int) -> None:
        """It is in the middle of a request of so many bytes, or so many more."""
        self._begun.setdefault(share, _clock.monotonic())
        self.taken += size

    def end(self, share: Share) -> None:
        """It is not in the middle of a request any more."""
        self._begun.pop(share, None)
        if self._overdrawn is share:
            self._overdrawn = None
            self._hub.loop.run_callback(self._look)

    def wait(self, share: Share) -> None:
        """See `Share.wait`."""
        if not self.waiting:
            self._look_at = self.taken - self._most * _STEP
        self.waiting[share] = None
        if self._timer is None:
            timer = _clock.timer(self._hub, self._patience, self._patience, ref=False)
            timer.start(self._end_slow)
            self._timer = timer

    def leave(self, share: Share) -> None:
        """See `Share.leave`."""
        self.waiting.pop(share, None)

    def give_back(self, size: int) -> None:
        """A connection holds so many bytes less."""
        self.taken = max(self.taken - size, 0)
        if self.waiting and self.taken <= max(self._look_at, 0):
            self._hub.loop.run_callback(self._look)

    def _look(self) -> None:
        """Hub callback: let those go on that wait, as far as there is room."""
        self._look_at = self.taken - self._most * _STEP
        for share in list(self.waiting):
            share.holder.read_or_not()

    def _end_slow(self) -> None:
        """Hub callback: let nobody keep the room from others by what it does not finish."""
        if not self.waiting:
            self.close()
            return
        latest = _clock.monotonic() - self._patience
        for share, begun in list(self._begun.items()):
            unfinished = sum(each.begun_size for each in self._begun)
            if begun > latest or unfinished <= self._most / 2:
                return
            share.holder.took_too_long()

    def close(self) -> None:
        """Look at nobody any more."""
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.close()
