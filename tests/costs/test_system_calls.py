"""The system calls of an exchange, as the kernel sees them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
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


def readings_in(trace: Path) -> dict[str, list[Counter[str]]]:
    """The system calls of one OS thread up to each mark, by what the mark says."""
    readings: dict[str, list[Counter[str]]] = defaultdict(list)
    counts: Counter[str] = Counter()
    for line in trace.read_text().splitlines():
        if mark := re.match(rf'\w*access\w*\(.*"{MARK}(.*)"', line):
            readings[mark[1]].append(counts.copy())
        elif call := re.match(r"(\w+)\(", line):
            counts[NAMES.get(call[1], call[1])] += 1
    return readings


def figures_in(traces: Path) -> dict[str, dict[str, float]]:
    """System calls per exchange, by name, for each side and load; one file is one OS thread's."""
    readings = {mark: counts for trace in traces.iterdir() for mark, counts in readings_in(trace).items()}
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
        # A side that the system has kept waiting reads once more.
        assert seen == pytest.approx(bounds, abs=1.5 / EXCHANGES[ALONE]), mark
        # Before each poll, gevent's loop looks whether the process has forked.
        assert figures.pop("getpid", 0) <= seen["poll"], mark
        # Python takes memory from the system, and gives it back, in big pieces.
        assert sum(map(abs, figures.values())) < 0.1, (mark, figures)


CONNECTIONS = 40
ROUNDS = 5
CONNECT_AND_CLOSE = f"""
import os, sys
from costs.measure import undisturbed
from ratchet import Ratchet, bus

where = "unix:" + sys.argv[1]

def connect_and_close():
    for _ in range({ROUNDS} + 1):
        for _ in range({CONNECTIONS}):
            with bus.connect(where, plain=True) as client:
                client.call(b"question")
        os.access("{MARK}both", os.F_OK)

with undisturbed(), bus.listen(where) as server, Ratchet() as kernel:
    kernel.attach_background(server.serve, bytes.upper, 1)
    kernel.attach(connect_and_close)
"""


def test_a_connection_for_one_request_takes_no_call_that_gevents_sockets_would_not_take(
    tmp_path: Path,
) -> None:
    check_strace_works()
    trace = ["strace", "-ff", "-o", str(tmp_path / "trace")]
    run_alone([*trace, sys.executable, "-c", CONNECT_AND_CLOSE, str(tmp_path / "socket")])
    (readings,) = [readings for path in tmp_path.glob("trace*") if (readings := readings_in(path))]
    # What is done once, by the first of them, comes before the first mark.  A peer that is late may make a
    # side poll once more, and so the cheapest round is what a connection costs.
    marks = readings["both"]
    assert len(marks) == ROUNDS + 1
    cheapest = min((after - before for before, after in pairwise(marks)), key=Counter.total)
    seen = {name: count / CONNECTIONS for name, count in cheapest.items()}
    at_most = {
        "socket": 1, "connect": 1, "accept4": 1, "getsockname": 1, "ioctl": 1, "close": 2,
        "send": 2, "recv": 3, "poll": 4, "getpid": 4, "epoll_ctl": 3, "fcntl": 2,
    }  # fmt: skip
    # No greenlet is made for it, which would take a call to get its memory, and one to give it back.
    others = sum(count for name, count in seen.items() if name not in at_most)
    assert others < 0.3, seen
    # On a busy machine a side is late for some connections of every round; a call too many is one for each.
    assert {name: seen.get(name, 0) for name, most in at_most.items() if seen.get(name, 0) > most + 0.5} == {}
