"""What the page on the design says of modules and states is what there is."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from docs.pages import CHECKOUT
from helpers import PACKAGE

PAGE = (CHECKOUT / "docs" / "design.rst").read_text(encoding="utf-8")
MACHINES = ["ratchet.bus._core.incoming_states", "ratchet.bus._core.outgoing"]


def test_the_map_names_every_module() -> None:
    map_of_modules = PAGE[PAGE.index("\nModules\n") :]
    named = set(re.findall(r"``(\w+\.py)``", map_of_modules))
    modules = {file.name for file in PACKAGE.rglob("*.py") if "cli" not in file.parts}
    assert modules - named == {"__init__.py", "__main__.py", "_version.py"}
    assert named <= modules


def test_the_map_has_each_package_once() -> None:
    packages = re.findall(r"^``(ratchet/\S*)``", PAGE, re.MULTILINE)
    assert len(packages) == len(set(packages)) == 8


@pytest.mark.parametrize("name", MACHINES)
def test_the_states_and_transitions_are_those_of_the_table(name: str) -> None:
    module = import_module(name)
    lines = []
    for state in module.State:
        ways = [
            f"{event.name} -> {after.name}"
            for (before, event), after in module.TRANSITIONS.items()
            if before is state
        ]
        lines.append(f"      {state.name:9}  {', '.join(ways)}".rstrip())
    assert "\n".join([f"    {name}", *lines]) + "\n" in PAGE
