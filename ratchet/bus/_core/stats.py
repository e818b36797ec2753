"""What a bus counts, and the snapshot of it that `stats()` returns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple


class Stats(NamedTuple):
    """A snapshot.  Every request ends once, in `answered`, `failed` or `cancelled`.

    A client over a socket does not count its casts there, because it hears no more of them.

    Attributes:
        connections: how many are open.
        queued: requests that wait: on a server for a thread, on a client for
            the connection.
        in_flight: requests that a thread has taken (server) or that were sent
            (client) and are not answered.
        answered: requests that ended in a response.
        failed: requests that ended in an error other than a cancelling.
        cancelled: requests that the client gave up, by `cancel()`, by its
            time-out, or by going away.
        dropped_late: answers that came when nobody waited any more.
        broken: connections that were closed because the peer violated the wire
            format or a limit, or stalled or disconnected in the middle of a message.
        refused_overloaded: requests that a server has not begun, because they would not
            have ended in time; they are among those that failed.
        refused_draining: requests that a server has not begun, because it drains; also
            among those that failed.
        refused_connections: clients that a server has turned away, because it has
            `Limits.max_connections` of them.
    """

    connections: int
    queued: int
    in_flight: int
    answered: int
    failed: int
    cancelled: int
    dropped_late: int
    broken: int
    refused_overloaded: int = 0
    refused_draining: int = 0
    refused_connections: int = 0


NOTHING: Final = Stats(0, 0, 0, 0, 0, 0, 0, 0)
"""The snapshot of what has not begun."""


def total(snapshots: Iterable[Stats]) -> Stats:
    """Several buses counted as one."""
    return Stats(*map(sum, zip(*snapshots, strict=True)))


class Counters:
    """The part of the snapshot that is counted and not looked up."""

    __slots__ = (
        "answered",
        "broken",
        "cancelled",
        "dropped_late",
        "failed",
        "refused_connections",
        "refused_draining",
        "refused_overloaded",
    )

    def __init__(self) -> None:
        self.answered = 0
        self.failed = 0
        self.cancelled = 0
        self.dropped_late = 0
        self.broken = 0
        self.refused_overloaded = 0
        self.refused_draining = 0
        self.refused_connections = 0

    def snapshot(self, *, connections: int, queued: int, in_flight: int) -> Stats:
        counted = {name: getattr(self, name) for name in self.__slots__}
        return Stats(connections=connections, queued=queued, in_flight=in_flight, **counted)
