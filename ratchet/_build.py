"""Which build of the library runs: compiled modules, or their sources.

The package imports this module before any other, and that decides it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from typing import Final

from ratchet._compiled import MODULES, ROOT, STAMP, file_of, pure_is_asked_for, sources


class SourceFinder:
    """Finds the sources of modules where Python would prefer what they were compiled to."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: object = None
    ) -> ModuleSpec | None:
        """How to import a module, as `sys.meta_path` asks; None if it is none of those."""
        if name not in MODULES:
            return None
        for folder in path or ():
            spec = FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name)
            if spec is not None:
                return spec
        return None


def _why_not_compiled() -> str:
    """Why the compiled modules are not to be used; empty if they are."""
    if pure_is_asked_for():
        return "RATCHET_PURE_PYTHON is set"
    missing = [name for name in MODULES if not os.path.exists(file_of(name, EXTENSION_SUFFIXES[0]))]
    if len(missing) == len(MODULES):
        return "nothing is compiled"
    if missing:
        return f"{len(missing)} of {len(MODULES)} compiled modules are missing"
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
