"""What `dir()` shows to users, and where classes and functions say that they are found."""

from __future__ import annotations

import pickle
from importlib import import_module
from types import ModuleType
from typing import get_type_hints

import pytest

import ratchet
from ratchet import bus, testing

MODULES = [
    "ratchet.bus",
    "ratchet.bus.codecs",
    "ratchet.errors",
    "ratchet.kernel",
    "ratchet.testing",
    "ratchet.thread",
]
OF_THE_BUS = [name for name in bus.__all__ if not isinstance(getattr(bus, name), ModuleType)]


@pytest.mark.parametrize("name", MODULES)
def test_a_module_shows_its_public_names_alone(name: str) -> None:
    module = import_module(name)
    assert dir(module) == sorted(module.__all__)
    assert all(hasattr(module, shown) for shown in dir(module))


def test_the_package_shows_its_public_names_and_its_version() -> None:
    assert dir(ratchet) == sorted([*ratchet.__all__, "__version__"])


def test_the_bus_shows_no_more_than_one_can_take_in() -> None:
    assert len(dir(bus)) <= 22


def test_a_transaction_of_a_client_shows_what_its_user_may_call() -> None:
    server, client = bus.new_local()
    with server:
        transaction = client.send_request("question")
        shown = dir(transaction)
    assert [name for name in shown if not name.startswith("__")] == [
        "cancel",
        "done",
        "rawlink",
        "ready",
        "recv_response",
        "request",
        "unlink",
    ]
    assert {"__repr__", "__class__", "__doc__"} <= set(shown)


@pytest.mark.parametrize("name", OF_THE_BUS)
def test_what_the_bus_has_says_that_a_public_module_has_it(name: str) -> None:
    thing = getattr(bus, name)
    assert thing.__module__ == ("ratchet.bus.codecs" if name == "Codec" else "ratchet.bus")
    assert getattr(import_module(thing.__module__), name) is thing
    assert pickle.loads(pickle.dumps(thing)) is thing


@pytest.mark.parametrize("name", [name for name in OF_THE_BUS if isinstance(getattr(bus, name), type)])
def test_the_types_that_a_class_names_are_found_from_there(name: str) -> None:
    assert isinstance(get_type_hints(getattr(bus, name)), dict)


@pytest.mark.parametrize("name", testing.__all__)
def test_what_the_testing_kit_has_says_that_it_is_found_there(name: str) -> None:
    assert getattr(testing, name).__module__ == "ratchet.testing"


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("what", ["Limits", "Stats"])
def test_a_pickle_names_the_public_module(what: str, protocol: int) -> None:
    made = bus.Limits(max_parts=7, stall_timeout=0.5) if what == "Limits" else bus.new_local()[0].stats()
    pickled = pickle.dumps(made, protocol)
    assert b"ratchet.bus" in pickled
    assert b"ratchet.bus._" not in pickled
    copied = pickle.loads(pickled)
    assert copied == made
    assert type(copied) is type(made)


def test_what_the_testing_kit_gives_shows_what_is_for_users() -> None:
    shown = {}

    def main(world: testing.World) -> None:
        process = world.process("sleeper", int)
        for thing in (world, world.clock, world.network, process):
            shown[type(thing)] = [name for name in dir(thing) if not name.startswith("__")]
            assert "__repr__" in dir(thing)

    testing.simulate(main, seeds=1)
    assert shown == {
        testing.World: ["clock", "network", "process", "random", "seed"],
        testing.Clock: ["advance", "now"],
        testing.Network: ["cut", "faults", "heal", "partition"],
        testing.Process: ["alive", "kill", "name", "wait"],
    }
