"""The command line: `python -m ratchet`, also installed as `ratchet`.

A command is a module with `add_to`, which adds its parser, and `run`, which takes the parsed
arguments and returns the exit status.  What a user can cause ends in one line on stderr,
never in a traceback of ours.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from ratchet._build import build_info
from ratchet._version import __version__
from ratchet.cli import bench, call, completion, ping, serve, stats
from ratchet.cli.common import INTERRUPTED, CommandParser, Failure, Parser, complain, put

__all__ = ["main"]


class ShowVersion(argparse.Action):
    """Write the version and the build, and exit; argparse's own action ignores that a disk is full."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> NoReturn:
        put(f"{parser.prog} {__version__}, {build_info()}\n")
        raise SystemExit(0)


def new_parser() -> Parser:
    """The parser of the whole command line."""
    parser = Parser(
        prog="ratchet",
        description="Call, serve, ping, measure and watch a message bus of requests and responses.",
        epilog="""\
ADDRESS is HOST:PORT, [IPv6]:PORT, unix:PATH or, for a service over RabbitMQ,
amqp://USER:PASSWORD@HOST:PORT,HOST2:PORT/VHOST?service=NAME, or amqps://.

example:
  ratchet serve shop.prices:handle 127.0.0.1:4000 &
  ratchet call 127.0.0.1:4000 'how much?'

Each command explains itself: ratchet call --help.""",
    )
    parser.add_argument(
        "--version", action=ShowVersion, nargs=0, help="show the version and the build, and exit"
    )
    completion.add_to(parser)
    commands = parser.add_subparsers(
        parser_class=CommandParser, title="commands", metavar="COMMAND", required=True
    )
    for command in (call, serve, ping, bench, stats):
        command.add_to(commands)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line, `sys.argv` by default, and return the exit status; blocks.

    Raises `SystemExit` for a wrong command line and after `--help` and `--version`.
    """
    try:
        arguments = new_parser().parse_args(argv)
        status: int = arguments.run(arguments)
    except Failure as failure:
        complain(str(failure))
        return failure.status
    except KeyboardInterrupt:
        return INTERRUPTED
    return status
