"""What tests are given: a service over a real broker, or a node that plays its part."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from broker.fake_node import FakeNode, started
from broker.nodes import Node
from broker.services import Service


@pytest.fixture
def service(broker_node: Node) -> Iterator[Service]:
    """A service on the node of the run."""
    with ExitStack() as stack:
        yield Service(broker_node.url, stack)


@pytest.fixture
def clients() -> Iterator[list[Any]]:
    """Closes what is put in, in the end: clients, and before that the nodes."""
    made: list[Any] = []
    yield made
    for each in made:
        each.close()


@pytest.fixture
def node(clients: list[Any]) -> FakeNode:
    """A node that answers everything."""
    return started(clients)
