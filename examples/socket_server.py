"""The smallest useful server: it describes the numbers that clients send, in JSON.

    python examples/socket_server.py                       a free port of 127.0.0.1
    python examples/socket_server.py 127.0.0.1:7000        a port of your choice
    python examples/socket_server.py unix:/tmp/mean.sock   a Unix socket

It prints where it listens.  On SIGTERM or SIGINT it answers what it has taken,
and ends; a second signal ends it at once.  `socket_client.py` talks to it.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TypeVar

from ratchet import Ratchet, bus, thread
from ratchet.bus import codecs

Request = TypeVar("Request")
Response = TypeVar("Response")

SECONDS_TO_DRAIN = 10


def describe(numbers: list[float]) -> dict[str, float]:
    """The handler; what it raises is raised by the client's call, as `RemoteError`."""
    return {"mean": statistics.fmean(numbers), "median": statistics.median(numbers)}


def drain_on(signal: str, server: bus.ServerBus[Request, Response]) -> None:
    thread.sigwait(signal)
    server.drain(SECONDS_TO_DRAIN)


def address_of(server: bus.ServerBus[Request, Response]) -> str:
    """Where a server listens, as one writes it on a command line."""
    if isinstance(server.address, str):
        return server.address
    host, port = server.address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Describe the numbers that clients send.")
    parser.add_argument(
        "address", nargs="?", default="127.0.0.1:0", help="HOST:PORT or unix:PATH (a free port)"
    )
    server = bus.listen(parser.parse_args().address, codec=codecs.json)
    with Ratchet() as kernel:
        kernel.attach(server.serve, describe)
        kernel.attach_background(drain_on, "SIGTERM", server)
        kernel.attach_background(drain_on, "SIGINT", server)
        # Last, so that whoever has read it may send a signal: both are waited for by then.
        kernel.attach(print, "listening on", address_of(server), flush=True)


if __name__ == "__main__":
    main()
