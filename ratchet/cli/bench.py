"""`ratchet bench`: a server under load, and how long it takes to answer."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import gevent

from ratchet import _clock, thread
from ratchet.bus import Limits
from ratchet.bus._core.client import ClientSide
from ratchet.cli import connection
from ratchet.cli.address import FORMS, BrokerAddress, address, check, open_client
from ratchet.cli.client import what_happened
from ratchet.cli.common import (
    FAILED,
    INTERRUPTED,
    MOST_AT_ONCE,
    Commands,
    Failure,
    put,
    put_json,
    request_bytes,
    say,
    seconds,
    whole_number,
)
from ratchet.cli.latency import Latencies, shown_time
from ratchet.errors import BusError, Outcome
from ratchet.kernel import Ratchet

__all__ = ["add_to", "run"]

_PERCENTILES: Final = (50, 90, 99, 99.9)
# What a terminal understands as: empty the rest of the line.
_CLEAR_REST: Final = "\x1b[K"


def add_to(commands: Commands) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "bench",
        help="put a server under load and measure it",
        description="""\
Send requests as fast as they are answered, for some seconds, and print how
many a second there were and how long they took.  One line of progress goes to
stderr.  If the server runs on the same machine, both programs share it, and the
figures are those of the two together.""",
        epilog="""\
With --json, stdout has one line:
  address, connections, in_flight
                 as they were given, the address of a broker without the login;
                 in_flight is on each connection
  request_bytes  the size of each request
  seconds        how long it was measured
  answered, per_second
                 requests that were answered, and how many a second
  failed         requests that failed
  unfinished     requests in flight at the end
  errors         those that failed, by outcome and type: a list of objects of
                 outcome, type, count and example, the text of one of them
  latency        of those answered: min, mean, max, and p50, p90, p99 and
                 p99.9, which that share of them do not exceed; all in
                 seconds; null if there was none

exit status:
  0    every request was answered
  1    some failed, or it could not connect
  2    the command line is wrong, or a file that it names
  130  interrupted; what was measured until then is printed

example:
  ratchet bench 127.0.0.1:4000 --seconds 10 --connections 4 --in-flight 16
  ratchet bench 127.0.0.1:4000 --json | jq .per_second""",
    )
    parser.add_argument(
        "address",
        type=address,
        metavar="ADDRESS",
        help=f"where the server listens: {FORMS}",
    )
    parser.add_argument(
        "request",
        nargs="?",
        metavar="REQUEST",
        help="the request: text, @FILE for the bytes of a file, or - for stdin",
    )
    parser.add_argument(
        "--size",
        type=whole_number(0, Limits().max_message),
        default=100,
        metavar="BYTES",
        help="without REQUEST, send this many bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long (default: %(default)g)",
    )
    parser.add_argument(
        "--connections",
        type=whole_number(1, MOST_AT_ONCE),
        default=1,
        metavar="COUNT",
        help="how many connections (default: %(default)s)",
    )
    parser.add_argument(
        "--in-flight",
        type=whole_number(1, MOST_AT_ONCE),
        default=32,
        metavar="COUNT",
        help="how many requests to keep in flight on each connection (default: %(default)s)",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="for each request, and to connect (default: %(default)g)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="speak the plain form, which servers of the Ratchet library for Lua understand",
    )
    parser.add_argument("--json", action="store_true", help="write one JSON object in place of the report")
    connection.add_client_tls(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Put the load on the server and print what came of it; blocks.  Raises `Failure`."""
    request = b"x" * arguments.size if arguments.request is None else request_bytes(arguments.request)
    load = Load(request, arguments.timeout)
    with ExitStack() as connections:
        clients = connected(arguments, connections)
        with Ratchet() as kernel:
            for client in clients * arguments.in_flight:
                kernel.attach_background(load.work, client)
            kernel.attach_background(load.show_progress, arguments.seconds)
            kernel.attach(load.measure, arguments.seconds)
    if arguments.json:
        given = {name: getattr(arguments, name) for name in ("connections", "in_flight")}
        put_json({"address": str(arguments.address), **given, **load.figures()})
    else:
        put("".join(f"{line}\n" for line in load.report()))
    if load.interrupted:
        return INTERRUPTED
    return FAILED if load.errors or not load.latencies.count else 0


def connected(arguments: argparse.Namespace, connections: ExitStack) -> list[ClientSide[bytes, bytes]]:
    """The connections, made again when they are lost; blocks until all are there.  Raises `Failure`."""
    check(arguments.address, plain=arguments.plain)
    context = connection.client_context(arguments)
    # The first one shows why there is no connection, if there is none.
    transport, _ = connection.connect(arguments.address, arguments.timeout, context)
    transport.close()
    clients = [
        connections.enter_context(open_client(arguments.address, None, context, plain=arguments.plain))
        for _ in range(arguments.connections)
    ]
    end = _clock.monotonic() + arguments.timeout
    if isinstance(arguments.address, BrokerAddress):
        try:
            # It shows whether the broker lets this side in.
            clients[0].wait_connected(arguments.timeout)
        except BusError as error:
            raise Failure(what_happened(error, arguments.address, arguments.timeout)) from error
    while not all(client.stats().connections for client in clients):
        if _clock.monotonic() > end:
            raise Failure(
                f"{arguments.address} did not take {len(clients)} connections in time;"
                " try fewer, or allow more time with --timeout"
            )
        _clock.sleep(0.001)
    return clients


class Load:
    """The state that all threads of the load share: the request, and what came of it.

    Attributes:
        latencies: those of the requests that were answered.
        errors: how many failed, by outcome and type of the error.
        interrupted: whether Ctrl-C ended the measurement.
    """

    def __init__(self, request: bytes, timeout: float) -> None:
        self.latencies = Latencies()
        self.errors: Counter[tuple[Outcome, str]] = Counter()
        self.interrupted = False
        self._texts: dict[tuple[Outcome, str], str] = {}
        self._request = request
        self._timeout = timeout
        self._sent = 0
        # Known when the time of the measurement is over.
        self._seconds = 0.0
        self._unfinished = 0

    def work(self, client: ClientSide[bytes, bytes]) -> None:
        """One thread of the load: one request after the other."""
        clock, add = _clock.monotonic, self.latencies.add
        while True:
            began = clock()
            self._sent += 1
            try:
                client.call(self._request, self._timeout)
            except BusError as error:
                key = (error.outcome, type(error).__name__)
                self.errors[key] += 1
                self._texts[key] = " ".join(str(error).split())
                # An error may come without a wait, and the others want their turn.
                gevent.sleep(0)
            else:
                add(clock() - began)

    def measure(self, seconds: float) -> None:
        """The thread that ends the measurement, when the time is over or at Ctrl-C."""
        began = _clock.monotonic()
        self.interrupted = thread.sigwait("SIGINT", seconds)
        self._seconds = _clock.monotonic() - began
        self._unfinished = self._sent - self.latencies.count - self.errors.total()

    def show_progress(self, seconds: float) -> None:
        """A background thread: one line that changes, or, in a log, one a second."""
        live = sys.stderr is not None and sys.stderr.isatty()
        began = then = _clock.monotonic()
        answered = 0
        try:
            while True:
                _clock.sleep(0.2 if live else 1.0)
                now, before = _clock.monotonic(), answered
                answered = self.latencies.count
                line = (
                    f"{now - began:.1f} of {seconds:g} s: {answered:,} answered,"
                    f" {(answered - before) / (now - then):,.0f} a second, {self.errors.total():,} failed"
                )
                then = now
                say(f"\r{line}{_CLEAR_REST}" if live else line, end="" if live else "\n")
        finally:
            if live:
                say(f"\r{_CLEAR_REST}", end="")

    def figures(self) -> dict[str, Any]:
        """The part of the object of `--json` that was measured."""
        latencies = self.latencies
        return {
            "request_bytes": len(self._request),
            "seconds": self._seconds,
            "answered": latencies.count,
            "per_second": latencies.count / self._seconds,
            "failed": self.errors.total(),
            "unfinished": self._unfinished,
            "errors": [
                {"outcome": outcome, "type": name, "count": count, "example": self._texts[outcome, name]}
                for (outcome, name), count in self.errors.most_common()
            ],
            "latency": {
                "min": latencies.shortest,
                "mean": latencies.mean,
                "max": latencies.longest,
                **{f"p{percent}": latencies.percentile(percent) for percent in _PERCENTILES},
            }
            if latencies.count
            else None,
        }

    def report(self) -> Iterator[str]:
        """The lines at the end."""
        latencies = self.latencies
        rate = latencies.count / self._seconds
        yield f"{latencies.count:,} requests of {len(self._request):,} bytes answered"
        yield f"{rate:,.0f} a second, for {self._seconds:.2f} s"
        yield f"{self._unfinished:,} in flight at the end"
        yield f"{self.errors.total():,} failed"
        for (outcome, name), count in self.errors.most_common():
            yield f"  {outcome}: {count:,} {name}, such as: {self._texts[outcome, name]}"
        if not latencies.count:
            return
        yield ""
        extremes = f"min {shown_time(latencies.shortest)}, max {shown_time(latencies.longest)}"
        yield f"latency: mean {shown_time(latencies.mean)}, {extremes}"
        for percent in _PERCENTILES:
            yield f"  {percent:>4} % within {shown_time(latencies.percentile(percent)):>8}"
        yield ""
        yield from latencies.histogram()
