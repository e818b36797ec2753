"""The command line within the test's own process, for what needs no process of its own."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path
from typing import Protocol

import pytest

from ratchet.cli import main


class Ratchet(Protocol):
    """Runs `ratchet` to its end, as `programs.run` does."""

    def __call__(
        self, *arguments: object, input: bytes = b"", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]: ...


@pytest.fixture
def ratchet(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Ratchet:
    """Every command but `serve`, which patches the process that it runs in."""

    def run(
        *arguments: object, input: bytes = b"", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        line = list(map(str, arguments))
        assert line[0] != "serve"
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(input)))
        if cwd is not None:
            monkeypatch.chdir(cwd)
        try:
            status = main(line)
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else -1
        return subprocess.CompletedProcess(line, status, *capfdbinary.readouterr())

    return run
