"""What one request leaves behind: nothing that the next one sees, or that a background thread keeps."""

from __future__ import annotations

from contextvars import ContextVar
from functools import partial
from typing import Any

import gevent
import pytest

from contract.buses import Bus, Start, on_every_kind
from helpers import LONG, wait_until
from ratchet import Ratchet, RemoteError, thread
from ratchet import bus as ratchet_bus

user: ContextVar[str | None] = ContextVar("user", default=None)


@pytest.fixture(autouse=True)
def no_user() -> Any:
    """The context of a test is that of all tests of this process."""
    token = user.set(None)
    yield
    user.reset(token)


def has_length(items: list[Any], length: int) -> bool:
    return len(items) == length


# How a request may end.
ENDS = ["return", "raise", "answer", "kill"]


def end(how: str, transaction: Any) -> None:
    if how == "raise":
        raise ValueError
    if how == "answer":
        transaction.send_response("answered")
    if how == "kill":
        current: Any = thread.current()
        current.kill()


@on_every_kind
@pytest.mark.parametrize("how", ENDS)
def test_what_a_handler_leaves_in_its_thread_is_gone_for_the_next_request(
    bus: Bus, start: Start, how: str
) -> None:
    seen: list[tuple[object, object]] = []

    def handler(request: str, transaction: Any) -> None:
        seen.append((user.get(), getattr(thread.space(), "user", None)))
        user.set(request)
        thread.space().user = request
        end(how, transaction)

    start(bus.server.serve, handler, workers=1)
    for number in range(3):
        # Over the plain form, an error ends the connection.
        bus.new_client().cast(f"user {number}")
        wait_until(partial(has_length, seen, number + 1), "the request to run")
    assert seen == [(None, None)] * 3


@pytest.mark.virtual_time
@on_every_kind
@pytest.mark.parametrize("how", ENDS)
def test_an_alarm_that_a_handler_leaves_behind_does_not_ring(bus: Bus, start: Start, how: str) -> None:
    rung: list[str] = []
    slept: list[str] = []

    def handler(request: str, transaction: Any) -> None:
        if request == "first":
            thread.alarm(0.03, lambda: rung.append("rung"))
            end(how, transaction)
        else:
            gevent.sleep(0.06)
            slept.append(request)

    start(bus.server.serve, handler, workers=1)
    bus.client.cast("first")
    bus.new_client().cast("second")
    wait_until(lambda: slept == ["second"], "the second request to sleep in peace")
    assert rung == []


@pytest.mark.virtual_time
def test_a_gevent_timeout_that_a_handler_leaves_behind_does_not_ring(bus: Bus, start: Start) -> None:
    def handler(request: float) -> float:
        if not request:
            gevent.Timeout.start_new(0.03)
        gevent.sleep(request)
        return request

    start(bus.server.serve, handler, workers=1)
    assert bus.client.call(0, LONG) == 0
    assert bus.client.call(0.06, LONG) == 0.06


@on_every_kind
def test_each_request_starts_with_the_context_in_which_serve_was_called(bus: Bus, start: Start) -> None:
    seen: list[object] = []

    def handler(request: str) -> None:
        seen.append(user.get())
        user.set(request)

    user.set("whoever serves")
    start(serve_as("the server", bus, handler))
    for number in range(3):
        bus.client.cast(f"user {number}")
    wait_until(lambda: len(seen) == 3)
    assert seen == ["the server"] * 3
    assert user.get() == "whoever serves"


def serve_as(name: str, bus: Bus, handler: Any) -> Any:
    def serve() -> None:
        user.set(name)
        bus.server.serve(handler, workers=2)

    return serve


@pytest.mark.parametrize("attach", ["attach_background", "spawn"])
def test_a_background_thread_that_a_handler_starts_does_not_inherit_its_deadline(
    bus: Bus, start: Start, attach: str
) -> None:
    server: Any
    client: Any
    server, client = ratchet_bus.new_local()
    start(server.serve, lambda request, transaction: transaction.remaining)
    refreshed: list[object] = []

    def refresh() -> None:
        refreshed.append(client.call("config"))

    def handler(request: str) -> str:
        if attach == "spawn":
            gevent.spawn(refresh)
        else:
            thread.attach_background(refresh)
        return request

    serving = Ratchet()
    serving.attach_background(bus.server.serve, handler)
    assert bus.client.call("first", timeout=LONG) == "first"
    wait_until(lambda: refreshed, "the background thread to ask")
    assert refreshed == [None]
    serving.close()
    server.close()


def test_a_thread_that_a_handler_waits_for_inherits_its_deadline(bus: Bus, start: Start) -> None:
    left: list[float] = []
    server: Any
    client: Any
    server, client = ratchet_bus.new_local()

    def inner(request: str, transaction: Any) -> str:
        left.append(transaction.remaining)
        return request

    def handler(request: str) -> str:
        asking = thread.attach(client.call, request)
        return str(asking.get())

    start(server.serve, inner)
    start(bus.server.serve, handler)
    assert bus.client.call("question", timeout=LONG) == "question"
    assert 0 < left[0] <= LONG
    server.close()


@pytest.mark.virtual_time
@pytest.mark.parametrize("kind", ["local", "tcp"])
def test_what_a_codec_leaves_behind_that_fails_the_next_request_does_not_see(kind: str, start: Start) -> None:
    seen: list[object] = []

    def decode(body: bytes) -> bytes:
        if body == b"bad":
            user.set("a stranger")
            thread.space({}).update(left="behind")
            thread.alarm(0.05)
            raise ValueError("a codec that fails")
        return body

    def handler(request: bytes) -> bytes:
        seen.append((user.get(None), thread.space({})))
        # Long enough for the alarm to ring.
        gevent.sleep(0.1)
        return request

    codec = ratchet_bus.Codec(_same, decode, _same, _same)
    server: Any
    client: Any
    if kind == "local":
        server, client = ratchet_bus.new_local(codec=codec)
    else:
        server = ratchet_bus.listen("127.0.0.1:0", codec=codec)
        client = ratchet_bus.connect(server.address, codec=codec)
    with server, client:
        start(server.serve, handler, workers=1)
        with pytest.raises(RemoteError, match="a codec that fails"):
            client.call(b"bad", LONG)
        assert client.call(b"good", LONG) == b"good"
    assert seen == [(None, {})]


def _same(body: bytes) -> bytes:
    return body
