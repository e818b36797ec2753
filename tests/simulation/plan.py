"""The plan of one schedule: who does what and when, and what goes wrong.

A plan says all that there is to a schedule but the order of things that can run in the same
instant, and what the network does to which bytes; these depend on its seed.  Nothing here
draws or runs anything.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from ratchet.bus import Limits, Retry
from ratchet.testing import Faults

HUGE: Final = 80_000
"""Bytes of a message that is sent in pieces; see `heads.WORTH_NO_COPY`."""


class Act(enum.Enum):
    """What a thread of a client does with a request."""

    CALL = "call"
    SEND = "send"
    """Send it, and receive the response, or give it up."""
    LATER = "later"
    """Send it, and receive the response when the thread has sent all that it is to send."""
    CAST = "cast"


class Task(enum.Enum):
    """What the server does with a request."""

    RETURN = "return"
    SLEEP = "sleep"
    """Sleep, and then return."""
    YIELD = "yield"
    """Let others run, and then return."""
    RAISE = "raise"
    DROP = "drop"
    """Take it, and let go of it without an answer; `serve` returns."""
    HOG = "hog"
    """Keep the hub from running, and then return."""
    UNREADABLE = "unreadable"
    """Its codec fails, so it never runs."""
    UNWRITABLE = "unwritable"
    """The codec of its answer fails."""


@dataclass(frozen=True)
class Ask:
    """A request.

    Attributes:
        number: by which both sides know it; no other of the schedule has it.
        act: how it is sent.
        size: bytes of its body, at least.
        pause: seconds before it is sent.
        timeout: seconds that it is given; None for ever.
        cancel_after: seconds after which it is given up; None for never.
        waiters: threads that wait for its response besides.
        parts: parts beside the body.
        task: what the server does.
        seconds: how long that takes.
        answer_size: bytes of the answer, at least.
        idempotent: whether it may run more than once.
    """

    number: int
    act: Act
    size: int
    pause: float
    timeout: float | None
    cancel_after: float | None
    waiters: int
    parts: int
    task: Task
    seconds: float
    answer_size: int
    idempotent: bool = False


class End(enum.Enum):
    """How a side of a bus ends."""

    DRAIN = "drain"
    CLOSE = "close"
    LEAVE = "leave"
    """By leaving its `with` block; for a server, that is to close."""
    KILL = "kill"
    """With its whole process."""


@dataclass(frozen=True)
class ClientPlan:
    """A client.

    Attributes:
        plain: whether it speaks the plain form.
        limits: its own.
        threads: what each of its threads asks for, one after the other.
        kills: seconds after which a thread is killed, and which one.
        end: how it ends.
        ends_after: seconds after which it ends, be there threads or not; None when they have ended.
        patience: seconds that it is given to drain; None for ever.
        retry: how it sends requests again; None for never.
    """

    plain: bool
    limits: Limits
    threads: tuple[tuple[Ask, ...], ...]
    kills: tuple[tuple[float, int], ...]
    end: End
    ends_after: float | None
    patience: float | None
    retry: Retry | None = None


@dataclass(frozen=True)
class Life:
    """A server, from its beginning to its end; another one may follow under the same name.

    Attributes:
        workers: how many of `serve`.
        takers: threads that take requests by hand.
        kills: seconds after which a thread that takes requests is killed.
        end: how it ends.
        ends_after: seconds after which it ends; None when all clients have ended.
        patience: seconds that it is given to drain; None for ever.
        gap: seconds until the next one begins.
        shuts_after: seconds after which nothing is taken until all clients have ended; None for never.
    """

    workers: int
    takers: int
    kills: tuple[float, ...]
    end: End
    ends_after: float | None
    patience: float | None
    gap: float
    shuts_after: float | None


class StrikeKind(enum.Enum):
    """What strikes."""

    KILL = "kill"
    """A thread is killed where it waits."""
    TIMEOUT = "timeout"
    """An alarm rings in a thread where it waits."""
    BEFORE = "before"
    """A function of the library raises instead of running."""
    AFTER = "after"
    """A function of the library raises when it has run."""


@dataclass(frozen=True)
class Strike:
    """An exception, from nowhere.

    Attributes:
        kind: what strikes.
        at: the step of the loop, or the call of the function, at which it does.
        which: which thread or which function it is, of however many there are: from 0 to 1.
        error: which exception it is, of those that are raised: from 0 to 1.
    """

    kind: StrikeKind
    at: int
    which: float
    error: float


@dataclass(frozen=True)
class Plan:
    """The plan of one schedule.

    Attributes:
        seed: from which it was drawn.
        faults: what the network does.
        limits: the server's.
        lives: the servers, one after the other.
        clients: the clients.
        stops: seconds after which the hub does not run, and for how many.
        cuts: seconds after which every connection is cut.
        strikes: exceptions from nowhere.
    """

    seed: int
    faults: Faults
    limits: Limits
    lives: tuple[Life, ...]
    clients: tuple[ClientPlan, ...]
    stops: tuple[tuple[float, float], ...]
    cuts: tuple[float, ...]
    strikes: tuple[Strike, ...]

    @property
    def asks(self) -> dict[int, Ask]:
        """All requests, by number."""
        return {ask.number: ask for client in self.clients for thread in client.threads for ask in thread}

    @property
    def all_limits(self) -> tuple[Limits, ...]:
        """The server's, and those of each client."""
        return self.limits, *(client.limits for client in self.clients)

    @property
    def late(self) -> float:
        """Seconds by which the hub may be late, at most."""
        hogs = sum(ask.seconds for ask in self.asks.values() if ask.task is Task.HOG)
        return hogs + sum(seconds for _, seconds in self.stops)

    @property
    def is_calm(self) -> bool:
        """Whether nothing breaks a connection but the end of a server, which drains in peace."""
        faults = self.faults
        slowest = _highest(faults.latency) + (_highest(faults.delay) if faults.delayed else 0.0)
        return not (
            faults.cut
            or faults.reset
            or self.cuts
            or self.strikes
            or any(client.ends_after is not None or client.patience is not None for client in self.clients)
            # Any other end may cut off what is being sent.
            or any(client.end is not End.DRAIN for client in self.clients)
            # A server does not know what a plain client takes, and cannot tell it of an error.
            or any(client.plain for client in self.clients)
            or any(life.end is not End.DRAIN or life.patience is not None for life in self.lives)
            or any(life.shuts_after is not None for life in self.lives)
            # A client does not know what a server takes before that has said hello.
            or any(limits.max_message <= HUGE for limits in self.all_limits)
            # In the simulation, nothing arrives while the hub does not run.
            or any(limits.stall_timeout < slowest + self.late + 0.5 for limits in self.all_limits)
        )

    @property
    def needs_pure_build(self) -> bool:
        """Whether a method of the library is to raise; compiled ones cannot be made to."""
        return any(strike.kind in (StrikeKind.BEFORE, StrikeKind.AFTER) for strike in self.strikes)

    @property
    def has_one_life(self) -> bool:
        """Whether there is one server, from before the first client to after the last one."""
        return len(self.lives) == 1


def client_name(index: int) -> str:
    """What the process of a client is called, and so the host that its server sees."""
    return f"client{index}"


def _highest(span: float | tuple[float, float]) -> float:
    return span[1] if isinstance(span, tuple) else span
