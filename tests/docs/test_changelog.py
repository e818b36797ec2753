"""The files of changelog.d/, as towncrier makes a part of CHANGELOG.rst of them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.pages import CHECKOUT
from helpers import LONG
from ratchet import __version__

SETTINGS = CHECKOUT / "pyproject.toml"
TYPES = tomllib.loads(SETTINGS.read_text(encoding="utf-8"))["tool"]["towncrier"]["type"]


def draft(folder: Path) -> subprocess.CompletedProcess[str]:
    """What would be added to the changelog, by the settings and the fragments of a folder."""
    pytest.importorskip("towncrier")
    return subprocess.run(
        [sys.executable, "-m", "towncrier", "build", "--draft", "--date", "unreleased"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


@pytest.fixture
def fragments(tmp_path: Path) -> Path:
    """The folder of fragments of a project with our settings."""
    shutil.copy(SETTINGS, tmp_path)
    folder = tmp_path / "changelog.d"
    folder.mkdir()
    return folder


def test_each_fragment_is_of_a_known_category() -> None:
    program = draft(CHECKOUT)
    assert program.returncode == 0, program.stderr


def test_a_fragment_of_an_unknown_category_is_an_error(fragments: Path) -> None:
    (fragments / "+typo.fixd.rst").write_text("It works.\n", encoding="utf-8")
    program = draft(fragments.parent)
    assert program.returncode != 0
    assert "+typo.fixd.rst" in program.stderr


def test_a_draft_looks_like_the_changelog(fragments: Path) -> None:
    shutil.copy(CHECKOUT / "changelog.d" / "README.rst", fragments)
    for name, text in {
        "+second.fixed.rst": "It works.\n",
        "+first.added.rst": "There is more, told\nin two lines.\n",
    }.items():
        (fragments / name).write_text(text, encoding="utf-8")
    program = draft(fragments.parent)
    assert program.returncode == 0, program.stderr
    title = f"{__version__} (unreleased)"
    assert [line for line in program.stdout.splitlines() if line] == [
        title,
        "-" * len(title),
        "Added",
        "~~~~~",
        "- There is more, told",
        "  in two lines.",
        "Fixed",
        "~~~~~",
        "- It works.",
    ]


def test_the_categories_are_those_of_the_changelog() -> None:
    changelog = (CHECKOUT / "CHANGELOG.rst").read_text(encoding="utf-8")
    used = set(re.findall(r"^(.+)\n~+$", changelog, re.M))
    assert used
    assert used <= {kind["name"] for kind in TYPES}
