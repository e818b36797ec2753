"""Drawing the plan of a schedule from its seed.

All is drawn beforehand, so that a plan can be printed.  Sizes, bounds and times are uneven
on purpose: with too uniform ones, whole kinds of bugs never show.  Whoever changes what is
drawn gives every seed another plan, and has to look for the seeds of the corpus anew.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Final

from ratchet.bus import Limits, Retry
from ratchet.testing import Faults
from simulation.plan import HUGE, Act, Ask, ClientPlan, End, Life, Plan, Strike, StrikeKind, Task

_SENDING: Final = (Act.CALL, Act.CALL, Act.SEND, Act.LATER, Act.LATER)


def draw(seed: int) -> Plan:
    """Draw the plan of a schedule, whose clients send nothing again."""
    return _Draw(seed).plan()


def draw_retrying(seed: int) -> Plan:
    """Draw the same plan, but some of its clients send requests again by themselves."""
    # Apart from the rest, so that both have the same seeds.
    random = Random(f"retry {seed}")
    plan = draw(seed)
    return replace(plan, clients=tuple(_retrying(client, random) for client in plan.clients))


def _retrying(client: ClientPlan, random: Random) -> ClientPlan:
    if random.random() < 0.2:
        return client
    share = random.choice((0.0, 0.5, 1.0))
    return replace(
        client,
        retry=Retry(
            attempts=random.choice((2, 3, 3, 10)),
            back_off=random.choice((0.0, 0.001, 0.05, 1.0)),
            most=random.choice((0.01, 2.0)),
            budget=random.choice((0.0, 0.1, 0.1, 1.0)),
        ),
        threads=tuple(
            tuple(
                replace(ask, idempotent=ask.act is not Act.CAST and random.random() < share) for ask in asks
            )
            for asks in client.threads
        ),
    )


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
        self._pauses = (0.005, 0.05) if self._calm else (0.005, 0.05, 1.0, 40.0)
        # How many are in a hurry, or change their minds.
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
        # Apart from the rest, so that older seeds keep their plans.
        room = Random(f"room {self._seed}")
        return Limits(
            max_message=self._max_message,
            max_queued_bytes=room.choice((1, 20_000, 1 << 26)),
            max_connections=10_000 if self._calm else room.choice((1, 2, 10_000, 10_000)),
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
