"""An exception at every line of the scheduler: a sample of the sweep."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys

import pytest

from helpers import PACKAGE

EVERY = 29
"""Which part of the lines is taken: each time another one, so that in the end it is all of them."""


@pytest.mark.timeout(90)
def test_an_exception_at_any_line_leaves_the_scheduler_usable_and_nothing_behind() -> None:
    path = os.pathsep.join([str(PACKAGE.parent), os.path.dirname(os.path.dirname(__file__))])
    every, offset = str(EVERY), str(random.randint(1, EVERY))
    # A program of its own, because a run that hangs takes it along.
    sweep = subprocess.run(
        [sys.executable, "-m", "robustness.interrupted_kernel", "--every", every, "--offset", offset],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=80,
        check=False,
    )
    assert sweep.returncode == 0, f"--offset {offset}: {sweep.stdout}{sweep.stderr}"
    assert sweep.stderr == ""
    thrown = re.search(r"^(\d+) exceptions thrown, 0 did not come out, 0 did harm$", sweep.stdout, re.M)
    assert thrown, sweep.stdout
    assert int(thrown[1]) > 300
