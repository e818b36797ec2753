"""A sample of the lines at which a signal handler may close a bus; each time another one."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import pytest

from helpers import PACKAGE

EVERY = 23


@pytest.mark.timeout(90)
def test_a_bus_that_a_signal_handler_closes_at_any_line_lets_every_call_end() -> None:
    path = os.pathsep.join([str(PACKAGE.parent), os.path.dirname(os.path.dirname(__file__))])
    every, offset = str(EVERY), str(random.randint(1, EVERY))
    # A program of its own, because a run that hangs takes it along.
    sweep = subprocess.run(
        [sys.executable, "-m", "robustness.closing_handlers", "--every", every, "--offset", offset],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert sweep.returncode == 0, f"--offset {offset}: {sweep.stdout}{sweep.stderr}"
    runs = re.search(r"^(\d+) runs, 0 failed$", sweep.stdout, re.M)
    assert runs, sweep.stdout
    assert int(runs[1]) > 100
