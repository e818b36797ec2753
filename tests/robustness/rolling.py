"""Servers that are replaced under load, as a rolling deployment does, and whether a request is lost.

Run it with `make rolling`.  Three supervisors of four workers each serve the same requests, and 32 clients
of all three keep eight requests in flight each.  Meanwhile the workers are ended one by one, with SIGTERM
or, with `--kill`, with SIGKILL, and each supervisor is told by SIGHUP to replace all of its own.  In the
end, what the clients were told is held against the log that the handlers wrote.
"""

from __future__ import annotations

import argparse
import itertools
import os
import signal
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent

from certificates import authority, client_context
from helpers import LONG
from processes.supervised import Supervised, serving
from ratchet import BusError, Outcome, bus
from ratchet.bus import codecs

SERVERS, WORKERS, CLIENTS, IN_FLIGHT = 3, 4, 32, 8
KINDS = ("tcp", "unix", "tls")


class Load:
    """Clients that have lines recorded all the time, each once, and note how each request ended."""

    def __init__(self, addresses: list[str], ledger: Path, context: ssl.SSLContext | None, idempotent: bool):
        self._ledger = ledger
        self._idempotent = idempotent
        self._stopping = False
        self._numbers = itertools.count()
        self.ends: dict[str, str] = {}
        self.errors: Counter[str] = Counter()
        self._clients: list[Any] = [
            bus.connect(addresses, codec=codecs.json, ssl_context=context) for _ in range(CLIENTS)
        ]
        self._threads = [gevent.spawn(self._ask, each) for each in self._clients for _ in range(IN_FLIGHT)]

    def _ask(self, client: Any) -> None:
        while not self._stopping:
            line = str(next(self._numbers))
            try:
                client.call([str(self._ledger), line], timeout=LONG, idempotent=self._idempotent)
                self.ends[line] = "answered"
            except BusError as error:
                self.ends[line] = str(error.outcome)
                self.errors[repr(error)] += 1

    def stop(self) -> Counter[str]:
        """End it, and hold what the clients were told against the log."""
        self._stopping = True
        gevent.joinall(self._threads, timeout=LONG, raise_error=True)
        for client in self._clients:
            client.close()
        ran = Counter(self._ledger.read_text(encoding="utf-8").split())
        if not self._idempotent:
            assert not [line for line, times in ran.items() if times > 1], "a request ran twice"
        for line, end in self.ends.items():
            if end in ("answered", Outcome.RAN):
                assert ran[line], f"{line} was answered, and did not run"
            elif end != Outcome.UNKNOWN:
                assert not ran[line], f"{line} ended {end}, and ran"
        return Counter(self.ends.values())


def replace(servers: list[Supervised], number: signal.Signals, end: float) -> Iterator[None]:
    """Replace workers one by one, and then all by SIGHUP, again and again; one step each time."""
    while True:
        for server in servers:
            for worker, pid in list(server.pids.items()):
                if time.monotonic() > end:
                    return
                os.kill(pid, number)
                server.expect(f"worker {worker} .* is ready")
                yield
        for server in servers:
            if time.monotonic() > end:
                return
            server.send(signal.SIGHUP)
            for _ in range(WORKERS):
                server.expect(r"worker \d+ .* is ready")
                server.expect("has ended")
            yield


@contextmanager
def opened(kind: str, folder: Path) -> Iterator[tuple[list[Supervised], ssl.SSLContext | None]]:
    """The servers, and the TLS context of their clients."""
    options: dict[str, Any] = {"processes": WORKERS}
    context = None
    if kind == "tls":
        certificate = folder / "certificate.pem"
        authority().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
        options |= {"ssl_context": "tasks:context", "environment": {"TEST_CERTIFICATE": str(certificate)}}
        context = client_context()
    with ExitStack() as stack:
        yield (
            [
                stack.enter_context(
                    serving(
                        "tasks:record",
                        f"unix:{folder}/{number}" if kind == "unix" else "127.0.0.1:0",
                        **options,
                    )
                )
                for number in range(SERVERS)
            ],
            context,
        )


def run(kind: str, seconds: float, kill: bool, idempotent: bool) -> None:
    """Replace servers for so long, and say what became of the requests."""
    with tempfile.TemporaryDirectory() as folder, opened(kind, Path(folder)) as (servers, context):
        load = Load([server.address for server in servers], Path(folder, "ledger"), context, idempotent)
        while not load.ends:
            gevent.sleep(0.01)
        end = time.monotonic() + seconds
        steps = sum(1 for _ in replace(servers, signal.SIGKILL if kill else signal.SIGTERM, end))
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
