"""Servers that are replaced under load, as a rolling deployment does, and whether a request is lost.

Run it with `make rolling`.  Three supervisors of four workers each serve the same requests, and 32 clients
of all three keep eight requests in flight each.  Meanwhile the workers are ended one by one, with SIGTERM
or, with `--kill`, with SIGKILL, and each supervisor is told by SIGHUP to replace all of its own.  In the
end, what the clients were told is held against the log that the handlers wrote.
"""

from __future__ import annotations

import argparse
import os
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import takewhile
from pathlib import Path
from typing import Any

import gevent

from certificates import client_context
from processes.load import Load
from processes.supervised import Supervised, serving, tls_options

SERVERS, WORKERS, CLIENTS, IN_FLIGHT = 3, 4, 32, 8
KINDS = ("tcp", "unix", "tls")


def replace_one_by_one(servers: list[Supervised], number: signal.Signals) -> Iterator[int]:
    """End each worker of each server by a signal; yields the new one's process ID when that is ready."""
    for server in servers:
        for worker, pid in list(server.pids.items()):
            os.kill(pid, number)
            server.expect(f"worker {worker} .* is ready")
            yield server.pids[worker]


def replace_all(server: Supervised) -> None:
    """Have a server replace all of its workers, and wait until it has."""
    server.send(signal.SIGHUP)
    for _ in list(server.pids):
        server.expect(r"worker \d+ .* is ready")
        server.expect("has ended")


def replacements(servers: list[Supervised], number: signal.Signals) -> Iterator[None]:
    """Replace workers one by one, and then all by SIGHUP, again and again; one step each time."""
    while True:
        for _ in replace_one_by_one(servers, number):
            yield
        for server in servers:
            replace_all(server)
            yield


@contextmanager
def opened(
    kind: str, folder: Path, count: int = SERVERS, workers: int = WORKERS, handler: str = "tasks:record"
) -> Iterator[tuple[list[Supervised], ssl.SSLContext | None]]:
    """So many servers of so many workers each, and the TLS context of their clients."""
    options: dict[str, Any] = {"processes": workers}
    context = None
    if kind == "tls":
        options |= tls_options(folder)
        context = client_context()
    with ExitStack() as stack:
        yield (
            [
                stack.enter_context(
                    serving(
                        handler,
                        f"unix:{folder}/{number}" if kind == "unix" else "127.0.0.1:0",
                        **options,
                    )
                )
                for number in range(count)
            ],
            context,
        )


def run(kind: str, seconds: float, kill: bool, idempotent: bool) -> None:
    """Replace servers for so long, and say what became of the requests."""
    with tempfile.TemporaryDirectory() as folder, opened(kind, Path(folder)) as (servers, context):
        load = Load(
            [server.address for server in servers],
            Path(folder, "ledger"),
            CLIENTS,
            IN_FLIGHT,
            idempotent,
            ssl_context=context,
        )
        while not load.ends:
            gevent.sleep(0.01)
        end = time.monotonic() + seconds
        replaced = replacements(servers, signal.SIGKILL if kill else signal.SIGTERM)
        steps = sum(1 for _ in takewhile(lambda _: time.monotonic() < end, replaced))
        ends = load.stop()
        for server in servers:
            server.stop()
    how = f"{kind}{', killed' if kill else ''}{', idempotent' if idempotent else ''}"
    print(f"{how}: {steps} replacements, {dict(ends)}", flush=True)
    for error, times in load.errors.most_common(5):
        print(f"  {times} x {error}", flush=True)
    allowed = {"answered", "UNKNOWN"} if kill and not idempotent else {"answered"}
    if not set(ends) <= allowed:
        sys.exit(f"requests failed: {dict(ends)}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Replace servers under load")
    parser.add_argument("--seconds", type=float, default=60.0, help="for how long, each kind (%(default)g)")
    parser.add_argument("--kind", action="append", choices=KINDS, help="how they listen; all by default")
    parser.add_argument("--kill", action="store_true", help="kill workers in place of telling them to end")
    parser.add_argument("--idempotent", action="store_true", help="send requests that may run twice")
    options = parser.parse_args()
    for kind in options.kind or KINDS:
        run(kind, options.seconds, options.kill, options.idempotent)


if __name__ == "__main__":
    main()
