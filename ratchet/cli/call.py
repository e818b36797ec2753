"""`ratchet call`: one request and its response."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Final

from ratchet import _clock
from ratchet.bus import ClientBus, Limits
from ratchet.bus.codecs import client_functions
from ratchet.cli.common import (
    USAGE,
    Commands,
    Failure,
    address,
    complain,
    put,
    reason,
    request_bytes,
    say,
    seconds,
    shown_address,
)
from ratchet.cli.connection import add_client_tls, client_context, connect
from ratchet.errors import BusError, BusTimeout, ConnectionLost, Outcome, ProtocolError, RemoteError

__all__ = ["add_to", "run"]

Response = tuple[bytes, int]
"""The body, and how many attachments came with it."""

_STATUS: Final = {Outcome.NOT_SENT: 3, Outcome.NOT_RUN: 4, Outcome.UNKNOWN: 5, Outcome.RAN: 6}
_ADVICE: Final = {
    Outcome.NOT_SENT: "the request was not sent, so it is safe to call again",
    Outcome.NOT_RUN: "the request did not run, so it is safe to call again",
    Outcome.UNKNOWN: "nobody knows whether the request ran, so look before you call again",
    Outcome.RAN: "the request ran, so look at what it did before you call again",
}


def add_to(commands: Commands) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "call",
        help="send a request and print the response",
        description="Send one request and write the response to stdout, byte for byte.",
        epilog="""\
exit status:
  0    the response is on stdout
  1    the response could not be written
  2    the command line is wrong, or a file that it names
  3    NOT_SENT: nothing was sent; the server may be down
  4    NOT_RUN: the server refused the request
  5    UNKNOWN: no answer; the request may have run
  6    RAN: the handler raised an error, or its response is not JSON (--json)
  130  interrupted
The handler's traceback goes to stderr.

example:
  ratchet call 127.0.0.1:4000 '{"item": "apple"}' --json --timeout 2
  ratchet call unix:/run/shop.sock @order.bin > receipt.bin""",
    )
    parser.add_argument(
        "address",
        type=address,
        metavar="ADDRESS",
        help="where the server listens: HOST:PORT, [IPv6]:PORT or unix:PATH",
    )
    parser.add_argument(
        "request",
        nargs="?",
        default="-",
        metavar="REQUEST",
        help="the request: text, @FILE for the bytes of a file, or - for stdin (the default)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="check that the request is JSON before it is sent, and lay the response out for reading",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="for everything, connecting included; the server is told (default: %(default)g)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="speak the plain form, which servers of the Ratchet library for Lua understand",
    )
    add_client_tls(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Send the request and write the response; blocks.  Raises `Failure`."""
    request = request_bytes(arguments.request)
    if arguments.json:
        try:
            parse_json(request)
        except ValueError as error:
            raise Failure(f"the request is not JSON ({error}); fix it, or leave out --json", USAGE) from error
    body, attachments = exchange(arguments, request)
    if attachments:
        complain(f"the response has {attachments} attachments too, which are not shown")
    if not arguments.json:
        put(body if body.endswith(b"\n") or not is_terminal() else body + b"\n")
        return 0
    try:
        put(laid_out(body))
    except ValueError as error:
        put(body)
        raise Failure(
            f"the response is not JSON ({error}), so it is printed as it is; leave out --json",
            _STATUS[Outcome.RAN],
        ) from error
    return 0


def exchange(arguments: argparse.Namespace, request: bytes) -> Response:
    """Send a request and return the response; blocks.  Raises `Failure`."""
    end = _clock.monotonic() + arguments.timeout
    context = client_context(arguments)
    try:
        transport, peer = connect(arguments.address, arguments.timeout, context)
    except Failure as failure:
        failure.status = _STATUS[Outcome.NOT_SENT]
        raise
    encode, decode = client_functions(unchanged, with_count, None)
    with ClientBus(
        shown_address(peer),
        encode,
        decode,
        Limits(),
        arguments.plain,
        None,
        lambda servers: servers.use(transport, peer),
    ) as client:
        try:
            return client.call(request, max(0.0, end - _clock.monotonic()))
        except BusError as error:
            if isinstance(error, RemoteError):
                say(error.remote_traceback.rstrip())
            raise Failure(
                f"{what_happened(error, arguments)}; {_ADVICE[error.outcome]}", _STATUS[error.outcome]
            ) from error


def unchanged(request: bytes) -> bytes:
    """Encode a request, which is bytes already."""
    return request


def with_count(body: bytes, attachments: list[bytes]) -> Response:
    """Decode a message: its body, and the number of its attachments."""
    return body, len(attachments)


def what_happened(error: BusError, arguments: argparse.Namespace) -> str:
    """An error of the bus in the words of the command line."""
    match error:
        case RemoteError(outcome=Outcome.RAN):
            return f"the handler raised {error}"
        case RemoteError():
            return f"the server could not decode the request: {error.message}"
        case BusTimeout():
            return f"{arguments.address} did not answer within {arguments.timeout:g} s"
        case (
            ProtocolError(__cause__=BaseException() as cause)
            | ConnectionLost(__cause__=ProtocolError() as cause)
        ):
            return f"{arguments.address} does not speak the wire format of ratchet ({reason(cause)})"
        case ConnectionLost(__cause__=BaseException() as cause):
            return f"the connection to {arguments.address} was lost ({reason(cause)})"
    return error.message


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def parse_json(data: bytes) -> object:
    """Decode JSON; raises `ValueError` for anything else, such as NaN or endless nesting."""
    try:
        value: object = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def laid_out(body: bytes) -> bytes:
    """JSON over several lines; raises `ValueError` for what is none, or cannot be."""
    try:
        text = json.dumps(parse_json(body), indent=2, ensure_ascii=False, allow_nan=False)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Half of a surrogate pair is not UTF-8, but may be written as its escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"
