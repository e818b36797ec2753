"""Every program and every command that the documentation shows, run as a reader would run it.

A Python block is a whole program, run in a folder of its own, in which the
commands above it on its page were given, and which has the files that are shown
above it with their names.  What it prints is what the next `text` block shows, where
`...` stands for anything; without such a block it prints nothing.  A block that
defines tests is run by pytest.  A command is looked up, and not run, unless its page
shows what it prints.

A program that names the URL of a broker runs with the tests' own node in its place.
"""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import IO

import pytest

import ratchet
from broker.nodes import Node
from docs.pages import BLOCK, CHECKOUT, PAGES, Block, blocks_of, docstrings
from helpers import LONG, PACKAGE

MAKEFILE = (CHECKOUT / "Makefile").read_text(encoding="utf-8")

# Where the reader's broker is.
BROKER = "amqp://guest:guest@localhost/"

# The reader's Python, with warnings as errors.
PYTHON = [sys.executable, "-W", "error"]
ENVIRONMENT = {
    **os.environ,
    "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    "PYTHONPATH": os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")])),
}

PACKAGES = ["gevent-ratchet", "gevent-ratchet[amqp]", "gevent-ratchet[msgpack]", "trustme"]

ON_PAGES = {name: blocks_of(text, name) for name, text in PAGES.items()}
# The pages that show what commands print.
TERMINALS = {
    name: blocks
    for name, blocks in ON_PAGES.items()
    if any(block.language == "bash" and block.output for block in blocks)
}
BLOCKS = [block for name, blocks in ON_PAGES.items() if name not in TERMINALS for block in blocks]
BLOCKS += [block for name, line, text in docstrings() for block in blocks_of(text, name, line)]
WITH_BROKER = [block for block in BLOCKS if block.language == "python" and BROKER in block.text]


def run(command: list[str], folder: Path, where: str) -> str:
    """What a program prints; it must end well and leave stderr empty."""
    # At its end, pytest removes what earlier runs have left there: of this suite, that takes long.
    environment = {**ENVIRONMENT, "PYTEST_DEBUG_TEMPROOT": str(folder)}
    program = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=LONG, check=False
    )
    assert program.stderr == "", where
    assert program.returncode == 0, f"{where}\n{program.stdout}"
    return program.stdout


def check_output(block: Block, printed: str) -> None:
    if printed and not printed.endswith("\n"):
        # On a terminal a response ends its line, and a file gets it byte for byte.
        printed += "\n"
    output = block.output
    if ratchet.build_info().compiled:
        # So stand the library's own lines in a stack, behind those of the program.
        output = output.replace("\n  ...\n", "\n")
    checker, options = doctest.OutputChecker(), doctest.ELLIPSIS
    if not checker.check_output(output, printed, options):
        example = doctest.Example(block.text, output)
        pytest.fail(f"{block.where}\n{checker.output_difference(example, printed, options)}")


def check_program(block: Block, folder: Path) -> None:
    """Run a Python block, and compare what it prints."""
    file = folder / "program.py"
    file.write_text(block.text, encoding="utf-8")
    if re.search(r"^def test_", block.text, re.M):
        report = run(
            [*PYTHON, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)], folder, block.where
        )
        assert re.search(r"^\d+ passed", report, re.M), f"{block.where}\n{report}"
    else:
        check_output(block, run([*PYTHON, str(file)], folder, block.where))


def check_commands(block: Block, folder: Path) -> None:
    """Look whether there are such commands; run those that a program below needs."""
    for line in block.text.splitlines():
        match shlex.split(line, comments=True):
            case ["make", target, *_]:
                known = re.search(rf"^{target}:", MAKEFILE, re.M) is not None
            case ["pip", "install", package]:
                known = package in PACKAGES
            case ["python", "-m", "trustme"]:
                run([*PYTHON, "-m", "trustme", "--quiet"], folder, block.where)
                known = True
            case ["python", script, *_] | ["gunicorn", "-c", script]:
                known = (CHECKOUT / script).is_file()
            case _:
                known = False
        assert known, f"{block.where}: {line}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block not in WITH_BROKER], ids=lambda block: block.where
)
def test_a_block_works_as_pasted(block: Block, tmp_path: Path) -> None:
    for above in block.commands:
        check_commands(above, tmp_path)
    for above in block.files:
        (tmp_path / above.file_name).write_text(above.text, encoding="utf-8")
    if block.language == "bash":
        check_commands(block, tmp_path)
    else:
        check_program(block, tmp_path)


@pytest.mark.broker
@pytest.mark.parametrize("block", WITH_BROKER, ids=lambda block: block.where)
def test_a_block_with_a_broker_works_as_pasted(block: Block, broker_node: Node, tmp_path: Path) -> None:
    if re.search(r"^import pika$", block.text, re.M):
        pytest.importorskip("pika")
    ours = replace(block, text=block.text.replace(BROKER, broker_node.url))
    ours.output = block.output
    check_program(ours, tmp_path)


@contextmanager
def in_background(line: str, folder: Path) -> Iterator[IO[str]]:
    """A command that goes on, and what it says."""
    program = subprocess.Popen(
        [*PYTHON, *shlex.split(line)[1:-1]],
        env=ENVIRONMENT,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with program:
        try:
            assert program.stdout is not None
            yield program.stdout
        finally:
            program.kill()


@pytest.mark.slow
@pytest.mark.parametrize("page", TERMINALS)
def test_the_commands_of_a_page_print_what_it_shows(page: str, tmp_path: Path) -> None:
    with ExitStack() as background:
        for block in TERMINALS[page]:
            printed = ""
            for line in block.text.splitlines():
                if line.endswith("&"):
                    said = background.enter_context(in_background(line, tmp_path))
                    printed += "".join(said.readline() for _ in block.output.splitlines())
                else:
                    # A benchmark's progress, on stderr, depends on where it goes.
                    printed += subprocess.run(
                        ["bash", "-c", line],
                        env=ENVIRONMENT,
                        cwd=tmp_path,
                        stdout=subprocess.PIPE,
                        stderr=subprocess.DEVNULL,
                        text=True,
                        timeout=LONG,
                        check=True,
                    ).stdout
            check_output(block, printed)


def test_no_code_hides_from_these_tests() -> None:
    hidden = re.compile(
        r"^\s*(\.\. (code|sourcecode|highlight|literalinclude|doctest|testcode)::|>>> )", re.M
    )
    texts = [*PAGES.items(), *((f"{name}:{line}", text) for name, line, text in docstrings())]
    assert [name for name, text in texts if hidden.search(text)] == []
    blocks = [
        name for name, text in texts if text.count(".. code-block::") != len(BLOCK.findall(text + "\n"))
    ]
    assert blocks == []
