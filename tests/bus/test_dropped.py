"""A client that is dropped without `close()`, and an exception that strikes when it is closed."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from helpers import raising_once
from ratchet import Ratchet, bus, testing, thread
from ratchet.bus._socket.connections import Connections
from ratchet.bus._transport import dropped
from ratchet.bus._transport.dropped import DroppedClient

PLACES = [
    (DroppedClient, "close_soon"),
    (dropped, "keep"),
    (DroppedClient, "_settle"),
    # Of a class of C, no method can be replaced.
    pytest.param(Connections, "close", marks=pytest.mark.pure),
]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_a_dropped_client_is_closed_although_that_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, raising_once(getattr(owner, name)))
    connections: list[int] = []

    def count() -> None:
        with bus.listen("server:80") as server:
            client: Any = bus.connect("server:80")
            client.wait_connected()
            connections.append(server.stats().connections)
            client = None
            thread.timer(1)
            connections.append(server.stats().connections)

    with testing.virtual_time(), testing.network():
        kernel = Ratchet()
        kernel.attach(count)
        with suppress(MemoryError):
            kernel.loop()
        kernel.loop()
    assert connections == [1, 0]
