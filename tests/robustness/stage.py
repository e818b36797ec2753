"""The stage of one run of `robustness.interrupts`: an open bus, an interrupt, and what is written down.

The interrupt strikes once, at a given line of the library.  The scenario makes
its requests by way of the stage, which notes how each ended, as far as its caller
was told.  The handler first writes to a log that it was called.  Afterwards the
stage checks that the bus answers, that nothing is open, and that what the callers
were told is true.  It starts and judges no run.
"""

from __future__ import annotations

import itertools
import os
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import CodeType
from typing import Any

import gevent
from gevent.event import Event

from broker.small_broker import SmallBroker
from contract.buses import client_tls, is_plain, server_tls
from helpers import PACKAGE
from ratchet import Abandoned, BusError, ConnectionLost, Outcome, Ratchet, Rejected, RemoteError
from ratchet import bus as ratchet_bus
from ratchet.bus import Codec, Retry

SMALL, LARGE = 20, 300_000
"""Bytes of a request, and of its response."""

PLAIN, WAITS, REFUSED, UNREADABLE = b"-", b"w", b"r", b"u"
"""What becomes of a request: nothing in particular; its handler waits until it is released; it is not run
the first time, and its client is told so; its codec fails."""

_LIBRARY = str(PACKAGE) + os.sep
_SHELL = os.path.join(_LIBRARY, "cli") + os.sep

ANSWERED = "answered"
CAST = "cast"
INTERRUPTED = "interrupted"
"""Its caller got the exception that struck, and so was told nothing."""


class Failure(Exception):
    """Something that must hold does not."""


class Interrupt:
    """Raises `error` once, at line event number `at` of the library; at none if that is 0.

    Attributes:
        act: what is done in place of raising an error, if there is none.
        lines: how many line events there were while it was armed.
        place: where it struck: the file, the line and the function.
        seen: by whom it was seen afterwards.
    """

    def __init__(self, error: BaseException | None, at: int = 0) -> None:
        self.error = error
        self.act: Callable[[], None] | None = None
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
            in_hub = gevent.getcurrent() is gevent.get_hub()
            if self.error is None and in_hub:
                return
            file = code.co_filename.removeprefix(_LIBRARY)
            self.place = f"{file}:{line}, {code.co_qualname}{', in the hub' if in_hub else ''}"
            if self.error is not None:
                raise self.error
            assert self.act is not None
            self.act()

    def is_in(self, error: BaseException | None) -> bool:
        """Whether `error` is the exception, or was made from it."""
        while error is not None and self.error is not None:
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
        if self.error is not None:
            self.error.__traceback__ = self.error.__context__ = None
        return True


def is_struck(code: CodeType) -> bool:
    """Whether the lines of a code object count: those of the bus and of the scheduler."""
    return code.co_filename.startswith(_LIBRARY) and not code.co_filename.startswith(_SHELL)


@dataclass
class Attempt:
    """A request of the scenario, and how it ended, as far as its caller was told."""

    body: bytes
    idempotent: bool = False
    ending: str | None = None


_services = itertools.count()


@cache
def small_broker() -> SmallBroker:
    """The one of all runs."""
    return SmallBroker()


def pass_on(request: Any, transaction: Any, proceed: Any) -> Any:
    """Middleware that changes nothing."""
    return proceed(request)


class Stage:
    """A bus of one kind, the requests that were made of it, and the log of those that ran."""

    def __init__(
        self,
        kind: str,
        directory: Path,
        interrupt: Interrupt,
        patience: float,
        servers: int,
        retry: Retry | None,
        middleware: bool,
    ) -> None:
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
        self._serving: dict[Any, gevent.Greenlet[Any, Any]] = {}
        self._numbers = itertools.count()
        self._service = f"stage-{next(_services)}"
        self._retry = retry
        self._middleware = (pass_on, pass_on) if middleware else ()
        self._refused: set[bytes] = set()
        self.clients: list[Any] = []
        self.servers = [self._open(str(directory / f"bus{number}")) for number in range(servers)]
        # The one that a scenario closes.
        self.server = self.servers[0]

    def _open(self, path: str) -> Any:
        """A server, or a local bus."""
        if self.kind == "local":
            return ratchet_bus.new_local(middleware=self._middleware)[0]
        if self.kind == "broker":
            codec = Codec[Any, Any](bytes, self._read, bytes, bytes)
            return ratchet_bus.broker_server(small_broker().url, self._service, codec=codec)
        address = f"unix:{path}" if self.kind == "unix" else "127.0.0.1:0"
        return ratchet_bus.listen(address, self._read, ssl_context=server_tls(self.kind))

    # What a scenario does.

    def connect(self) -> Any:
        """One more client; on a local bus, the same object again."""
        client: Any = self.server
        if self.kind == "broker":
            client = ratchet_bus.broker_client(
                small_broker().url, self._service, retry=self._retry, middleware=self._middleware
            )
        elif self.kind != "local":
            addresses = [server.address for server in self.servers]
            client = ratchet_bus.connect(
                addresses if len(addresses) > 1 else addresses[0],
                plain=is_plain(self.kind),
                ssl_context=client_tls(self.kind),
                retry=self._retry,
                middleware=self._middleware,
            )
        self.clients.append(client)
        return client

    def serve(self, workers: int = 4) -> None:
        """Have the servers' requests handled, unless they are already."""
        for server in self.servers:
            if server not in self._serving or self._serving[server].ready():
                self._serving[server] = self.kernel.attach_background(
                    server.serve, self.handle, workers, middleware=self._middleware
                )

    def _read(self, body: bytes) -> bytes:
        """The codec of requests."""
        if body[8:9] == UNREADABLE:
            raise ValueError("an unreadable request")
        return body

    def handle(self, body: bytes, transaction: Any) -> bytes | None:
        if body[8:9] == REFUSED and body not in self._refused:
            self._refused.add(body)
            transaction.send_error(ValueError("not now"), outcome=Outcome.NOT_RUN)
            return None
        self.log.append(body)
        if body[8:9] == WAITS:
            self.begun.set()
            self.release.wait(self.patience)
        return body

    def start(self, func: Callable[..., object], *args: Any) -> None:
        """Start one more thread of the scenario."""
        self.threads.append(self.kernel.attach(self._guarded, func, *args))

    def start_background(self, func: Callable[..., object], *args: Any) -> None:
        """The same, but its end is not waited for."""
        self.kernel.attach_background(self._guarded, func, *args)

    def request(self, size: int = SMALL, mark: bytes = PLAIN, idempotent: bool = False) -> Attempt:
        """A new request."""
        head = b"%08d%s" % (next(self._numbers), mark)
        self.attempts.append(Attempt(head.ljust(size, b"."), idempotent))
        return self.attempts[-1]

    def call(self, client: Any, attempt: Attempt, timeout: float | None = None) -> None:
        with self._ending_of(attempt):
            self._check_answer(attempt, client.call(attempt.body, timeout, idempotent=attempt.idempotent))

    def call_many(self, client: Any, attempts: list[Attempt], timeout: float | None = None) -> None:
        """Send many in one call; all of them may run twice, or none."""
        bodies, idempotent = [attempt.body for attempt in attempts], attempts[0].idempotent
        try:
            results = client.call_many(bodies, timeout, idempotent=idempotent)
        except BaseException as error:
            for attempt in attempts:
                attempt.ending = INTERRUPTED if self.interrupt.is_in(error) else None
            raise
        for attempt, result in zip(attempts, results, strict=True):
            with self._ending_of(attempt):
                if isinstance(result, BusError):
                    raise result
                self._check_answer(attempt, result)

    def cast(self, client: Any) -> None:
        attempt = self.request()
        with self._ending_of(attempt):
            client.cast(attempt.body)
            attempt.ending = CAST

    def send(self, client: Any, attempt: Attempt, timeout: float | None = None) -> Any:
        transaction = None
        with self._ending_of(attempt):
            transaction = client.send_request(attempt.body, timeout, idempotent=attempt.idempotent)
            self.sent.append((attempt, transaction))
        return transaction

    @property
    def longest(self) -> float | None:
        """Seconds for a request that may come after the server is closed: a broker keeps it for another."""
        return 1.0 if self.kind == "broker" else None

    def receive(self, attempt: Attempt, transaction: Any, timeout: float | None = None) -> None:
        if transaction is None:
            # It was not sent.
            return
        with self._ending_of(attempt):
            self._check_answer(attempt, transaction.recv_response(timeout))

    def wait_until_begun(self) -> None:
        """Until a handler waits; or it is clear that none will: it was struck, or its time was over."""
        while not self.begun.wait(0.005):
            others = self.threads[1:]
            if others and all(thread.ready() for thread in others):
                return
            if self.interrupt.place:
                self.begun.wait(0.05)
                return

    def let_arrive(self) -> None:
        """Give what was written the time to be read; nothing depends on whether it was enough."""
        gevent.sleep(0.001)

    def let_retry(self, client: Any) -> None:
        """Until a request of the client's waits for its next attempt; or none will, because of the strike."""
        retrier = client._retrier if self.kind == "broker" else client._servers.retrier
        while not len(retrier) and not self.interrupt.place:
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
                except (Abandoned, ConnectionLost, Rejected, RemoteError) as error:
                    # What was half done may end its connection, in this very moment; and a
                    # thread of the scenario may still wait for a request of its own.
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
        for side in {*self.servers, *self.clients}:
            with gevent.Timeout(self.patience, Failure(f"requests are left: {side!r}")):
                while side.stats().queued or side.stats().in_flight:
                    gevent.sleep(0.001)
        for server in self.servers:
            if not isinstance(server, ratchet_bus.ServerBus):
                continue
            budget = server._admission.budget
            with gevent.Timeout(self.patience, Failure("room is taken that nothing takes")):
                while budget.taken or budget.waiting:
                    gevent.sleep(0.001)

    def close(self) -> None:
        for side in (*self.clients, *self.servers):
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
            if times > 1 and not attempt.idempotent:
                raise Failure(text)
            if ending in (Outcome.NOT_SENT, Outcome.NOT_RUN) and times:
                raise Failure(text)
            # The error of a strike in place of the handler's call shows the frame that raised
            # it, and is taken for the handler's own, or middleware's.
            # A refusal that is struck is a handler's error as well.
            in_place = attempt.body[8:9] == REFUSED or (self.interrupt.place or "").startswith(
                ("bus/_core/handle.py", "bus/_core/handler_chain.py")
            )
            if ending in (Outcome.RAN, ANSWERED) and not times and not in_place:
                raise Failure(text)


def shown(body: bytes) -> str:
    return f"{body[:12]!r}.. of {len(body)} bytes"
