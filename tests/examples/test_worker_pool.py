"""`worker_pool.py`: workers come and go, and no order is lost or run twice."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from examples.programs import Program, refuses, running, wait_for
from helpers import LONG
from ratchet import BusError, ConnectionLost, Outcome, bus
from ratchet.bus import codecs

pytestmark = pytest.mark.slow

SENDERS = 8  # as in worker_pool_client.py
SAFE = {Outcome.NOT_SENT, Outcome.NOT_RUN}


class Pool:
    """A pool of two workers, whose process IDs are known."""

    def __init__(self, program: Program, ledger: Path) -> None:
        self.program = program
        self._ledger = ledger
        self.workers = [self.ready(), self.ready()]
        self.address = self._line(r"listening on (.*)")

    def _line(self, pattern: str) -> str:
        """The group in the next line of its output, which has to match."""
        line = self.program.line()
        found = re.fullmatch(pattern, line)
        assert found is not None, line
        return found[1]

    def ready(self) -> int:
        """A worker is ready, says the next line; returns its process ID."""
        return int(self._line(r"worker \d \(pid (\d+)\) is ready"))

    def killed(self) -> int:
        """A worker was killed, and another one is ready, say the next lines; returns whose end it was."""
        pid = int(self._line(r"worker \d \(pid (\d+)\) was killed by signal 9"))
        self.workers[self.workers.index(pid)] = self.ready()
        return pid

    def replaced(self) -> int:
        """A worker is ready in place of one that has ended then; returns whose end it was."""
        successor = self.ready()
        pid = int(self._line(r"worker \d \(pid (\d+)\) has ended"))
        self.workers[self.workers.index(pid)] = successor
        return pid

    def orders(self) -> list[str]:
        """What is in the ledger."""
        return self._ledger.read_text(encoding="utf-8").splitlines() if self._ledger.exists() else []

    def end(self) -> None:
        """See to it that it ends well, with all its workers."""
        self.program.send(signal.SIGTERM)
        status, lines, errors = self.program.end()
        assert (status, errors) == (0, "")
        first, *ends = lines
        assert first == "draining; a second signal stops immediately"
        assert sorted(re.sub(r"worker \d", "worker", end) for end in ends) == sorted(
            f"worker (pid {pid}) has ended" for pid in self.workers
        )


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    ledger = tmp_path / "ledger"
    with running("worker_pool.py", ledger, "--processes", 2) as program:
        yield Pool(program, ledger)


@contextmanager
def client_of(pool: Pool) -> Iterator[bus.ClientBus[str, str]]:
    with bus.connect(pool.address, codec=codecs.text) as client:
        yield client


def worker_of(client: bus.ClientBus[str, str], order: str) -> int:
    """Have an order recorded; returns the process ID of the worker that did it."""
    return int(client.call(order, LONG).removeprefix("recorded by "))


def end_of(transaction: bus.ClientTransaction[str, str]) -> str:
    """The response, or the outcome of the error in which it ended."""
    try:
        return transaction.recv_response()
    except BusError as error:
        return error.outcome


def test_what_a_killed_worker_had_taken_is_unknown_and_another_one_takes_over(pool: Pool) -> None:
    with client_of(pool) as client:
        killed = worker_of(client, "before")
        os.kill(killed, signal.SIGSTOP)
        lost = client.send_request("lost")
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(ConnectionLost) as raised:
            lost.recv_response(LONG)
        assert raised.value.outcome == Outcome.UNKNOWN
        assert worker_of(client, "after") != killed
    assert pool.killed() == killed
    assert pool.orders() == ["before", "after"]
    pool.end()


def test_a_worker_that_is_told_to_end_answers_what_it_has_taken(pool: Pool) -> None:
    with client_of(pool) as client:
        ended = worker_of(client, "before")
        transactions = [client.send_request(f"order {number}", LONG) for number in range(200)]
        os.kill(ended, signal.SIGTERM)
        ends = {transaction.request: end_of(transaction) for transaction in transactions}
        assert pool.replaced() == ended
        assert worker_of(client, "after") != ended
    assert set(ends.values()) <= {f"recorded by {ended}", *SAFE}
    recorded = [order for order, end in ends.items() if end not in SAFE]
    assert sorted(pool.orders()) == sorted(["before", *recorded, "after"])
    pool.end()


def test_the_workers_end_well_when_their_master_is_killed(pool: Pool) -> None:
    with client_of(pool) as client:
        worker = worker_of(client, "before")
        taken = client.send_request("taken", LONG)
        pool.program.send(signal.SIGKILL)
        assert end_of(taken) in {f"recorded by {worker}", *SAFE}
        assert pool.program.end() == (-signal.SIGKILL, [], "")
    assert refuses(pool.address)


class Customer:
    """`worker_pool_client.py`, which sends all the while."""

    def __init__(self, program: Program, pool: Pool) -> None:
        self._program = program
        self._pool = pool

    def _recorded(self) -> Counter[str]:
        """How many orders of each of its senders are in the ledger."""
        return Counter(order.rpartition("-")[0] for order in self._pool.orders())

    def wait_for_all_senders(self) -> None:
        """Until another order of each has been recorded."""
        before = self._recorded()

        def have_gone_on() -> bool:
            now = self._recorded()
            return len(now) == SENDERS and all(now[sender] > before[sender] for sender in now)

        wait_for(have_gone_on, "an order of each sender")

    def stop(self) -> None:
        self._program.send(signal.SIGTERM)

    def ends(self) -> Counter[str]:
        """How often its orders ended in which way, if that agrees with the ledger."""
        status, lines, errors = self._program.end()
        assert (status, errors) == (0, "")
        text = "\n".join(lines)
        failed = dict(re.findall(r"^(\S+) (\w+): ", text, re.MULTILINE))
        ends = Counter({end: int(times) for end, times in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)})
        assert Counter(failed.values()) == ends - Counter(answered=ends["answered"])
        orders = self._pool.orders()
        assert len(orders) == len(set(orders)), "an order ran twice"
        assert ends["answered"] == len(set(orders) - set(failed))
        assert all(failed.get(order, "UNKNOWN") == "UNKNOWN" for order in orders), "an order ran after all"
        return ends


@pytest.fixture
def customer(pool: Pool) -> Iterator[Customer]:
    with running("worker_pool_client.py", pool.address) as program:
        customer = Customer(program, pool)
        customer.wait_for_all_senders()
        yield customer


def test_when_workers_are_killed_no_order_runs_twice(pool: Pool, customer: Customer) -> None:
    for worker in list(pool.workers):
        os.kill(worker, signal.SIGKILL)
        assert pool.killed() == worker
        customer.wait_for_all_senders()
    customer.stop()
    ends = customer.ends()
    assert ends["answered"] >= 3 * SENDERS
    assert set(ends) <= {"answered", "UNKNOWN"}
    pool.end()


def test_when_workers_are_told_to_end_no_order_is_lost(pool: Pool, customer: Customer) -> None:
    for worker in list(pool.workers):
        os.kill(worker, signal.SIGTERM)
        assert pool.replaced() == worker
        customer.wait_for_all_senders()
    customer.stop()
    assert set(customer.ends()) == {"answered"}
    pool.end()


def test_when_all_workers_are_replaced_no_order_is_lost(pool: Pool, customer: Customer) -> None:
    before = list(pool.workers)
    pool.program.send(signal.SIGHUP)
    assert sorted(pool.replaced() for _ in before) == sorted(before)
    customer.wait_for_all_senders()
    customer.stop()
    assert set(customer.ends()) == {"answered"}
    pool.end()


@pytest.mark.long
def test_when_the_pool_ends_no_order_is_lost(pool: Pool, customer: Customer) -> None:
    pool.end()
    customer.stop()
    ends = customer.ends()
    assert ends["answered"] >= SENDERS
    # The last ones had nowhere to go.
    assert set(ends) <= {"answered", *SAFE}
