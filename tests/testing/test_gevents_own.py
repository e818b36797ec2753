"""gevent's own test programs on virtual time, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import LONG, PACKAGE

pytestmark = pytest.mark.slow

PROGRAMS = {
    "test__contextvars": (18, set()),
    "test__core_callback": (1, set()),
    "test__core_watcher": (6, set()),
    "test__destroy": (2, set()),
    "test__event": (46, set()),
    "test__exc_info": (2, set()),
    "test__greenlet": (106, set()),
    "test__greenletset": (9, set()),
    "test__hub_join": (3, set()),
    "test__iwait": (3, set()),
    "test__joinall": (1, set()),
    "test__local": (20, set()),
    "test__loop_callback": (1, set()),
    "test__order": (5, set()),
    "test__pool": (132, set()),
    "test__queue": (100, set()),
    "test__select": (16, set()),
    "test__selectors": (5, set()),
    "test__socket_timeout": (1, set()),
    "test__socketpair": (2, set()),
    "test__timeout": (11, set()),
    # An OS thread is given real milliseconds, for which virtual time does not wait.
    "test__lock": (7, {"TestRLockMultiThread.test_acquire_in_one_then_another_timed"}),
    # Looks how exact the system's own timers are.
    "test__core_timer": (4, {"TestTimerResolution.test_resolution"}),
    # Expects the system's own `time.sleep`, which switches to no other greenlet.
    "test__util": (10, {"TestAssertSwitches.test_time_sleep"}),
}
"""Of each program, how many test cases it has at least on any Python, and those that need real time."""


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_gevents_own_tests_pass(name: str) -> None:
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])])
    program = subprocess.run(
        [sys.executable, "-m", "testing.gevent_program", name],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert program.returncode == 0, program.stderr
    result = json.loads(program.stdout.splitlines()[-1])
    count, need_real_time = PROGRAMS[name]
    assert result["ran"] >= count
    assert set(result["failed"]) <= need_real_time, program.stderr
