"""Programs of several processes, run on a network in memory, once for each seed.

The seed decides everything that is left to chance: the order in which threads run, the
faults of the network, what `random` draws.  So whatever went wrong once goes wrong again
with that seed.  A `World` is one such run.  Its processes share one process of the
operating system and one hub; what makes them separate is that each has threads and sockets
of its own, which die with it.
"""

from __future__ import annotations

import gc
import itertools
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextvars import copy_context
from random import Random
from typing import Final, Generic, ParamSpec, TypeVar, cast

import gevent
from gevent.hub import get_hub
from greenlet import GreenletExit

from ratchet._loop import AnyGreenlet
from ratchet._wait import check_hub, check_timeout
from ratchet.kernel import Ratchet, Thread, run
from ratchet.testing._connection import ConnectionEnd
from ratchet.testing._faults import Faults
from ratchet.testing._network import Network, network
from ratchet.testing._owner import Owner, owner_variable, owners_inherited
from ratchet.testing._repeatable import alone, logs_beside_time, no_garbage_collection, seeded
from ratchet.testing._shown import Shown
from ratchet.testing._time import Clock, virtual_time

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Made = TypeVar("Made")

# Callbacks after which a run is assumed never to end.
_MAX_STEPS: Final = 1_000_000
# Runs between two garbage collections, which must not happen in the middle of a run.
_RUNS_PER_COLLECTION: Final = 20

ROUGH: Final = Faults(latency=(0.0001, 0.005), delayed=0.05, delay=(0.05, 1.0), split=0.3, partial=0.05)
"""A line on which nothing is lost, but little arrives as it was sent."""


class Process(Shown, Generic[Result]):
    """A program of a `World`: a function, and the threads that it attaches.

    Made by `World.process`.  It ends when all of its threads except for the background ones
    have ended; its open sockets are closed then.

    Attributes:
        name: its name, also for `Network.partition` and `Network.cut`.
        alive: whether it has neither ended nor been killed.
    """

    _shown = ("alive", "kill", "name", "wait")

    def __init__(self, world: World, name: str, func: Callable[[], Result]) -> None:
        self.name = name
        self.alive = True
        self._hub = get_hub()
        self._network = world.network
        self._kernel = Ratchet()
        # The error that it died of, until `wait` raises it.
        self.untold_error: BaseException | None = None
        self._killed = False
        # Its ends of connections, once it is dead.
        self._dead_ends: list[ConnectionEnd] = []
        # The greenlets that it has spawned, its threads among them, numbered.
        self._spawned: weakref.WeakValueDictionary[int, AnyGreenlet] = weakref.WeakValueDictionary()
        self._numbers = itertools.count()
        self._first: Thread = _on_behalf_of(self, self._kernel.attach, func)
        # Without the owner that has started this process, if any: they do not die together.
        self._running: AnyGreenlet = _on_behalf_of(None, gevent.spawn, self._run)

    def __repr__(self) -> str:
        return f"<Process {self.name!r}: {'alive' if self.alive else 'killed' if self._killed else 'ended'}>"

    def note_spawned(self, greenlet: AnyGreenlet) -> None:
        """See `Owner`."""
        self._spawned[next(self._numbers)] = greenlet

    def wait(self, timeout: float | None = None) -> Result | None:
        """Wait until it ends; blocks.

        Returns what its function returned; None if it was killed.  Raises the error that
        it died of, and `TimeoutError` if it has not ended in time.

        Args:
            timeout: seconds to wait at most; None to wait for ever.
        """
        check_timeout(timeout)
        if not self._running.ready():
            check_hub(self._hub, self)
            self._running.join(timeout)
        if not self._running.ready():
            raise TimeoutError(f"the process {self.name!r} has not ended within {timeout} s")
        error, self.untold_error = self.untold_error, None
        if error is not None:
            raise error
        value = self._first.value
        return None if isinstance(value, GreenletExit) else cast(Result, value)

    def kill(self) -> None:
        """End it as an operating system does: close its sockets, then kill its threads; blocks.

        Nothing that these do on their way out reaches anybody.  What was sent before is
        still delivered, unless the process has left something unread: then its peer sees
        a reset.  A process that has ended is left as it is; one that was killed, and has
        not ended, is killed again.
        """
        if self._running.ready():
            return
        check_hub(self._hub, self)
        if self.alive:
            self._killed = True
            self._close_sockets()
        if owner_variable.get() is self:
            # A thread of its own cannot wait for its own end.
            gevent.spawn(self._kernel.close)
            raise GreenletExit
        self._kernel.close()
        self._running.join()

    def _run(self) -> None:
        """Run its threads to the end: a greenlet of its own."""
        try:
            # As the end of a `with`, which an interrupt just before it would skip.
            self._kernel.__exit__(None, None, None)
        except BaseException as error:
            if not self._killed:
                self.untold_error = error
        finally:
            self._close_sockets()
            gevent.killall([each for _, each in sorted(self._spawned.items())])
            # Buses that its threads have left open are closed when they read the reset.
            for end in self._dead_ends:
                end.bury()

    def _close_sockets(self) -> None:
        self.alive = False
        listeners, ends = self._network.sockets_of(self)
        self._dead_ends += ends
        for listener in listeners:
            listener.kill()
        for end in ends:
            end.kill()


def _on_behalf_of(owner: Owner | None, start: Callable[..., Made], func: Callable[[], object]) -> Made:
    """Call `start(func)` so that the greenlet that it starts has this owner."""
    context = copy_context()
    context.run(owner_variable.set, owner)
    return context.run(start, func)


class World(Shown):
    """One run of a simulation; given to its `main`.

    Attributes:
        seed: decides everything that is left to chance.
        clock: the clock, on virtual time.
        network: the network on which `bus.listen` and `bus.connect` open their sockets.
        random: a source of chance for `main` and its processes.
    """

    _shown = ("clock", "network", "process", "random", "seed")

    def __init__(self, seed: int, clock: Clock, network: Network) -> None:
        self.seed = seed
        self.clock = clock
        self.network = network
        self.random = Random(seed)
        self._hub = get_hub()
        self._processes: list[Process[object]] = []

    def process(
        self,
        name: str,
        func: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Process[Result]:
        """Start a process that calls `func(*args, **kwargs)`; does not block.

        It has a `Ratchet` of its own, which owns the threads that it attaches.  If it
        dies of an error that no `wait` raises, the run fails once `main` has returned.

        Args:
            name: its name; several may have the same.
            func: what its first thread calls.
            *args: the positional arguments of that call.
            **kwargs: its keyword arguments.

        Raises `WrongThread` after the run, and in another OS thread, as the process's own
        methods do.
        """
        check_hub(self._hub, self)
        if not isinstance(name, str) or not name or ":" in name:
            raise ValueError(f"the name of a process must be a text without a colon, not {name!r}")
        if not callable(func):
            raise TypeError(f"func must be callable, not {func!r}")
        made: Process[Result] = Process(self, name, lambda: func(*args, **kwargs))
        self._processes.append(cast("Process[object]", made))
        return made

    def end(self, error: BaseException | None) -> None:
        """Kill the processes; raise their untold errors, or add them to `error` as notes."""
        for process in self._processes:
            process.kill()
        first = error
        for process in self._processes:
            untold = process.untold_error
            if untold is not None:
                first = first or untold
                first.add_note(f"the process {process.name!r} died of {untold!r}")
        if error is None and first is not None:
            raise first


def simulate(
    main: Callable[[World], object],
    seeds: int | Iterable[int],
    faults: Faults | Callable[[Random], Faults] | None = None,
    *,
    max_steps: int = _MAX_STEPS,
) -> None:
    """Run `main(world)` once for each seed, on virtual time and a network in memory; blocks.

    `main` starts processes, waits for them, and raises if it finds something wrong.
    When it returns, the processes that are left are killed.  An error of `main`, or one of a
    process that no `wait` has raised, is raised here, with a note that names the seed; the
    remaining seeds are not run.

    Args:
        main: the program; it runs as the first thread of a `Ratchet`.
        seeds: the seeds, or their number, to count them from 0.
        faults: the faults of the network, or a function that draws them from a `Random`
            for each seed.  None for latencies of up to 5 ms, now and then up to a second,
            and bytes that arrive in other pieces than were sent; no connection is lost.
        max_steps: callbacks after which a run fails with `Livelock`.

    Raises `RuntimeError` while another OS thread runs one.

    .. code-block:: python

        from ratchet import bus, testing


        def server():
            with bus.listen("shop:80") as shop:
                shop.serve(bytes.upper)


        def main(world):
            shop = world.process("shop", server)
            with bus.connect("shop:80") as client:
                assert client.call(b"tea", timeout=60) == b"TEA"
            shop.kill()


        testing.simulate(main, seeds=10)
        print("10 runs went well")

    .. code-block:: text

        10 runs went well
    """
    if not callable(main):
        raise TypeError(f"main must be callable, not {main!r}")
    if faults is not None and not isinstance(faults, Faults) and not callable(faults):
        raise TypeError(f"faults must be Faults, a function that draws them, or None, not {faults!r}")
    if type(max_steps) is not int:
        raise TypeError(f"max_steps must be a number of callbacks, not {max_steps!r}")
    if max_steps < 1:
        raise ValueError(f"max_steps must be at least 1, not {max_steps!r}")
    with alone("simulate()"), no_garbage_collection(), logs_beside_time(), owners_inherited():
        for count, seed in enumerate(_checked(seeds), 1):
            try:
                with seeded(seed):
                    _run_once(main, seed, _faults_of(seed, faults), max_steps)
            except BaseException as error:
                error.add_note(f"seed {seed}; simulate(main, seeds=[{seed}]) replays it")
                raise
            if count % _RUNS_PER_COLLECTION == 0:
                gc.collect()


def _checked(seeds: int | Iterable[int]) -> Iterator[int]:
    """Check the seeds, and yield them one by one."""
    if isinstance(seeds, (bool, str, bytes)) or not isinstance(seeds, (int, Iterable)):
        raise TypeError(f"seeds must be whole numbers, or how many, not {seeds!r}")
    if isinstance(seeds, int) and seeds < 0:
        raise ValueError(f"seeds must not be less than 0, and are {seeds!r}")
    for seed in range(seeds) if isinstance(seeds, int) else seeds:
        if type(seed) is not int:
            raise TypeError(f"a seed must be a whole number, not {seed!r}")
        yield seed


def _faults_of(seed: int, faults: Faults | Callable[[Random], Faults] | None) -> Faults:
    if faults is None:
        return ROUGH
    if isinstance(faults, Faults):
        return faults
    drawn = faults(Random(seed))
    if not isinstance(drawn, Faults):
        raise TypeError(f"faults must return Faults, and {faults!r} returned {drawn!r}")
    return drawn


def _run_once(main: Callable[[World], object], seed: int, faults: Faults, max_steps: int) -> None:
    with virtual_time(seed) as clock, network(seed, faults) as net:
        clock.loop.max_steps = max_steps
        world = World(seed, clock, net)
        try:
            run(main, world)
        except BaseException as error:
            world.end(error)
            raise
        world.end(None)
