"""Ask `socket_server.py` for the mean and the median of some numbers.

    python examples/socket_client.py ADDRESS NUMBER...

ADDRESS is what the server printed: HOST:PORT or unix:PATH.  Exits with 1 if
there is no answer, and says then whether the request ran.
"""

from __future__ import annotations

import argparse
import ssl
import sys

from ratchet import BusError, bus
from ratchet.bus import codecs


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", help="where the server listens, as it printed it")
    parser.add_argument("numbers", nargs="*", type=float, metavar="number", help="what is to be described")
    parser.add_argument("--timeout", type=float, default=10.0, help="seconds to wait for the answer (10)")


def ask(options: argparse.Namespace, ssl_context: ssl.SSLContext | None = None) -> int:
    """Print the answer; returns the exit code."""
    try:
        with bus.connect(options.address, codec=codecs.json, ssl_context=ssl_context) as server:
            described = server.call(options.numbers, timeout=options.timeout)
    except BusError as error:
        # Only after NOT_SENT and NOT_RUN may a program just send it again.
        print(f"{type(error).__name__}, outcome {error.outcome}: {error.message}", file=sys.stderr)
        return 1
    except ValueError as error:
        # What was typed is not an address, or not a number that JSON knows.
        print(error, file=sys.stderr)
        return 2
    for name, value in described.items():
        print(f"{name} {value:g}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Ask for the mean and the median of some numbers.")
    add_options(parser)
    return ask(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
