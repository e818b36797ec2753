"""What must hold after a schedule, whatever went wrong in it.

The journal of both sides is held against the promises: every call has ended, in time and
in an outcome that is true; nothing ran twice; the counters of both sides add up; what was
cast was run, or somebody was told; and nothing is left.  More is asked of a calm schedule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from ratchet import BusClosed, BusTimeout, Cancelled, Outcome
from ratchet.bus._transport.linger import _lingering
from simulation.journal import ClientRecord, Ending, Journal, LifeRecord, Violation
from simulation.plan import Act, Ask, ClientPlan, Plan, Task, client_name

_LAST_WORD: Final = 0.1
"""Seconds for which a request whose time is over may wait for the server's word."""
_SOON: Final = 0.02
"""Seconds within which something is done that is done at once."""
_WINDOW: Final = 10.0
"""Seconds over which a budget of retries is kept."""
_FEWEST: Final = 10
"""Retries that are allowed in that time in any case."""


def check_rest(journal: Journal, loop: Any, references: int) -> None:
    """Nothing is left open or watched, when everything has ended and been closed."""
    if loop.descriptors:
        journal.note(f"descriptors are left: {list(loop.descriptors)}")
    if loop.references > references:
        journal.note(f"watchers are left: {loop.references - references}")
    if _lingering:
        journal.note(f"sockets still linger: {list(_lingering)}")
        _lingering.clear()


def check_journal(plan: Plan, journal: Journal) -> None:
    """What callers were told is true, and what was counted adds up.  Raises `Violation`."""
    violations = list(journal.violations)
    for check in (_endings, _clients, _retries, _servers, _casts, _calm):
        violations += check(plan, journal)
    if violations:
        raise Violation("\n".join(violations[:10]))


def _endings(plan: Plan, journal: Journal) -> Iterator[str]:
    """Every call has ended, in time and truly."""
    dead = {
        ask.number
        for client, record in zip(plan.clients, journal.clients, strict=True)
        if record.dead
        for thread in client.threads
        for ask in thread
    }
    for number, ending in journal.endings.items():
        ran = journal.ran[number]
        text = f"{number}: ended in {ending.kind}, {ending.outcome}, and ran {ran} times: {ending}"
        if ending.outcome in (Outcome.NOT_SENT, Outcome.NOT_RUN) and ran:
            yield text
        if (ending.outcome is Outcome.RAN or ending.kind == "answer") and not ran:
            yield text
        if number in dead:
            continue
        if ending.kind is None and (ending.transaction is None or not ending.transaction.done):
            yield f"{number}: has not ended: {ending}"
        yield from _in_time(plan, ending)


def _in_time(plan: Plan, ending: Ending) -> Iterator[str]:
    """A time-out is neither late nor early, and nobody is told that he gave up who has not."""
    ask, timeout = ending.ask, ending.ask.timeout
    if timeout is not None and ask.act is not Act.LATER:
        most = timeout + _LAST_WORD + _SOON + plan.late
        if plan.strikes:
            # It may wait for the last word once more.
            most += _LAST_WORD + _SOON
        # It is given up only when it has been sent.
        if ask.act is Act.SEND and ask.cancel_after is not None:
            most += ask.cancel_after
        if ending.kind is not None and ending.seconds > most:
            yield f"{ask.number}: took {ending.seconds} s, with a time-out of {timeout} s: {ending}"
    if ending.kind == BusTimeout.__name__ and (timeout is None or ending.seconds < timeout - 0.002):
        yield f"{ask.number}: timed out after {ending.seconds} s: {ending}"
    if ending.kind == Cancelled.__name__ and ask.cancel_after is None and not plan.strikes:
        yield f"{ask.number}: was cancelled by nobody: {ending}"


def _clients(plan: Plan, journal: Journal) -> Iterator[str]:
    """Each client has ended all that it sent, and has counted each end once."""
    for index, (client, record) in enumerate(zip(plan.clients, journal.clients, strict=True)):
        name = f"client {index}"
        stats = record.stats
        if record.dead or stats is None:
            continue
        if record.unfinished:
            yield f"{name}: these have not ended when it has: {record.unfinished}"
        if stats.connections or stats.queued or stats.in_flight:
            yield f"{name}: something is left: {stats}"
        if plan.strikes:
            # Between an end and its counting, an exception may strike.
            continue
        expected = _kinds(record)
        counted = (stats.answered, stats.failed, stats.cancelled)
        if counted != expected:
            yield f"{name}: counted {counted} answered, failed and cancelled, and there were {expected}"
        # A plain server answers casts, too; and any server refuses one that is too large.
        refused = any(life.stats is None or life.stats.broken for life in journal.lives)
        if stats.dropped_late > stats.failed + stats.cancelled and not (client.plain or refused):
            yield f"{name}: {stats.dropped_late} came late, of {stats.failed + stats.cancelled}"


def _kinds(record: ClientRecord) -> tuple[int, int, int]:
    """How many transactions of a client ended in an answer, in an error, and given up."""
    kinds = Counter(_kind(transaction) for _, transaction in record.transactions)
    return kinds["answered"], kinds["failed"], kinds["cancelled"]


def _kind(transaction: Any) -> str:
    error = transaction.error
    if error is None:
        return "answered"
    return "cancelled" if transaction.state.name == "GIVEN_UP" else "failed"


def _retries(plan: Plan, journal: Journal) -> Iterator[str]:
    """None is sent more often than is allowed, and no more of them are a load than the budget has."""
    for index, (client, record) in enumerate(zip(plan.clients, journal.clients, strict=True)):
        most = _attempts_allowed(client)
        for ask, transaction in record.transactions:
            attempts = _attempts(transaction)
            if not 1 <= attempts <= most or journal.ran[ask.number] > attempts:
                ran = journal.ran[ask.number]
                yield f"client {index}: {ask.number} was sent {attempts} times of {most}, and ran {ran} times"
        for number, (now, tries) in enumerate(record.retries):
            assert client.retry is not None
            lately = sum(now - _WINDOW < then <= now for then, _ in record.retries[: number + 1])
            allowed = max(_FEWEST, client.retry.budget * tries) if client.retry.budget else 0
            # A retry is allowed as long as there were fewer.
            if lately >= allowed + 1:
                yield f"client {index}: {lately} retries in {_WINDOW} s, after {tries} first tries"


def _attempts(transaction: Any) -> int:
    """How often a request was sent; that is not counted where nothing is sent again."""
    return getattr(transaction, "attempts", 0) or 1


def _attempts_allowed(client: ClientPlan) -> int:
    return 1 if client.retry is None else client.retry.attempts


def _servers(plan: Plan, journal: Journal) -> Iterator[str]:
    """Each server has ended all that came, and has counted each end once."""
    sent = sum(
        sum(_attempts(transaction) for _, transaction in record.transactions)
        + len(record.casts) * _attempts_allowed(client)
        for client, record in zip(plan.clients, journal.clients, strict=True)
    )
    for index, record in enumerate(journal.lives):
        name, stats, quiet = f"server {index}", record.stats, record.quiet
        if quiet is not None and record.life.shuts_after is None:
            if quiet.connections or quiet.queued or quiet.in_flight:
                yield f"{name}: something is left when all clients have gone: {quiet}"
        elif quiet is not None:
            casts = sum(len(client.casts) for client in journal.clients)
            # Of a client that has too much under way, the server does not see that it has gone.
            if quiet.queued > casts and not quiet.connections:
                yield f"{name}: {quiet.queued} are queued, and {casts} were cast: {quiet}"
        if stats is None:
            continue
        if stats.connections or stats.queued or stats.in_flight:
            yield f"{name}: something is left: {stats}"
        if plan.strikes or record.dead:
            continue
        ended = stats.answered + stats.failed + stats.cancelled
        if not record.begun <= ended <= sent:
            yield f"{name}: {ended} ended, {record.begun} began, and {sent} were sent: {stats}"


def _casts(plan: Plan, journal: Journal) -> Iterator[str]:
    """What was cast ran once, or somebody was told that it may not have."""
    if plan.strikes or not plan.has_one_life or journal.lives[0].drained is not True or journal.warnings:
        return
    for index, (client, record) in enumerate(zip(plan.clients, journal.clients, strict=True)):
        # A plain cast is a request like any other, which is not run when its client has gone.
        if record.dead or client.plain or record.drained is False:
            continue
        # What has come behind a message that is too large, or stalled in the middle, is not
        # read; and the server says whose.
        if any(f" of {client_name(index)}:" in closing for closing in journal.closings):
            continue
        stats = journal.lives[0].stats
        if stats is not None and stats.refused_connections:
            # It may have gone before it heard that there is no place for it.
            continue
        lost = [number for number in record.casts if not journal.ran[number] and _runs(plan, number)]
        if lost:
            yield f"client {index}: nobody was told that these casts never ran: {lost}"


def _runs(plan: Plan, number: int) -> bool:
    return plan.asks[number].task is not Task.UNREADABLE


def _calm(plan: Plan, journal: Journal) -> Iterator[str]:
    """Where nothing breaks, nothing is lost."""
    if not plan.is_calm:
        return
    for index, record in enumerate(journal.clients):
        if record.stats is not None and record.stats.broken:
            yield f"client {index}: something broke: {record.stats}"
    for index, life in enumerate(journal.lives):
        if life.stats is not None and life.stats.broken:
            yield f"server {index}: something broke: {life.stats}"
    yield from _all_that_came(plan, journal)
    if not plan.has_one_life:
        # What was on its way to a server that drains is lost, and somebody is told.
        return
    records: list[ClientRecord | LifeRecord] = [*journal.clients, *journal.lives]
    if any(record.drained is False for record in records):
        yield f"something was lost in draining: {journal.clients}, {journal.lives}"
    if journal.warnings:
        yield f"casts were lost: {journal.warnings}"
    if any(life.kills for life in plan.lives):
        return
    killed = any(client.kills for client in plan.clients)
    for number, ending in journal.endings.items():
        expected = _expected(ending.ask)
        gives_up = ending.ask.timeout is not None or ending.ask.cancel_after is not None
        if killed or gives_up or ending.ask.act is Act.CAST or expected is None:
            continue
        if ending.kind != expected:
            yield f"{number}: should have ended in {expected}: {ending}"


def _expected(ask: Ask) -> str | None:
    """How a request ends where nothing goes wrong and nobody is in a hurry; None if that depends."""
    if ask.task in (Task.RAISE, Task.UNREADABLE, Task.UNWRITABLE):
        return "RemoteError"
    if ask.task is Task.DROP:
        # `serve` answers it.
        return None
    return "answer"


def _all_that_came(plan: Plan, journal: Journal) -> Iterator[str]:
    """What the servers have counted is what the clients have sent."""
    sent = sum(
        _attempts(transaction)
        - (transaction.error is not None and transaction.error.outcome is Outcome.NOT_SENT)
        for record in journal.clients
        for _, transaction in record.transactions
    ) + sum(len(record.casts) for record in journal.clients)
    ended = sum(
        life.stats.answered + life.stats.failed + life.stats.cancelled
        for life in journal.lives
        if life.stats is not None
    )
    if plan.has_one_life and sent != ended:
        yield f"{sent} were sent, and {ended} ended on the server"
    # A request that has come is answered, refused, or given up by its client.
    given_up = sum(
        isinstance(transaction.error, (BusClosed, BusTimeout, Cancelled))
        for record in journal.clients
        for _, transaction in record.transactions
    )
    cancelled = sum(life.stats.cancelled for life in journal.lives if life.stats is not None)
    if cancelled > given_up:
        yield f"{given_up} were given up, and {cancelled} were counted so on the server"
    answered = sum(record.stats.answered for record in journal.clients if record.stats is not None)
    given = sum(life.stats.answered for life in journal.lives if life.stats is not None)
    if answered > given:
        yield f"{given} were answered, and {answered} had an answer"
