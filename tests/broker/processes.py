"""What the programs of a broker take from the system: processes that end with the tests, and ports."""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path
from random import SystemRandom
from typing import IO

# The kernel says nothing of a parent that has ended before it is asked to, hence the shell, which
# then becomes the program.
_CHILD = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"']

# Not the generator that tests share: it begins anew with each of them, in every process of the run.
_random = SystemRandom()

# Ports that were handed out: nobody may have taken them yet.
_given: set[int] = set()


def child(command: list[str], env: dict[str, str], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """Start a program that does not outlive this OS thread."""
    return subprocess.Popen(
        [*_CHILD, str(os.getpid()), *command],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        # Ctrl-C is for the tests, which end it in turn.
        start_new_session=True,
    )


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child, and wait until it is gone; nothing if it has ended."""
    process.kill()
    process.wait()


def processes_of(folder: Path, variable: str = "HOME") -> list[int]:
    """The ids of the processes whose home is `folder`, whoever started them.

    With another variable, those that have the folder there.
    """
    wanted = f"{variable}={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                variables = (entry / "environ").read_bytes()
            except OSError:
                # It has ended, or is another user's.
                continue
            if wanted in variables.split(b"\0"):
                found.append(int(entry.name))
    return found


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


def free_port() -> int:
    """A port that nobody has, and that the kernel gives to nobody who does not ask for it.

    One of those that it hands out could go to a client while the node is down; a client that dials such
    a one again and again even ends up connected to itself.
    """
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    for port in _random.sample(range(min(10_000, first - 1_000), first), 100):
        with socket.socket() as trial:
            try:
                trial.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in _given:
            _given.add(port)
            return port
    raise AssertionError("there is no free port")
