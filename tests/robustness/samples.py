"""Plays a sample of a sweep in a process of its own, which a run that hangs or aborts takes along.

It runs the pure build, since a sweep strikes at lines.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from helpers import PACKAGE

SECONDS = 120
"""After which a sample has taken too long, also on a busy machine."""


def play_sample(module: str, *options: str) -> str:
    """What a sweep of this package prints; it must end well and leave stderr empty."""
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])])
    sweep = subprocess.run(
        [sys.executable, "-W", "error", "-m", f"robustness.{module}", *options],
        env={**os.environ, "PYTHONPATH": path, "RATCHET_PURE_PYTHON": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert sweep.returncode == 0, f"{options}: {sweep.stdout}{sweep.stderr}"
    assert sweep.stderr == ""
    return sweep.stdout
