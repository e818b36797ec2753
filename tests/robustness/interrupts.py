"""An exception at every single line of the library, one run for each.

Ctrl-C and signal handlers that raise strike at any line, hub callbacks included,
and so do `RecursionError` and `MemoryError`.  `make interrupts` plays each
scenario once undisturbed and counts the line events of the library in it.  Then
it plays it again for each of them, and raises an exception just there.

A run opens a bus and arms the interrupt; a thread plays the scenario, and writes
down how each request ended.  The handler first writes to a log that it was
called.  Then the bus is asked again, by the same client and by a fresh one, all
is closed, and what the clients were told is held against the log.

Only lines of the library count; this module's own lines are never struck.  How
lines are traced is `line_events`' affair.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import logging
import os
import random
import signal
import socket
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import gevent
from gevent.event import Event
from gevent.resolver.blocking import Resolver

from contract.buses import client_tls, is_plain, server_tls
from helpers import PACKAGE, active_watchers
from ratchet import BusError, ConnectionLost, Outcome, Ratchet, Rejected, RemoteError
from ratchet import bus as ratchet_bus
from robustness.leaks import live_greenlets, open_descriptors
from robustness.line_events import watch_lines

KINDS = ("local", "tcp", "unix", "tls", "tcp-plain")

SMALL, LARGE = 20, 300_000
"""Bytes of a request, and of its response."""

_LIBRARY = str(PACKAGE) + os.sep
_SHELL = os.path.join(_LIBRARY, "cli") + os.sep

ANSWERED = "answered"
CAST = "cast"
INTERRUPTED = "interrupted"
"""Its caller got the exception that struck, and so was told nothing."""


class OfASignalHandler(BaseException):
    """Any exception that a program's own signal handler may raise."""


ERRORS: tuple[type[BaseException], ...] = (KeyboardInterrupt, RecursionError, MemoryError, OfASignalHandler)


class Failure(Exception):
    """Something that must hold does not."""


class Interrupt:
    """Raises `error` once, at line event number `at` of the library; at none if that is 0.

    Attributes:
        lines: how many line events there were while it was armed.
        place: where it struck: the file, the line and the function.
        seen: by whom it was seen afterwards.
    """

    def __init__(self, error: BaseException, at: int = 0) -> None:
        self.error = error
        self.lines = 0
        self.place: str | None = None
        self.seen: list[str] = []
        self._at = at
        self._armed = False

    def arm(self) -> None:
        self._armed = True

    def disarm(self) -> None:
        self._armed = False

    def on_line(self, code: CodeType, line: int) -> None:
        if not self._armed:
            return
        self.lines += 1
        if self.lines == self._at:
            self._armed = False
            in_hub = ", in the hub" if gevent.getcurrent() is gevent.get_hub() else ""
            file = code.co_filename.removeprefix(_LIBRARY)
            self.place = f"{file}:{line}, {code.co_qualname}{in_hub}"
            raise self.error

    def is_in(self, error: BaseException | None) -> bool:
        """Whether `error` is the exception, or was made from it."""
        while error is not None:
            if error is self.error or getattr(error, "remote_type", None) == type(self.error).__name__:
                return True
            error = error.__cause__ or error.__context__
        return False

    def caught(self, error: BaseException | None, by: str) -> bool:
        """Note that `by` got `error`, if it is the exception; whether it is."""
        if not self.is_in(error):
            return False
        self.seen.append(by)
        # A traceback keeps what the struck frames hold.
        self.error.__traceback__ = self.error.__context__ = None
        return True


def is_struck(code: CodeType) -> bool:
    """Whether the lines of a code object count: those of the bus and of the scheduler."""
    return code.co_filename.startswith(_LIBRARY) and not code.co_filename.startswith(_SHELL)


@dataclass
class Attempt:
    """A request of the scenario, and how it ended, as far as its caller was told."""

    body: bytes
    ending: str | None = None


class Stage:
    """A bus of one kind, the requests that were made of it, and the log of those that ran."""

    def __init__(self, kind: str, directory: Path, interrupt: Interrupt, patience: float) -> None:
        self.kind = kind
        self.interrupt = interrupt
        self.patience = patience
        self.kernel = Ratchet()
        self.attempts: list[Attempt] = []
        self.sent: list[tuple[Attempt, Any]] = []
        self.log: list[bytes] = []
        self.threads: list[gevent.Greenlet[Any, Any]] = []
        # Set when a handler that waits has begun, and when it may end.
        self.begun, self.release = Event(), Event()
        self._descriptors = set(os.listdir("/proc/self/fd"))
        self._serving: gevent.Greenlet[Any, Any] | None = None
        self._numbers = itertools.count()
        self.clients: list[Any] = []
        self.server: Any
        if kind == "local":
            self.server = ratchet_bus.new_local()[0]
        else:
            address = f"unix:{directory}/bus" if kind == "unix" else "127.0.0.1:0"
            self.server = ratchet_bus.listen(address, ssl_context=server_tls(kind))

    # What a scenario does.

    def connect(self) -> Any:
        """One more client; on a local bus, the same object again."""
        client: Any = self.server
        if self.kind != "local":
            client = ratchet_bus.connect(
                self.server.address, plain=is_plain(self.kind), ssl_context=client_tls(self.kind)
            )
        self.clients.append(client)
        return client

    def serve(self, workers: int = 4) -> None:
        """Have the server's requests handled, unless they are already."""
        if self._serving is None or self._serving.ready():
            self._serving = self.kernel.attach_background(self.server.serve, self.handle, workers)

    def handle(self, body: bytes) -> bytes:
        self.log.append(body)
        if body[8:9] == b"w":
            self.begun.set()
            self.release.wait(self.patience)
        return body

    def start(self, func: Callable[..., object], *args: Any) -> None:
        """Start one more thread of the scenario."""
        self.threads.append(self.kernel.attach(self._guarded, func, *args))

    def start_background(self, func: Callable[..., object], *args: Any) -> None:
        """The same, but its end is not waited for."""
        self.kernel.attach_background(self._guarded, func, *args)

    def request(self, size: int = SMALL, waits: bool = False) -> Attempt:
        """A new request; the handler of one that `waits` ends when it is released."""
        head = b"%08d%s" % (next(self._numbers), b"w" if waits else b"e")
        self.attempts.append(Attempt(head.ljust(size, b".")))
        return self.attempts[-1]

    def call(self, client: Any, attempt: Attempt, timeout: float | None = None) -> None:
        with self._ending_of(attempt):
            self._check_answer(attempt, client.call(attempt.body, timeout))

    def cast(self, client: Any) -> None:
        attempt = self.request()
        with self._ending_of(attempt):
            client.cast(attempt.body)
            attempt.ending = CAST

    def send(self, client: Any, attempt: Attempt) -> Any:
        transaction = None
        with self._ending_of(attempt):
            transaction = client.send_request(attempt.body)
            self.sent.append((attempt, transaction))
        return transaction

    def receive(self, attempt: Attempt, transaction: Any, timeout: float | None = None) -> None:
        with self._ending_of(attempt):
            self._check_answer(attempt, transaction.recv_response(timeout))

    def wait_until_begun(self) -> None:
        """Until a handler waits; or it is clear that none will."""
        self.begun.wait(0.1 if self.interrupt.place else self.patience)

    def let_arrive(self) -> None:
        """Give what was written the time to be read; nothing depends on whether it was enough."""
        gevent.sleep(0.001)

    def cut(self) -> None:
        """Break every connection, as a network does that goes down."""
        for name in set(os.listdir("/proc/self/fd")) - self._descriptors:
            try:
                copy = os.dup(int(name))
            except OSError:
                continue
            try:
                with socket.socket(fileno=copy) as connection:
                    connection.getpeername()
                    connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                # It is no socket, or one that listens.
                continue

    def _guarded(self, func: Callable[..., object], *args: Any) -> None:
        try:
            func(*args)
        except BaseException as error:
            if not self.interrupt.caught(error, "the caller"):
                raise

    @contextmanager
    def _ending_of(self, attempt: Attempt) -> Iterator[None]:
        try:
            yield
        except BusError as error:
            self.interrupt.caught(error, "the caller")
            attempt.ending = str(error.outcome)
        except BaseException as error:
            if attempt.ending is None and self.interrupt.is_in(error):
                attempt.ending = INTERRUPTED
            raise

    def _check_answer(self, attempt: Attempt, answer: bytes) -> None:
        attempt.ending = ANSWERED
        if answer != attempt.body:
            raise Failure(f"the request {shown(attempt.body)} was answered with {shown(answer)}")

    # What must hold afterwards.

    def check_endings(self) -> None:
        """Every thread has ended, and so has every transaction."""
        self.release.set()
        for thread in self.threads:
            thread.join(self.patience)
            if not thread.ready():
                raise Failure(f"a thread hangs: {thread!r}")
        for attempt, transaction in self.sent:
            if attempt.ending not in (None, INTERRUPTED):
                continue
            attempt.ending = None
            self.receive(attempt, transaction, self.patience)
            if not transaction.done:
                raise Failure(f"the request {shown(attempt.body)} hangs: {transaction!r}")

    def check_works(self, client: Any, who: str) -> None:
        """The bus answers small and large messages."""
        for size in (SMALL, LARGE):
            for _ in range(4):
                attempt = self.request(size)
                try:
                    self._check_answer(attempt, client.call(attempt.body, self.patience))
                except (ConnectionLost, Rejected, RemoteError) as error:
                    # What was half done may end its connection, in this very moment.
                    attempt.ending = str(error.outcome)
                    last: BusError = error
                    gevent.sleep(0.01)
                except BusError as error:
                    raise Failure(f"{who} is not answered: {error!r}") from None
                else:
                    break
            else:
                raise Failure(f"{who} is not answered: {last!r}")

    def check_rest(self) -> None:
        """Nothing is open any more."""
        for side in {self.server, *self.clients}:
            with gevent.Timeout(self.patience, Failure(f"requests are left: {side!r}")):
                while side.stats().queued or side.stats().in_flight:
                    gevent.sleep(0.001)

    def close(self) -> None:
        for side in (*self.clients, self.server):
            side.close()

    def check_log(self) -> None:
        """What the callers were told is true."""
        ran = Counter(self.log)
        known = {attempt.body for attempt in self.attempts}
        for body in ran:
            if body not in known:
                raise Failure(f"a strange request ran: {shown(body)}")
        for attempt in self.attempts:
            times, ending = ran[attempt.body], attempt.ending
            text = f"the request {shown(attempt.body)} ran {times} times and ended in {ending}"
            if times > 1:
                raise Failure(text)
            if ending in (Outcome.NOT_SENT, Outcome.NOT_RUN) and times:
                raise Failure(text)
            if ending in (Outcome.RAN, ANSWERED) and not times:
                raise Failure(text)


def shown(body: bytes) -> str:
    return f"{body[:12]!r}.. of {len(body)} bytes"


# The scenarios.


class Scenario:
    """What happens while the interrupt is armed."""

    on_local = True
    serves = True
    # Whether a client that is connected is there when it begins.
    connects = True
    closes_server = False
    closes_client = False
    workers = 4

    def play(self, stage: Stage, client: Any) -> None:
        raise NotImplementedError


class Call(Scenario):
    """A call that `serve` answers."""

    def play(self, stage: Stage, client: Any) -> None:
        stage.call(client, stage.request())


class LargeCall(Scenario):
    """Large and small messages at once, so that frames follow each other closely."""

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(LARGE))
        stage.start(stage.call, client, stage.request())
        stage.cast(client)
        stage.call(client, stage.request(LARGE))


class Casts(Scenario):
    """Casts, and a call behind them."""

    def play(self, stage: Stage, client: Any) -> None:
        for _ in range(3):
            stage.cast(client)
        stage.call(client, stage.request())


class CancelQueued(Scenario):
    """A request is cancelled that waits behind another one."""

    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.send(client, stage.request(waits=True))
        stage.wait_until_begun()
        attempt = stage.request()
        transaction = stage.send(client, attempt)
        stage.let_arrive()
        transaction.cancel()
        stage.receive(attempt, transaction)
        stage.release.set()


class CancelRunning(Scenario):
    """A request is cancelled while its handler runs."""

    def play(self, stage: Stage, client: Any) -> None:
        attempt = stage.request(waits=True)
        transaction = stage.send(client, attempt)
        stage.wait_until_begun()
        transaction.cancel()
        stage.receive(attempt, transaction)


class TimeOut(Scenario):
    """The time of two requests is over: of one that is handled, and of one that waits."""

    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True), 0.005)
        stage.call(client, stage.request(), 0.004)


class ByHand(Scenario):
    """A thread takes requests and answers them itself, in each of the ways there are."""

    serves = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start_background(self._take, stage)
        for _ in range(4):
            stage.start(stage.call, client, stage.request())
        stage.call(client, stage.request())

    def _take(self, stage: Stage) -> None:
        ways = iter((self._respond, self._fail, self._respond_within, self._leave, self._raise))
        for transaction, body in stage.server:
            stage.log.append(body)
            next(ways, self._respond)(transaction, body)
            # One that is not answered is to be dropped at once.
            del transaction

    def _respond(self, transaction: Any, body: bytes) -> None:
        transaction.send_response(body)

    def _fail(self, transaction: Any, body: bytes) -> None:
        transaction.send_error(ValueError("an error of the handler"))

    def _respond_within(self, transaction: Any, body: bytes) -> None:
        with transaction:
            transaction.send_response(body)

    def _leave(self, transaction: Any, body: bytes) -> None:
        with transaction:
            pass

    def _raise(self, transaction: Any, body: bytes) -> None:
        with transaction:
            raise ValueError("an error of the handler")


class Connect(Scenario):
    """A client is opened, calls, and is closed."""

    on_local = False
    connects = False

    def play(self, stage: Stage, client: Any) -> None:
        opened = stage.connect()
        stage.call(opened, stage.request())
        opened.close()


class Lost(Scenario):
    """The connection breaks with requests in flight; then there is another one."""

    on_local = False

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True))
        stage.start(stage.call, client, stage.request(LARGE))
        stage.wait_until_begun()
        stage.cut()
        stage.let_arrive()
        stage.call(client, stage.request())


class CloseClient(Scenario):
    """The client is closed with requests in flight."""

    closes_client = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True))
        stage.wait_until_begun()
        stage.cast(client)
        stage.send(client, stage.request())
        client.close()


class DrainClient(Scenario):
    """The client is drained with requests in flight."""

    on_local = False
    closes_client = True

    def play(self, stage: Stage, client: Any) -> None:
        stage.send(client, stage.request())
        stage.cast(client)
        client.drain(stage.patience)


class CloseServer(Scenario):
    """The server is closed with requests in flight and in the queue."""

    closes_server = True
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True))
        stage.wait_until_begun()
        stage.send(client, stage.request())
        stage.let_arrive()
        stage.server.close()


class DrainServer(Scenario):
    """The server is drained with requests in flight and in the queue."""

    closes_server = True
    workers = 1

    def play(self, stage: Stage, client: Any) -> None:
        stage.start(stage.call, client, stage.request(waits=True))
        stage.wait_until_begun()
        stage.send(client, stage.request())
        stage.let_arrive()
        stage.start(stage.release.set)
        stage.server.drain(stage.patience)


SCENARIOS: tuple[type[Scenario], ...] = (
    Call,
    LargeCall,
    Casts,
    CancelQueued,
    CancelRunning,
    TimeOut,
    ByHand,
    Connect,
    Lost,
    CloseClient,
    DrainClient,
    CloseServer,
    DrainServer,
)


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
        stage = Stage(kind, self._directory, interrupt, self._patience)
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
        if interrupt.place and not interrupt.seen and not failures:
            failures.append("the exception was lost")
        signal.alarm(0)
        return failures

    def _loop(self, stage: Stage, scenario: Scenario) -> None:
        """Run the scheduler, and go on when the exception comes out of it."""
        ended = stage.kernel.attach(self._play_and_check, stage, scenario)
        hub: Any = gevent.get_hub()
        main = gevent.getcurrent()
        with gevent.Timeout(8 * self._patience, Failure("it hangs")), hub.loop.timer(self._patience) as late:
            ended.rawlink(lambda _: late.start(main.throw, Failure("loop() does not return")))
            while True:
                try:
                    stage.kernel.loop()
                    break
                except Failure:
                    raise
                except BaseException as error:
                    if not self._interrupt.caught(error, "loop()"):
                        raise Failure(f"loop() raised {error!r}") from error
        if not ended.ready():
            raise Failure("loop() has returned before its threads had ended")

    def _play_and_check(self, stage: Stage, scenario: Scenario) -> None:
        client = stage.connect() if scenario.connects else None
        if scenario.serves:
            stage.serve(scenario.workers)
            if client is not None:
                stage.call(client, stage.request(), self._patience)
        elif client is not None and stage.kind != "local":
            with gevent.Timeout(self._patience, Failure("the client does not connect")):
                while not client.stats().connections:
                    gevent.sleep(0.001)
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
            "watchers": active_watchers(),
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

    def _on_log(self, error: BaseException | None) -> None:
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
    def __init__(self, listen: Callable[[BaseException | None], None]) -> None:
        super().__init__()
        self._listen = listen

    def emit(self, record: logging.LogRecord) -> None:
        self._listen(record.exc_info[1] if record.exc_info else None)


# All runs.


@dataclass
class Result:
    """What became of the interrupts of one scenario."""

    struck: int = 0
    failed: int = 0

    def add(self, other: Result) -> None:
        self.struck += other.struck
        self.failed += other.failed


def sweep(
    theatre: Theatre,
    scenario: Scenario,
    kind: str,
    errors: tuple[type[BaseException], ...],
    stride: int,
    chance: random.Random,
    most: int,
    progress: bool,
) -> Result:
    """Play a scenario once for each line event, or each one of so many, and print what failed.

    It ends early when `most` runs have failed.
    """
    name = f"{kind}, {type(scenario).__name__}"
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
        interrupt = Interrupt(error(), at)
        failures = theatre.play(scenario, kind, interrupt)
        result.struck += interrupt.place is not None
        if failures:
            result.failed += 1
            print(f"{name}, {error.__name__} at {interrupt.place}: {'; '.join(failures)}", flush=True)
        if progress:
            text = f"{name}: {at} of {count.lines} lines, {result.failed} failed"
            print(f"\r{text:70}", end="\r", file=sys.stderr, flush=True)
        if result.failed >= most:
            break
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Raise an exception at every line of the library.")
    parser.add_argument("--kind", action="append", choices=KINDS, help="a kind of bus; all if none is given")
    names = [error.__name__ for error in ERRORS]
    parser.add_argument("--error", action="append", choices=names, help="an exception; all if none is given")
    scenarios = [scenario.__name__ for scenario in SCENARIOS]
    parser.add_argument("--scenario", action="append", choices=scenarios, help="all if none is given")
    parser.add_argument("--stride", type=int, default=1, help="a sample: one line of so many")
    parser.add_argument("--seed", type=int, default=1, help="which lines a sample begins with")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds after which something hangs")
    parser.add_argument("--most", type=int, default=1_000_000, help="failures after which it ends")
    options = parser.parse_args()
    errors = tuple(error for error in ERRORS if error.__name__ in (options.error or names))
    chance = random.Random(options.seed)
    total = Result()
    with tempfile.TemporaryDirectory(prefix="interrupts-") as directory:
        theatre = Theatre(Path(directory), options.patience)
        # What is there now is not looked at again for each run.
        gc.collect()
        gc.freeze()
        for kind, scenario in itertools.product(options.kind or KINDS, SCENARIOS):
            if scenario.__name__ not in (options.scenario or scenarios):
                continue
            if kind == "local" and not scenario.on_local:
                continue
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
            print(
                f"{kind}, {scenario.__name__}: {result.struck} interrupts, {result.failed} failed", flush=True
            )
            total.add(result)
            if total.failed >= options.most:
                break
    print(f"{total.struck} interrupts, {total.failed} failed")
    sys.exit(1 if total.failed else 0)


if __name__ == "__main__":
    main()
