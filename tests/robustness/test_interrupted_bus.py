"""A sample of the lines at which an exception may strike; `make interrupts` has all of them.

It is played in a process of its own, which may be the worse for it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustness.interrupts import KINDS

STRIDE = 97
"""One line of so many: 50 to 200 interrupts for each kind of bus."""


@pytest.mark.timeout(90)
@pytest.mark.parametrize("kind", KINDS)
def test_an_exception_at_any_line_leaves_the_bus_usable_and_every_outcome_true(kind: str) -> None:
    options = ["--kind", kind, "--stride", str(STRIDE), "--most", "5"]
    sweep = subprocess.run(
        [sys.executable, "-W", "error", "-m", "robustness.interrupts", *options],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert sweep.returncode == 0, sweep.stdout + sweep.stderr
    assert sweep.stderr == ""
