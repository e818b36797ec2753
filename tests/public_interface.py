"""Prints all that users see of the library: public names with their signatures and docstrings, as JSON."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

MODULES = (
    "ratchet",
    "ratchet.bus",
    "ratchet.bus.codecs",
    "ratchet.errors",
    "ratchet.kernel",
    "ratchet.testing",
    "ratchet.thread",
)


def kind_of(thing: Any) -> str:
    """What it is to a user, who need not know whether it was compiled."""
    if isinstance(thing, type):
        return "class"
    if inspect.isdatadescriptor(thing):
        return "attribute"
    return "callable" if callable(thing) else "value"


def signature_of(thing: Any) -> str | None:
    """How it is called; None for what cannot be called, or does not say."""
    try:
        return str(inspect.signature(thing))
    except (TypeError, ValueError):
        return None


def entries_of(name: str, thing: Any) -> Iterator[tuple[str, list[str | None]]]:
    """A thing and, if it is a class, the members that it has from us: kind, signature, docstring of each."""
    if isinstance(thing, ModuleType):
        return
    yield name, [kind_of(thing), signature_of(thing), inspect.getdoc(thing)]
    if isinstance(thing, type):
        for member, where in members_of(thing).items():
            if not member.startswith("_"):
                # A field is of one class or another: its docstring is not ours.
                found = getattr(where, member)
                doc = inspect.getdoc(found) if isinstance(found, property) or callable(found) else None
                yield f"{name}.{member}", [kind_of(found), signature_of(found), doc]


def members_of(thing: type) -> dict[str, type]:
    """Each member that a class has from us, and the class that has it."""
    ours = [base for base in thing.__mro__ if base.__module__.partition(".")[0] == "ratchet"]
    return {member: base for base in reversed(ours) for member in vars(base)}


def interface() -> dict[str, list[str | None]]:
    """Every public name, with its kind, its signature and its docstring."""
    return {
        entry: facts
        for name in MODULES
        for public in import_module(name).__all__
        for entry, facts in entries_of(f"{name}.{public}", getattr(import_module(name), public))
    }


if __name__ == "__main__":
    print(json.dumps(interface()))
