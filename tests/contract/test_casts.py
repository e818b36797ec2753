"""Casts: they leave before their client does, and are run before their server ends."""

from __future__ import annotations

import logging
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from gevent import subprocess
from gevent.event import Event
from gevent.hub import Waiter

from contract.buses import (
    Bus,
    OpenClient,
    Start,
    client_tls,
    on_every_kind,
    on_sockets,
    on_sockets_of_each_form,
)
from contract.clients import connect
from helpers import LONG, burn, turns, wait_until
from ratchet import BusClosed, BusError, BusTimeout, Ratchet, Rejected
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits
from ratchet.bus._socket import wire

LARGE = "x" * 300_000


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# The client's end.


@on_sockets_of_each_form
@pytest.mark.parametrize("filler", ["", LARGE], ids=["small", "large"])
@pytest.mark.parametrize("opened_by", ["connect", "new_client"])
def test_all_that_was_cast_has_left_when_a_with_block_is_left(
    bus: Bus, start: Start, filler: str, opened_by: str
) -> None:
    got: list[str] = []
    start(bus.server.serve, got.append)
    opened: Any = connect(bus) if opened_by == "connect" else bus.new_client()
    with opened as client:
        for number in range(10):
            client.cast(f"{number}{filler}")
    wait_until(lambda: len(got) == 10, "every cast to arrive")
    assert sorted(got) == [f"{number}{filler}" for number in range(10)]


@pytest.mark.virtual_time
@on_sockets_of_each_form
def test_what_was_cast_leaves_although_nobody_serves_yet(bus: Bus, start: Start) -> None:
    with connect(bus) as client:
        for number in range(10):
            client.cast(number)
    got: list[int] = []
    start(bus.server.serve, got.append)
    wait_until(lambda: len(got) == 10, "every cast to run")


# A plain client that closes is answered all the same, and resets the connection by that: what the server
# has not read by then is lost.
@on_sockets
def test_close_hands_over_what_the_kernel_takes_at_once(bus: Bus, start: Start) -> None:
    got: list[int] = []
    start(bus.server.serve, got.append)
    client = bus.new_client()
    for number in range(10):
        client.cast(number)
    client.close()
    wait_until(lambda: len(got) == 10, "every cast to arrive")


def cast_until_full(client: Any) -> None:
    """Cast more than the kernel keeps for a peer that does not read."""
    for _ in range(40):
        try:
            client.cast(LARGE, timeout=0.05)
        except BusTimeout:
            # On a busy machine the time may be over for no other reason.
            if client._servers.places[0].current.stream.output.writers.above_high_water:
                return
    raise AssertionError("the kernel takes it all")


@pytest.mark.virtual_time
@on_sockets
def test_a_with_block_that_is_left_waits_no_longer_than_the_stall_timeout_and_says_what_is_lost(
    open_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    client, _ = open_client(limits=Limits(stall_timeout=0.3))
    with caplog.at_level(logging.WARNING, "ratchet"):
        with client:
            cast_until_full(client)
            began = time.monotonic()
        assert time.monotonic() - began < LONG / 2
        wait_until(lambda: caplog.records, "a line in the log")
    assert any("cast" in record.getMessage() for record in caplog.records)


@pytest.mark.virtual_time
@on_sockets
def test_a_with_block_that_is_left_by_an_error_waits_for_nothing(open_client: OpenClient) -> None:
    client, _ = open_client(limits=Limits(stall_timeout=LONG))
    with pytest.raises(ZeroDivisionError), client:
        cast_until_full(client)
        began = time.monotonic()
        raise ZeroDivisionError
    assert time.monotonic() - began < LONG / 2


@on_sockets_of_each_form
def test_draining_a_client_sees_what_was_cast_delivered(bus: Bus, start: Start) -> None:
    got: list[str] = []
    start(bus.server.serve, got.append)
    client = connect(bus)
    for _ in range(10):
        client.cast(LARGE)
    assert client.drain(LONG) is True
    wait_until(lambda: len(got) == 10, "every cast to arrive")


@on_every_kind
def test_draining_a_client_waits_for_what_is_open_and_sends_nothing_new(bus: Bus, start: Start) -> None:
    client = connect(bus)
    sent = client.send_request("question")
    transaction = bus.take()
    draining = start(client.drain, LONG)
    draining.wait_until_blocked()
    with pytest.raises((BusClosed, Rejected)) as raised:
        client.send_request("another")
    assert raised.value.outcome in ("NOT_SENT", "NOT_RUN")
    turns()
    assert not draining.ended
    transaction.send_response("answer")
    assert draining.result() is True
    assert sent.recv_response(LONG) == "answer"
    with pytest.raises(BusError):
        client.call("after it", LONG)


@pytest.mark.virtual_time
@on_sockets
def test_draining_a_client_in_vain_says_so(open_client: OpenClient, caplog: pytest.LogCaptureFixture) -> None:
    opened: Any = open_client()
    client, _ = opened
    cast_until_full(client)
    with caplog.at_level(logging.WARNING, "ratchet"):
        assert client.drain(0.05) is False
        wait_until(lambda: caplog.records, "a line in the log")
    with pytest.raises(BusClosed):
        client.cast("after it")


@pytest.mark.parametrize("kind", ["tcp"])
def test_a_reset_that_nobody_has_read_yet_is_a_loss_to_a_client_that_drains(
    open_client: OpenClient, caplog: pytest.LogCaptureFixture
) -> None:
    opened: Any = open_client()
    client, server = opened
    output = client._servers.places[0].current.stream.output
    while not output.undelivered:
        client.cast(LARGE)
    wait_until(lambda: not output.unsent, "the kernel to have it all")
    assert output.undelivered
    # With this much unread.
    server.close()
    with caplog.at_level(logging.WARNING, "ratchet"):
        assert client.drain(LONG) is False
        wait_until(lambda: caplog.records, "a line in the log")
    assert any("cast" in record.getMessage() for record in caplog.records)


@on_every_kind
def test_draining_a_client_on_which_nothing_is_open_ends_at_once(bus: Bus) -> None:
    client: Any = bus.client
    assert client.drain(LONG) is True
    assert client.drain(LONG) is True


# What a cast takes.


@pytest.mark.parametrize("timeout", ["1", True, float("nan"), object()])
def test_cast_refuses_a_timeout_that_is_no_number_of_seconds(bus: Bus, timeout: Any) -> None:
    client: Any = bus.client
    with pytest.raises((TypeError, ValueError), match="number of seconds"):
        client.cast("question", timeout)
    bus.check_works()


def test_metadata_goes_along_with_a_cast(bus: Bus) -> None:
    client: Any = bus.client
    client.cast("question", None, {"trace": "1"})
    transaction = bus.take()
    assert dict(transaction.metadata) == {"trace": "1"}
    assert transaction.send_response("nobody wants this") is False


@on_sockets
def test_the_time_out_of_a_cast_bounds_the_sending(kind: str, tmp_path: Path, stack: ExitStack) -> None:
    nowhere: Any = f"unix:{tmp_path}/nowhere" if kind == "unix" else ("127.0.0.1", 1)
    client: Any = stack.enter_context(ratchet_bus.connect(nowhere, ssl_context=client_tls(kind)))
    with pytest.raises(BusTimeout) as raised:
        client.cast(b"question", timeout=0.02)
    assert raised.value.outcome == "NOT_SENT"


@pytest.mark.virtual_time
@on_every_kind
def test_the_time_out_of_a_cast_does_not_bound_its_running(bus: Bus, start: Start) -> None:
    client: Any = bus.client
    client.cast("question", timeout=0.2)
    bus.wait_for_queued()
    end = time.monotonic() + 0.25
    wait_until(lambda: time.monotonic() > end)
    got: list[str] = []
    start(bus.server.serve, got.append)
    wait_until(lambda: got == ["question"], "the cast to run")


# The server's end.  Over the plain form it cannot tell a cast from a request.


@pytest.mark.parametrize("workers", [1, 4])
def test_what_was_cast_and_has_come_is_run_before_a_drain_ends(bus: Bus, start: Start, workers: int) -> None:
    for number in range(10):
        bus.client.cast(number)
    bus.wait_for_queued(10)
    got: list[int] = []
    serving = start(bus.server.serve, got.append, workers)
    assert bus.server.drain(LONG) is True
    assert got == list(range(10))
    assert serving.result() is None


def test_a_drain_runs_what_was_cast_and_refuses_what_was_asked(bus: Bus, start: Start) -> None:
    sent = []
    for number in range(5):
        bus.client.cast(number)
        sent.append(bus.client.send_request("question"))
    bus.wait_for_queued(10)
    draining = start(bus.server.drain, LONG)
    for transaction in sent:
        with pytest.raises(Rejected) as raised:
            transaction.recv_response(LONG)
        assert raised.value.outcome == "NOT_RUN"
    got: list[Any] = []
    start(bus.server.serve, got.append, 1)
    assert draining.result() is True
    assert got == list(range(5))


def end_with_work_left(bus: Bus, end: str, caplog: pytest.LogCaptureFixture) -> None:
    """Close a server, or drain it in vain, and wait until it has said something about that."""
    with caplog.at_level(logging.WARNING, "ratchet"):
        if end == "close":
            bus.server.close()
        else:
            assert bus.server.drain(0.02) is False
        wait_until(lambda: caplog.records, "a line in the log")


@pytest.mark.parametrize("end", ["close", "drain"])
def test_what_was_cast_and_is_never_begun_is_counted_and_logged(
    bus: Bus, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    for number in range(3):
        bus.client.cast(number)
    bus.wait_for_queued(3)
    end_with_work_left(bus, end, caplog)
    assert bus.server.stats().failed == 3
    assert bus.server.stats().queued == 0
    assert any("3" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("end", ["close", "drain"])
def test_a_cast_that_is_interrupted_because_the_bus_is_closed_is_logged(
    bus: Bus, start: Start, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    begun, never = Event(), Event()

    def handle(request: str) -> None:
        begun.set()
        never.wait()

    start(bus.server.serve, handle)
    bus.client.cast("something long")
    assert begun.wait(LONG)
    end_with_work_left(bus, end, caplog)
    assert ["interrupted" in record.getMessage() for record in caplog.records] == [True]


def test_a_with_block_of_a_local_bus_waits_for_a_server_that_was_attached_only_now() -> None:
    got: list[int] = []
    with Ratchet() as kernel:
        with ratchet_bus.new_local()[0] as bus:
            kernel.attach_background(bus.serve, got.append)
            for number in range(5):
                bus.cast(number)
    assert got == list(range(5))


def test_a_with_block_of_a_local_bus_that_nobody_serves_is_left_soon(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "ratchet"), ratchet_bus.new_local()[0] as bus:
        bus.cast("for nobody")
        began = time.monotonic()
    assert time.monotonic() - began < 5
    assert ["not run" in record.getMessage() for record in caplog.records] == [True]


@on_sockets
def test_what_a_client_cast_is_run_although_it_has_gone(bus: Bus, start: Start) -> None:
    client = bus.new_client()
    for number in range(3):
        client.cast(number)
    bus.wait_for_queued(3)
    client.close()
    wait_until(lambda: bus.server.stats().connections == 1)
    got: list[int] = []
    start(bus.server.serve, got.append)
    wait_until(lambda: got == [0, 1, 2], "the casts of the client that has gone")


def test_a_program_that_casts_in_a_with_block_and_ends_has_delivered_all(start: Start) -> None:
    got: list[bytes] = []
    with ratchet_bus.listen("127.0.0.1:0") as server:
        start(server.serve, got.append)
        program = f"""if True:
            from ratchet import bus
            with bus.connect({server.address!r}) as client:
                for number in range(100):
                    client.cast(b"%d" % number)
        """
        # gevent's, so that this process serves it meanwhile.
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program], capture_output=True, timeout=LONG, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        wait_until(lambda: len(got) == 100, "every cast to arrive")


@pytest.mark.parametrize("family", ["tcp", "unix"])
@pytest.mark.parametrize("end", ["client.close()", "pass", "del client"])
def test_a_program_that_casts_and_ends_loses_nothing_without_saying_so(
    start: Start, tmp_path: Path, family: str, end: str
) -> None:
    """Also if the server has more to say: then a mere close would throw away what the kernel still has.

    Not in the plain form: there a cast is a request, and a server that is slow to begin drops those of
    a client that has gone.
    """
    got: list[bytes] = []

    def answer(request: bytes) -> bytes:
        got.append(request)
        return b"x" * 1000

    with ratchet_bus.listen(f"unix:{tmp_path}/bus" if family == "unix" else "127.0.0.1:0") as server:
        start(server.serve, answer)
        program = f"""if True:
            import logging
            from ratchet import bus
            logging.basicConfig()
            client = bus.connect({server.address!r})
            for number in range(50):
                client.cast(b"x" * 20_000)
            {end}
        """
        ended = subprocess.run(
            [sys.executable, "-W", "error", "-c", program],
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        told = re.search(r"casts not sent when the bus to .* was closed: (\d+)$", ended.stderr)
        lost = int(told[1]) if told else 0
        wait_until(lambda: len(got) == 50 - lost, "every cast that left")


@pytest.mark.pure
@on_sockets
def test_a_signal_handler_that_casts_just_before_a_call_waits_takes_no_answer_from_it(
    open_client: OpenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, raw = open_client(codec=None)
    sent = client.send_request(b"question")
    raw.receive_hello()
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.RESPONSE, 0, id, 0, [b"answer"]))

    def interrupted() -> Waiter[Any]:
        # The hub is late, so what has come is read before anything is written.
        burn(0.05)
        client.cast(b"of a signal handler")
        return Waiter()

    monkeypatch.setattr("ratchet._native.new_wait", interrupted)
    began = time.monotonic()
    assert sent.recv_response(LONG) == b"answer"
    assert time.monotonic() - began < LONG / 2, "it was not woken"


@on_sockets
def test_closing_a_client_without_a_free_descriptor_closes_it_all_the_same(open_client: OpenClient) -> None:
    client, _ = open_client(limits=Limits(stall_timeout=0.3))
    cast_until_full(client)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        # No descriptor at or above this number can be made.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        client.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert client.stats().connections == 0
