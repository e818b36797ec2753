"""A server, as a process of the simulation: from when it listens until it has ended.

What it really does goes into the journal, and what its counters say.  What is true of
that is judged elsewhere.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from gevent.event import Event
from greenlet import GreenletExit

from ratchet import BusClosed, BusError, Ratchet, _clock, bus, thread
from ratchet.bus import Limits
from ratchet.bus._core.deadline import inherited_deadline
from ratchet.testing import Clock
from simulation.client_program import SERVER, SETTLING
from simulation.journal import Journal, LifeRecord, number_of, request_body, response_body
from simulation.plan import Ask, End, Life, Task
from simulation.strikes import is_strike, survives

QUIET: float = 45.0
"""Seconds after which nothing goes on any more: more than any time-out of the library's."""

_MOST_THREADS: Final = 8
"""How many threads take requests in all: each that is killed has another one in its place."""


class HandlerError(Exception):
    """What a handler raises."""


class UnreadableError(Exception):
    """What a codec raises."""


class ServerProgram:
    """One server, and its threads.

    Args:
        life: what it does.
        limits: its own.
        asks: all requests that may come, by number.
        journal: where it is written down what it does.
        clock: the time.
        ended: set when all clients have ended.
    """

    def __init__(
        self, life: Life, limits: Limits, asks: dict[int, Ask], journal: Journal, clock: Clock, ended: Event
    ) -> None:
        self._life = life
        self._limits = limits
        self._asks = asks
        self._journal = journal
        self._clock = clock
        self._ended = ended
        self._handling: list[Any] = []
        self._threads: list[Any] = []
        # Cleared while nothing is taken.
        self._opened = Event()
        self._opened.set()
        self._ends = False
        self._server: Any = None
        self.record = LifeRecord(life)
        journal.lives.append(self.record)

    def run(self) -> None:
        """Be the server: the first thread of the process."""
        life, record = self._life, self.record
        self._journal.kernels.append(thread.kernel())
        codec: bus.Codec[Any, Any] = bus.Codec(request_body, self._decode, self._encode, bytes)
        self._server = server = bus.listen(SERVER, codec=codec, limits=self._limits)
        for _ in range(life.takers):
            self._start_taker(thread.kernel(), server)
        if life.workers:
            self._threads.append(thread.attach_background(self._serve, server))
        for seconds in life.kills:
            thread.attach_background(self._kill_after, seconds)
        if life.shuts_after is not None:
            thread.attach_background(self._shut_after, life.shuts_after)
        if life.ends_after is None:
            self._ended.wait()
            thread.timer(QUIET)
            record.quiet = server.stats()
        else:
            thread.timer(life.ends_after)
        self._ends = True
        self._opened.set()
        self._end(server)
        thread.timer(SETTLING)
        record.stats = server.stats()
        if not thread.wait_all(self._threads, timeout=60.0):
            self._journal.note(f"a server has ended, and its threads have not:\n{thread.kernel().dump()}")

    def release(self) -> None:
        """Give back what it has open, if it ended otherwise than planned."""
        if self._server is not None:
            self._server.close()

    def _end(self, server: Any) -> None:
        """End it as planned, whatever strikes meanwhile."""
        life = self._life
        try:
            if life.end is End.DRAIN:
                self.record.drained = server.drain(life.patience)
        except BaseException as error:
            if not is_strike(error):
                raise
        server.close()

    def _start_taker(self, kernel: Ratchet, server: Any) -> None:
        taker = kernel.attach_background(self._take, server)
        self._threads.append(taker)
        self._journal.threads.append(taker)
        taker.rawlink(partial(self._replace, kernel, server))

    def _replace(self, kernel: Ratchet, server: Any, taker: Any) -> None:
        """Hub callback: somebody has to go on, or requests without a time-out would never end."""
        died = taker.exception is not None or isinstance(taker.value, GreenletExit)
        if died and not self.record.dead and len(self._threads) < _MOST_THREADS:
            self._start_taker(kernel, server)

    def _serve(self, server: Any) -> None:
        while True:
            try:
                server.serve(self._handle, self._life.workers)
                return
            except BusClosed:
                return
            except BaseException as error:
                if not survives(error):
                    raise

    def _kill_after(self, seconds: float) -> None:
        """Kill whoever handles a request then."""
        thread.timer(seconds)
        for victim in self._handling[-1:]:
            thread.kill(victim)

    def _shut_after(self, seconds: float) -> None:
        thread.timer(seconds)
        if not self._ends:
            self._opened.clear()

    def _decode(self, body: bytes, attachments: list[bytes]) -> Ask:
        number = number_of(body)
        ask = self._asks.get(number)
        if ask is None or (body, attachments) != request_body(ask):
            self._journal.note(f"{number}: a strange request came: {body[:20]!r}, {len(body)} bytes")
            raise UnreadableError
        if ask.task is Task.UNREADABLE:
            raise UnreadableError
        return ask

    def _encode(self, ask: Ask) -> bytes:
        if ask.task is Task.UNWRITABLE:
            raise UnreadableError
        return response_body(ask)

    def _begin(self, ask: Ask, transaction: Any) -> None:
        """Write down that a request runs."""
        journal = self._journal
        self.record.begun += 1
        journal.ran[ask.number] += 1
        if journal.ran[ask.number] > 1 and not ask.idempotent:
            journal.note(f"{ask.number}: runs again")
        deadline = inherited_deadline()
        # The clock moves by a microsecond each time it is read.
        if deadline is not None and _clock.monotonic() > deadline + 0.001:
            journal.note(f"{ask.number}: runs although its time is over")
        metadata = dict(transaction.metadata)
        if metadata and metadata != {"number": str(ask.number)}:
            journal.note(f"{ask.number}: came with {metadata!r}")

    def _handle(self, ask: Ask, transaction: Any) -> Ask:
        """The handler of `serve`."""
        self._begin(ask, transaction)
        return self._work(ask)

    def _work(self, ask: Ask) -> Ask:
        me = thread.current()
        self._handling.append(me)
        self._journal.threads.append(me)
        try:
            if ask.task is Task.SLEEP:
                thread.timer(ask.seconds)
            elif ask.task is Task.YIELD:
                thread.timer(0)
            elif ask.task is Task.HOG:
                hold_hub(self._clock, ask.seconds)
            elif ask.task is Task.RAISE:
                raise HandlerError(ask.number)
        finally:
            self._handling.remove(me)
            self._journal.threads.remove(me)
        return ask

    def _take(self, server: Any) -> None:
        """Take requests by hand until the server has ended."""
        while True:
            try:
                transaction, ask = server.recv_request()
                self._answer(transaction, ask)
            except BusClosed:
                return
            except BaseException as error:
                if not survives(error):
                    raise
            # One that is not answered is to be dropped at once.
            transaction = None
            self._opened.wait()

    def _answer(self, transaction: Any, ask: Ask) -> None:
        """Answer, or not, in one of the ways there are."""
        if ask.number % 3 == 0:
            with transaction:
                self._begin(ask, transaction)
                if ask.task is not Task.DROP:
                    self._respond(transaction, self._work(ask))
            return
        self._begin(ask, transaction)
        if ask.task is Task.DROP:
            return
        if ask.number % 3 == 1:
            thread.attach(self._answer_aside, transaction, ask)
        else:
            self._answer_aside(transaction, ask)

    def _answer_aside(self, transaction: Any, ask: Ask) -> None:
        try:
            self._respond(transaction, self._work(ask))
        except HandlerError as error:
            transaction.send_error(error)
        except BaseException as error:
            if not survives(error):
                raise

    def _respond(self, transaction: Any, ask: Ask) -> None:
        try:
            transaction.send_response(ask)
        except (BusError, UnreadableError):
            # The answer is too large, or its codec fails: its client has been told.
            pass


def hold_hub(clock: Clock, seconds: float) -> None:
    """Let time go on, and nothing run, as long work of the processor's does."""
    loop: Any = clock.loop
    loop.elapsed += int(seconds * 1e9)
