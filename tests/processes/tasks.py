"""What the tests have worker processes do, by the name of this module."""

from __future__ import annotations

import os
import signal
import ssl
import time
from pathlib import Path

import gevent

from ratchet.bus import ServerTransaction


def pid(request: object) -> int:
    return os.getpid()


def whose(request: object, transaction: ServerTransaction[object, object]) -> list[object]:
    """The process, and the client's address as it sees it."""
    return [os.getpid(), transaction.from_]


def descriptors(request: object) -> int:
    return len(os.listdir("/proc/self/fd"))


def record(request: list[str]) -> int:
    """Write a line to a file: [path, line]."""
    path, line = request
    gevent.sleep(0.002)  # stands for what takes time
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, line.encode() + b"\n")
    os.close(ledger)
    return os.getpid()


def record_slowly(request: list[str]) -> int:
    """As `record`, for requests that are to leave the processors time for something else."""
    gevent.sleep(0.02)
    return record(request)


def wait_for_file(request: str) -> int:
    """Says by one file that it has begun, and returns when there is another."""
    Path(request + ".begun").touch()
    while not Path(request).exists():
        gevent.sleep(0.01)
    return os.getpid()


def compute(seconds: float) -> int:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return os.getpid()


def context() -> ssl.SSLContext:
    """That of a server whose certificate is in the file that the environment names."""
    made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made.load_cert_chain(os.environ["TEST_CERTIFICATE"])
    return made


def no_context() -> ssl.SSLContext:
    raise FileNotFoundError("there is no certificate")


def end_it(request: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


NOT_A_CODEC = "json"
