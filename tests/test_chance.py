"""The one source of chance: it can be seeded, and nothing else draws from it or beside it."""

from __future__ import annotations

import ast
import random
from collections.abc import Iterator

import gevent
import pytest

from helpers import LONG, PACKAGE, output_of
from ratchet import _clock
from ratchet._chance import chance
from ratchet.bus._core.address import Address
from ratchet.bus._transport.dial import Dialer
from ratchet.bus._transport.transport import Transport

DRAWN = 10


@pytest.fixture(autouse=True)
def unseeded() -> Iterator[None]:
    yield
    chance.seed()


class Client:
    """A client whose server is away."""

    def __init__(self) -> None:
        self.failures = 0

    def use(self, transport: Transport, peer: Address) -> None:
        raise AssertionError("nothing to connect to")

    def on_dial_failed(self, error: Exception) -> None:
        self.failures += 1


def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses of a client between its attempts to connect."""
    slept: list[float] = []
    client = Client()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == DRAWN:
            raise gevent.GreenletExit

    def refuse() -> tuple[Transport, Address]:
        raise ConnectionRefusedError

    monkeypatch.setattr(_clock, "sleep", sleep)
    dialer = Dialer(client, refuse)
    dialing = gevent.spawn(dialer._run)
    dialing.join(LONG)
    assert client.failures == len(slept) == DRAWN
    return slept


def test_a_seed_repeats_the_pauses_between_attempts_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    chance.seed(1)
    first = pauses(monkeypatch)
    chance.seed(1)
    assert pauses(monkeypatch) == first
    assert pauses(monkeypatch) != first


def test_the_program_s_own_seed_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(1)
    first = pauses(monkeypatch)
    mine = random.random()
    random.seed(1)
    assert pauses(monkeypatch) != first
    assert random.random() == mine
    random.seed(1)
    assert random.random() == mine


FORK = """
import os
from ratchet._chance import chance

chance.seed(1)
child = os.fork()
if child:
    os.waitpid(child, 0)
print(chance.random())
"""


def test_a_forked_child_draws_something_else() -> None:
    drawn = output_of(FORK).split()
    assert len(set(drawn)) == 2


def draws(source: str) -> set[str]:
    """The modules that draw at random, of those that a module imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found & {"random", "secrets", "uuid"}


def test_nothing_else_draws_at_random() -> None:
    found = {
        str(path.relative_to(PACKAGE)): modules
        for path in PACKAGE.rglob("*.py")
        # What tests are made with draws from generators of its own, by its user's seeds.
        if "testing" not in path.parts
        if (modules := draws(path.read_text(encoding="utf-8")))
    }
    # The name of a process, or of a queue, must not come twice, however a run is seeded.
    names = {"bus/_broker/client_link.py": {"uuid"}, "bus/_socket/server.py": {"uuid"}}
    assert found == {"_chance.py": {"random"}, **names}
