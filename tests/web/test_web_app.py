"""`web_app.py`: counts that stream, that are cancelled, and that fail."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import gevent
import pytest
from gevent.event import Event

from broker.nodes import Node
from helpers import LONG, wait_until
from ratchet import (
    Abandoned,
    BusClosed,
    BusError,
    BusTimeout,
    ConnectionLost,
    Outcome,
    Rejected,
    RemoteError,
    bus,
)
from web.programs import COUNTING, EXAMPLES, WEB_APP, Program, events, running, serving

pytestmark = pytest.mark.slow


@contextmanager
def web_app(kind: str, directory: Path) -> Iterator[Program]:
    """The web server, and if the bus is not a local one, the workers in a process of their own."""
    with ExitStack() as stack:
        arguments = []
        if kind != "local":
            address = f"unix:{directory}/socket" if kind == "unix" else "127.0.0.1:0"
            workers = stack.enter_context(running(directory / "workers", WEB_APP, "--serve", address))
            arguments = ["--bus", workers.address]
        web = stack.enter_context(running(directory / "web", WEB_APP, *arguments))
        yield web
        assert web.end() == ""
        if kind != "local":
            assert workers.end().startswith("Stats(")


@pytest.mark.broker
def test_a_count_goes_over_a_broker(broker_node: Node, tmp_path: Path) -> None:
    address = f"{broker_node.url}?service=primes-{uuid4().hex}"
    with (
        running(tmp_path / "workers", WEB_APP, "--serve", address) as workers,
        running(tmp_path / "web", WEB_APP, "--bus", address) as web,
    ):
        # Until the workers are there, there is no such service; the page does not try again by itself.
        wait_until(lambda: web.get("/primes?below=10")[0] == 200, "the workers")
        with web.getting("/primes?below=1000000") as response:
            assert list(events(response))[-1] == {"done": 1_000_000, "primes": 78_498}
        assert web.end() == ""
        assert workers.end().startswith("Stats(")


@contextmanager
def served_here(
    handler: Callable[[list[int]], int], directory: Path
) -> Iterator[tuple[bus.ServerBus[Any, Any], Program]]:
    """A server of the bus in this process, and the web server that uses it."""
    with serving(handler) as (server, address):
        with running(directory / "web", WEB_APP, "--bus", address) as web:
            yield server, web
            assert web.end() == ""


@pytest.mark.parametrize("kind", ["local", "tcp", "unix"])
def test_a_count_streams_its_progress_and_its_result(kind: str, tmp_path: Path) -> None:
    with web_app(kind, tmp_path) as web:
        with web.getting("/primes?below=1000000") as response:
            assert response.status == 200
            assert response.headers.get_content_type() == "text/event-stream"
            told = list(events(response))
        assert [event["done"] for event in told] == list(range(10_000, 1_000_001, 10_000))
        assert told[0] == {"done": 10_000, "primes": 1_229}
        assert told[-1] == {"done": 1_000_000, "primes": 78_498}
        assert web.stats()["answered"] == 100


@pytest.mark.parametrize(("below", "primes"), [(1, 0), (2, 0), (3, 1), (5, 2), (10, 4), (101, 25), (102, 26)])
def test_small_numbers_are_counted_right(web: Program, below: int, primes: int) -> None:
    with web.getting(f"/primes?below={below}") as response:
        assert list(events(response))[-1] == {"done": below, "primes": primes}


@pytest.mark.parametrize("query", ["", "?below=", "?below=0", "?below=many", "?below=1000000001"])
def test_what_cannot_be_counted_is_refused(web: Program, query: str) -> None:
    assert web.get(f"/primes{query}") == (400, "the number must be between 1 and 1,000,000,000")


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A web server that several tests share."""
    with web_app("local", tmp_path_factory.mktemp("shared")) as web:
        yield web


def test_the_page_needs_nothing_from_elsewhere(web: Program) -> None:
    status, page = web.get("/")
    assert status == 200
    assert "<form>" in page
    assert "//" not in page.replace(" // ", "")


@pytest.mark.parametrize("kind", ["local", "tcp"])
def test_a_browser_that_goes_away_cancels_its_count(kind: str, tmp_path: Path) -> None:
    with web_app(kind, tmp_path) as web:
        with web.getting("/primes?below=1000000000") as response:
            assert next(events(response))["done"] == 10_000_000
        wait_until(lambda: web.stats()["cancelled"] == 1, "the count's cancelling")
        wait_until(lambda: web.stats()["in_flight"] == 0, "the end of its last request")
        assert web.stats()["answered"] < 100


def test_a_browser_that_goes_away_while_there_is_nothing_to_tell_interrupts_the_worker(
    tmp_path: Path,
) -> None:
    begun, interrupted = Event(), Event()

    def handle(span: list[int]) -> int:
        begun.set()
        try:
            Event().wait(LONG)
        except BaseException:
            interrupted.set()
            raise
        return 0

    with served_here(handle, tmp_path) as (server, web):
        with web.getting("/primes?below=1000") as response:
            assert response.readline() == COUNTING
            assert begun.wait(LONG)
            assert not interrupted.is_set()
        assert interrupted.wait(LONG)
        assert server.stats().cancelled == 1
        assert web.stats()["cancelled"] == 1


def test_a_count_under_way_is_finished_when_the_program_is_told_to_end(tmp_path: Path) -> None:
    with web_app("local", tmp_path) as web:
        with web.getting("/primes?below=30000000") as response:
            told = events(response)
            assert next(told)["done"] == 300_000
            web.tell_to_end()
            assert list(told)[-1] == {"done": 30_000_000, "primes": 1_857_859}


def test_an_error_of_the_first_request_is_an_http_status(tmp_path: Path) -> None:
    def fail(span: list[int]) -> int:
        raise ValueError(f"no primes in {span}")

    with served_here(fail, tmp_path) as (_, web):
        assert web.get("/primes?below=1000") == (502, "RemoteError: ValueError: no primes in [0, 10]")
        assert web.stats()["failed"] == 1


def test_an_error_of_a_later_request_is_an_event(tmp_path: Path) -> None:
    def fail_later(span: list[int]) -> int:
        if span[0] == 20:
            raise ValueError("too much")
        return 3

    with served_here(fail_later, tmp_path) as (_, web):
        with web.getting("/primes?below=1000") as response:
            assert response.status == 200
            assert list(events(response)) == [
                {"done": 10, "primes": 3},
                {"done": 20, "primes": 6},
                {"error": "RemoteError: ValueError: too much"},
            ]


def test_a_server_that_drains_is_unavailable(tmp_path: Path) -> None:
    with bus.listen("127.0.0.1:0", codec=bus.codecs.json) as server:
        address = "{}:{}".format(*server.address)
        with running(tmp_path / "web", WEB_APP, "--bus", address) as web:
            answer = gevent.spawn(web.get, "/primes?below=1000")
            wait_until(lambda: server.stats().queued == 1, "the request")
            assert server.drain()
            text = f"Rejected: the server is draining ({address}); nothing was run"
            assert answer.get() == (503, text)
            assert web.end() == ""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RemoteError("ValueError", "no"), 502),
        (RemoteError("ValueError", "cannot be decoded", outcome=Outcome.NOT_RUN), 502),
        (ConnectionLost("gone"), 502),
        (Abandoned("dropped"), 502),
        (BusClosed("closed while it waited"), 502),
        (BusClosed("closed", outcome=Outcome.NOT_SENT), 503),
        (ConnectionLost("gone", outcome=Outcome.NOT_SENT), 503),
        (Rejected("overloaded"), 503),
        (BusTimeout("never connected", outcome=Outcome.NOT_SENT), 503),
        (BusTimeout("too late"), 504),
    ],
    ids=lambda value: f"{value.code}-{value.outcome}" if isinstance(value, BusError) else str(value),
)
def test_what_a_failed_request_means_to_a_browser(
    error: BusError, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(EXAMPLES)
    assert importlib.import_module("web_app").http_status(error) == status
