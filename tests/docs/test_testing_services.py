"""The page about testing a service, followed word for word by somebody who has only pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from docs.pages import PAGES, blocks_of
from docs.test_manual import ENVIRONMENT
from helpers import LONG

PAGE = "docs/manual/testing-services.rst"


# What each test takes of the processor, with its fixtures: another program may have it meanwhile.
TIMING = """
import time
import pytest

@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item):
    began = time.process_time()
    result = yield
    print(f"\\ntook {time.process_time() - began:.3f} s")
    return result
"""
ATTEMPTS = 3


def test_a_time_out_of_thirty_seconds_is_tested_in_less_than_a_tenth_of_one(tmp_path: Path) -> None:
    conftest, tests, *_ = blocks_of(PAGES[PAGE], PAGE)
    assert "timeout=30" in tests.text
    (tmp_path / "conftest.py").write_text(conftest.text, encoding="utf-8")
    (tmp_path / "test_shop.py").write_text(tests.text, encoding="utf-8")
    (tmp_path / "timing.py").write_text(TIMING, encoding="utf-8")
    for _ in range(ATTEMPTS):
        program = subprocess.run(
            [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-p", "timing"],
            env={**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}{os.pathsep}{tmp_path}"},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=LONG,
            check=False,
        )
        assert program.returncode == 0, program.stdout
        taken = [float(seconds) for seconds in re.findall(r"^took ([\d.]+) s$", program.stdout, re.M)]
        assert len(taken) == 3
        if max(taken) < 0.1:
            return
    raise AssertionError(f"it takes {taken} s")
