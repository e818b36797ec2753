"""Which build of the library runs: the compiled modules, or their sources.

The package imports this module before any other, and that decides it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from typing import Final

from ratchet._compiled import MODULES, ROOT, STAMP, file_of, pure_is_asked_for, sources


@dataclass(frozen=True)
class BuildInfo:
    """Which build of the library runs in this process.  As a string, it is that in words.

    Attributes:
        compiled: whether it is the compiled one.
        modules: the full names of the modules that run compiled; none in the pure build.
        reason: why it is not the compiled one; empty if it is.
    """

    compiled: bool
    modules: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return "compiled" if self.compiled else f"pure Python: {self.reason}"


def build_info() -> BuildInfo:
    """Tell whether the compiled modules are in use; it does not block.

    Either all of them are used, or none.  An install in which some are missing runs the sources,
    and its `reason` says how many are missing.
    """
    files = {name: import_module(name).__file__ or "" for name in MODULES}
    compiled = tuple(name for name, file in files.items() if file.endswith(tuple(EXTENSION_SUFFIXES)))
    reason = WHY_NOT_COMPILED
    if not reason and compiled != MODULES:
        reason = f"a broken install: only {len(compiled)} of {len(MODULES)} modules run compiled"
    return BuildInfo(not reason, compiled, reason)


class SourceFinder:
    """Finds the sources of our modules where Python would prefer what they were compiled to."""

    def __init__(self) -> None:
        self._finders: dict[str, FileFinder] = {}

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """How to import a module, as `sys.meta_path` asks; None if it is none of ours."""
        if not name.startswith("ratchet."):
            return None
        for folder in path or ():
            finder = self._finders.get(folder)
            if finder is None:
                finder = self._finders[folder] = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES))
            spec = finder.find_spec(name)
            if spec is not None:
                return spec
        return None


def _why_not_compiled() -> str:
    """Why the compiled modules are not to be used; empty if they are."""
    if pure_is_asked_for():
        return "RATCHET_PURE_PYTHON is set"
    missing = [name for name in MODULES if not os.path.exists(file_of(name, EXTENSION_SUFFIXES[0]))]
    if len(missing) == len(MODULES):
        return "it was installed without compiled modules"
    if missing:
        return f"a broken install: {len(missing)} of {len(MODULES)} compiled modules are missing"
    if _is_out_of_date():
        return "the compiled modules are older than their sources"
    return ""


def _is_out_of_date() -> bool:
    """Whether this is a checkout in which a source has changed since it was compiled."""
    if not os.path.exists(os.path.join(ROOT, "setup.py")):
        return False
    try:
        compiled = os.stat(STAMP).st_mtime
    except FileNotFoundError:
        return True
    return any(os.stat(source).st_mtime > compiled for source in sources())


WHY_NOT_COMPILED: Final = _why_not_compiled()
"""Why this process runs the sources; empty if it runs the compiled modules."""

if WHY_NOT_COMPILED:
    sys.meta_path.insert(0, SourceFinder())
