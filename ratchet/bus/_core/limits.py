"""The bounds of a bus over sockets: on what a peer can make one side hold or wait for.

Where each is kept, the page about the design says.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, fields

__all__ = ["Limits"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The bounds of one side of a bus over sockets; the two sides need not have the same.

    Args:
        max_message: bytes of one message, all parts together; below 4 GiB.
        max_parts: parts of one message; at most 32767.
        max_queued: requests that wait in a server for a thread, from which on a client that has
            one there gets in no more.
        max_queued_bytes: bytes of requests, unfinished ones included, that a server holds,
            whoever sent them; each counts for 1 KiB besides its parts.  A client may hold as
            much as is still free, and always 16 KiB.
        max_connections: clients of a server; further ones are told that it is overloaded.
        max_in_flight: requests of one connection, casts included, that a server has let in
            and not finished; at as many that wait for an answer, the client waits.
        high_water: bytes of one connection that are unsent, from which on writers wait; and
            of requests that a server has read but not let in, from which on it reads no more.
        stall_timeout: seconds after which a peer is dropped that stops in the middle of a
            message, whose whole TLS handshake takes longer, that takes longer over a request
            while unfinished ones keep other clients waiting, or that does not read when the
            connection is to be closed; also the most that leaving `with client:` waits for casts.

    Each side tells the other its limits, which refuses at home what is over them.
    At `max_in_flight` and `max_queued` a server still sees a `cancel()`.  At
    `max_queued_bytes`, or at `high_water` for requests, it sees one unless another request
    comes before it; at `high_water` for responses, only when the client has read.  A time-out
    is kept all the same.

    Raises `TypeError` for anything but a number, and `ValueError` for one that is not
    positive or too large.

    .. code-block:: python

        from ratchet import MessageTooLarge, bus

        limits = bus.Limits(max_message=1000)
        with bus.listen("127.0.0.1:0") as server, bus.connect(server.address, limits=limits) as client:
            try:
                client.call(b"x" * 1001)
            except MessageTooLarge as error:
                print(error)

    .. code-block:: text

        a message of 1001 bytes is over the limit of 1000 (127.0.0.1:...); nothing was sent
    """

    max_message: int = 16 * 1024 * 1024
    max_parts: int = 1024
    max_queued: int = 10_000
    max_queued_bytes: int = 64 * 1024 * 1024
    max_connections: int = 10_000
    max_in_flight: int = 1_024
    high_water: int = 1024 * 1024
    stall_timeout: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            limit = getattr(self, field.name)
            # The type is a string here, as every annotation of this module is.
            numbers = (int, float) if field.type == "float" else (int,)
            if isinstance(limit, bool) or not isinstance(limit, numbers):
                kind = "a number" if float in numbers else "a whole number"
                raise TypeError(f"{field.name} must be {kind}, not {limit!r}")
            if not limit > 0:
                raise ValueError(f"{field.name} must be above 0, not {limit!r}")
        if self.max_parts > 0x7FFF:
            raise ValueError(
                f"max_parts must be at most 32767, which is all the wire can say, not {self.max_parts}"
            )
        if self.max_message > 0xFFFFFFFF:
            raise ValueError(f"max_message must be at most 4 GiB - 1, not {self.max_message}")


_DEFAULT = Limits()


def countable(limit: int) -> int:
    """A limit, as far as a compiled class can count: its numbers in C are no larger."""
    return min(limit, sys.maxsize)


def check_above_zero(number: object, name: str) -> None:
    """Refuse anything but a whole number above 0: `TypeError` or `ValueError`."""
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be a number, not {number!r}")
    if number < 1:
        raise ValueError(f"{name} must be above 0, not {number!r}")


def check_count(count: object, name: str) -> int:
    """A whole number above 0; refuses anything else by `ValueError`."""
    if not isinstance(count, int) or isinstance(count, bool) or count < 1:
        raise ValueError(f"{name} must be a number above 0, not {count!r}")
    return count


def checked_limits(limits: Limits | None) -> Limits:
    """The limits that were given, or the default ones; refuses anything else."""
    if limits is None:
        return _DEFAULT
    if not isinstance(limits, Limits):
        raise TypeError(f"limits must be a Limits or None, not {limits!r}")
    return limits
