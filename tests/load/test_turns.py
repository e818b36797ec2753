"""Connections take turns: however much one has sent, the others need not wait for all of it."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import pytest

from contract.buses import connected
from helpers import wait_until
from load.overload import TIMEOUT, Load, Run
from load.stage import Client, greedy, on_virtual_time, opened, serving
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits
from ratchet.bus._socket import wire
from raw_peer import RawPeer

pytestmark = pytest.mark.uncounted

HANDLING = 0.005


def handle(request: bytes) -> bytes:
    gevent.sleep(HANDLING)
    return request


def seconds_of(call: Callable[[], object]) -> float:
    began = time.monotonic()
    call()
    return time.monotonic() - began


def waits(client: Client) -> list[float]:
    """Seconds that each of a hundred requests took, one after the other; the shortest first."""
    return sorted(seconds_of(lambda: client.call(b"polite", TIMEOUT)) for _ in range(100))


@pytest.mark.parametrize(
    ("others", "each", "max_queued"),
    [(1, 1000, 10_000), (50, 200, 2000)],
    ids=["one with 1,000", "50 that fill the inbox"],
)
@pytest.mark.virtual_time
def test_a_client_with_one_request_at_a_time_waits_about_as_long_as_if_it_were_alone(
    others: int, each: int, max_queued: int
) -> None:
    limits = Limits(max_queued=max_queued)
    with opened("tcp", 1, limits) as (server, [polite]), serving(server, handle, 1):
        alone = waits(polite)
        with ExitStack() as stack:
            for _ in range(others):
                stack.enter_context(greedy(server, each))
            wait_until(lambda: server.stats().queued > 900)
            beside = waits(polite)
            assert server.stats().queued > 0
    for share in (0.5, 0.99):
        assert at(share, beside) <= 2 * at(share, alone) + HANDLING


def at(share: float, waits: list[float]) -> float:
    """The wait that this share of all waits does not exceed."""
    return waits[math.ceil(share * len(waits)) - 1]


@contextmanager
def full_server(request: bytes) -> Iterator[tuple[Any, RawPeer, RawPeer]]:
    """A server whose inbox is full and whose worker is in the middle of a request.

    Also a client that it knew before, and one of those whose requests fill it.
    """
    with opened("tcp", 0, Limits(max_queued=100)) as (server, _), ExitStack() as stack:
        known = stack.enter_context(RawPeer(connected(server.address)))
        known.say_hello()
        known.receive_hello()
        stack.enter_context(serving(server, handle, 1))
        filling = [stack.enter_context(greedy(server, 100, request)) for _ in range(4)]
        wait_until(lambda: server.stats().queued > 90)
        answered = server.stats().answered
        wait_until(lambda: server.stats().answered > answered)
        gevent.sleep(HANDLING / 2)
        yield server, known, filling[0]


def ping(peer: RawPeer) -> None:
    """Send a PING, and wait for the PONG, whatever comes before it."""
    peer.send(wire.encode(wire.PING, 0, 7, 0, ()))
    while peer.receive_message()[0] != wire.PONG:
        pass


# A hundred of them, as a client sends them here, are read at once, or are more than is read ahead.
on_small_and_large = pytest.mark.parametrize("request_", [b"x", b"x" * 16_384], ids=["small", "large"])


@on_small_and_large
@pytest.mark.virtual_time
def test_a_ping_is_answered_while_the_inbox_is_full(request_: bytes) -> None:
    with full_server(request_) as (server, known, _):
        assert seconds_of(lambda: ping(known)) <= 2 * HANDLING
        with RawPeer(connected(server.address)) as new:
            assert seconds_of(lambda: ping(new)) <= 2 * HANDLING


@pytest.mark.virtual_time
def test_a_ping_is_answered_whose_own_client_fills_the_inbox() -> None:
    with full_server(b"x") as (_, _, filling):
        assert seconds_of(lambda: ping(filling)) <= 2 * HANDLING


@on_small_and_large
@pytest.mark.virtual_time
def test_the_first_request_of_a_new_client_is_answered_while_the_inbox_is_full(request_: bytes) -> None:
    with full_server(request_) as (server, _, _):

        def ask() -> None:
            with ratchet_bus.connect(server.address) as new:
                assert new.call(b"new", TIMEOUT) == b"new"

        assert seconds_of(ask) <= 2 * HANDLING


@on_small_and_large
@pytest.mark.virtual_time
def test_a_request_of_a_client_that_was_there_before_is_answered_while_the_inbox_is_full(
    request_: bytes,
) -> None:
    with full_server(request_) as (_, known, _):

        def ask() -> None:
            known.request(1, b"known")
            assert known.receive_message()[4] == [b"known"]

        assert seconds_of(ask) <= 2 * HANDLING


@pytest.mark.virtual_time
def test_no_connection_starves() -> None:
    patient, most_between = 50, 200
    turns: list[bytes] = []

    def note_turn(request: bytes) -> bytes:
        turns.append(request)
        gevent.sleep(0.001)
        return request

    def ask(client: Client, name: bytes) -> None:
        while True:
            client.call(name)

    with opened("tcp", patient) as (server, clients), ExitStack() as stack:
        stack.enter_context(serving(server, note_turn, 1))
        names = [b"patient %d" % number for number in range(patient)]
        asking = [gevent.spawn(ask, client, name) for client, name in zip(clients, names, strict=True)]
        for number in range(50):
            names.append(b"greedy %d" % number)
            stack.enter_context(greedy(server, 100, names[-1]))
        wait_until(lambda: server.stats().queued > 49 * 100)
        turns.clear()
        wait_until(lambda: len(turns) >= 4 * most_between)
        gevent.killall(asking)
    for name in names:
        # From the beginning to the first, from each to the next, and from the last to the end.
        places = [-1, *(place for place, turn in enumerate(turns) if turn == name), len(turns)]
        assert max(after - before for before, after in itertools.pairwise(places)) <= most_between, name


@pytest.mark.parametrize("same", [False, True], ids=["other connections", "the same connections"])
def test_what_has_no_deadline_is_all_run_and_in_order_beside_too_many_requests_that_have_one(
    same: bool,
) -> None:
    load = Load("tcp", workers=1, handling=(0.01, 0.01), times=5, connections=2)
    ran: list[bytes] = []
    with on_virtual_time(), opened("tcp", 4) as (server, clients):
        run = Run(load, clients[:2], load.gaps(), load.handling_times())
        patient = clients[:2] if same else clients[2:]

        def handle_either(request: bytes) -> bytes:
            if b"patient" not in request:
                return run.handle(request)
            ran.append(request)
            return handle(request)

        with serving(server, handle_either, 1):
            loading = gevent.spawn(run.send_all)
            gevent.sleep(load.learning)
            sent = [ask_and_cast(client, name) for client, name in zip(patient, (b"a", b"b"), strict=True)]
            wait_until(lambda: len(ran) == sum(map(len, sent)), "all to be run")
            assert not loading.ready(), "they had to wait for the end of the others"
            loading.get()
    for requests in sent:
        assert [request for request in ran if request in requests] == requests


def ask_and_cast(client: Client, name: bytes) -> list[bytes]:
    """Send twenty requests without a deadline, of which every other one wants an answer."""
    requests = [b"patient %s %d" % (name, number) for number in range(20)]
    for request, cast in zip(requests[::2], requests[1::2], strict=True):
        client.send_request(request)
        client.cast(cast)
    return requests
