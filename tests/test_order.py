"""Registers are walked in the order in which they were filled, so that a run can be repeated."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from helpers import PACKAGE

MODULES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py")}

WALKERS = {
    "all",
    "any",
    "dict",
    "enumerate",
    "iter",
    "list",
    "map",
    "max",
    "min",
    "next",
    "sum",
    "tuple",
    "zip",
}
METHODS = ["extend", "fromkeys", "join", "pop", "update"]


def is_set(node: ast.expr | None) -> bool:
    """Whether an expression makes a set."""
    if isinstance(node, ast.Call):
        return ast.unparse(node.func).split(".")[-1] in ("set", "frozenset", "WeakSet")
    return isinstance(node, ast.Set | ast.SetComp)


def walked(tree: ast.AST) -> Iterator[ast.expr]:
    """Whatever the order of which matters to a module."""
    for node in ast.walk(tree):
        match node:
            case ast.For(iter=iterable) | ast.comprehension(iter=iterable):
                yield iterable
            case ast.Starred(value=iterable) | ast.YieldFrom(value=iterable):
                yield iterable
            case ast.Call(func=ast.Name(id=name), args=args) if name in WALKERS:
                yield from args
            case ast.Call(func=ast.Attribute(value=owner, attr=name), args=args) if name in METHODS:
                yield from (owner, *args)


def walked_sets(source: str) -> set[str]:
    """The sets of a module whose order matters to it."""
    tree = ast.parse(source)
    sets: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=targets, value=value) if is_set(value):
                sets.update(map(ast.unparse, targets))
            case ast.AnnAssign(target=target, value=value) if is_set(value):
                sets.add(ast.unparse(target))
            case ast.arg(arg=name, annotation=ast.Subscript(value=ast.Name(id="set"))):
                sets.add(name)
    return {ast.unparse(node) for node in walked(tree) if is_set(node) or ast.unparse(node) in sets}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_no_set_is_walked(name: str) -> None:
    assert walked_sets(MODULES[name]) == set()


@pytest.mark.parametrize(
    "source",
    [
        "things: set[int] = set()\nfor thing in things: pass",
        "self.things = set()\nfirst = list(self.things)",
        "things = {1, 2}\nfirst = next(iter(things))",
        "things = {1, 2}\nfirst = things.pop()",
        "things = weakref.WeakSet()\nothers = [*things]",
        "def walk(things: set[int]):\n    return [thing for thing in things]",
        "for thing in {1, 2}: pass",
        "others = dict.fromkeys({1, 2})",
    ],
)
def test_a_set_that_is_walked_is_found(source: str) -> None:
    assert len(walked_sets(source)) == 1


def test_a_set_may_be_asked_what_is_in_it() -> None:
    assert walked_sets("things = set()\nthings.add(1)\nthings.discard(1)\nfound = 1 in things") == set()
