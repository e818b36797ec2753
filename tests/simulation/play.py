"""Playing a plan: the processes of one schedule on a network in memory, and what is held against them.

`play` is one schedule; it raises `Violation`, or whatever else went wrong.
"""

from __future__ import annotations

import hashlib
import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any, Final

from gevent.event import Event

from ratchet import Ratchet, thread
from ratchet.bus._core import faults
from ratchet.testing import World, simulate
from simulation.checks import check_journal, check_rest
from simulation.client_program import ClientProgram
from simulation.journal import ClientRecord, Journal, LifeRecord, Violation
from simulation.plan import ClientPlan, End, Life, Plan, client_name
from simulation.server_program import ServerProgram, hold_hub
from simulation.strikes import is_strike, striking
from simulation.turns import watching_turns

MOST_STEPS: Final = 200_000
"""Callbacks of the loop in one schedule; a few thousand are usual."""
_TRACE: Final = "Traceback (most recent call last):\n" + 600 * "."
"""What peers are told of every error.  A real one has the checkout's path, and is another when compiled."""
_LINGERING: Final = 5.0
"""Virtual seconds for which a socket that was closed may still see its last bytes delivered."""
_PATIENCE: Final = 900.0
"""Virtual seconds within which everything has to end."""


def play(plan: Plan, trace: Callable[[str], None] | None = None) -> Journal:
    """Play one schedule, and check it.

    Args:
        plan: what is to happen.
        trace: told of each callback of the loop.

    Returns:
        What was written down.

    Raises `Violation` for what does not hold, and whatever else goes wrong.
    """
    journal = Journal()
    with _logging_into(journal), _telling_one_trace():
        simulate(
            partial(_Schedule(plan, journal, trace).main), [plan.seed], plan.faults, max_steps=MOST_STEPS
        )
    return journal


def trace_of(plan: Plan) -> str:
    """What tells the course of one schedule from another's."""
    digest = hashlib.blake2b(digest_size=8)
    journal = play(plan, lambda step: digest.update(step.encode()))
    digest.update(repr([(number, e.kind, e.seconds) for number, e in journal.endings.items()]).encode())
    return digest.hexdigest()


class _Schedule:
    """One schedule that is being played."""

    def __init__(self, plan: Plan, journal: Journal, trace: Callable[[str], None] | None) -> None:
        self._plan = plan
        self._journal = journal
        self._trace = trace
        self._ended = Event()

    def main(self, world: World) -> None:
        """The first thread of the world."""
        plan, journal = self._plan, self._journal
        loop: Any = world.clock.loop
        if self._trace is not None:
            loop.on_step = partial(self._tell, loop)
        with striking(plan.strikes, world.clock, journal), watching_turns(journal):
            references = loop.references
            servers = thread.attach(self._run_servers, world)
            programs = [ClientProgram(client, journal, world.clock) for client in plan.clients]
            clients = [
                thread.attach(self._run_process, world, client_name(index), *pair)
                for index, pair in enumerate(zip(programs, plan.clients, strict=True))
            ]
            others = [thread.attach(self._stop_hub, world, *stop) for stop in plan.stops]
            others += [thread.attach(self._cut, world, seconds) for seconds in plan.cuts]
            self._wait_for(clients, "a client")
            self._wait_for(others, "a misfortune")
            self._ended.set()
            self._wait_for([servers], "the server")
            thread.timer(_LINGERING)
            check_rest(journal, loop, references)
        check_journal(plan, journal)

    def _wait_for(self, threads: list[Any], who: str) -> None:
        if not thread.wait_all(threads, _PATIENCE):
            dumps = "\n".join(kernel.dump() for kernel in (thread.kernel(), *self._journal.kernels))
            raise Violation(f"{who} never ends:\n{dumps}")
        for ended in threads:
            ended.get()

    def _run_servers(self, world: World) -> None:
        for life in self._plan.lives:
            # One that a strike ends has another one in its place.
            while not self._run_server(world, life) and life.ends_after is None:
                pass
            thread.timer(life.gap)

    def _run_server(self, world: World, life: Life) -> bool:
        """Run one server to its end; whether that was the planned one."""
        plan = self._plan
        program = ServerProgram(life, plan.limits, plan.asks, self._journal, world.clock, self._ended)
        self._run_process(world, "server", program, life)
        return life.end is End.KILL or not program.record.dead

    def _run_process(
        self, world: World, name: str, program: ServerProgram | ClientProgram, plan: Life | ClientPlan
    ) -> None:
        """Run a process to its end, or until it is to be killed."""
        process = world.process(name, self._surviving(program.run, program.record))
        if plan.end is End.KILL and plan.ends_after is not None:
            thread.timer(plan.ends_after)
            program.record.dead = True
            process.kill()
        else:
            process.wait()
        # What a kernel does when a process ends, its memory does here.
        try:
            program.release()
        except BaseException as error:
            if not is_strike(error):
                raise
            program.release()

    def _surviving(self, run: Callable[[], None], record: LifeRecord | ClientRecord) -> Callable[[], None]:
        """The function of a process; what strikes its threads does not end it, if there are strikes."""

        def run_first() -> None:
            try:
                run()
            except BaseException as error:
                if not is_strike(error):
                    raise
                record.dead = True

        def run_within() -> None:
            with Ratchet(errh=self._on_error) as kernel:
                kernel.attach(run_first)

        return run_within if self._plan.strikes else run

    def _on_error(self, error: BaseException, died: object) -> None:
        if not is_strike(error):
            trace = "".join(traceback.format_exception(error))
            self._journal.note(f"{died!r} died of {trace}")

    def _stop_hub(self, world: World, after: float, seconds: float) -> None:
        thread.timer(after)
        hold_hub(world.clock, seconds)

    def _cut(self, world: World, after: float) -> None:
        thread.timer(after)
        world.network.cut()

    def _tell(self, loop: Any, callback: Any) -> None:
        # Threads sleep on another class in each build.
        name = getattr(callback, "__name__", type(callback).__name__)
        assert self._trace is not None
        self._trace(f"{loop.elapsed} {name}\n")


@contextmanager
def _telling_one_trace() -> Iterator[None]:
    """Have all tracebacks that go over the network be of one size, on which the course depends."""
    module: Any = faults
    before = module.traceback
    try:
        module.traceback = SimpleNamespace(format_exception=lambda *_: [_TRACE])
        yield
    finally:
        module.traceback = before


@contextmanager
def _logging_into(journal: Journal) -> Iterator[None]:
    """Write down what the library warns of, and print nothing."""
    logger = logging.getLogger("ratchet")
    before = logger.level, logger.propagate, logger.handlers
    try:
        logger.level, logger.propagate, logger.handlers = logging.WARNING, False, [_Listener(journal)]
        yield
    finally:
        logger.level, logger.propagate, logger.handlers = before


class _Listener(logging.Handler):
    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "casts" in str(record.msg):
            self._journal.warnings.append(text)
        elif text.startswith("closing the connection of "):
            self._journal.closings.append(text)
