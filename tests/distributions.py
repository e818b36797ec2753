"""Check what distributions hold, which are given by their paths: `make check` makes them.

Each holds the sources and the declarations of what is compiled.  A wheel for a platform holds
the compiled modules as well, the pure wheel none, and nothing holds C that was generated.
"""

from __future__ import annotations

import os
import sys
import tarfile
import zipfile
from pathlib import Path

from ratchet._compiled import MODULES, ROOT, sources


def names_in(path: Path) -> set[str]:
    """The files in a distribution, below the folder of its name if it is a source distribution."""
    if path.suffix == ".whl":
        return set(zipfile.ZipFile(path).namelist())
    with tarfile.open(path) as archive:
        return {name.partition("/")[2] for name in archive.getnames()}


def flaws_of(path: Path) -> list[str]:
    """What is wrong with a distribution."""
    names = names_in(path)
    expected_sources = {os.path.relpath(source, ROOT) for source in sources()}
    flaws = [f"{source} is missing" for source in sorted(expected_sources - names)]
    flaws += [f"{name} was generated" for name in names if name.endswith((".c", ".o"))]
    compiled = {name.partition(".")[0].replace("/", ".") for name in names if name.endswith(".so")}
    expected = set(MODULES) if path.suffix == ".whl" and "none-any" not in path.name else set()
    if compiled != expected:
        flaws.append(f"compiled are {sorted(compiled)}, and should be {sorted(expected)}")
    return flaws


def main(paths: list[str]) -> int:
    """Print what is wrong; the exit status says whether anything is."""
    flaws = [f"{path}: {flaw}" for path in paths for flaw in flaws_of(Path(path))]
    print(*(flaws or [f"{path} holds what it should" for path in paths]), sep="\n")
    return bool(flaws)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
