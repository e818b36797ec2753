"""A client that is dropped without `close()`, and an exception that strikes when it is closed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from ratchet import Ratchet, bus, testing, thread
from ratchet.bus._socket import dropped
from ratchet.bus._socket.connections import Connections
from ratchet.bus._socket.dropped import DroppedClient

PLACES = [
    (DroppedClient, "close_soon"),
    (dropped, "keep"),
    (DroppedClient, "_settle"),
    (Connections, "close"),
]


def once(right: Callable[..., Any]) -> Callable[..., Any]:
    """A function that raises in place of its first call."""
    struck: list[bool] = []

    def fails_once(*args: Any) -> Any:
        if not struck:
            struck.append(True)
            raise MemoryError
        return right(*args)

    return fails_once


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("owner", "name"), PLACES)
def test_a_dropped_client_is_closed_although_that_is_interrupted(
    monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    monkeypatch.setattr(owner, name, once(getattr(owner, name)))
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
