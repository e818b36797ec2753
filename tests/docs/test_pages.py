"""What the pages of the documentation name: all that there is, and as it is."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

import pytest

from docs.pages import CHECKOUT, PAGES
from ratchet import Outcome, errors
from ratchet.bus import Limits
from ratchet.bus._core.faults import Reason, error_from_reason
from ratchet.bus._core.outgoing import OutgoingRequest
from ratchet.bus._socket import wire

MANUAL = "docs/manual"
MODULES = [
    "ratchet",
    "ratchet.thread",
    "ratchet.errors",
    "ratchet.bus",
    "ratchet.bus.codecs",
    "ratchet.testing",
]


def entries(directive: str) -> Iterator[Any]:
    """Every object that a page of the reference has an entry for."""
    for name, text in PAGES.items():
        if name.startswith("docs/reference"):
            module = re.search(r"^\.\. (?:currentmodule|automodule):: (\S+)", text, re.M)
            for entry in re.findall(directive, text, re.M):
                assert module is not None
                yield resolve_name(f"{module[1]}:{entry}")


DOCUMENTED = list(entries(r"^\.\. auto(?:function|class|exception|data):: (\w+)"))
IN_TABLES = list(entries(r"^   ([A-Z]\w+(?:\.\w+)?)$"))


@pytest.mark.parametrize("name", MODULES)
def test_the_reference_has_every_public_name_of_a_module(name: str) -> None:
    assert f"docs/reference/{name}.rst" in PAGES
    module = resolve_name(name)
    public = [getattr(module, name) for name in module.__all__]
    missing = [
        thing
        for thing in public
        if not isinstance(thing, ModuleType) and not any(thing is known for known in DOCUMENTED)
    ]
    assert missing == []


@pytest.mark.parametrize("name", ["Ratchet", "Thread", *(f"bus.{kind}Bus" for kind in ("Server", "Client"))])
def test_the_table_of_a_class_has_every_public_method(name: str) -> None:
    check_table(resolve_name(f"ratchet:{name}"))


@pytest.mark.parametrize("side", ["Server", "Client"])
def test_the_table_of_a_transaction_has_every_public_method(side: str) -> None:
    check_table(resolve_name(f"ratchet.bus:{side}Transaction"))


def check_table(documented: type) -> None:
    # What is a request's is for the kinds of bus, and not for those who hold it.
    bases = [
        base
        for base in documented.__mro__
        if base.__module__.startswith("ratchet") and base not in OutgoingRequest.__mro__
    ]
    own = [name for base in bases for name in vars(base)]
    public = {name for name in own if not name.startswith("_")}
    missing = [
        name for name in public if not any(getattr(documented, name) is listed for listed in IN_TABLES)
    ]
    assert missing == []


def test_every_example_is_named_on_its_page() -> None:
    named = set(re.findall(r"``(\w+\.\w+)``", PAGES[f"{MANUAL}/examples.rst"]))
    there = {path.name for path in (CHECKOUT / "examples").iterdir() if path.is_file()}
    assert there
    assert named == there


def test_every_page_is_in_a_table_of_contents() -> None:
    for folder in ("docs", MANUAL, "docs/reference"):
        index = PAGES[f"{folder}/index.rst"]
        pages = [name for name in PAGES if name.rpartition("/")[0] == folder]
        for name in pages:
            page = name.removeprefix(f"{folder}/").removesuffix(".rst")
            assert page == "index" or re.search(rf"^   {re.escape(page)}$", index, re.M), name


def test_the_limits_and_their_defaults_are_those_of_the_code() -> None:
    units = {"MiB": 1024 * 1024, "s": 1, "": 1}
    rows = re.findall(r"^``(\w+)`` +([\d,]+) ?(MiB|s|)  ", PAGES[f"{MANUAL}/limits.rst"], re.M)
    shown = {name: int(number.replace(",", "")) * units[unit] for name, number, unit in rows}
    assert shown == dataclasses.asdict(Limits())


def test_the_codes_of_the_errors_are_those_of_the_code() -> None:
    rows = re.findall(r":py:exc:`~ratchet.errors.(\w+)`\n +- ``(\w+)``", PAGES[f"{MANUAL}/errors.rst"])
    tree = [getattr(errors, name) for name in errors.__all__]
    coded = [error for error in tree if issubclass(error, errors.RatchetError)]
    assert dict(rows) == {
        error.__name__: error.code for error in coded if error not in (errors.RatchetError, errors.BusError)
    }


def test_the_numbers_of_errors_raise_what_the_page_of_the_wire_says() -> None:
    page = PAGES[f"{MANUAL}/wire.rst"]
    rows = re.findall(r"^(\d) {3,}\S.*``(\w+)``, ``(\w+)``", page, re.M)
    assert [int(number) for number, _, _ in rows] == list(Reason)
    for number, name, outcome in rows:
        error = error_from_reason(int(number), ("Type", "message", ""))
        assert (type(error).__name__, error.outcome) == (name, outcome)


def test_the_messages_on_the_page_of_the_wire_are_what_it_says() -> None:
    rows = re.findall(r"^   \* - ``([0-9a-f ]+)``\n     - (.+)$", PAGES[f"{MANUAL}/wire.rst"], re.M)
    assert len(rows) > 10
    for bytes_shown, text in rows:
        decoder = wire.Decoder(1000, 10)
        ((kind, flags, id, arg, parts),) = decoder.feed(bytes.fromhex(bytes_shown))
        assert decoder.error is None
        assert not decoder.partial
        name = re.match(r"\w+", text)
        assert name is not None
        assert kind == getattr(wire, name[0].upper())
        if kind == wire.ERROR:
            assert ("but not run" in text) == (wire.outcome_of(flags) is Outcome.NOT_RUN)
        else:
            assert ("no response wanted" in text) == bool(flags & wire.ONE_WAY)
            assert ("metadata" in text) == bool(flags & wire.METADATA)
        # Every number and every part is told.
        told = {number for number in (id, arg) if number}
        assert told == {int(number) for number in re.findall(r"(?<!`)\b\d+\b(?!`)", text)}
        texts = re.findall(r"``(.+?)``", text)
        assert texts == [part.decode() for part in parts if part]
