"""Instructions of the processor for one exchange, both ends, held against figures that are kept.

    make instructions                # fails if there are more than 3 % more of them
    make instructions ARGS=--update  # keep what is counted now

Valgrind counts them, the same ones on a busy machine.  They are those of one interpreter: where no
figures of it are kept, they are only shown.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from costs.exchanges import CASES, EXCHANGES, LONGER, MARK
from helpers import PACKAGE

KEPT: Final = Path(__file__).with_suffix(".json")
"""The figures of each interpreter, by build and case."""
TOLERANCE: Final = 0.03

COMPILED, PURE = "compiled", "pure"

Figures = dict[str, dict[str, int]]
"""Instructions for one exchange, by build and case."""


def interpreter() -> str:
    """What figures are kept for: another compiler of Python makes other instructions of it."""
    return ", ".join((f"CPython {platform.python_version()}", platform.python_compiler(), platform.machine()))


def per_exchange(counts: list[int]) -> dict[str, int]:
    """The instructions of one exchange of each case, by what was counted from mark to mark.

    Of three for each case, the first leads up to it.  What a whole run costs is not counted.
    """
    assert len(counts) == 3 * len(CASES), counts
    shorter, longer = counts[1::3], counts[2::3]
    exchanges = (LONGER - 1) * EXCHANGES
    return {
        case: round((more - fewer) / exchanges)
        for case, fewer, more in zip(CASES, shorter, longer, strict=True)
    }


def count(build: str) -> dict[str, int] | None:
    """Count on a build; None if it cannot be had here."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])]),
        "PYTHONHASHSEED": "0",
        "RATCHET_PURE_PYTHON": "1" if build == PURE else "0",
    }
    asked = "import ratchet; print(ratchet.build_info().compiled)"
    is_compiled = subprocess.check_output([sys.executable, "-c", asked], env=environment, text=True)
    if build == COMPILED and is_compiled.strip() != str(True):
        return None
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder, "counts")
        command = ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={counts}"]
        command += [f"--dump-before={MARK}", sys.executable, "-m", "costs.exchanges"]
        subprocess.run(command, env=environment, check=True)
        # The last part, which has no number, is the end of the program.
        parts = [Path(f"{counts}.{number}") for number in range(1, 3 * len(CASES) + 1)]
        return per_exchange([_total(part.read_text()) for part in parts])


def _total(part: str) -> int:
    return next(int(line.split()[1]) for line in part.splitlines() if line.startswith("totals:"))


def compare(kept: Figures, counted: Figures) -> tuple[list[str], bool]:
    """A line for each figure, and whether one has grown by more than is tolerated."""
    lines, grown = [], False
    for build, figures in counted.items():
        for case, figure in figures.items():
            line = f"{build:9} {case:30} {figure:8,}"
            before = kept.get(build, {}).get(case)
            if before is not None:
                change = figure / before - 1
                line += f" {change:+8.1%}"
                if change > TOLERANCE:
                    grown = True
                    line += "  too many"
                elif change < -TOLERANCE:
                    line += "  to be kept, by ARGS=--update"
            lines.append(line)
    return lines, grown


def main() -> None:
    """See `make instructions`."""
    parser = argparse.ArgumentParser(description="Count the instructions of one exchange.")
    parser.add_argument("--update", action="store_true", help="keep what is counted")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("valgrind is not installed, so no instructions are counted")
        return
    kept: dict[str, Figures] = json.loads(KEPT.read_text())
    counted: Figures = {}
    for build in (COMPILED, PURE):
        figures = count(build)
        if figures is None:
            print("the compiled build is not there, so its instructions are not counted")
        else:
            counted[build] = figures
    lines, grown = compare(kept.get(interpreter(), {}), counted)
    print(*lines, sep="\n")
    if options.update:
        kept[interpreter()] = {**kept.get(interpreter(), {}), **counted}
        KEPT.write_text(json.dumps(kept, indent=4) + "\n")
    elif interpreter() not in kept:
        print(f"no figures are kept for {interpreter()}")
    else:
        sys.exit(grown)


if __name__ == "__main__":
    main()
