"""What every contract test is given: a bus of each kind, and threads that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contract.buses import TELLING, Bus, OpenBus, OpenClient, Start, Task, client_of_raw_server, each
from contract.buses import open_bus as open_bus_of


@pytest.fixture(params=each(*TELLING))
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of bus; the marks in `buses` choose others."""
    return str(request.param)


@pytest.fixture
def open_bus(kind: str, tmp_path: Path) -> Iterator[OpenBus]:
    """Opens a bus with options; it is closed after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(open_bus_of(kind, tmp_path, **options))


@pytest.fixture
def bus(open_bus: OpenBus) -> Bus:
    """A bus without options; over sockets it speaks JSON."""
    return open_bus()


@pytest.fixture
def open_client(kind: str, tmp_path: Path) -> Iterator[OpenClient]:
    """Opens a client of a server that speaks bytes; both are closed after the test."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(client_of_raw_server(kind, tmp_path, **options))


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a call in a thread of its own; what still runs after the test is killed."""
    tasks: list[Task] = []

    def start(*args: Any, **kwargs: Any) -> Task:
        tasks.append(Task(*args, **kwargs))
        return tasks[-1]

    yield start
    for task in tasks:
        task.kill()
