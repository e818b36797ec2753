"""`ratchet ping`: round trips on the wire, which no handler sees."""

from __future__ import annotations

import argparse
import ssl
import statistics
from collections import deque
from collections.abc import Iterator
from itertools import count
from typing import Any, Final, Protocol

from gevent import socket

from ratchet import _clock
from ratchet.bus import Limits
from ratchet.bus._core.address import Address
from ratchet.bus._socket import wire
from ratchet.bus._transport.transport import Transport
from ratchet.cli.address import FORMS, BrokerAddress, Place, address, check, shown_address
from ratchet.cli.common import (
    FAILED,
    Commands,
    Failure,
    put,
    put_json,
    reason,
    say,
    seconds,
    whole_number,
)
from ratchet.cli.connection import add_client_tls, client_context, connect
from ratchet.errors import BusError

__all__ = ["add_to", "run"]

# The statistics are about the last ones, so that days of pings fit into memory.
_KEPT_TIMES: Final = 100_000
_READ_SIZE: Final = 64 * 1024


def add_to(commands: Commands) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "ping",
        help="measure round trips to a server",
        description="""\
Send a PING every second, and print how long its PONG took, until Ctrl-C.  The
server answers by itself, whatever its handler does; one that speaks only the
plain form, as servers in Lua do, does not.  A lost connection is made again.

Over a broker, the broker itself answers: how many servers take requests, and
how many requests wait for one.  If there is no server, that is no answer.""",
        epilog="""\
With --json, stdout has one line, after the last PING:
  address        where the PINGs went; of a broker, without the login
  sent, received, lost
                 how many; each that is lost is reported on stderr
  seconds        how long it took
  round_trip     of the last 100,000 that were answered: min, mean, max and
                 deviation, in seconds; null if there was none

exit status:
  0  at least one PING was answered
  1  none was, or it could not connect
  2  the command line is wrong, or a file that it names

example:
  ratchet ping 127.0.0.1:4000 -c 5 -i 0.2
  ratchet ping 127.0.0.1:4000 -c 5 --json | jq .round_trip.max""",
    )
    parser.add_argument(
        "address",
        type=address,
        metavar="ADDRESS",
        help=f"where the server listens: {FORMS}",
    )
    parser.add_argument(
        "-c", "--count", type=whole_number(1), metavar="COUNT", help="stop after that many (default: go on)"
    )
    parser.add_argument(
        "-i",
        "--interval",
        type=seconds,
        default=1.0,
        metavar="SECONDS",
        help="from one to the next (default: %(default)g)",
    )
    parser.add_argument(
        "-W",
        "--timeout",
        type=seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long to wait for each, and for a connection (default: %(default)g)",
    )
    parser.add_argument(
        "--json", action="store_true", help="write one JSON object at the end, and nothing for each PING"
    )
    add_client_tls(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ping until enough are sent, or Ctrl-C; blocks.  Raises `Failure`."""
    check(arguments.address)
    pinger = Pinger(arguments.address, arguments.timeout, client_context(arguments))
    try:
        pinger.connect()
        began = _clock.monotonic()
        try:
            for answered, line in pinger.ping(arguments.count, arguments.interval):
                if not arguments.json:
                    put(f"{line}\n")
                elif not answered:
                    say(line)
        except KeyboardInterrupt:
            pass
        took = _clock.monotonic() - began
        if arguments.json:
            put_json(pinger.figures(took))
        else:
            put(pinger.summary(took))
    finally:
        pinger.close()
    return 0 if pinger.received else FAILED


class Line(Protocol):
    """A connection on which PINGs are sent.

    Attributes:
        peer: who answers.
    """

    peer: Address

    def round_trip(self, sequence: int) -> tuple[float, str]:
        """Seconds until the answer came, and what else is to be shown of it; blocks."""

    def close(self) -> None:
        """Close it."""


class Pinger:
    """Sends PINGs over a connection that it makes again when it is lost.

    Attributes:
        received: how many were answered in time.
    """

    def __init__(self, address: Place, timeout: float, context: ssl.SSLContext | None) -> None:
        self.received = 0
        self._lost = 0
        self._address = address
        self._timeout = timeout
        self._context = context
        self._line: Line | None = None
        self._times: deque[float] = deque(maxlen=_KEPT_TIMES)

    def connect(self) -> Line:
        """Connect to the server; blocks.  Raises `Failure`."""
        if isinstance(self._address, BrokerAddress):
            from ratchet.cli.broker import BrokerLine

            self._line = BrokerLine(self._address, self._timeout, self._context)
        else:
            self._line = SocketLine(self._address, self._timeout, self._context)
        return self._line

    def ping(self, number: int | None, interval: float) -> Iterator[tuple[bool, str]]:
        """Send `number` PINGs, or go on for ever; blocks.

        Returns for each one whether it was answered, and a line that says what became of it.
        """
        due = _clock.monotonic()
        for sequence in count(1) if number is None else range(1, number + 1):
            _clock.sleep(max(0.0, due - _clock.monotonic()))
            yield self.send(sequence)
            # After a wait that was longer than the interval there is nothing to catch up with.
            due = max(due + interval, _clock.monotonic())

    def send(self, sequence: int) -> tuple[bool, str]:
        """Send one PING, and return what `ping` does; blocks."""
        try:
            line = self._line or self.connect()
            answer: tuple[float, str] | None = _clock.with_timeout(
                self._timeout, line.round_trip, sequence, timeout_value=None
            )
        except (Failure, OSError, BusError) as error:
            self.close()
            self._lost += 1
            return False, f"no pong: seq={sequence} {reason(error)}"
        if answer is None:
            self._lost += 1
            return False, f"no pong: seq={sequence} within {self._timeout:g} s"
        seconds, more = answer
        self.received += 1
        self._times.append(seconds)
        return (
            True,
            f"pong from {shown_address(line.peer)}: seq={sequence} time={seconds * 1000:.3f} ms{more}",
        )

    def figures(self, seconds: float) -> dict[str, Any]:
        """The object of `--json`."""
        times = self._times
        return {
            "address": str(self._address),
            "sent": self.received + self._lost,
            "received": self.received,
            "lost": self._lost,
            "seconds": seconds,
            "round_trip": {
                "min": min(times),
                "mean": statistics.fmean(times),
                "max": max(times),
                "deviation": statistics.pstdev(times),
            }
            if times
            else None,
        }

    def summary(self, seconds: float) -> str:
        """The lines at the end."""
        figures = self.figures(seconds)
        sent, round_trip = figures["sent"], figures["round_trip"]
        share = 100 * self._lost / sent if sent else 0.0
        text = (
            f"\n--- {self._address} ping statistics ---\n"
            f"{sent} sent, {self.received} received, {share:.3g}% lost, time {seconds * 1000:.0f} ms\n"
        )
        if round_trip is not None:
            shown = "/".join(f"{1000 * time:.3f}" for time in round_trip.values())
            text += f"rtt min/avg/max/mdev = {shown} ms\n"
        return text

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._line is not None:
            self._line.close()
            self._line = None


class SocketLine:
    """A connection to a server; blocks until it is there.  Raises `Failure`."""

    def __init__(self, address: str, timeout: float, context: ssl.SSLContext | None) -> None:
        limits = Limits()
        self._transport, self.peer = connect(address, timeout, context)
        self._decoder = wire.Decoder(limits.max_message, limits.max_parts)

    def round_trip(self, sequence: int) -> tuple[float, str]:
        """See `Line`."""
        # A PONG that comes too late has the id of an older PING.
        id = sequence & wire.MAX_ID
        began = _clock.monotonic()
        # Does not wait: so few bytes fit, unless the connection is stuck.
        self._transport.send(wire.encode(wire.PING, 0, id, 0, ()))
        while True:
            messages = self._decoder.feed(receive(self._transport))
            if any(message[0] == wire.PONG and message[2] == id for message in messages):
                return _clock.monotonic() - began, ""
            if self._decoder.error is not None:
                raise self._decoder.error

    def close(self) -> None:
        """See `Line`."""
        self._transport.close()


def receive(transport: Transport) -> bytes:
    """Some bytes of what the server sends; blocks.  Raises `OSError`, also at the end."""
    while True:
        try:
            data = transport.receive(_READ_SIZE)
        except BlockingIOError:
            wait = socket.wait_write if transport.wants_write else socket.wait_read
            wait(transport.fileno())
            continue
        if not data:
            raise ConnectionError("the server closed the connection")
        return data
