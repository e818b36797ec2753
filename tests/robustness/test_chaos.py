"""A short form of the chaos test; `make chaos` runs the long one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

SECONDS = 5.0


@pytest.mark.long
@pytest.mark.timeout(120)
def test_every_outcome_is_true_while_processes_are_killed_stopped_and_cut_off() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-m", "robustness.chaos", "--seconds", str(SECONDS), "--seed", "1"],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    done = re.search(r"(\d+) requests, (\d+) kills", run.stdout)
    assert done is not None
    assert int(done[1]) > 100, run.stdout
    assert int(done[2]) > 0, run.stdout
