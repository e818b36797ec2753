"""The documentation as tests read it: pages, the blocks of code on them, and docstrings."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

from helpers import PACKAGE

CHECKOUT = Path(__file__).parent.parent.parent
# The page for those who come from Lua has a test file, and rules, of its own.
PAGES = {
    str(path.relative_to(CHECKOUT)): path.read_text(encoding="utf-8")
    for path in [
        *(CHECKOUT / f"{name}.rst" for name in ("README", "CONTRIBUTING", "SECURITY")),
        *sorted((CHECKOUT / "docs").rglob("*.rst")),
    ]
    if path.name != "coming-from-lua.rst"
}

BLOCK = re.compile(
    r"""
    ^(?P<indent>[ ]*)\.\.[ ]code-block::[ ]*(?P<language>.*)\n
    (?:(?P=indent)[ ]+:.*\n)*
    \n+
    (?P<text>(?:(?:(?P=indent)[ ]+.*)?\n)+)
    """,
    re.VERBOSE | re.MULTILINE,
)


@dataclass
class Block:
    """A block of code, what the page says that it prints, and the commands and files above it."""

    where: str
    language: str
    text: str
    commands: list[Block]
    files: list[Block]
    output: str = field(default="", init=False)

    @property
    def file_name(self) -> str:
        """The name that it is to be saved under, if it says so itself."""
        named = re.match(r"# (\w+\.py)\n", self.text)
        return named[1] if named else ""


def blocks_of(text: str, name: str, first_line: int = 1) -> list[Block]:
    """The blocks of a page or a docstring; output is taken to the block that prints it.

    A block that begins with its name, as `# conftest.py`, is a file for those below it.
    """
    blocks: list[Block] = []
    for match in BLOCK.finditer(text + "\n"):
        where = f"{name}:{first_line + text.count(chr(10), 0, match.start('text'))}"
        language = match["language"].strip()
        code = dedent(match["text"]).strip("\n") + "\n"
        if language == "text":
            assert blocks, f"{where} is the output of nothing"
            assert not blocks[-1].output, f"{where} is a second output"
            blocks[-1].output = code
        else:
            assert language in ("python", "bash"), f"{where} is {language!r}, which nobody checks"
            commands = [block for block in blocks if block.language == "bash"]
            files = [block for block in blocks if block.file_name]
            blocks.append(Block(where, language, code, commands, files))
    return blocks


def docstrings() -> Iterator[tuple[str, int, str]]:
    """File, line and text of each docstring of the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    yield str(path.relative_to(PACKAGE.parent)), node.lineno, inspect.cleandoc(text)
