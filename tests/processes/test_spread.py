"""How connections are spread over workers, and how they stay so."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from certificates import client_context
from helpers import LONG, wait_until
from processes.supervised import Supervised, serving, tls_options
from ratchet import bus
from ratchet.bus import codecs

pytestmark = pytest.mark.slow


@contextmanager
def connected(count: int, address: str, **options: Any) -> Iterator[list[bus.ClientBus[Any, Any]]]:
    """So many clients, each with a connection."""
    with ExitStack() as stack:
        clients = [
            stack.enter_context(bus.connect(address, codec=codecs.json, **options)) for _ in range(count)
        ]
        for client in clients:
            client.wait_connected(LONG)
        yield clients


def answer(client: bus.ClientBus[Any, Any]) -> Any:
    return client.call(None, timeout=LONG)


def spread(clients: list[bus.ClientBus[Any, Any]]) -> list[int]:
    """How many of the clients each worker has, the fewest first."""
    return sorted(Counter(answer(client) for client in clients).values())


def wait_until_spread(clients: list[bus.ClientBus[Any, Any]], fewest: int, most: int, workers: int) -> None:
    def is_even() -> bool:
        found = spread(clients)
        return len(found) == workers and fewest <= found[0] and found[-1] <= most

    wait_until(is_even, "an even spread")


@pytest.fixture(params=["tcp", "unix", "tls"])
def kind(request: pytest.FixtureRequest, folder: Path) -> dict[str, Any]:
    """The arguments of `serving` for a kind of socket, and those of `connect`."""
    if request.param == "unix":
        return {"server": {"address": f"unix:{folder}/socket"}, "client": {}}
    if request.param == "tcp":
        return {"server": {}, "client": {}}
    return {
        "server": tls_options(folder),
        "client": {"ssl_context": client_context(certificate=False)},
    }


def test_connections_are_spread_evenly_and_stay_so_when_workers_are_replaced(kind: dict[str, Any]) -> None:
    with serving(**kind["server"]) as processes, connected(8, processes.address, **kind["client"]) as clients:
        assert spread(clients) == [4, 4]
        before = set(processes.pids.values())
        processes.send(signal.SIGHUP)
        for _ in before:
            processes.expect("has ended")
        assert not before & set(processes.pids.values())
        wait_until_spread(clients, 3, 5, 2)
        processes.stop()


def test_the_address_of_a_client_comes_along() -> None:
    with serving("tasks:whose", processes=1) as processes, connected(1, processes.address) as clients:
        _, (host, port) = answer(clients[0])
        assert host == "127.0.0.1"
        assert port > 0
        processes.stop()


@pytest.mark.long
def test_many_connections_are_even_although_workers_are_killed() -> None:
    with serving(processes=4) as processes, connected(32, processes.address) as clients:
        assert spread(clients) == [8, 8, 8, 8]
        for number in (2, 4):
            os.kill(processes.pids[number], signal.SIGKILL)
            processes.expect(f"worker {number} .* was killed by signal 9")
        for _ in range(2):
            processes.expect("is ready")
        wait_until_spread(clients, 7, 9, 4)
        processes.stop()


def test_connections_are_even_again_when_clients_have_left_unevenly() -> None:
    with serving(processes=2) as processes, connected(16, processes.address) as clients:
        first = answer(clients[0])
        there = [client for client in clients if answer(client) == first]
        assert len(there) == 8
        left = [client for client in clients if client not in there]
        for client in there:
            client.close()
        wait_until_spread(left, 3, 5, 2)
        processes.stop()


def test_stats_are_those_of_all_workers_also_of_those_that_have_ended() -> None:
    with serving() as processes:
        with connected(4, processes.address) as clients:
            for client in clients:
                assert answer(client) in processes.pids.values()
            counted = processes.stats()
            assert (counted["connections"], counted["answered"]) == (4, 4)
            os.kill(processes.pids[1], signal.SIGTERM)
            processes.expect("worker 1 .* has ended")
            assert processes.stats()["answered"] == 4
        processes.stop()


def test_no_descriptors_are_left_of_connections_that_have_gone() -> None:
    def open_descriptors(processes: Supervised, client: bus.ClientBus[Any, Any]) -> tuple[int, int]:
        return len(os.listdir(f"/proc/{processes.process.pid}/fd")), answer(client)

    with serving("tasks:descriptors", processes=1) as processes:
        with connected(1, processes.address) as (client,):
            before = open_descriptors(processes, client)
            for _ in range(3):
                with connected(10, processes.address) as clients:
                    assert answer(clients[0]) >= before[1] + 10
                wait_until(lambda: open_descriptors(processes, client) == before, "what was there before")
        processes.stop()


def test_a_worker_that_is_stuck_does_not_swallow_the_clients_of_all() -> None:
    with serving("tasks:pid", processes=2) as processes, ExitStack() as stack:
        os.kill(processes.pids[1], signal.SIGSTOP)
        clients = [stack.enter_context(bus.connect(processes.address, codec=codecs.json)) for _ in range(100)]
        sent = [client.send_request(None, timeout=LONG) for client in clients]
        wait_until(lambda: sum(each.done for each in sent) >= 80, "the other one's clients")
        os.kill(processes.pids[1], signal.SIGCONT)
        assert {each.recv_response() for each in sent} == set(processes.pids.values())
        processes.stop()
