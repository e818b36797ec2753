"""The journal of one schedule: what each caller was told, and what the server really did.

Both sides write here, apart from the bus, and `checks` holds one against the other.
A body names its request, and is made of it alone, so that one which is torn, or another
one's, shows.  Nothing here judges.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ratchet import Outcome, Ratchet
from ratchet.bus import Stats
from simulation.plan import Ask, Life


class Violation(AssertionError):
    """Something that is promised does not hold."""


@dataclass
class Ending:
    """How a request ended, as far as its caller was told.

    Attributes:
        ask: the request.
        began: the time at which its caller called.
        kind: None while the caller waits; else "answer", "cast", "killed" (its thread, or by
            a strike) or the name of an error.
        outcome: what the error says.
        seconds: how long it took.
        transaction: what its caller was given, if that received the response itself.
    """

    ask: Ask
    began: float
    kind: str | None = None
    outcome: Outcome | None = None
    seconds: float = 0.0
    transaction: Any = None


@dataclass
class ClientRecord:
    """What became of one client.

    Attributes:
        dead: whether its process was killed.
        transactions: all that it was given, each with its request.
        casts: the numbers of those that were handed over.
        unfinished: the numbers of those whose transactions have not ended when the client has.
        drained: what `drain` returned; None if it was not drained, or not to its end.
        stats: its counters, when it was closed.
        retries: when one was taken from its budget, and how many first tries there were until then.
    """

    dead: bool = False
    transactions: list[tuple[Ask, Any]] = field(default_factory=list)
    casts: list[int] = field(default_factory=list)
    unfinished: list[int] = field(default_factory=list)
    drained: bool | None = None
    stats: Stats | None = None
    retries: list[tuple[float, int]] = field(default_factory=list)


@dataclass
class LifeRecord:
    """What became of one server.

    Attributes:
        life: its plan.
        dead: whether its process was killed.
        begun: how many requests its threads began.
        drained: what `drain` returned; None if it was not drained, or not to its end.
        quiet: its counters when nothing was going on any more, before it ended.
        stats: the same, when it was closed.
    """

    life: Life
    dead: bool = False
    begun: int = 0
    drained: bool | None = None
    quiet: Stats | None = None
    stats: Stats | None = None


@dataclass
class Journal:
    """All that was written down.

    Attributes:
        endings: of each request that was made, by number.
        ran: how often each was begun on a server.
        clients: what became of each.
        lives: what became of each server.
        violations: what was seen at once that does not hold.
        warnings: what the library has logged about casts.
        closings: what servers have logged about connections that they closed in an error.
        struck: what strikes have struck.
        threads: those that a strike may hit.
        kernels: the schedulers of the processes.
    """

    endings: dict[int, Ending] = field(default_factory=dict)
    ran: Counter[int] = field(default_factory=Counter)
    clients: list[ClientRecord] = field(default_factory=list)
    lives: list[LifeRecord] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    closings: list[str] = field(default_factory=list)
    struck: list[str] = field(default_factory=list)
    threads: list[Any] = field(default_factory=list)
    kernels: list[Ratchet] = field(default_factory=list)

    def note(self, violation: str) -> None:
        """Write down that something does not hold."""
        self.violations.append(violation)


def request_body(ask: Ask) -> tuple[bytes, list[bytes]]:
    """The body of a request, and its attachments."""
    return _body(ask.number, ask.size, b"?"), [b"%d" % ask.number * index for index in range(ask.parts)]


def response_body(ask: Ask) -> bytes:
    """The answer to a request."""
    return _body(ask.number, ask.answer_size, b"!")


def number_of(body: bytes) -> int:
    """The number of the request that a body is of; `ValueError` if it is none."""
    return int(body[:6])


def _body(number: int, size: int, mark: bytes) -> bytes:
    name = b"%06d%s" % (number, mark)
    return (name * (size // len(name) + 1))[: max(size, len(name))]
