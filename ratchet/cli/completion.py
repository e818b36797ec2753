"""`ratchet --print-completion`: the script by which a shell completes command lines, made by shtab.

The script knows every command and option, so that a shell need not start the program for it.
"""

from __future__ import annotations

import argparse
from typing import NoReturn

from ratchet.cli.common import Failure, put

__all__ = ["add_to"]

_SHELLS = ("bash", "zsh")


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the option."""
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=_SHELLS,
        help="write a script that completes command lines in this shell, and exit",
    )


class PrintCompletion(argparse.Action):
    """Write the script and end.  Raises `Failure`."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: object, values: object, option: object = None
    ) -> NoReturn:
        try:
            import shtab
        except ImportError as error:
            raise Failure(
                "shell completion needs shtab; install it with: pip install 'gevent-ratchet[completion]'"
            ) from error
        for command in commands_of(parser):
            for action in command._actions:
                if action.metavar == "FILE":
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        put(f"{shtab.complete(parser, shell=str(values))}\n")
        raise SystemExit(0)


def commands_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """The parsers of the commands, each described by the one line that the program's help has for it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for choice in action._choices_actions:
                action.choices[choice.dest].description = choice.help
            return list(action.choices.values())
    return []
