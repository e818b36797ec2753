"""Prints all that users see of the library: public names with their signatures and docstrings, as JSON.

Two things are left out that compiled code does not tell: what a function returns, and how a
class is called whose constructor was compiled.
"""

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

Facts = list[str | None]
"""Kind, signature and docstring."""


def interface() -> dict[str, Facts]:
    """What there is to say of every public name."""
    return {
        entry: facts
        for module in MODULES
        for name in import_module(module).__all__
        for entry, facts in entries_of(f"{module}.{name}", getattr(import_module(module), name))
    }


def entries_of(name: str, thing: Any) -> Iterator[tuple[str, Facts]]:
    """What there is to say of a thing and, if it is a class, of each public member that it has from us."""
    if isinstance(thing, ModuleType):
        return
    yield name, [kind_of(thing), signature_of(thing), doc_of(thing)]
    if isinstance(thing, type):
        ours = [base for base in thing.__mro__ if base.__module__.partition(".")[0] == "ratchet"]
        for member in sorted({member for base in ours for member in vars(base)}):
            if not member.startswith("_"):
                found = [getattr(base, member) for base in ours if member in vars(base)]
                docs = filter(None, map(doc_of, found))
                yield f"{name}.{member}", [kind_of(found[0]), signature_of(found[0]), next(docs, None)]


def kind_of(thing: Any) -> str:
    """What it is to a user, who need not know what it was compiled to."""
    if isinstance(thing, type):
        return "class"
    if inspect.isdatadescriptor(thing):
        return "attribute"
    return "callable" if callable(thing) else "value"


def signature_of(thing: Any) -> str | None:
    """How it is called; None for what cannot be called, and for a compiled class."""
    try:
        return str(inspect.signature(thing).replace(return_annotation=inspect.Signature.empty))
    except (TypeError, ValueError):
        return None


def doc_of(thing: Any) -> str | None:
    """Its own docstring, if it has one; that of a value is its type's."""
    return inspect.cleandoc(thing.__doc__) if kind_of(thing) != "value" and thing.__doc__ else None


if __name__ == "__main__":
    print(json.dumps(interface()))
