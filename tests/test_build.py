"""Which build runs, how that is chosen, and that both builds are the same to users."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import public_interface
import ratchet
from helpers import PACKAGE
from ratchet._compiled import MODULES

TELL = "import ratchet; build = ratchet.build_info(); print(build.compiled, len(build.modules), build.reason)"


def output(*arguments: str, root: Path = PACKAGE.parent, **environment: str) -> str:
    """What a Python program prints that uses the library in a folder."""
    inherited = {name: value for name, value in os.environ.items() if name != "RATCHET_PURE_PYTHON"}
    program = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=root,
        env={**inherited, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (program.returncode, program.stderr) == (0, "")
    return program.stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of the library in which nothing is compiled."""
    shutil.copytree(
        PACKAGE, tmp_path / "ratchet", ignore=shutil.ignore_patterns("__pycache__", "*.so", "*.html")
    )
    (tmp_path / "setup.py").touch()
    return tmp_path


def pretend_to_compile(root: Path, modules: tuple[str, ...] = MODULES) -> None:
    """Put files where compiled modules would be; nothing can import them."""
    for name in modules:
        (root / (name.replace(".", "/") + EXTENSION_SUFFIXES[0])).touch()
    (root / "build").mkdir()
    (root / "build" / f"compiled-{sys.implementation.cache_tag}").touch()


def test_it_runs_all_compiled_modules_or_none_and_says_why_none() -> None:
    build = ratchet.build_info()
    assert build.modules == (MODULES if build.compiled else ())
    assert bool(build.reason) is not build.compiled
    assert str(build) == ("compiled" if build.compiled else f"pure Python: {build.reason}")


@pytest.mark.parametrize("value", ["1", "yes"])
def test_the_environment_can_ask_for_the_sources(value: str) -> None:
    assert output("-c", TELL, RATCHET_PURE_PYTHON=value) == "False 0 RATCHET_PURE_PYTHON is set"


@pytest.mark.parametrize("value", ["", "0"])
def test_the_environment_can_leave_the_choice_alone(value: str) -> None:
    assert output("-c", TELL, RATCHET_PURE_PYTHON=value) == output("-c", TELL)


def test_the_sources_run_where_nothing_is_compiled(checkout: Path) -> None:
    reason = "it was installed without compiled modules"
    assert output("-c", TELL, root=checkout) == f"False 0 {reason}"


def test_the_sources_run_where_compiled_modules_are_missing(checkout: Path) -> None:
    pretend_to_compile(checkout, MODULES[1:])
    reason = f"a broken install: 1 of {len(MODULES)} compiled modules are missing"
    assert output("-c", TELL, root=checkout) == f"False 0 {reason}"


def test_compiled_modules_run_where_they_are_as_new_as_their_sources(checkout: Path) -> None:
    pretend_to_compile(checkout)
    program = "try: import ratchet\nexcept ImportError as error: print(error.path)"
    assert output("-c", program, root=checkout).endswith(EXTENSION_SUFFIXES[0])


# Of the second, the functions are in compiled modules, although it is not compiled.
@pytest.mark.parametrize("changed", [MODULES[-1].replace(".", "/") + ".py", "ratchet/_native.pxd"])
def test_the_sources_run_where_they_have_changed_since_they_were_compiled(
    checkout: Path, changed: str
) -> None:
    pretend_to_compile(checkout)
    newer = checkout.stat().st_mtime + 1000
    os.utime(checkout / changed, (newer, newer))
    reason = "the compiled modules are older than their sources"
    assert output("-c", TELL, root=checkout) == f"False 0 {reason}"
    # What was compiled before, and is no more, does not run either.
    (checkout / f"ratchet/errors{EXTENSION_SUFFIXES[0]}").touch()
    assert output("-c", TELL, root=checkout) == f"False 0 {reason}"


def test_both_builds_have_the_same_names_signatures_and_docstrings() -> None:
    if not ratchet.build_info().compiled:
        pytest.skip("nothing is compiled here that could be compared")
    compiled = public_interface.interface()
    pure = json.loads(output(public_interface.__file__, RATCHET_PURE_PYTHON="1"))
    for name, (kind, signature, _) in compiled.items():
        if kind == "class" and signature is None:
            pure[name][1] = None
    assert compiled == pure
