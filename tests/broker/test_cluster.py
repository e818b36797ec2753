"""A service over a cluster of three nodes, any of which may die."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest

from broker.chaos import Chaos
from broker.nodes import Cluster
from broker.services import Service
from callers import failure
from helpers import LONG
from ratchet import BusError, ConnectionLost, Outcome
from ratchet.bus import Retry

pytestmark = pytest.mark.broker


@pytest.fixture
def service(broker_cluster: Cluster) -> Iterator[Service]:
    """A service on all nodes of the cluster."""
    with ExitStack() as stack:
        service = Service(broker_cluster.url, stack)
        # Before its queues are deleted.
        stack.callback(broker_cluster.heal)
        yield service


def call_until_answered(client: Any, request: Any) -> Any:
    """Call again and again; each call ends."""
    for _ in range(100):
        try:
            return client.call(request, timeout=LONG)
        except BusError:
            gevent.sleep(0.1)
    raise AssertionError("no call is answered any more")


def test_when_the_node_of_a_client_dies_it_goes_on_by_another(
    broker_cluster: Cluster, service: Service
) -> None:
    first, others = broker_cluster.nodes[0], broker_cluster.nodes[1:]
    server = service.server(f"amqp://guest:guest@{others[0].address},{others[1].address}/")
    client = service.client(retry=Retry(attempts=10))
    running = client.send_request("running", timeout=60)
    taken, _ = server.recv_request(LONG)
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("before", timeout=LONG) == "before"
    first.kill()
    assert failure(lambda: running.recv_response(LONG)) == (ConnectionLost, Outcome.UNKNOWN)
    taken.send_response("in vain")
    assert call_until_answered(client, "after") == "after"


def test_when_the_node_of_a_server_and_its_queue_s_leader_dies_all_goes_on(
    broker_cluster: Cluster, service: Service
) -> None:
    first, second = broker_cluster.nodes[:2]
    server = service.server()
    client = service.client(f"amqp://guest:guest@{second.address}/", retry=Retry(attempts=10))
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("before", timeout=LONG) == "before"
    first.kill()
    assert call_until_answered(client, "after") == "after"


def test_casts_that_were_confirmed_are_on_the_other_nodes(broker_cluster: Cluster, service: Service) -> None:
    first, second, third = broker_cluster.nodes
    service.server().close()
    client = service.client()
    for number in range(5):
        client.cast(number, timeout=LONG)
    first.kill()
    server = service.server(f"amqp://guest:guest@{second.address},{third.address}/")
    assert sorted(server.recv_request(LONG)[1] for _ in range(5)) == [0, 1, 2, 3, 4]


def test_chaos_makes_nothing_run_twice_and_no_outcome_a_lie(broker_cluster: Cluster) -> None:
    with ExitStack() as stack:
        chaos = Chaos(broker_cluster, stack, seed=1)
        chaos.run(15)
    assert len(chaos.outcomes) > 100, str(chaos)
