"""The faults of a line: how a user configures them, and how each is drawn.

`Faults` says how likely each fault is; a `Line` draws it from a source of chance.  What a
fault does to bytes and connections belongs in `_pipe` and `_network`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias

from gevent.hub import Hub, get_hub

from ratchet.testing._loop import VirtualLoop

Range: TypeAlias = "float | tuple[float, float]"
"""A number, or the lowest and the highest one between which each case is drawn."""

_PROBABILITIES: Final = ("delayed", "split", "partial", "refused", "cut", "reset")
_RANGES: Final = ("latency", "delay", "lost_at")
_SIZES: Final = ("send_buffer", "receive_buffer")


@dataclass(frozen=True, kw_only=True)
class Faults:
    """The faults of the line between two in-memory sockets.

    Without arguments there are none: what is sent arrives at once, and nothing is lost.
    Whatever is set, the bytes of a connection keep their order.  A probability is a number
    from 0 to 1; a range is a number, or a pair of the lowest and the highest one, between
    which each case is drawn.

    Attributes:
        latency: seconds that a piece takes to arrive, one way; a range.  Connecting takes
            twice that.
        delayed: the probability that a piece takes longer by `delay`, and holds up what
            was sent after it.
        delay: additional seconds; a range.
        split: the probability that what is sent in one call arrives in two pieces.
        partial: the probability that a socket takes only part of what is sent,
            although it has room for all of it.
        refused: the probability that an attempt to connect is refused.
        cut: the probability, for each direction of a connection, that the line breaks
            after `lost_at` bytes, and both sides see the other one close.
        reset: the same, but both sides see a reset.
        lost_at: bytes of one direction that still arrive, before it is cut or reset; a
            range of whole numbers.  `Faults(reset=1, lost_at=100)` resets every
            connection after exactly 100 bytes, whichever side is the first to send so many.
        send_buffer: bytes that a socket takes before any has reached the other side.
        receive_buffer: bytes that the other side takes before its program reads any of them.

    Raises `TypeError` or `ValueError` for what is not a probability, a range or a size.
    """

    latency: Range = 0.0
    delayed: float = 0.0
    delay: Range = (0.05, 3.0)
    split: float = 0.0
    partial: float = 0.0
    refused: float = 0.0
    cut: float = 0.0
    reset: float = 0.0
    lost_at: int | tuple[int, int] = (0, 400)
    send_buffer: int = 64 * 1024
    receive_buffer: int = 64 * 1024

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _PROBABILITIES:
                _check_probability(field.name, value)
            elif field.name in _RANGES:
                _check_range(field.name, value, whole=field.name == "lost_at")
            elif field.name in _SIZES and (type(value) is not int or value < 1):
                raise ValueError(f"{field.name} must be a number of bytes above 0, not {value!r}")


def _check_probability(name: str, value: object) -> None:
    if not _is_number(value) or not 0 <= float(value) <= 1:  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a probability from 0 to 1, not {value!r}")


def _check_range(name: str, value: object, *, whole: bool) -> None:
    pair = value if isinstance(value, tuple) else (value, value)
    unit = "whole numbers" if whole else "seconds"
    if len(pair) != 2 or not all(map(_is_number, pair)) or (whole and not all(type(n) is int for n in pair)):
        raise TypeError(f"{name} must be a number or a pair of {unit}, not {value!r}")
    low, high = pair
    if not 0 <= low <= high < math.inf:
        raise ValueError(f"{name} must be from 0 up, the lower number first, not {value!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


_NO_FAULTS: Final = Faults()


class Loss(NamedTuple):
    """The loss of one direction of a connection."""

    at: int
    """Bytes that still arrive."""
    reset: bool
    """Whether both sides see a reset instead of a close."""


class Line:
    """The medium that the connections of a network share: its hub, its faults, a source of chance.

    Args:
        call: the call that needs it, named in the error if the hub is not on virtual time.
        faults: the faults; None for none.
        seed: of a source of chance of its own; None to share the loop's.

    Attributes:
        hub: the hub that the sockets belong to.
        loop: its loop.
        faults: the faults.
        random: the source of chance from which they are drawn.
    """

    def __init__(self, call: str, faults: Faults | None, seed: int | None = None) -> None:
        self.hub: Hub = get_hub()
        loop: Any = self.hub.loop
        if not isinstance(loop, VirtualLoop):
            raise RuntimeError(f"{call} needs virtual time; call it inside `with testing.virtual_time():`")
        if faults is not None and not isinstance(faults, Faults):
            raise TypeError(f"faults must be Faults or None, not {faults!r}")
        if seed is not None and type(seed) is not int:
            raise TypeError(f"seed must be an int or None, not {seed!r}")
        self.loop: VirtualLoop = loop
        self.faults = _NO_FAULTS if faults is None else faults
        self.random = loop.random if seed is None else Random(seed)

    @property
    def now(self) -> float:
        """Seconds since the loop began.  Reading it does not move the time."""
        return self.loop.elapsed / 1e9

    def happens(self, probability: float) -> bool:
        """Draw whether something happens; with a probability of 0 or 1, nothing is drawn."""
        return probability > 0 and (probability >= 1 or self.random.random() < probability)

    def seconds(self, span: Range) -> float:
        """Draw a number from a range."""
        return self.random.uniform(*span) if isinstance(span, tuple) else span

    def transit(self) -> float:
        """Draw the seconds that a piece takes to arrive."""
        faults = self.faults
        delay = self.seconds(faults.delay) if self.happens(faults.delayed) else 0.0
        return self.seconds(faults.latency) + delay

    def taken(self, size: int) -> int:
        """Draw how many of `size` bytes a socket takes at once."""
        if size > 1 and self.happens(self.faults.partial):
            return self.random.randrange(1, size)
        return size

    def pieces(self, data: bytes) -> tuple[bytes, ...]:
        """Draw the pieces in which bytes arrive."""
        if len(data) > 1 and self.happens(self.faults.split):
            middle = self.random.randrange(1, len(data))
            return data[:middle], data[middle:]
        return (data,)

    def loss(self) -> Loss | None:
        """Draw how one direction of a connection is lost; None if it is not."""
        faults = self.faults
        reset = self.happens(faults.reset)
        if not reset and not self.happens(faults.cut):
            return None
        low, high = faults.lost_at if isinstance(faults.lost_at, tuple) else (faults.lost_at,) * 2
        return Loss(self.random.randint(low, high), reset)
