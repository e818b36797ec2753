"""A signal handler that closes a bus at every single line of the library, one run for each.

It raises nothing: `interrupts` has what raises.  Every call has to end then, in its
result or in a `BusError`, the hub must have nothing to report, and no descriptor may be
left.
"""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import CodeType, TracebackType
from typing import Any

import gevent
from gevent import socket

import ratchet
from helpers import LONG, wait_until
from ratchet import BusClosed, BusError, bus
from robustness.leaks import open_descriptors
from robustness.line_events import watch_lines

LIBRARY = str(Path(ratchet.__file__).parent)
SIDES = ("client", "server", "local")


class Run:
    """One run: a server, a client and some calls, and a handler that closes at line `at`."""

    def __init__(self, side: str, at: int) -> None:
        self.failures: list[str] = []
        self._at = at
        self.lines = 0
        self.place = ""
        self._close: Callable[[], None] | None = None
        setattr(gevent.get_hub(), "handle_error", self._on_hub_error)  # noqa: B010  # mypy refuses it
        watch_lines(self._on_line, lambda code: code.co_filename.startswith(LIBRARY))
        server: Any
        client: Any
        if side == "local":
            server, client = bus.new_local()
        else:
            server = bus.listen("127.0.0.1:0")
            # One that does not connect again: a call would wait for that for ever.
            client = bus.new_client(socket.create_connection(server.address))
            client.wait_connected(LONG)
        threads = [gevent.spawn(self._serve, server) for _ in range(2)]
        gevent.sleep(0)
        self._close = server.close if side == "server" else client.close
        callers = [gevent.spawn(self._call, client, number) for number in range(4)]
        gevent.joinall(callers, timeout=LONG / 4)
        self._close = None
        self.failures += ["a call never ends" for caller in callers if not caller.ready()]
        server.close()
        client.close()
        gevent.joinall(threads, timeout=LONG / 4)
        gevent.killall([*callers, *threads])

    def _on_line(self, code: CodeType, line: int) -> None:
        if self._close is None:
            return
        self.lines += 1
        if self.lines == self._at:
            self.place = f"{Path(code.co_filename).name}:{line}, {code.co_qualname}"
            close, self._close = self._close, None
            close()

    def _on_hub_error(
        self, context: object, kind: type[BaseException], value: BaseException, tb: TracebackType | None
    ) -> None:
        self.failures.append(f"in the hub: {value!r} at {traceback.extract_tb(tb)[-1]}")

    def _serve(self, server: Any) -> None:
        try:
            for transaction, request in server:
                try:
                    transaction.send_response(request)
                except BusError:
                    pass
        except BusClosed:
            pass
        except Exception as error:
            self.failures.append(f"a server's call raised {error!r}")

    def _call(self, client: Any, number: int) -> None:
        try:
            if number == 0:
                client.cast(b"cast")
            client.send_request(b"x" * (300_000 if number == 1 else 10)).recv_response()
        except BusError:
            pass
        except Exception as error:
            self.failures.append(f"a client's call raised {error!r}")


def descriptors_left(before: int) -> list[str]:
    """What is to be said of descriptors that are not closed soon."""
    try:
        wait_until(lambda: open_descriptors() <= before, "every descriptor to be closed", 5)
    except AssertionError as error:
        return [str(error)]
    return []


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="a sample: one line of so many")
    parser.add_argument("--offset", type=int, default=1, help="the line that it begins with")
    chosen = parser.parse_args()
    logging.disable(logging.CRITICAL)
    failed = runs = 0
    for side in SIDES:
        Run(side, 0)
        before = open_descriptors()
        at = chosen.offset
        while True:
            run = Run(side, at)
            if not run.place:
                break
            runs += 1
            run.failures += descriptors_left(before)
            if run.failures:
                failed += 1
                print(f"{side} closed at {run.place}: {run.failures}")
            at += chosen.every
    print(f"{runs} runs, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
