"""A client, as a process of the simulation: threads that ask, wait, give up and are killed.

What its callers are told goes into the journal.  What is true of that is not judged
here, but for what only the caller can see.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import gevent
from greenlet import GreenletExit

from ratchet import BusError, BusTimeout, bus, thread
from ratchet.bus._core.retry import Budget
from ratchet.testing import Clock
from simulation.journal import ClientRecord, Ending, Journal, request_body, response_body
from simulation.plan import Act, Ask, ClientPlan, End
from simulation.strikes import is_strike, survives

SERVER: Final = "server:80"
SETTLING: Final = 0.1
"""Seconds within which the hub makes good what an exception has interrupted."""


class _NotingBudget(Budget):
    """Writes down each retry that is taken from it."""

    def __init__(self, share: float, record: ClientRecord, clock: Clock) -> None:
        super().__init__(share)
        self._record = record
        self._clock = clock

    def take(self, tries: int) -> bool:
        taken = super().take(tries)
        if taken:
            self._record.retries.append((self._clock.now, tries))
        return taken


class ClientProgram:
    """One client, and its threads.

    Args:
        plan: what it does.
        journal: where that is written down.
        clock: the time.
    """

    def __init__(self, plan: ClientPlan, journal: Journal, clock: Clock) -> None:
        self._plan = plan
        self._journal = journal
        self._clock = clock
        self.record = ClientRecord()
        self._client: Any = None
        journal.clients.append(self.record)

    def run(self) -> None:
        """Be the client: the first thread of the process."""
        plan, record = self._plan, self.record
        self._journal.kernels.append(thread.kernel())
        codec: bus.Codec[Any, Any] = bus.Codec(request_body, bytes, bytes, bytes)
        self._client = client = bus.connect(
            SERVER, codec=codec, plain=plan.plain, limits=plan.limits, retry=plan.retry
        )
        self._count_transactions(client)
        if plan.retry is not None:
            client._servers.retrier._budget = _NotingBudget(plan.retry.budget, record, self._clock)
        threads = [thread.attach(self._run_thread, asks) for asks in plan.threads]
        self._journal.threads += threads
        for seconds, index in plan.kills:
            thread.attach_background(self._kill_after, seconds, threads[index])
        if plan.ends_after is None:
            thread.wait_all(threads)
        else:
            thread.timer(plan.ends_after)
        self._end(client)
        thread.wait_all(threads)
        thread.timer(SETTLING)
        record.stats = client.stats()
        record.unfinished = [ask.number for ask, transaction in record.transactions if not transaction.done]

    def _count_transactions(self, client: Any) -> None:
        """Keep each transaction that it hands out, also to its own `call`."""
        record = self.record

        class Counted(type(client)):  # type: ignore[misc]
            def send_request(self, ask: Ask, *args: Any, **options: Any) -> Any:
                transaction = super().send_request(ask, *args, **options)
                record.transactions.append((ask, transaction))
                return transaction

        client.__class__ = Counted

    def release(self) -> None:
        """Give back what it has open, if it ended otherwise than planned."""
        if self._client is not None:
            self._client.close()

    def _end(self, client: Any) -> None:
        """End it as planned, whatever strikes meanwhile."""
        plan = self._plan
        try:
            if plan.end is End.DRAIN:
                self.record.drained = client.drain(plan.patience)
            elif plan.end is End.LEAVE:
                with client:
                    pass
        except BaseException as error:
            if not is_strike(error):
                raise
        client.close()

    def _kill_after(self, seconds: float, victim: Any) -> None:
        thread.timer(seconds)
        thread.kill(victim)

    def _run_thread(self, asks: tuple[Ask, ...]) -> None:
        """Ask for one thing after the other; what is received later, last."""
        later: list[tuple[Ending, Any]] = []
        for ask in asks:
            if ask.pause:
                thread.timer(ask.pause)
            ending = Ending(ask, self._clock.now)
            self._journal.endings[ask.number] = ending
            with self._noted(ending):
                answer = self._ask(ask, ending, later)
                if answer is not None:
                    self._check_answer(ask, answer)
                    ending.kind = "answer"
        for ending, transaction in later:
            with self._noted(ending):
                self._check_answer(ending.ask, transaction.recv_response())
                ending.kind = "answer"

    def _ask(self, ask: Ask, ending: Ending, later: list[tuple[Ending, Any]]) -> bytes | None:
        """Send one request; return its answer, if that is received now."""
        client = self._client
        options: dict[str, Any] = {"timeout": ask.timeout}
        if ask.parts == 1 and not self._plan.plain:
            options["metadata"] = {"number": str(ask.number)}
        if ask.act is Act.CAST:
            client.cast(ask, **options)
            ending.kind = "cast"
            self.record.casts.append(ask.number)
            return None
        if ask.idempotent:
            options["idempotent"] = True
        if ask.act is Act.CALL:
            alarm = gevent.Timeout(ask.cancel_after)
            try:
                with alarm:
                    answer: bytes = client.call(ask, **options)
                    return answer
            except gevent.Timeout as rung:
                if rung is not alarm:
                    raise
                ending.kind = "alarm"
                return None
        transaction = client.send_request(ask, **options)
        ending.transaction = transaction
        for _ in range(ask.waiters):
            thread.attach(self._wait_too, ask, transaction)
        if ask.act is Act.LATER:
            later.append((ending, transaction))
            return None
        if ask.cancel_after is not None:
            thread.timer(ask.cancel_after)
            transaction.cancel()
        return self._receive(transaction, impatient=ask.waiters == 1)

    def _receive(self, transaction: Any, impatient: bool) -> bytes:
        """Receive a response, perhaps only the second time."""
        if impatient:
            try:
                answer: bytes = transaction.recv_response(0.01)
                return answer
            except BusTimeout:
                # If the transaction has ended so, it does so again.
                pass
        answer = transaction.recv_response()
        assert isinstance(answer, bytes)
        return answer

    def _wait_too(self, ask: Ask, transaction: Any) -> None:
        """Wait for the same response as another thread."""
        try:
            self._check_answer(ask, transaction.recv_response())
        except BusError:
            pass
        except BaseException as error:
            if not is_strike(error):
                raise
            return
        if not transaction.done:
            self._journal.note(f"{ask.number}: it has not ended, but who waited for it goes on")

    @contextmanager
    def _noted(self, ending: Ending) -> Iterator[None]:
        """Write down how a request ends for its caller."""
        try:
            yield
        except BusError as error:
            ending.kind, ending.outcome = type(error).__name__, error.outcome
        except GreenletExit:
            ending.kind = ending.kind or "killed"
            raise
        except BaseException as error:
            ending.kind = ending.kind or "killed"
            if not survives(error):
                raise
        finally:
            ending.seconds = self._clock.now - ending.began

    def _check_answer(self, ask: Ask, answer: bytes) -> None:
        if answer != response_body(ask):
            self._journal.note(f"{ask.number}: was answered {answer[:20]!r}, {len(answer)} bytes")
