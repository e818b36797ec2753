"""`processes`: workers beside a program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import LONG, wait_until
from processes.supervised import HERE, has_ended
from ratchet import bus


@pytest.fixture(autouse=True)
def tasks_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])


def test_they_answer_and_end_with_the_block() -> None:
    with bus.processes("tasks:pid", 1, codec="json", drain_timeout=LONG) as client:
        worker = client.call(None, timeout=LONG)
        assert worker != os.getpid()
        folder = Path(client.name.removeprefix("unix:")).parent
        assert folder.stat().st_mode & 0o777 == 0o700
    assert has_ended(worker)
    assert not folder.exists()


def test_one_client_has_all_of_them_compute() -> None:
    with bus.processes("tasks:compute", 2, codec="json", drain_timeout=LONG) as client:
        # It need not have a connection to each yet when the first one serves.
        wait_until(lambda: len(set(client.call_many([0.02] * 4, timeout=LONG))) == 2, "both of them")


def test_an_error_in_the_block_ends_them_too() -> None:
    with pytest.raises(LookupError):
        with bus.processes("tasks:pid", 1, codec="json") as client:
            worker = client.call(None, timeout=LONG)
            raise LookupError
    wait_until(lambda: has_ended(worker), "the end of the worker")


def test_a_handler_that_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="the module tasks has no nothing; check MODULE:HANDLER"):
        with bus.processes("tasks:nothing", 1):
            pass


def test_a_codec_that_cannot_be_imported() -> None:
    with pytest.raises(ImportError, match="tasks:NOT_A_CODEC is not a codec"):
        with bus.processes("tasks:pid", 1, codec="tasks:NOT_A_CODEC"):
            pass


def test_when_the_program_is_killed_they_end() -> None:
    source = """
from ratchet import bus
with bus.processes("tasks:pid", 1, codec="json") as client:
    print(client.call(None), flush=True)
    input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=HERE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        worker = int(program.stdout.readline())
        program.send_signal(signal.SIGKILL)
    wait_until(lambda: has_ended(worker), "the end of the worker")


def test_settings_that_fit_into_no_message_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, "x" * 200_000])
    with pytest.raises(OSError, match="the settings of a process, with the path of modules, are too long"):
        with bus.processes("tasks:pid", 1):
            pass
