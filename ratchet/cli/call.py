"""`ratchet call`: one request and its response, or a stream of them."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from typing import Final

from ratchet import _clock
from ratchet.cli.address import FORMS, address, check
from ratchet.cli.client import Client, new_client, what_happened
from ratchet.cli.common import (
    FAILED,
    MOST_AT_ONCE,
    USAGE,
    Commands,
    Failure,
    codec_name,
    complain,
    put,
    request_bytes,
    say,
    seconds,
    whole_number,
)
from ratchet.cli.connection import add_client_tls, client_context
from ratchet.cli.forms import CODEC_NAMES, Form, FormError, Response, form_of
from ratchet.cli.ndjson import Pipeline, lines_of
from ratchet.errors import BusError, MessageTooLarge, Outcome, RemoteError

__all__ = ["add_to", "run"]

_STATUS: Final = {Outcome.NOT_SENT: 3, Outcome.NOT_RUN: 4, Outcome.UNKNOWN: 5, Outcome.RAN: 6}
_ADVICE: Final = {
    Outcome.NOT_SENT: "the request was not sent, so it is safe to call again",
    Outcome.NOT_RUN: "the request did not run, so it is safe to call again",
    Outcome.UNKNOWN: "the request may have run, so check before you call again",
    Outcome.RAN: "the request ran, so check what it did before you call again",
}


def add_to(commands: Commands) -> None:
    """Add this command's parser."""
    parser = commands.add_parser(
        "call",
        help="send a request and print the response",
        description="""\
Send one request and write the response to stdout, byte for byte; or, with
--ndjson, send a request for each line of the input and write a line for each.

With --codec, REQUEST is JSON, which the codec turns into a message, and what
the codec makes of the response is written as JSON.  Values that JSON cannot
express are written as objects of their fields, or else as text: bytes in
base64, and others as str() shows them.""",
        epilog="""\
exit status:
  0    the response is on stdout
  1    the response could not be written; with --ndjson, some request failed
  2    the command line is wrong, or a file that it names
  3    NOT_SENT: nothing was sent; the server may be down
  4    NOT_RUN: the server refused the request
  5    UNKNOWN: no answer; the request may have run
  6    RAN: the handler raised an error, or its response is not what --json or
       --codec expects
  130  interrupted
The handler's traceback goes to stderr.

With --ndjson, the line of a request that failed is
  {"error": {"code": ..., "outcome": ..., "message": ...}}
and the outcome one of those above.  The code is "bad_request" for a line that
is not JSON or that the codec refuses, "bad_response" for a response like that,
or the code of the library's error, such as "bus_timeout".

example:
  ratchet call 127.0.0.1:4000 '{"item": "apple"}' --json --timeout 2
  ratchet call unix:/run/shop.sock @order.bin > receipt.bin
  ratchet call unix:/run/shop.sock --ndjson < orders > receipts""",
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
        default="-",
        metavar="REQUEST",
        help="the request: text, @FILE for the bytes of a file, or - for stdin (the default)",
    )
    forms = parser.add_mutually_exclusive_group()
    forms.add_argument(
        "--json",
        action="store_true",
        help="check that the request is JSON before sending it, and format the response for reading",
    )
    forms.add_argument(
        "--codec",
        type=codec_name(*CODEC_NAMES),
        metavar="CODEC",
        help="the codec of the server: json, msgpack, text, or MODULE:NAME for a ratchet.bus.Codec of yours",
    )
    forms.add_argument(
        "--msgpack", action="store_const", dest="codec", const="msgpack", help="short for --codec msgpack"
    )
    parser.add_argument(
        "--ndjson",
        action="store_true",
        help="each line of REQUEST is a request, as JSON; write each response as a line of JSON,"
        " in the same order",
    )
    parser.add_argument(
        "--in-flight",
        type=whole_number(1, MOST_AT_ONCE),
        default=32,
        metavar="COUNT",
        help="with --ndjson: how many requests may be unanswered at a time (default: %(default)s)",
    )
    parser.add_argument(
        "--metadata",
        type=metadata_item,
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="send this along with the request; may be repeated",
    )
    parser.add_argument(
        "--timeout",
        type=seconds,
        default=10.0,
        metavar="SECONDS",
        help="for everything, connecting included; with --ndjson, for each request; the server is told"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--wait",
        nargs="?",
        type=waiting_time,
        const=math.inf,
        metavar="SECONDS",
        help="first wait until the server is up, for SECONDS at most (default: as long as it takes);"
        " --timeout starts then",
    )
    parser.add_argument(
        "--retry",
        type=whole_number(0),
        default=0,
        metavar="COUNT",
        help="send a request again that was not sent or not run, COUNT times at most and within --timeout"
        " (default: %(default)s)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="speak the plain form, which servers of the Ratchet library for Lua understand",
    )
    add_client_tls(parser)
    parser.set_defaults(run=run)


def waiting_time(text: str) -> float:
    """The type of --wait."""
    try:
        return seconds(text)
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(
            f"{error}; without SECONDS, write --wait after ADDRESS and REQUEST"
        ) from None


def metadata_item(text: str) -> tuple[str, str]:
    """The type of KEY=VALUE."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} has no key; write KEY=VALUE, as in tenant=acme")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not text in UTF-8; encode it, in base64 for instance"
        ) from None
    return key, value


def run(arguments: argparse.Namespace) -> int:
    """Send the request and write the response, or many of each; blocks.  Raises `Failure`."""
    if arguments.metadata and arguments.plain:
        raise Failure("the plain form carries no metadata; leave out --metadata or --plain", USAGE)
    check(arguments.address, plain=arguments.plain)
    form = form_of(arguments.codec, checked=arguments.json, lines=arguments.ndjson)
    return call_each(arguments, form) if arguments.ndjson else call_once(arguments, form)


def call_each(arguments: argparse.Namespace, form: Form) -> int:
    """Send a request for each line of the input; blocks.  Raises `Failure`."""
    with client_of(arguments) as client:
        pipeline = Pipeline(
            client, form, arguments.timeout, dict(arguments.metadata) or None, arguments.in_flight
        )
        pipeline.run(lines_of(arguments.request))
    return FAILED if pipeline.failed else 0


def call_once(arguments: argparse.Namespace, form: Form) -> int:
    """Send the request and write the response; blocks.  Raises `Failure`."""
    data = request_bytes(arguments.request)
    try:
        parts = form.encode(data)
    except FormError as error:
        raise Failure(f"{error}; fix it, or leave out {form.option}", USAGE) from error
    response = exchange(arguments, parts)
    if response.attachments and not form.takes_attachments:
        complain(
            f"the response also has {len(response.attachments)} attachments, which are not shown;"
            " a codec of yours can show them (--codec MODULE:NAME)"
        )
    try:
        shown = form.show(response)
    except FormError as error:
        put(response.body)
        raise Failure(
            f"{error}, so it is printed as it is; leave out {form.option}", _STATUS[Outcome.RAN]
        ) from error
    put(shown if shown.endswith(b"\n") or not is_terminal() else shown + b"\n")
    return 0


def exchange(arguments: argparse.Namespace, parts: Sequence[bytes]) -> Response:
    """Send a request and return the response; blocks.  Raises `Failure`."""
    end = _clock.monotonic() + arguments.timeout
    with client_of(arguments) as client:
        if arguments.wait is not None or arguments.retry:
            end = _clock.monotonic() + arguments.timeout
        try:
            return client.call(parts, max(0.0, end - _clock.monotonic()), dict(arguments.metadata) or None)
        except BusError as error:
            if isinstance(error, RemoteError):
                say(error.remote_traceback.rstrip())
            happened = what_happened(error, arguments.address, arguments.timeout)
            raise Failure(f"{happened}; {advice(error)}", _STATUS[error.outcome]) from error


def advice(error: BusError) -> str:
    """The advice to a user about an error."""
    match error:
        case MessageTooLarge(outcome=Outcome.NOT_SENT):
            return "nothing was sent; make the request smaller"
        case RemoteError(outcome=Outcome.NOT_RUN):
            return "the request did not run; write it as the server expects, or name its codec with --codec"
    return _ADVICE[error.outcome]


def client_of(arguments: argparse.Namespace) -> Client:
    """Connect as the options say; blocks.  Raises `Failure`."""
    context = client_context(arguments)
    try:
        return new_client(
            arguments.address,
            arguments.timeout,
            context,
            plain=arguments.plain,
            wait=arguments.wait,
            retries=arguments.retry,
            lasting=arguments.ndjson,
        )
    except Failure as failure:
        failure.status = _STATUS[Outcome.NOT_SENT]
        raise


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()
