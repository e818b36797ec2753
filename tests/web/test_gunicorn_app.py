"""`gunicorn_app.py`: two workers, each with a bus of its own, that end only when they have answered."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from gevent.event import Event

from helpers import LONG, wait_until
from web.programs import COUNTING, EXAMPLES, Program, events, running, serving

pytestmark = pytest.mark.slow


@contextmanager
def gunicorn(directory: Path, **environment: str) -> Iterator[Program]:
    command = ("-m", "gunicorn", "-c", EXAMPLES / "gunicorn_app.py")
    with running(directory / "gunicorn", *command, **environment) as web:
        yield web
        assert web.end() == ""


def another_worker(web: Program, worker: str) -> str:
    """A worker other than `worker`, which has counted."""
    answered = worker

    def answers() -> bool:
        nonlocal answered
        with web.getting("/primes?below=100") as response:
            answered = response.headers["X-Worker"]
            assert list(events(response))[-1] == {"done": 100, "primes": 25}
        return answered != worker

    wait_until(answers, "the answer of another worker")
    return answered


def test_two_workers_answer_and_drain_their_buses(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as web:
        with web.getting("/primes?below=1000000000") as response:
            worker = response.headers["X-Worker"]
            assert next(events(response))["done"] == 10_000_000
            other = another_worker(web, worker)
        with web.getting("/primes?below=30000000") as response:
            told = events(response)
            assert next(told)["done"] == 300_000
            web.tell_to_end()
            assert list(told)[-1] == {"done": 30_000_000, "primes": 1_857_859}
    for pid in (worker, other):
        (told_last,) = (line for line in web.log().splitlines() if f"[{pid}] [INFO] Worker's bus: " in line)
        assert ": closed, queued=0, in_flight=0>" in told_last
        assert ("cancelled=1" in told_last) == (pid == worker)


@pytest.mark.long
def test_a_worker_that_is_told_to_end_finishes_the_request_under_way(tmp_path: Path) -> None:
    released = Event()

    def handle(span: list[int]) -> int:
        if span == [0, 2]:
            assert released.wait(LONG)
        return sum(number in (2, 3, 5, 7) for number in range(*span))

    with serving(handle) as (server, address), gunicorn(tmp_path, RATCHET_BUS=address) as web:
        wait_until(lambda: server.stats().connections == 2, "each worker's own connection")
        with web.getting("/primes?below=200") as response:
            worker = response.headers["X-Worker"]
            os.kill(int(worker), signal.SIGTERM)
            # gunicorn looks once a second whether it was told; a heartbeat comes twice a second.
            for _ in range(4):
                assert (response.readline(), response.readline()) == (COUNTING, b"\n")
            assert f"Worker exiting (pid: {worker})" not in web.log()
            released.set()
            assert list(events(response))[-1] == {"done": 200, "primes": 4}
        wait_until(lambda: f"Worker exiting (pid: {worker})" in web.log(), "the worker's end")
        wait_until(lambda: web.log().count("Booting worker") == 3, "the worker after it")
        wait_until(lambda: server.stats().connections == 2, "that worker's connection")
        assert web.get("/primes?below=1")[0] == 200
