"""Code that the commands share: the parser, types of arguments, requests, output and failures."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from typing import Any, Final, NoReturn, TextIO, TypeAlias

from ratchet.bus._processes.names import LoadError, is_name

# Exit statuses that all commands have; the last two are what a shell reports
# for a program that the signal has ended.
FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141

MOST_AT_ONCE: Final = 1_000_000
"""The most threads, connections or requests that a command is asked for: more do not fit into memory."""

# The beginning of a broker's URL, up to the last "@" that could end its password.
_LOGIN: Final = re.compile("(amqps?:).*@", re.DOTALL)
# Far more than anybody waits; more than that, clocks cannot hold.
_MAX_SECONDS: Final = 1e9


class Failure(Exception):
    """Ends the program: its text is one line that says what to do."""

    def __init__(self, line: str, status: int = FAILED) -> None:
        super().__init__(line)
        self.status = status


class Parser(argparse.ArgumentParser):
    """A parser that says in one line what is wrong with the command line."""

    def __init__(self, **options: Any) -> None:
        # No abbreviations: each would have to work for ever.
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def error(self, message: str) -> NoReturn:
        # It may quote what was given: the URL of a broker has a password, and may stand in the wrong place.
        message = _LOGIN.sub(r"\1//...@", message)
        complain(f"{message}; see '{self.prog} --help'")
        raise SystemExit(USAGE)

    def print_help(self, file: object = None) -> None:
        put(self.format_help())


class CommandParser(Parser):
    """The parser of one command: its options may stand anywhere among its arguments.

    argparse by itself would not take REQUEST in `call ADDRESS --json REQUEST`.
    """

    _inner = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inner:
            return super().parse_known_args(args, namespace)
        self._inner = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inner = False


Commands: TypeAlias = "argparse._SubParsersAction[CommandParser]"
"""The commands of a parser, to which each command adds its own."""


def complain(message: str) -> None:
    """Write a message to stderr as one line, whatever it has in it."""
    say(f"ratchet: {' '.join(message.split())}")


def say(text: str, end: str = "\n") -> None:
    """Write text for people to stderr, at once."""
    if sys.stderr is None:
        return  # `print` would take stdout in its place
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        # Whoever read it has gone away, and that is no reason to do less.
        lead_nowhere(sys.stderr)


def lead_nowhere(stream: TextIO) -> None:
    """Redirect a broken stream: its buffer would fail once more when the program ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


def put(output: str | bytes) -> None:
    """Write to stdout, at once.

    Raises `SystemExit` if whoever read it has gone away, as `head` does, and
    `Failure` if it cannot be written.
    """
    if sys.stdout is None:
        raise Failure("stdout is closed; redirect it to /dev/null if the output is not wanted")
    data = output.encode("utf-8", "backslashreplace") if isinstance(output, str) else output
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        lead_nowhere(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise SystemExit(BROKEN_PIPE) from None
        raise Failure(f"cannot write to stdout ({reason(error)}); redirect it to somewhere else") from error


def put_json(value: object) -> None:
    """Write a value as JSON on a line of stdout; raises what `put` raises."""
    put(json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n")


def reason(error: BaseException) -> str:
    """The text of an error, without its number."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def seconds(text: str) -> float:
    """The type of a time: a number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, such as 2.5, not {text!r}")
    return value


def whole_number(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """The type of a count: `minimum` or more, up to `maximum` if there is one."""
    range = f"of {minimum} or more" if maximum is None else f"from {minimum} to {maximum}"

    def convert(text: str) -> int:
        number = int(text) if text.isascii() and text.isdigit() else -1
        if number < minimum or (maximum is not None and number > maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number {range}, not {text!r}")
        return number

    return convert


def request_bytes(argument: str) -> bytes:
    """The request that an argument stands for: text, `@FILE`, or `-` for stdin; blocks."""
    try:
        if argument in ("-", "@-"):
            if sys.stdin is None:
                raise Failure("stdin is closed; give the request as an argument or as @FILE", USAGE)
            return sys.stdin.buffer.read()
        if argument.startswith("@"):
            with open(argument[1:], "rb") as file:
                return file.read()
    except OSError as error:
        raise cannot_read(argument, error) from error
    # The very bytes that were typed.
    return os.fsencode(argument)


def codec_name(*known: str) -> Callable[[str], str]:
    """The type of --codec: one of the known names, or MODULE:NAME."""

    def check(text: str) -> str:
        if text not in known and not is_name(text):
            raise argparse.ArgumentTypeError(
                f"{text!r} names no codec; write {', '.join(known)}, or MODULE:NAME, as in shop.wire:codec"
            )
        return text

    return check


def cannot_load(error: LoadError) -> Failure:
    """The failure to import what MODULE:NAME stands for; shows where the user's own module failed."""
    if error.trace:
        say(error.trace)
    return Failure(str(error), USAGE)


def cannot_read(argument: str, error: OSError) -> Failure:
    """The failure to read what an argument stands for."""
    if argument.startswith("@") and argument != "@-":
        return Failure(
            f"cannot read the request from {argument[1:]!r} ({reason(error)}); check the name after @", USAGE
        )
    return Failure(f"cannot read the request from stdin ({reason(error)}); redirect it from a file", USAGE)
