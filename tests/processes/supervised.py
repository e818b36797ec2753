"""A supervisor and its workers, as processes of their own; the test's greenlets run meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gevent
from gevent.subprocess import PIPE, STDOUT, Popen

from certificates import authority
from helpers import LONG

HERE = Path(__file__).parent
PROGRAM = [sys.executable, "-W", "error", str(HERE / "program.py")]


class Supervised:
    """The program, whose lines are read one by one.

    Attributes:
        process: the supervisor's.
        pids: the process IDs of its workers, by their numbers, as far as the lines tell.
        address: where it listens, once it has said so.
    """

    def __init__(self, process: Popen[str]) -> None:
        self.process = process
        self.pids: dict[int, int] = {}
        self.address = ""
        self._seen: list[str] = []

    def expect(self, pattern: str) -> re.Match[str]:
        """Read lines up to one that matches."""
        assert self.process.stdout is not None
        while True:
            with gevent.Timeout(LONG, AssertionError(f"no line matches {pattern!r}: {self._seen}")):
                line = self.process.stdout.readline()
            assert line, f"it ended before a line that matches {pattern!r}: {self._seen}"
            self._seen.append(line)
            if ready := re.match(r"worker (\d+) \(pid (\d+)\) is ready", line):
                self.pids[int(ready[1])] = int(ready[2])
            if found := re.search(pattern, line):
                return found

    def stats(self) -> dict[str, int]:
        """What it says that all workers count."""
        assert self.process.stdin is not None
        self.process.stdin.write("stats\n")
        self.process.stdin.flush()
        counted: dict[str, int] = json.loads(self.expect("counted (.*)")[1])
        return counted

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> list[str]:
        """Wait for its end, and for that of all its workers; the lines that were not read yet."""
        assert self.process.stdout is not None
        with gevent.Timeout(LONG, AssertionError("it does not end")):
            # Its workers share its output.
            lines: list[str] = self.process.stdout.read().splitlines()
            self.process.wait()
        return lines

    def stop(self) -> None:
        """Have it end, and see to it that it ends well."""
        self.send(signal.SIGTERM)
        assert self.end()[-1] == "finished: True"


@contextmanager
def started(
    handler: str = "tasks:pid",
    address: str = "127.0.0.1:0",
    *,
    environment: Mapping[str, str] | None = None,
    command: list[str] = PROGRAM,
    cwd: Path = HERE,
    pass_fds: tuple[int, ...] = (),
    **arguments: Any,
) -> Iterator[Supervised]:
    """The program as it runs; it is killed in the end if it still does."""
    asked = {"handler": handler, "address": address, "processes": 2, "codec": "json", **arguments}
    process = Popen(
        [*command, json.dumps(asked)],
        stdin=PIPE,
        stdout=PIPE,
        stderr=STDOUT,
        text=True,
        cwd=cwd,
        env={**os.environ, **(environment or {})},
        pass_fds=pass_fds,
    )
    with process:
        try:
            yield Supervised(process)
        finally:
            process.kill()


@contextmanager
def serving(handler: str = "tasks:pid", address: str = "127.0.0.1:0", **options: Any) -> Iterator[Supervised]:
    """The program, when it serves."""
    with started(handler, address, **options) as supervised:
        supervised.address = supervised.expect("listening on (.*)")[1]
        yield supervised


def tls_options(folder: Path) -> dict[str, Any]:
    """The options of `serving` for a server with a certificate, which is written to the folder."""
    certificate = folder / "server.pem"
    authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return {"ssl_context": "tasks:context", "environment": {"TEST_CERTIFICATE": str(certificate)}}


def has_ended(pid: int) -> bool:
    """Whether a process has, be it that nobody has waited for it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"
