"""The plan of one schedule, drawn from its seed: who does what and when, and what goes wrong.

All is drawn beforehand, so that a plan can be printed, and cut down to what a failure
takes.  Sizes, bounds and times are uneven on purpose: with too uniform ones, whole kinds
of bugs never show.  Nothing here runs anything.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from random import Random
from typing import Final

from ratchet.bus import Limits
from ratchet.testing import Faults

HUGE: Final = 80_000
"""Bytes of a message that is sent in pieces; see `wire.WORTH_NO_COPY`."""


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
    """

    plain: bool
    limits: Limits
    threads: tuple[tuple[Ask, ...], ...]
    kills: tuple[tuple[float, int], ...]
    end: End
    ends_after: float | None
    patience: float | None


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
    def has_one_life(self) -> bool:
        """Whether there is one server, from before the first client to after the last one."""
        return len(self.lives) == 1


def _highest(span: float | tuple[float, float]) -> float:
    return span[1] if isinstance(span, tuple) else span


_SENDING: Final = (Act.CALL, Act.CALL, Act.SEND, Act.LATER, Act.LATER)


def draw(seed: int) -> Plan:
    """Draw the plan of a schedule."""
    return _Draw(seed).plan()


class _Draw:
    """One drawing."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # Not the seed itself, from which the network and the order of things are drawn.
        self._random = random = Random(f"plan {seed}")
        self._number = 0
        self._casting = 0.0
        # A part of all schedules goes without broken lines, so that more can be asked of them.
        self._rough = random.random() < 0.6
        self._calm = not self._rough and random.random() < 0.8
        self._ends_early = random.random() < 0.5
        # Nothing is taken from some moment on, so everything needs a time-out.
        self._shuts = not self._calm and random.random() < 0.1
        # How many are in a hurry, or change their minds.
        self._pauses = (0.005, 0.05) if self._calm else (0.005, 0.05, 1.0, 40.0)
        self._hurry = random.choice((0.0, 0.4, 1.0))
        self._scale = random.choice((0, 30, 300, 3000, 3000, 30_000))
        self._max_message = random.choice((1 << 24, 1 << 24, max(100, self._scale // 2)))
        if self._calm:
            self._max_message = 1 << 24
        self._long = random.choice((0.01, 0.3, 0.3, 2.0, 5.0))
        self._plain = 0.0 if self._calm else random.choice((0.0, 0.0, 0.3, 0.3, 1.0))
        self._tasks = [Task.RETURN, Task.RETURN, Task.SLEEP, Task.SLEEP, Task.YIELD, Task.RAISE, Task.DROP]
        if not self._calm or self._long < 0.1:
            self._tasks += random.choice(([], [], [Task.HOG], [Task.UNREADABLE, Task.UNWRITABLE]))

    def plan(self) -> Plan:
        random = self._random
        return Plan(
            seed=self._seed,
            faults=self._faults(),
            limits=self._limits(),
            lives=self._lives(),
            clients=tuple(self._client() for _ in range(random.choice((1, 1, 2, 2, 3)))),
            stops=tuple((self._moment(), random.choice(self._pauses)) for _ in self._few(0.15)),
            cuts=tuple(self._moment() for _ in self._few(0.1)) if self._rough else (),
            strikes=self._strikes() if self._rough and random.random() < 0.5 else (),
        )

    def _few(self, probability: float) -> range:
        """As many as there are of something: mostly none, else one or two."""
        random = self._random
        return range(random.choice((1, 1, 2)) if random.random() < probability else 0)

    def _moment(self) -> float:
        """Seconds from the beginning, of something that is to strike while much goes on."""
        return float(self._random.choice((0.02, 0.5, 3.0)) * self._random.random())

    def _size(self) -> int:
        """Bytes of a message: mostly few, now and then many, or more than the limit."""
        random = self._random
        if random.random() < 0.02 and (self._scale >= 3000 or self._max_message < HUGE):
            return min(self._max_message + random.randrange(-2, 100), HUGE)
        return int(self._scale ** random.random()) if random.random() < 0.6 else 0

    def _faults(self) -> Faults:
        random, rough = self._random, self._rough
        # Large messages through small buffers take many steps, and show nothing more.
        buffers = [size for size in (50, 300, 4096, 65536) if 10 * size >= self._scale]
        return Faults(
            latency=random.choice(((0.0, 0.0), (0.0001, 0.005), (0.0001, 0.005), (0.001, 0.3))),
            delayed=random.choice((0.0, 0.05, 0.3)),
            delay=(0.05, 1.0) if self._calm else random.choice(((0.05, 1.0), (0.05, 3.0))),
            split=random.choice((0.0, 0.3, 0.9)),
            partial=random.choice((0.0, 0.1, 0.5)),
            refused=random.choice((0.0, 0.3)),
            cut=random.choice((0.0, 0.1, 0.3)) if rough else 0.0,
            reset=random.choice((0.0, 0.1, 0.3)) if rough else 0.0,
            lost_at=(0, random.choice((100, 2000, 10 * self._scale + 100))),
            send_buffer=random.choice(buffers),
            receive_buffer=random.choice(buffers),
        )

    def _limits(self) -> Limits:
        random = self._random
        return Limits(
            max_message=self._max_message,
            max_in_flight=random.choice((1, 2, 5, 1024)),
            max_queued=random.choice((1, 2, 4, 10_000)),
            high_water=random.choice((1, 300, 3000, 1 << 20)),
            stall_timeout=random.choice((2.0, 30.0)),
        )

    def _lives(self) -> tuple[Life, ...]:
        random = self._random
        lives = [self._life(last=False) for _ in range(random.choice((1, 1, 2)))] if self._ends_early else []
        return (*lives, self._life(last=True))

    def _life(self, last: bool) -> Life:
        random = self._random
        rough = self._rough and not last
        workers, takers = random.choice(((1, 0), (2, 0), (4, 0), (0, 1), (0, 3), (1, 1)))
        if self._shuts:
            workers, takers = 0, 2
        ends = (End.DRAIN, End.DRAIN, End.CLOSE, End.LEAVE, End.KILL) if rough else (End.DRAIN,)
        return Life(
            workers=workers,
            takers=takers,
            kills=tuple(self._moment() for _ in self._few(0.2)),
            end=random.choice(ends),
            ends_after=None if last else self._moment(),
            patience=random.choice((None, 0.0, 0.5, 20.0)) if rough else None,
            gap=random.choice((0.0, 0.01, 1.0)),
            shuts_after=self._moment() if self._shuts else None,
        )

    def _client(self) -> ClientPlan:
        random = self._random
        self._casting = random.choice((0.1, 0.1, 0.1, 0.9))
        threads = tuple(self._thread() for _ in range(random.choice((1, 2, 2, 4))))
        rough = self._rough and random.random() < 0.4
        end = End.DRAIN if self._calm else random.choice(tuple(End) if rough else (End.LEAVE, End.CLOSE))
        early = end is End.KILL or (rough and random.random() < 0.5)
        return ClientPlan(
            plain=random.random() < self._plain,
            limits=Limits(
                max_message=random.choice((1 << 24, self._max_message)),
                high_water=random.choice((1, 300, 1 << 20)),
                stall_timeout=random.choice((2.0, 30.0)),
            ),
            threads=threads,
            kills=tuple((self._moment(), random.randrange(len(threads))) for _ in self._few(0.2)),
            end=end,
            ends_after=self._moment() if early else None,
            # A server that takes nothing may never read what is to be delivered.
            patience=random.choice((None, 0.0, 1.0))
            if rough and not self._shuts
            else 5.0
            if self._shuts
            else None,
        )

    def _thread(self) -> tuple[Ask, ...]:
        return tuple(self._ask() for _ in range(self._random.choice((1, 3, 8, 14))))

    def _ask(self) -> Ask:
        random = self._random
        self._number += 1
        timeout = random.choice((None, None, None, 0.05, 0.5, 1.0, 5.0, 5.0, 300.0))
        if random.random() < 0.03:
            timeout = 0.0
        if random.random() >= self._hurry and not self._shuts:
            timeout = None
        return Ask(
            number=self._number,
            act=Act.CAST if random.random() < self._casting else random.choice(_SENDING),
            size=self._size(),
            pause=random.choice((0.0, 0.0, 0.0, 0.01, 0.5)) * random.random(),
            timeout=1.0 if self._shuts and (timeout is None or timeout > 5.0) else timeout,
            cancel_after=random.choice((0.0, 0.003, 1.0)) * random.random()
            if random.random() < 0.3 * self._hurry
            else None,
            waiters=random.choice((0, 0, 0, 1, 2)),
            parts=random.choice((0, 0, 0, 1, 3)),
            task=random.choice(self._tasks),
            seconds=self._long * random.random(),
            answer_size=self._size(),
        )

    def _strikes(self) -> tuple[Strike, ...]:
        """One in the library, for it promises nothing of a second one in its repair; or some in threads."""
        if self._random.random() < 0.7:
            return (self._strike(StrikeKind.BEFORE, StrikeKind.AFTER),)
        return tuple(self._strike(StrikeKind.KILL, StrikeKind.TIMEOUT) for _ in range(1, 3))

    def _strike(self, *kinds: StrikeKind) -> Strike:
        random = self._random
        return Strike(
            kind=random.choice(kinds),
            at=int(random.choice((5, 20, 200, 3000)) * random.random()),
            which=random.random(),
            error=random.random(),
        )
