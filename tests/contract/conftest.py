"""What every contract test is given: a bus of each kind, and threads that end with the test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from contract.buses import TELLING, Bus, OpenBus, OpenClient, Start, Task, client_of_raw_server, each
from contract.buses import open_bus as open_bus_of
from contract.over_a_broker import NOT_OVER_A_BROKER


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what does not apply to a bus over a broker, and say why."""
    for item in items:
        callspec = getattr(item, "callspec", None)
        if callspec is not None and callspec.params.get("kind") == "broker":
            name = getattr(item, "originalname", item.name)
            in_virtual_time = item.get_closest_marker("virtual_time") is not None
            reason = "a broker lives in real time" if in_virtual_time else NOT_OVER_A_BROKER.get(name)
            if reason is not None:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(params=each(*TELLING, "broker"))
def kind(request: pytest.FixtureRequest) -> str:
    """The kind of bus; the marks in `buses` choose others."""
    return str(request.param)


@pytest.fixture
def open_bus(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[OpenBus]:
    """Opens a bus with options; it is closed after the test."""
    given = {"broker": request.getfixturevalue("broker_node").url} if kind == "broker" else {}
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(open_bus_of(kind, tmp_path, **given, **options))


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
