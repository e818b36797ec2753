"""Programs that are not written in Python: where they are, and how they are run.

They inherit the core of the process that starts them.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from typing import Any

PROGRAMS = ("redis-server", "nats-server")

# Where a system keeps servers, which not every user's path names.
_MORE_FOLDERS = "/usr/local/sbin:/usr/sbin"

_PR_SET_PDEATHSIG = 1
_PATIENCE = 10.0


def find(name: str) -> str:
    """The path of a program.  Raises `FileNotFoundError`."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:{_MORE_FOLDERS}")
    if path is None:
        raise FileNotFoundError(f"{name} is not installed")
    return path


def version(name: str) -> str:
    try:
        said = subprocess.run([find(name), "--version"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        return "not installed"
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else "of an unknown version"


def start_server(name: str, arguments: Callable[[int], list[str]]) -> tuple[int, subprocess.Popen[bytes]]:
    """Start one that is told its port, and wait until it listens there.

    It ends when this process does, however that happens.
    """
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    server = subprocess.Popen(
        [find(name), *arguments(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=end_with_parent,
    )
    end = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return port, server
        except ConnectionRefusedError:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{name} does not listen") from None
            time.sleep(0.01)


def run(name: str, arguments: list[str]) -> None:
    """Run one to its end; blocks."""
    quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL}
    subprocess.run([find(name), *arguments], check=True, preexec_fn=end_with_parent, **quiet)


def end_with_parent() -> None:
    """For a child, before it becomes a program: be killed when its parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
