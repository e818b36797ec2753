"""`ratchet stats`: the counters of a program that serves them.

A program says that it serves them by a bus of their own, which answers `null` with one JSON
object; what is in it is the program's business.
"""

from __future__ import annotations

import argparse
import ssl
from collections.abc import Iterator
from typing import Any

from ratchet import _clock
from ratchet.cli.address import FORMS, address, check
from ratchet.cli.client import new_client, what_happened
from ratchet.cli.common import Commands, Failure, complain, put, put_json, seconds
from ratchet.cli.connection import add_client_tls, client_context
from ratchet.cli.forms import parse_json
from ratchet.errors import BusError

__all__ = ["add_to", "run"]


def add_to(commands: Commands) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "stats",
        help="show the counters of a program",
        description="""\
Ask a program for its counters and print them.  The program has to serve them
at an address of their own: 'ratchet serve --stats ADDRESS' does, and the manual
shows the lines for any other program.  Do not give the address of its service,
to which the question, null, would be one more request.""",
        epilog="""\
With --json, stdout has one line each time: the object as the program sent it.
Those of 'ratchet serve' are the fields of ratchet.bus.Stats, which are counts.

exit status:
  0    they were printed
  1    the program did not answer, or not with a JSON object; with --every, only
       the first time counts, and later failures are reported on stderr
  2    the command line is wrong, or a file that it names
  130  interrupted

example:
  ratchet serve shop:handle 127.0.0.1:4000 --stats unix:/run/shop.stats &
  ratchet stats unix:/run/shop.stats --every 5""",
    )
    parser.add_argument(
        "address",
        type=address,
        metavar="ADDRESS",
        help=f"where the program serves its counters: {FORMS}",
    )
    parser.add_argument("--json", action="store_true", help="write a JSON object on one line")
    parser.add_argument(
        "--every", type=seconds, metavar="SECONDS", help="print them again every SECONDS, until Ctrl-C"
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long to wait for an answer, connecting included (default: %(default)g)",
    )
    add_client_tls(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the counters once, or until Ctrl-C; blocks.  Raises `Failure`."""
    check(arguments.address)
    context = client_context(arguments)
    show(counters(arguments, context), arguments.json)
    while arguments.every is not None:
        _clock.sleep(arguments.every)
        try:
            now = counters(arguments, context)
        except Failure as failure:
            complain(str(failure))
            continue
        if not arguments.json:
            put("\n")
        show(now, arguments.json)
    return 0


def counters(arguments: argparse.Namespace, context: ssl.SSLContext | None) -> dict[str, Any]:
    """Ask for the counters, over a connection of its own; blocks.  Raises `Failure`."""
    end = _clock.monotonic() + arguments.timeout
    with new_client(arguments.address, arguments.timeout, context) as client:
        try:
            response = client.call([b"null"], max(0.0, end - _clock.monotonic()))
        except BusError as error:
            happened = what_happened(error, arguments.address, arguments.timeout)
            raise Failure(f"{happened}; does the program serve its stats there?") from error
    try:
        values = parse_json(response.body)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise Failure(
            f"{arguments.address} did not answer with a JSON object; does the program serve its stats there?"
        )
    return values


def show(values: dict[str, Any], as_json: bool) -> None:
    """Print the counters; raises what `put` raises."""
    if as_json:
        put_json(values)
    else:
        put("".join(f"{line}\n" for line in lines(values)))


def lines(values: dict[str, Any], indent: str = "") -> Iterator[str]:
    """A line for each value; an object in it is a block of its own, below its name."""
    width = max((len(name) for name, value in values.items() if not isinstance(value, dict)), default=0)
    for name, value in values.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from lines(value, f"{indent}  ")
        else:
            yield f"{indent}{name:{width}}  {shown(value)}"


def shown(value: object) -> str:
    """Format a value for reading; a bool is not a number here."""
    if type(value) is int:
        return f"{value:,}"
    return f"{value:,.6g}" if isinstance(value, float) else " ".join(str(value).split())
