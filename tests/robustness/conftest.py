"""What holds for every test here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.resolver.blocking import Resolver


@pytest.fixture(autouse=True)
def no_thread_looks_up_addresses() -> Iterator[None]:
    """gevent's own way to look up an address keeps a thread, and a watcher, for some seconds."""
    hub: Any = gevent.get_hub()
    before, hub.resolver = hub.resolver, Resolver()
    yield
    hub.resolver = before
