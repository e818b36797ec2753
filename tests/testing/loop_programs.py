"""Random programs of watchers that run on any loop of gevent's, and say in what order things happened.

A program is drawn beforehand from a seed: some watchers, and for each of their calls what
the callback does.  It goes through turns that do not wait, so nothing in it depends on
how long something takes, but for timers of a few milliseconds: those ring once a callback
has let that time go by, and before that only on a machine that is busy.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from random import Random
from typing import Any

TURNS = 14
MOST_CALLS = 250
BURN = 0.018  # seconds; more than the interval after which callbacks are put off
LATER = (0.009, 0.0105, 0.012)
FAR = 1000.0
REPEAT = 0.06  # seconds, and some more for each, so that no two ring in one instant
BURST = 70  # callbacks; more than are called in a row

KINDS = ("prepare", "check", "idle", "timer", "repeating", "io", "callback", "async")

# What a callback may do, and how often it does.
OPERATIONS = {
    "start": 30,
    "stop": 10,
    "close": 3,
    "again": 6,
    "write": 8,
    "read": 6,
    "send": 8,
    "closing": 2,
    "call": 8,
    "fail": 2,
    "burn": 2,
    "burst": 1,
    "look": 6,
    "priority": 3,
    "ref": 3,
    "feed": 3,
}


class Failure(Exception):
    """What a callback raises."""


class SystemPair:
    """Two sockets of the system's, of which one is watched."""

    def __init__(self, loop: Any) -> None:
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self._far.setblocking(False)
        self.fd = self._near.fileno()

    def write(self) -> None:
        try:
            self._far.send(b"x")
        except BlockingIOError:
            pass

    def read(self) -> None:
        try:
            self._near.recv(1)
        except BlockingIOError:
            pass

    def close(self) -> None:
        self._near.close()
        self._far.close()


class VirtualPair:
    """The same in memory."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._bytes = 0
        self.fd: int = loop.open_descriptor(lambda: 3 if self._bytes else 2)

    def write(self) -> None:
        self._bytes += 1
        self._loop.touch(self.fd)

    def read(self) -> None:
        self._bytes = max(self._bytes - 1, 0)

    def close(self) -> None:
        self._loop.close_descriptor(self.fd)


class Program:
    """A program, which can be run again and again.

    Attributes:
        pairs: how many sockets it watches.
    """

    def __init__(self, seed: int) -> None:
        random = Random(seed)
        self.pairs = random.choice((0, 1, 1, 2, 3))
        kinds = [kind for kind in KINDS if kind != "io" or self.pairs]
        self._watchers = [(random.choice(kinds), *self._options(random)) for _ in range(random.randint(2, 9))]
        count = len(self._watchers)
        self._first = [self._operation(random, count) for _ in range(random.randint(count, 3 * count))]
        # What each watcher does in each of its calls, again from the start after the last.
        self._scripts = [
            [
                [self._operation(random, count) for _ in range(random.choice((0, 0, 0, 1, 1, 2, 4)))]
                for _ in range(random.randint(1, 4))
            ]
            for _ in range(count)
        ]

    def _options(self, random: Random) -> tuple[int | None, bool, float, int, int]:
        priority = random.choice((None, None, None, 0, 1, 2, -1, -2))
        delay = random.choice((0.0, 0.0, -1.0, *LATER, FAR))
        return priority, random.random() < 0.8, delay, random.choice((1, 1, 2, 3)), random.randrange(8)

    def _operation(self, random: Random, count: int) -> tuple[str, int]:
        name = random.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        return name, random.randrange(count)

    def run(
        self,
        loop: Any,
        burn: Callable[[float], None],
        pair: Callable[[Any], Any] = SystemPair,
        look: Callable[[], object] = int,
    ) -> list[str]:
        """Run it on a loop, where `burn` lets time go by until so many seconds after the start.

        `look` is called now and then, and may see how late it is.  Returns what happened, in order.
        """
        return _Run(self._watchers, self._first, self._scripts, loop, burn, pair, look, self.pairs).run()


class _Run:
    def __init__(
        self,
        watchers: list[Any],
        first: list[Any],
        scripts: list[Any],
        loop: Any,
        burn: Callable[[float], None],
        pair: Callable[[Any], Any],
        look: Callable[[], object],
        pairs: int,
    ) -> None:
        self.trace: list[str] = []
        self._first = first
        self._scripts = scripts
        self._loop = loop
        self._let_time_go_by = burn
        self._look_at_time = look
        self._burnt = 0
        self._pairs = [pair(loop) for _ in range(pairs)]
        self._calls = [0] * len(watchers)
        self._kinds = [watcher[0] for watcher in watchers]
        self._made = watchers
        self._watched = [self._make(*watcher) for watcher in watchers]
        self._total = 0

    def _make(
        self, kind: str, priority: int | None, ref: bool, delay: float, events: int, number: int
    ) -> Any:
        loop = self._loop
        if kind == "timer":
            return loop.timer(delay, 0.0, ref, priority)
        if kind == "repeating":
            repeat = REPEAT + number * 0.00015
            return loop.timer(repeat, repeat, ref, priority)
        if kind == "io":
            return loop.io(self._pairs[number % len(self._pairs)].fd, events, ref, priority)
        if kind == "async":
            return loop.async_(ref, priority)
        if kind == "callback":
            return None
        return getattr(loop, kind)(ref, priority)

    def run(self) -> list[str]:
        self._loop.error_handler = self
        try:
            self._do(self._first)
            for turn in range(TURNS):
                self._look_at_time()
                self.trace.append(f"turn {turn}: {self._loop.activecnt}")
                self._loop.run(nowait=True)
            return self.trace
        finally:
            self._loop.error_handler = None
            for watcher in self._watched:
                if watcher is not None:
                    watcher.close()
            self._loop.destroy()
            for pair in self._pairs:
                pair.close()

    def handle_error(self, context: object, kind: type[BaseException], value: object, tb: object) -> None:
        self.trace.append(f"{kind.__name__}: {value}")

    def _called(self, number: int) -> None:
        self._total += 1
        self._look_at_time()
        script = self._scripts[number]
        call = self._calls[number]
        self._calls[number] += 1
        self.trace.append(f"{number} {self._kinds[number]}")
        if self._total < MOST_CALLS:
            self._do(script[call % len(script)])

    def _do(self, operations: list[tuple[str, int]]) -> None:
        for name, number in operations:
            self.trace.append(f"  {name} {number}")
            if name == "fail" and not self._total:
                continue
            getattr(self, f"_{name}")(number, self._watched[number])

    def _start(self, number: int, watcher: Any) -> None:
        if watcher is None:
            self._watched[number] = self._loop.run_callback(self._called, number)
        elif not hasattr(watcher, "ref"):
            watcher.stop()
            self._watched[number] = self._loop.run_callback(self._called, number)
        elif hasattr(watcher, "again"):
            if not watcher.active:
                # One that has rung has less than nothing left of its time, by how late that was.
                watcher.close()
                watcher = self._watched[number] = self._make(*self._made[number])
            # Two that are started in one instant do not ring in the order of their starts on libev.
            watcher.start(self._called, number, update=True)
        else:
            watcher.start(self._called, number)

    def _stop(self, number: int, watcher: Any) -> None:
        if watcher is not None:
            watcher.stop()

    def _close(self, number: int, watcher: Any) -> None:
        if watcher is not None:
            watcher.close()

    def _again(self, number: int, watcher: Any) -> None:
        if hasattr(watcher, "again"):
            watcher.again(self._called, number)

    def _write(self, number: int, watcher: Any) -> None:
        if self._pairs:
            self._pairs[number % len(self._pairs)].write()

    def _read(self, number: int, watcher: Any) -> None:
        if self._pairs:
            self._pairs[number % len(self._pairs)].read()

    def _closing(self, number: int, watcher: Any) -> None:
        if self._pairs:
            self.trace.append(f"  {self._loop.closing_fd(self._pairs[number % len(self._pairs)].fd)}")

    def _send(self, number: int, watcher: Any) -> None:
        if hasattr(watcher, "send"):
            watcher.send()

    def _feed(self, number: int, watcher: Any) -> None:
        if hasattr(watcher, "feed") and not hasattr(watcher, "send"):
            watcher.feed(0x100, self._called, number)

    def _call(self, number: int, watcher: Any) -> None:
        self._loop.run_callback(self._called, number)

    def _fail(self, number: int, watcher: Any) -> None:
        raise Failure(number)

    def _burn(self, number: int, watcher: Any) -> None:
        self._burnt += 1
        self._let_time_go_by(self._burnt * BURN)

    def _burst(self, number: int, watcher: Any) -> None:
        for _ in range(BURST):
            self._loop.run_callback(self.trace.append, f"  burst {number}")

    def _look(self, number: int, watcher: Any) -> None:
        state = "" if watcher is None else f" {getattr(watcher, 'active', '')} {watcher.pending}"
        self.trace.append(f"  {self._loop.activecnt} {self._loop.pendingcnt}{state}")

    def _priority(self, number: int, watcher: Any) -> None:
        # That of a pending one must not be changed, says libev, and gevent does not look.
        if hasattr(watcher, "priority") and not watcher.pending:
            try:
                watcher.priority = number % 5 - 2
            except AttributeError:
                self.trace.append("  no")

    def _ref(self, number: int, watcher: Any) -> None:
        if hasattr(watcher, "ref"):
            watcher.ref = not watcher.ref
            self.trace.append(f"  {watcher.ref}")
