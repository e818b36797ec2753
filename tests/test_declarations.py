"""What a `.pxd` says once more is what the source beside it says."""

from __future__ import annotations

import ast
import re
from importlib import import_module
from pathlib import Path

import pytest

from helpers import PACKAGE

FILES = {str(path.relative_to(PACKAGE)): path for path in sorted(PACKAGE.rglob("*.pxd"))}


def fields_declared(path: Path) -> dict[str, set[str]]:
    """The fields of each class of a `.pxd`."""
    text = path.read_text(encoding="utf-8")
    classes = re.findall(r"^cdef class (\w+).*:\n((?:(?: {4}.*)?\n)*)", text, re.MULTILINE)
    field = re.compile(r"^    cdef (?:public |readonly )?[\w. ]+ (\w+)$", re.MULTILINE)
    return {name: set(field.findall(body)) for name, body in classes}


def slots(path: Path) -> dict[str, set[str]]:
    """The slots of each class of a source that has any."""
    found = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            for line in node.body:
                if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "__slots__":
                    value = ast.literal_eval(line.value)
                    found[node.name] = {value} if isinstance(value, str) else set(value)
    return found


@pytest.mark.parametrize("name", FILES)
def test_fields_are_the_slots_of_the_class(name: str) -> None:
    declared, said = fields_declared(FILES[name]), slots(FILES[name].with_suffix(".py"))
    both = declared.keys() & said.keys()
    assert {each: declared[each] for each in both} == {each: said[each] for each in both}


@pytest.mark.parametrize("name", ["bus/_socket/descriptor.pxd", "bus/_socket/heads.pxd"])
def test_numbers_are_those_of_the_module(name: str) -> None:
    text = FILES[name].read_text(encoding="utf-8")
    values = re.findall(r"^    ([A-Z_]+) = (.+)$", text, re.MULTILINE)
    module = import_module("ratchet." + name.removesuffix(".pxd").replace("/", "."))
    assert values
    assert {number: eval(value) for number, value in values} == {n: getattr(module, n) for n, _ in values}
