"""What every test with a service over a broker is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from broker.nodes import Node
from broker.services import Service


@pytest.fixture
def service(broker_node: Node) -> Iterator[Service]:
    """A service on the node of the run."""
    with ExitStack() as stack:
        yield Service(broker_node.url, stack)
