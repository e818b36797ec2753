"""An exception at every single line of the library, one run for each.

Ctrl-C and signal handlers that raise strike at any line, hub callbacks included,
and so do `RecursionError` and `MemoryError`.  `make interrupts` plays each
scenario once undisturbed and counts the line events of the library in it.  Then
it plays it again for each of them, and raises an exception just there; or, as a
signal handler may too, calls the bus once more.

A run opens a bus and arms the interrupt (`stage`); a thread plays the scenario
(`scenarios`).  Then the bus is asked again, by the same client and by a fresh one,
all is closed, what the callers were told is held against the log, and nothing may
be left behind.  Only lines of the library count; how they are traced is
`line_events`' affair.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import gevent
from gevent.resolver.blocking import Resolver

from helpers import active_watchers, wait_until
from ratchet import Ratchet
from robustness.leaks import live_greenlets, open_descriptors
from robustness.line_events import watch_lines
from robustness.scenarios import KINDS, SCENARIOS, Scenario
from robustness.stage import Failure, Interrupt, Stage, is_struck

CAST_AGAIN = "cast"
"""In place of an exception: a signal handler that casts, but not one that strikes in the hub."""


class OfASignalHandler(BaseException):
    """Any exception that a program's own signal handler may raise."""


STRIKES: tuple[type[BaseException] | None, ...] = (
    KeyboardInterrupt,
    RecursionError,
    MemoryError,
    OfASignalHandler,
    None,
)
"""None stands for a cast."""


# One run.


class Theatre:
    """What is the same for every run: where errors are reported, and what may not be left."""

    def __init__(self, directory: Path, patience: float) -> None:
        self._directory = directory
        self._patience = patience
        self._interrupt = Interrupt(KeyboardInterrupt())
        self._strange: list[str] = []
        hub: Any = gevent.get_hub()
        # gevent's own way to look up an address keeps a thread, and a watcher.
        hub.resolver = Resolver()
        hub.print_exception = self._on_hub_error
        sys.unraisablehook = self._on_unraisable
        logger = logging.getLogger("ratchet")
        logger.propagate = False
        logger.setLevel(logging.WARNING)
        logger.addHandler(_Listener(self._on_log))
        # A client whose opening was interrupted is for the collector.
        warnings.simplefilter("ignore", ResourceWarning)
        signal.signal(signal.SIGALRM, self._on_alarm)
        self._playing = ""

    def play(self, scenario: Scenario, kind: str, interrupt: Interrupt) -> list[str]:
        """One run; what did not hold in it."""
        self._interrupt, self._strange = interrupt, []
        self._playing = f"{type(scenario).__name__} on {kind}"
        # A run that spins would let no other greenlet judge it.
        signal.alarm(int(10 * self._patience) + 10)
        before = self._level()
        failures = self._strange
        stage = Stage(
            kind,
            self._directory,
            interrupt,
            self._patience,
            scenario.servers,
            scenario.retry,
            scenario.middleware,
        )
        watch_lines(interrupt.on_line, is_struck)
        try:
            self._loop(stage, scenario)
        except Failure as failure:
            failures.append(str(failure))
        finally:
            interrupt.disarm()
        try:
            self._clean_up(stage)
            del stage
            self._check_level(before)
        except Failure as failure:
            failures.append(str(failure))
        # What renders an error never fails: but for Ctrl-C, an exception within it is taken for
        # the error's own, and becomes a text.
        renders = any(where in (interrupt.place or "") for where in ("error_texts", "_log.py"))
        by_design = renders and not isinstance(interrupt.error, KeyboardInterrupt)
        lost = interrupt.error is not None and interrupt.place and not interrupt.seen
        if lost and not by_design and not failures:
            failures.append("the exception was lost")
        signal.alarm(0)
        return failures

    def _loop(self, stage: Stage, scenario: Scenario) -> None:
        """Run the scheduler, and go on when the exception comes out of it."""
        ended = stage.kernel.attach(self._play_and_check, stage, scenario)
        hub: Any = gevent.get_hub()
        main = gevent.getcurrent()
        late = hub.loop.timer(self._patience)

        def limit(_: object) -> None:
            late.start(main.throw, Failure("loop() does not return"))

        ended.rawlink(limit)
        try:
            with gevent.Timeout(8 * self._patience, Failure("it hangs")):
                self._loop_on(stage.kernel)
        finally:
            ended.unlink(limit)
            late.close()
        if not ended.ready():
            raise Failure("loop() has returned before its threads had ended")

    def _loop_on(self, kernel: Ratchet) -> None:
        while True:
            try:
                kernel.loop()
                return
            except Failure:
                raise
            except BaseException as error:
                if not self._interrupt.caught(error, "loop()"):
                    raise Failure(f"loop() raised {error!r}") from error

    def _play_and_check(self, stage: Stage, scenario: Scenario) -> None:
        if stage.kind == "broker":
            # A client does not learn whether they are there.
            wait_until(lambda: all(server.stats().connections for server in stage.servers), "the servers")
        client = stage.connect() if scenario.connects else None
        if scenario.serves:
            stage.serve(scenario.workers)
            if client is not None:
                stage.call(client, stage.request(), self._patience)
        if client is not None and stage.kind != "local":
            with gevent.Timeout(self._patience, Failure("the client does not connect")):
                while client.stats().connections < scenario.servers:
                    gevent.sleep(0.001)
        self._interrupt.act = partial(stage.cast, client)
        self._interrupt.arm()
        stage.start(scenario.play, stage, client)
        self._join(stage)
        self._interrupt.disarm()
        stage.check_endings()
        if not scenario.closes_server and not (stage.kind == "local" and scenario.closes_client):
            stage.serve()
            stage.check_works(stage.connect(), "a fresh client")
            if client is not None and not scenario.closes_client:
                stage.check_works(client, "the same client")
        stage.check_rest()
        stage.close()
        stage.check_log()

    def _join(self, stage: Stage) -> None:
        """Wait for the scenario's threads; but not for requests that only a release lets end."""
        with gevent.Timeout(self._patience, Failure("the scenario hangs")):
            while not all(thread.ready() for thread in stage.threads):
                gevent.joinall(stage.threads, timeout=0.005)
                if self._interrupt.place:
                    # Who served may be the one that was struck.
                    stage.serve()
                if stage.threads[0].ready() or self._interrupt.place:
                    stage.release.set()

    def _clean_up(self, stage: Stage) -> None:
        """Close what a failure has left, and whatever an interrupted `close` did not close."""
        with gevent.Timeout(self._patience, Failure("it cannot be closed")):
            try:
                stage.close()
                stage.kernel.close()
            except Failure:
                raise
            except BaseException as error:
                if not self._interrupt.caught(error, "close()"):
                    raise Failure(f"close() raised {error!r}") from error

    def _level(self) -> dict[str, int]:
        return {
            "greenlets": len(live_greenlets()),
            # The loop counts one short while a timer that it was not to wait for has rung.
            "watchers": max(active_watchers(), 0),
            "descriptors": open_descriptors(),
        }

    def _check_level(self, before: dict[str, int]) -> None:
        """Whatever was opened is gone."""
        # No time-out of gevent's: that would be a watcher itself.
        end = time.monotonic() + self._patience
        while True:
            after = self._level()
            left = [f"{after[what] - before[what]} {what}" for what in before if after[what] > before[what]]
            if not left:
                return
            if time.monotonic() > end:
                raise Failure(f"left behind: {', '.join(left)}")
            gevent.sleep(0.001)

    def _on_hub_error(self, context: object, type: object, value: BaseException, tb: object) -> None:
        """What gevent would print."""
        if not self._interrupt.caught(value, "the hub"):
            self._strange.append(f"the hub printed {value!r} of {context!r}")

    def _on_log(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        # Whatever a dial raises is logged as a text, and there is another one; and of JSON,
        # that it is nested too deep is the peer's fault.
        told = {"cannot connect to": Exception, "closing the connection": RecursionError}
        for text, kind in told.items():
            if str(record.msg).startswith(text) and isinstance(self._interrupt.error, kind):
                error = self._interrupt.error
        self._interrupt.caught(error, "the log")

    def _on_unraisable(self, unraisable: Any) -> None:
        # No other way leads out of `__del__`.
        in_del = getattr(unraisable.object, "__name__", "") == "__del__"
        if not self._interrupt.caught(unraisable.exc_value, "unraisable") or not in_del:
            self._strange.append(f"unraisable: {unraisable.exc_value!r} in {unraisable.object!r}")

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        print(f"{self._playing} spins; it was struck at {self._interrupt.place}", flush=True)
        sys.stderr.write("".join(traceback.format_stack(frame)))
        os._exit(1)


class _Listener(logging.Handler):
    def __init__(self, listen: Callable[[logging.LogRecord], None]) -> None:
        super().__init__()
        self._listen = listen

    def emit(self, record: logging.LogRecord) -> None:
        self._listen(record)


# All runs.


@dataclass
class Result:
    """What became of the interrupts of one scenario."""

    struck: int = 0
    failed: int = 0

    def __str__(self) -> str:
        return f"{self.struck} interrupts, {self.failed} failed"

    @classmethod
    def parse(cls, text: str) -> Result | None:
        """What `str()` has made of a result; nothing of any other text."""
        numbers = re.fullmatch(r"(\d+) interrupts, (\d+) failed", text)
        return cls(*map(int, numbers.groups())) if numbers else None

    def add(self, other: Result) -> None:
        self.struck += other.struck
        self.failed += other.failed


def sweep(
    theatre: Theatre,
    scenario: Scenario,
    kind: str,
    errors: Sequence[type[BaseException] | None],
    stride: int,
    chance: random.Random,
    most: int,
    progress: bool,
) -> Result:
    """Play a scenario once for each line event, or each one of so many, and print what failed.

    It ends early when `most` runs have failed.
    """
    name = f"{kind}, {type(scenario).__name__}"
    if not scenario.stays_connected or kind == "broker":
        # A cast would have to wait, which no signal handler may.
        errors = [error for error in errors if error is not None]
    result = Result()
    # The first run of each kind fills caches.
    theatre.play(scenario, kind, Interrupt(KeyboardInterrupt()))
    count = Interrupt(KeyboardInterrupt())
    for failure in theatre.play(scenario, kind, count):
        result.failed += 1
        print(f"{name}, undisturbed: {failure}", flush=True)
    lines = range(1 + chance.randrange(stride), count.lines + 1, stride)
    # A sample has each error in turn.
    strikes = itertools.product(lines, errors) if stride == 1 else zip(lines, itertools.cycle(errors))
    for at, error in strikes:
        interrupt = Interrupt(None if error is None else error(), at)
        failures = theatre.play(scenario, kind, interrupt)
        result.struck += interrupt.place is not None
        if failures:
            result.failed += 1
            print(f"{name}, {name_of(error)} at {interrupt.place}: {'; '.join(failures)}", flush=True)
        if progress:
            text = f"{name}: {at} of {count.lines} lines, {result.failed} failed"
            print(f"\r{text:70}", end="\r", file=sys.stderr, flush=True)
        if result.failed >= most:
            break
    return result


def name_of(error: type[BaseException] | None) -> str:
    return CAST_AGAIN if error is None else error.__name__


def sweep_all(
    scenes: Iterable[tuple[str, type[Scenario]]], errors: Sequence[type[BaseException] | None], options: Any
) -> Result:
    """Sweep one scenario after the other in this process, and print what became of each."""
    chance = random.Random(options.seed)
    total = Result()
    with tempfile.TemporaryDirectory(prefix="interrupts-") as directory:
        theatre = Theatre(Path(directory), options.patience)
        # What is there now is not looked at again for each run.
        gc.collect()
        gc.freeze()
        for kind, scenario in scenes:
            result = sweep(
                theatre,
                scenario(),
                kind,
                errors,
                options.stride,
                chance,
                options.most - total.failed,
                progress=sys.stderr.isatty(),
            )
            print(f"{kind}, {scenario.__name__}: {result}", flush=True)
            total.add(result)
            if total.failed >= options.most:
                break
    return total


def sweep_side_by_side(
    scenes: Iterable[tuple[str, type[Scenario]]], errors: Sequence[type[BaseException] | None], options: Any
) -> Result:
    """The same in a process for each scenario and error, since a run waits more than it computes."""

    def sweep_one(part: tuple[tuple[str, type[Scenario]], type[BaseException] | None]) -> Result:
        (kind, scenario), error = part
        choice = ["--kind", kind, "--scenario", scenario.__name__, "--error", name_of(error)]
        bounds = ["--stride", str(options.stride), "--seed", str(options.seed)]
        bounds += ["--patience", str(options.patience), "--most", str(options.most)]
        program = subprocess.run(
            [sys.executable, "-W", "error", "-m", "robustness.interrupts", *choice, *bounds],
            capture_output=True,
            text=True,
            check=False,
        )
        *told, last = program.stdout.splitlines() or [""]
        print(f"{name_of(error)} on", "\n".join([*told, program.stderr]).rstrip(), flush=True)
        # A process that has ended otherwise, as one that spins does, is a failure itself.
        return Result.parse(last) or Result(failed=1)

    total = Result()
    with ThreadPoolExecutor(options.jobs) as pool:
        for result in pool.map(sweep_one, itertools.product(scenes, errors)):
            total.add(result)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description="Raise an exception at every line of the library.")
    parser.add_argument("--kind", action="append", choices=KINDS, help="a kind of bus; all if none is given")
    names = [name_of(error) for error in STRIKES]
    parser.add_argument("--error", action="append", choices=names, help="what strikes; all if none is given")
    scenarios = [scenario.__name__ for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=scenarios, help="all if none is given")
    parser.add_argument("--stride", type=int, default=1, help="a sample: one line of so many")
    parser.add_argument("--seed", type=int, default=1, help="which lines a sample begins with")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds after which something hangs")
    parser.add_argument("--most", type=int, default=1_000_000, help="failures after which it ends")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes play at a time")
    options = parser.parse_args()
    errors = [error for error in STRIKES if name_of(error) in (options.error or names)]
    scenes = [
        (kind, scenario)
        for kind, scenario in itertools.product(options.kind or KINDS, SCENARIOS)
        if scenario.__name__ in (options.scenario or scenarios) and kind in scenario.kinds
    ]
    total = (sweep_side_by_side if options.jobs > 1 else sweep_all)(scenes, errors, options)
    print(total)
    sys.exit(1 if total.failed else 0)


if __name__ == "__main__":
    main()
