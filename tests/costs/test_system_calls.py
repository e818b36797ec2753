"""The system calls of an exchange, as the kernel sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path

import pytest

from costs.figures import BOUNDS, command, run_alone
from costs.measure import MEASURING_TIME
from costs.pair import ALONE, EXCHANGES, MARK, figure
from helpers import LONG

pytestmark = pytest.mark.timeout(MEASURING_TIME + 5)

NAMES = {"epoll_wait": "poll", "epoll_pwait": "poll", "recvfrom": "recv", "sendto": "send"}
"""By the names of `figures`; which of the two polls there is depends on the processor."""


def check_strace_works() -> None:
    if shutil.which("strace") is None:
        pytest.skip("there is no program `strace`")
    tried = subprocess.run(
        ["strace", "-o", "/dev/null", "true"], capture_output=True, text=True, timeout=LONG, check=False
    )
    if tried.returncode:
        pytest.skip(f"the system lets us trace no program: {tried.stderr.strip()}")


def figures_in(traces: Path) -> dict[str, dict[str, float]]:
    """System calls per exchange, by name, for each side and load; one file is one OS thread's."""
    readings: dict[str, list[Counter[str]]] = defaultdict(list)
    for trace in traces.iterdir():
        counts: Counter[str] = Counter()
        for line in trace.read_text().splitlines():
            if mark := re.match(rf'\w*access\w*\(.*"{MARK}(.*)"', line):
                readings[mark[1]].append(counts.copy())
            elif call := re.match(r"(\w+)\(", line):
                counts[NAMES.get(call[1], call[1])] += 1
    return {
        mark: {
            name: figure(mark.partition(", ")[2], [counts[name] for counts in marked]) for name in marked[-1]
        }
        for mark, marked in readings.items()
    }


def test_the_kernel_sees_one_poll_one_recv_and_one_send_and_under_load_far_less(tmp_path: Path) -> None:
    check_strace_works()
    run_alone(["strace", "-ff", "-o", str(tmp_path / "trace"), *command("system calls")])
    traced = figures_in(tmp_path)
    assert len(traced) == 2 * len(EXCHANGES)
    for mark, figures in traced.items():
        bounds = {name: BOUNDS["system calls"][f"{mark}: {name}"] for name in ("poll", "recv", "send")}
        seen = {name: figures.pop(name) for name in bounds}
        if not mark.endswith(ALONE):
            assert all(0 < seen[name] <= bound for name, bound in bounds.items()), (mark, seen)
            continue
        assert seen == bounds, mark
        # Before each poll, gevent's loop looks whether the process has forked.
        assert figures.pop("getpid", 0) <= seen["poll"], mark
        # Python takes memory from the system, and gives it back, in big pieces.
        assert sum(map(abs, figures.values())) < 0.1, (mark, figures)
