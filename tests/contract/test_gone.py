"""A side that has gone, and what the other makes of it: clients that die, links that died unseen."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from certificates import client_certificates, server_context
from contract.buses import (
    EXTENDED_SOCKETS,
    Bus,
    OpenBus,
    Start,
    client_tls,
    is_plain,
    listening,
    on_plain_sockets,
    on_sockets,
    on_sockets_of_each_form,
    server_tls,
)
from contract.clients import connect
from helpers import LONG, burn, turns, wait_until
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire
from raw_peer import RawPeer

LARGE = b"L" * 1_000_000


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


# The client has gone.


@on_sockets
@pytest.mark.parametrize("how", ["ends the stream", "closes"])
@pytest.mark.parametrize("says_hello", [False, True])
def test_what_a_client_that_has_gone_had_open_is_given_up(bus: Bus, how: str, says_hello: bool) -> None:
    raw = bus.raw_client()
    if says_hello:
        raw.say_hello()
        raw.receive_hello()
    for id in range(1, 4):
        raw.request(id)
    taken = bus.take()
    bus.wait_for_queued(2)
    if how == "closes":
        raw.close()
    else:
        raw.end_input()
    wait_until(lambda: taken.cancelled, "the request to be given up")
    bus.wait_for_queued(0)
    assert taken.send_response("late") is False
    assert bus.server.stats().cancelled == 3
    bus.check_works()


@on_sockets
def test_the_handler_of_a_client_that_has_gone_is_interrupted(bus: Bus, start: Start) -> None:
    begun, interrupted = Event(), Event()
    ran: list[object] = []

    def handler(request: object) -> object:
        ran.append(request)
        if request == "question":
            begun.set()
            try:
                gevent.sleep(2 * LONG)
            finally:
                interrupted.set()
        return request

    start(bus.server.serve, handler, workers=1)
    raw = bus.raw_client()
    raw.request(1)
    raw.request(2, b'"queued"')
    assert begun.wait(LONG)
    bus.wait_for_queued(1)
    raw.end_input()
    assert interrupted.wait(LONG)
    assert bus.client.call("still there?", LONG) == "still there?"
    assert ran == ["question", "still there?"]


@on_sockets
def test_what_a_client_that_has_gone_had_cast_is_run(bus: Bus, start: Start) -> None:
    raw = bus.raw_client()
    raw.request(1)
    raw.request(2, b'"cast"', wire.ONE_WAY)
    raw.request(3)
    raw.end_input()
    wait_until(lambda: bus.server.stats().cancelled == 2, "the questions to be given up")
    ran: list[object] = []
    start(bus.server.serve, ran.append)
    wait_until(lambda: ran == ["cast"], "the cast to run")
    bus.client.call("still there?", LONG)
    assert ran == ["cast", "still there?"]


@on_plain_sockets
def test_a_plain_client_that_only_ends_its_input_is_still_there(bus: Bus) -> None:
    raw = bus.raw_client()
    raw.send(wire.encode(wire.PLAIN, 0, 0, 0, [b'"question"']))
    raw.end_input()
    taken = bus.take()
    turns()
    assert taken.cancelled is False
    assert taken.send_response("answer") is True
    assert raw.receive_message()[4] == [b'"answer"']


CLIENT = """
import ssl, sys
from ratchet import bus
where, *certificates = sys.argv[1:]
context = None
if certificates:
    context = ssl.create_default_context(cafile=certificates[0])
    context.load_cert_chain(certificates[1])
client = bus.connect(where, ssl_context=context)
sent = [client.send_request(b"%d" % number) for number in range(3)]
client.cast(b"cast")
sent[0].recv_response()
"""


@on_sockets
def test_a_client_process_that_is_killed_interrupts_its_handler_and_its_queue_is_not_begun(
    kind: str, tmp_path: Path, start: Start, stack: ExitStack
) -> None:
    begun, interrupted = Event(), Event()
    ran: list[bytes] = []

    def handler(request: bytes) -> bytes:
        ran.append(request)
        if request == b"0":
            begun.set()
            try:
                gevent.sleep(2 * LONG)
            finally:
                interrupted.set()
        return request

    address = f"unix:{tmp_path}/bus" if kind == "unix" else "127.0.0.1:0"
    server: Any = stack.enter_context(ratchet_bus.listen(address, ssl_context=server_tls(kind)))
    start(server.serve, handler, workers=1)
    where = server.address if kind == "unix" else f"127.0.0.1:{server.address[1]}"
    certificates = client_certificates(tmp_path) if kind == "tls" else ()
    # Not gevent's: libev would then wait for the children of other tests, too, and take their exit codes.
    client = subprocess.Popen([sys.executable, "-c", CLIENT, where, *certificates])
    try:
        assert begun.wait(LONG)
        wait_until(lambda: server.stats().queued == 3, "the other requests")
    finally:
        client.send_signal(signal.SIGKILL)
        client.wait(LONG)
    assert interrupted.wait(LONG)
    wait_until(lambda: ran == [b"0", b"cast"], "the cast to run")
    wait_until(lambda: server.stats()[:3] == (0, 0, 0), "the client to be forgotten")
    assert ran == [b"0", b"cast"]


# A server that reads no requests.


@on_sockets
@pytest.mark.parametrize("limit", ["max_queued", "max_in_flight"])
def test_a_server_that_has_too_many_requests_still_answers_a_ping(open_bus: OpenBus, limit: str) -> None:
    bus = open_bus(server_limits=Limits(**{limit: 2}))
    raw = bus.raw_client()
    for id in range(1, 6):
        raw.request(id)
    wait_until(lambda: bus.server.stats().queued >= 2, "a full queue")
    raw.send(wire.encode(wire.PING, 0, 77, 88, ()))
    assert raw.receive_message()[:4] == (wire.PONG, 0, 77, 88)


@on_sockets
@pytest.mark.parametrize("limit", ["max_queued", "max_in_flight"])
@pytest.mark.parametrize(
    "cancelled", [1, 2, 4], ids=["the first", "one in the queue", "one behind the limit"]
)
def test_a_server_that_has_too_many_requests_still_reads_a_cancel(
    open_bus: OpenBus, limit: str, cancelled: int
) -> None:
    bus = open_bus(server_limits=Limits(**{limit: 2}))
    raw = bus.raw_client()
    for id in range(1, 6):
        raw.request(id, b"%d" % id)
    wait_until(lambda: bus.server.stats().queued >= 2, "a full queue")
    raw.send(wire.encode(wire.CANCEL, 0, cancelled, 0, ()))
    kind, _, id, arg, _ = raw.receive_message()
    assert (kind, id) == (wire.ERROR, cancelled)
    assert arg in (Reason.OUT_OF_TIME, Reason.CANCELLED)
    taken = []
    for _ in range(4):
        transaction, request = bus.server.recv_request(LONG)
        taken.append(request)
        transaction.send_response(request)
    assert taken == [id for id in range(1, 6) if id != cancelled]


@on_sockets
def test_a_handler_is_interrupted_although_the_server_has_too_many_requests(
    open_bus: OpenBus, start: Start
) -> None:
    begun, interrupted = Event(), Event()

    def handler(request: object) -> object:
        if request == "first":
            begun.set()
            try:
                gevent.sleep(2 * LONG)
            finally:
                interrupted.set()
        return request

    bus = open_bus(server_limits=Limits(max_queued=1, max_in_flight=2))
    start(bus.server.serve, handler, workers=1)
    first = bus.client.send_request("first")
    assert begun.wait(LONG)
    # As many as the client may have in flight.
    later = start(bus.client.call, "later", LONG)
    bus.wait_for_queued(1)
    first.cancel()
    assert interrupted.wait(LONG)
    assert later.result() == "later"


# A link that died while this side's hub did not run.


@on_sockets_of_each_form
@pytest.mark.parametrize("how", ["closed", "closed, with something unread"])
@pytest.mark.parametrize("call", ["call", "cast"])
@pytest.mark.parametrize("request_", [b"question", LARGE], ids=["small", "large"])
def test_a_link_that_died_while_the_hub_did_not_run_is_noticed_before_the_next_request(
    kind: str,
    tmp_path: Path,
    stack: ExitStack,
    start: Start,
    how: str,
    call: str,
    request_: bytes,
) -> None:
    listener = stack.enter_context(listening(kind, tmp_path))
    name = listener.getsockname()
    first = stack.enter_context(ratchet_bus.new_server(listener.dup(), ssl_context=server_tls(kind)))
    start(first.serve, lambda request: b"the first")
    address = f"unix:{name}" if kind.startswith("unix") else name
    client: Any = stack.enter_context(
        ratchet_bus.connect(address, plain=is_plain(kind), ssl_context=client_tls(kind))
    )
    assert client.call(b"question", LONG) == b"the first"
    turns()
    # From here to the request nothing lets the hub run, as while a program computes.
    if how != "closed" and not is_plain(kind):
        client.cast(b"nobody reads this")
    first.close()
    second = ratchet_bus.new_server(listener, ssl_context=server_tls(kind))
    stack.enter_context(second)
    burn(0.01)
    ran: list[bytes] = []

    def handler(request: bytes) -> bytes:
        ran.append(request)
        return b"the second"

    start(second.serve, handler)
    assert getattr(client, call)(request_, LONG) == (b"the second" if call == "call" else None)
    wait_until(lambda: ran, "the second server to run it")
    assert ran == [request_]


@on_sockets
def test_a_server_that_drained_while_the_hub_did_not_run_is_noticed_before_the_next_request(
    kind: str, tmp_path: Path, stack: ExitStack, start: Start
) -> None:
    """A raw server says that it goes away, and closes; in the kernel there is both."""
    listener = stack.enter_context(listening(kind, tmp_path))
    name = listener.getsockname()
    address = f"unix:{name}" if kind == "unix" else name
    peers: list[RawPeer] = []
    context = server_tls(kind)

    def accept() -> None:
        accepted = listener.accept()[0]
        if context is not None:
            accepted = server_context(gevents=True).wrap_socket(accepted, server_side=True)
        peers.append(stack.enter_context(RawPeer(accepted)))

    gevent.spawn(accept)
    client: Any = stack.enter_context(ratchet_bus.connect(address, ssl_context=client_tls(kind)))
    wait_until(lambda: peers and client.stats().connections, "the connection")
    peers[0].receive_hello()
    peers[0].send(wire.encode(wire.GOAWAY, 0, 0, 0, ()))
    peers[0].close()
    server = stack.enter_context(ratchet_bus.new_server(listener.dup(), ssl_context=context))
    start(server.serve, lambda request: request)
    burn(0.01)
    assert client.call(b"question", LONG) == b"question"


# A client that nobody has closed.


@on_sockets_of_each_form
@pytest.mark.parametrize("opened_by", ["connect", "new_client"])
@pytest.mark.parametrize("used", [False, True])
def test_a_client_that_is_dropped_without_close_is_closed_by_the_collector(
    bus: Bus, start: Start, opened_by: str, used: bool
) -> None:
    start(bus.server.serve, lambda request: request)
    bus.client.call("question", LONG)
    before = bus.server.stats().connections
    kept: list[Any] = [open_another(bus, opened_by)]
    if used:
        kept[0].call("question", LONG)
    wait_until(lambda: bus.server.stats().connections == before + 1, "the connection")
    turns()
    drop(kept)
    wait_until(lambda: bus.server.stats().connections == before, "the connection to be closed")
    bus.client.call("question", LONG)


@on_sockets
def test_a_client_that_is_dropped_while_it_connects_is_closed_by_the_collector(
    kind: str, tmp_path: Path
) -> None:
    nowhere: Any = f"unix:{tmp_path}/nowhere" if kind == "unix" else ("127.0.0.1", 1)
    descriptors = len(os.listdir("/proc/self/fd"))
    kept: list[Any] = [ratchet_bus.connect(nowhere, ssl_context=client_tls(kind))]
    gevent.sleep(0.01)
    drop(kept)
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= descriptors)


@pytest.mark.parametrize("kind", [*EXTENDED_SOCKETS])
def test_a_client_that_was_closed_is_dropped_without_a_warning(
    bus: Bus, recwarn: pytest.WarningsRecorder
) -> None:
    client = open_another(bus, "connect")
    client.close()
    del client
    gc.collect()
    turns()
    assert [warning for warning in recwarn if warning.category is ResourceWarning] == []


def drop(kept: list[Any]) -> None:
    """Let go of a client, and have the collector find it."""

    def is_found() -> bool:
        kept.clear()
        gc.collect()
        return len(caught) > 0

    with pytest.warns(ResourceWarning, match="close") as caught:
        wait_until(is_found)


def open_another(bus: Bus, opened_by: str) -> Any:
    """A client that nothing here keeps."""
    if opened_by == "connect":
        return connect(bus)
    return ratchet_bus.new_client(bus.connected(), codec=ratchet_bus.codecs.json, plain=bus.plain)
