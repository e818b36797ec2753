"""The memory for requests of one server, and each connection's share of it.

A connection may take more as long as it holds less than is free.  So a single one gets about
half, many get about as much as each other, and something is left for whoever comes
(Choudhury and Hahne, "Dynamic queue length thresholds", 1998).  A little is reserved for
each connection: nobody can take so much that another one cannot ask at all.

A request counts from its first byte until it is finished, and then its answer until it is
sent.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Final, Protocol

from gevent.hub import Hub

from ratchet import _clock
from ratchet.bus._core.watch import Watch
from ratchet.bus._socket.read_size import HEAD_READ_SIZE, READ_SIZE
from ratchet.bus._socket.wire import PART_SIZE

RESERVED: Final = 16 * 1024
"""Bytes that each connection may hold, whatever the others do."""
OVERHEAD: Final = 1024
"""About how many bytes a request takes besides its parts."""
# How many bytes are held for each that is read, at worst: an empty request in the plain form
# has two bytes.
_GROWTH: Final = OVERHEAD // 2
# Connections that wait look again when this part of all memory has become free since the last
# time: not for each request that ends, as very many may wait.
_STEP: Final = 1 / 16


def size_of(parts: Sequence[bytes], metadata: Mapping[str, str]) -> int:
    """About how many bytes a request takes."""
    if len(parts) == 1:
        size = OVERHEAD + len(parts[0])
    else:
        size = OVERHEAD + sum(map(len, parts)) + PART_SIZE * len(parts)
    if metadata:
        # As it is here: on the wire, one of many short texts takes a small part of that.
        size += sys.getsizeof(metadata) + sum(map(sys.getsizeof, chain(*metadata.items())))
    return size


class Holder(Protocol):
    """A connection, as far as it matters here."""

    def look_again(self) -> None:
        """Hub callback: let in the requests that wait, and read on, as far as there is room."""

    def took_too_long(self) -> None:
        """Hub callback: close it, because others lack the room that its unfinished request takes."""


class Share:
    """What the requests of one connection take.

    Args:
        budget: that of its server.
        holder: the connection.

    Attributes:
        unfinished: how many of its requests are not finished, one-way ones included.
        size: about how many bytes these take.  The connection counts both itself, and the bytes in
            the budget's `taken` as well: calls for that took three in a hundred of an exchange.
        begun_size: bytes of the request that has begun to come, as far as there is room for it.
        unsent: bytes of the answers that the client does not read.
        holder: the connection.
    """

    __slots__ = (
        "_budget",
        "begun_size",
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
        self.unfinished = 0

    @property
    def held(self) -> int:
        """About how many bytes its requests and their answers take."""
        return self.size + self.begun_size + self.unsent

    def has_room(self, more: int = 0) -> bool:
        """Whether it may take `more` bytes, or anything if that is 0."""
        return not self.is_deaf and self._budget.has_room(self.held, more)

    @property
    def is_deaf(self) -> bool:
        """Whether its client is one of those that do not read, and these take all that such may."""
        return self.unsent > RESERVED and self._budget.is_full_of_unsent

    def read_size(self, most: int) -> int:
        """How many bytes it may read at once, at most `most`, so that there is room whatever comes."""
        return self._budget.read_size(self.held, most)

    def begin(self, size: int) -> bool:
        """Count a request of at least so many bytes that has begun to come.  False if there is no room."""
        more = size - self.begun_size
        if self.begun_size and more <= 0:
            return True
        budget = self._budget
        if not self.has_room(more) and not (self.begun_size and budget.overdraw(self)):
            return False
        if more:
            budget.begin(self, more)
            self.begun_size = size
        return True

    def note_unsent(self, size: int) -> None:
        """Count so many bytes of answers as unsent, in place of those before."""
        more = size - self.unsent
        self.unsent = size
        self._budget.count_unsent(more)

    def drop_begun(self) -> None:
        """Count no request as begun: all of it is here, or nothing more will come."""
        begun_size, self.begun_size = self.begun_size, 0
        self._budget.give_back(begun_size)
        self._budget.end(self)

    def wait(self) -> None:
        """Have the connection look again when there is more room."""
        self._budget.wait(self)

    def leave(self) -> None:
        """Wait no longer."""
        self._budget.leave(self)


class Budget(Watch):
    """The bytes of all connections of one server.

    Args:
        hub: the server's.
        most: how many there may be, besides one message and what is reserved for each connection.
        timeout: seconds that a request may take to come while others wait for room and most of
            it is taken by requests that have not come whole.

    Attributes:
        taken: how many there are.
        soft_limit: as long as there are fewer, each connection has room and need not ask.
        waiting: the shares of connections that would take more.
    """

    def __init__(self, hub: Hub, most: int, timeout: float) -> None:
        super().__init__(hub)
        self._most = most
        self._timeout = timeout
        self.taken = 0
        # Bytes of answers that are unsent, of which at most half of all count as taken.
        self._unsent = 0
        # Below it, no connection holds more than is free, and a whole read has room whatever comes.
        self.soft_limit = min(most / 2, most - READ_SIZE * _GROWTH)
        # Those of which a request has begun to come, and since when.
        self._begun: dict[Share, float] = {}
        self.waiting: dict[Share, None] = {}
        # How far `taken` has to fall before the waiting ones look again.
        self._look_at = 0.0
        # The one that may finish what it has begun although there is no room.
        self._overdrawn: Share | None = None

    @property
    def is_full_of_unsent(self) -> bool:
        """Whether answers that nobody reads take half of all, which is as much as they may."""
        return self._unsent >= self._most // 2

    @property
    def _taken_by_unsent(self) -> int:
        return min(self._unsent, self._most // 2)

    def count_unsent(self, more: int) -> None:
        """Count so many bytes of answers more as unsent, or fewer.

        Clients that do not read take half of the room from the others, and no more.
        """
        before = self._taken_by_unsent
        self._unsent = max(self._unsent + more, 0)
        change = self._taken_by_unsent - before
        if change > 0:
            self.taken += change
        else:
            self.give_back(-change)

    def count_again(self, shares: Iterable[Share]) -> None:
        """Count what these take, and nothing else: an interrupted call may have counted wrongly."""
        shares = list(shares)
        self._unsent = sum(share.unsent for share in shares)
        held = sum(share.held for share in shares)
        self.taken = held - self._unsent + self._taken_by_unsent

    def has_room(self, held: int, more: int = 0) -> bool:
        """Whether a connection that holds so many bytes may take `more`, or anything if that is 0."""
        return held < self._most - self.taken or held + more <= RESERVED

    def overdraw(self, share: Share) -> bool:
        """Let a connection finish what it has begun, although there is no room; False if another does.

        One at a time has to: otherwise they could all wait for each other.
        """
        if self._overdrawn is None:
            self._overdrawn = share
        return self._overdrawn is share

    def read_size(self, held: int, most: int) -> int:
        """See `Share.read_size`."""
        free = self._most - self.taken
        if free > most * _GROWTH:
            return most
        return max(min(max(free, RESERVED - held) // _GROWTH, most), HEAD_READ_SIZE)

    def begin(self, share: Share, size: int) -> None:
        """Count bytes of a request that has begun to come."""
        self._begun.setdefault(share, _clock.monotonic())
        self.taken += size

    def end(self, share: Share) -> None:
        """Note that nothing is begun any more."""
        self._begun.pop(share, None)
        if self._overdrawn is share:
            self._overdrawn = None
            self._hub.loop.run_callback(self._let_look)

    def wait(self, share: Share) -> None:
        """See `Share.wait`."""
        if share not in self.waiting:
            # Of all who wait, whoever found the most taken is to be looked at first.
            look_at = self.taken - self._most * _STEP
            self._look_at = max(look_at, self._look_at) if self.waiting else look_at
        self.waiting[share] = None
        if self.timer is None:
            self.look_in(self._timeout)

    def leave(self, share: Share) -> None:
        """See `Share.leave`."""
        self.waiting.pop(share, None)

    def give_back(self, size: int) -> None:
        """Count so many bytes less, and have the others look again if that is enough."""
        self.taken = max(self.taken - size, 0)
        if self.waiting and self.taken <= max(self._look_at, 0):
            self._hub.loop.run_callback(self._let_look)

    def _let_look(self) -> None:
        """Hub callback: have all that wait look again."""
        self._look_at = self.taken - self._most * _STEP
        for share in list(self.waiting):
            share.holder.look_again()

    def _look(self) -> None:
        """Hub callback: see who keeps the room from others, as long as some wait."""
        if self.waiting:
            self.look_in(self._timeout)
            self._end_slow()
        else:
            self.close()

    def _end_slow(self) -> None:
        """Close connections whose unfinished requests keep the room from others."""
        latest = _clock.monotonic() - self._timeout
        unfinished = sum(each.begun_size for each in self._begun)
        for share, begun in list(self._begun.items()):
            if begun > latest or unfinished <= self._most / 2:
                return
            unfinished -= share.begun_size
            share.holder.took_too_long()

    def leave_to_parent(self) -> None:
        """In a forked child: all that is taken, and who waits, is the parent's."""
        self.close()
        self.taken = self._unsent = 0
        self.waiting.clear()
        self._begun.clear()
        self._overdrawn = None
