"""A web page that has prime numbers counted by whoever serves a bus, and shows how far they are.

    python examples/web_app.py                         web server and workers in one process
    python examples/web_app.py --serve 127.0.0.1:7000  only the workers ...
    python examples/web_app.py --bus 127.0.0.1:7000    ... and only the web server

The address may be that of a broker, amqp://guest:guest@localhost/?service=primes, where any
number of workers may serve.

Each prints where it listens.  On SIGTERM or SIGINT it finishes what it has
begun, and ends; a second signal ends it at once.  `gunicorn_app.py` has the same
application under gunicorn.

A count goes over the bus as many small requests, so all counts advance together,
and there is something to tell after each.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Generator, Iterable, Iterator
from functools import partial
from itertools import chain
from math import isqrt
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

from flask import Flask, Response, request
from gevent.pywsgi import WSGIHandler, WSGIServer

from ratchet import BusError, BusTimeout, Outcome, Ratchet, RemoteError, bus, thread
from socket_server import address_of

PAGE = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
MAX_BELOW = 10**9
STEPS = 100  # requests of one count
REQUEST_TIMEOUT = 30.0  # seconds for one request on the bus
SECONDS_TO_DRAIN = 10.0
# Seconds without news after which something is written to the browser all the
# same: that it has gone away shows only when a write fails.
HEARTBEAT = 0.5

Span = list[int]
"""The numbers from the first up to, and not including, the second."""
CODEC: bus.Codec[Span, int] = bus.codecs.json


# The server's side of the bus: it counts.


def handle(span: Span) -> int:
    """Answer a request with the number of primes in the span."""
    first, last = span
    count, size = 0, 1_000_000
    for start in range(first, last, size):
        count += primes_between(start, min(start + size, last))
        thread.timer(0)  # others get their turn, and a count that was cancelled ends here
    return count


def primes_between(first: int, last: int) -> int:
    """The sieve of Eratosthenes."""
    first = max(first, 2)
    sieve = bytearray(b"\1") * (last - first)
    for factor in (2, *range(3, isqrt(last) + 1, 2)):
        multiple = max(factor, -(-first // factor)) * factor
        sieve[multiple - first :: factor] = bytes(len(range(multiple, last, factor)))
    return sieve.count(1)


# The client's side: it asks, and tells the browser.


class Bus(Protocol):
    """What is needed of a client's side, whatever kind of bus it is."""

    def send_request(self, request: Span, timeout: float) -> bus.ClientTransaction[Span, int]: ...
    def drain(self, timeout: float) -> bool: ...
    def stats(self) -> bus.Stats: ...


class Progress(NamedTuple):
    """So many of the numbers are looked at, and so many of these are prime."""

    done: int
    primes: int


def count_primes(server: Bus, below: int) -> Generator[Progress | None, None, None]:
    """Have the primes below a number counted.

    Yields the progress after each request, while the next one is under way, and
    None when there was nothing to tell for a while.  Closing it cancels the
    request under way.
    """
    done = primes = 0
    while done < below:
        last = min(done + max(below // STEPS, 1), below)
        transaction = server.send_request([done, last], timeout=REQUEST_TIMEOUT)
        try:
            if done:
                yield Progress(done, primes)
            while not transaction.done:
                try:
                    transaction.recv_response(timeout=HEARTBEAT)
                except BusTimeout:
                    yield None
            primes += transaction.recv_response()
        finally:
            transaction.cancel()  # which does nothing after the response
        done = last
    yield Progress(done, primes)


def events(steps: Iterable[Progress | None]) -> Iterator[str]:
    """Server-sent events; a heartbeat is a comment, which browsers skip."""
    try:
        for progress in steps:
            yield ": still counting\n\n" if progress is None else event(progress._asdict())
    except BusError as error:
        yield event({"error": describe(error)})


def event(data: object) -> str:
    return f"data: {json.dumps(data)}\n\n"


def http_status(error: BusError) -> int:
    """What to tell a browser whose request failed on the bus."""
    if isinstance(error, RemoteError):
        return 502  # the handler raised
    if error.outcome in (Outcome.NOT_SENT, Outcome.NOT_RUN):
        return 503  # nothing has happened: try again later
    if isinstance(error, BusTimeout):
        return 504
    return 502  # it may have run; the server is gone, or closed, or broke the protocol


def make_app(server: Bus) -> Flask:
    """The web application; it is the same for every kind of bus and web server."""
    app = Flask(__name__, static_folder=None)

    @app.get("/")
    def page() -> str:
        return PAGE

    @app.get("/primes")
    def primes() -> Response:
        below = request.args.get("below", type=int)
        if below is None or not 1 <= below <= MAX_BELOW:
            return plain_text(f"the number must be between 1 and {MAX_BELOW:,}", 400)
        counting = count_primes(server, below)
        # Taken here, so that an error which comes that early has an HTTP status.
        first = next(counting)
        response = Response(events(chain([first], counting)), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        # What a web server does at the end, and when it cannot write because the browser has gone.
        response.call_on_close(counting.close)
        return response

    @app.get("/stats")
    def stats() -> dict[str, int]:
        return server.stats()._asdict()

    @app.errorhandler(BusError)
    def failed(error: BusError) -> Response:
        return plain_text(describe(error), http_status(error))

    return app


def plain_text(text: str, status: int) -> Response:
    return Response(text, status, mimetype="text/plain")


def describe(error: BusError) -> str:
    return f"{type(error).__name__}: {error}"


# Either side as a program.


def service_of(address: str) -> str:
    """The service that the address of a broker names; nothing if it is that of a socket."""
    return address.partition("?service=")[2]


def open_bus(address: str | None) -> Bus:
    """The bus to the server at `address`, or else to workers in this process."""
    if address is not None:
        # Whoever looks at the page is told at once, and may try again.
        if service := service_of(address):
            return bus.broker_client(address, service, codec=CODEC, retry=None)
        return bus.connect(address, codec=CODEC, retry=None)
    server, client = bus.new_local()
    thread.attach_background(server.serve, handle)
    return client


class Handler(WSGIHandler):
    """Takes one request on a connection: one that idles would hold up the end."""

    def handle_one_request(self) -> tuple[str, bytes] | Literal[True] | None:
        outcome = super().handle_one_request()
        return None if outcome is True else outcome


def run(where: str, serve: Callable[[], object], stop: Callable[[], object]) -> None:
    """Serve until a signal comes; then `stop` makes `serve` return."""

    def stop_on(signal: str) -> None:
        thread.sigwait(signal)
        thread.attach(stop)  # a thread that is waited for, as this one is not

    with Ratchet() as kernel:
        kernel.attach(serve)
        for signal in ("SIGTERM", "SIGINT"):
            kernel.attach_background(stop_on, signal)
        # Last: whoever reads it may send a signal at once.
        kernel.attach(print, "listening on", where, flush=True)


def serve_bus(address: str) -> None:
    if service := service_of(address):
        with bus.broker_server(address, service, codec=CODEC) as workers:
            run(workers.name, partial(workers.serve, handle), partial(workers.drain, SECONDS_TO_DRAIN))
            print(workers.stats(), flush=True)
    else:
        with bus.listen(address, codec=CODEC) as server:
            run(address_of(server), partial(server.serve, handle), partial(server.drain, SECONDS_TO_DRAIN))
            print(server.stats(), flush=True)


def serve_web(port: int, address: str | None) -> None:
    server = open_bus(address)
    web = WSGIServer(("127.0.0.1", port), make_app(server), spawn=1000, handler_class=Handler)
    web.start()
    where = f"http://127.0.0.1:{web.server_port}"
    run(where, partial(web.serve_forever, SECONDS_TO_DRAIN), partial(web.stop, SECONDS_TO_DRAIN))
    server.drain(SECONDS_TO_DRAIN)


def main() -> None:
    parser = argparse.ArgumentParser(description="A web page that has prime numbers counted over a bus.")
    parser.add_argument("--port", type=int, default=0, help="where the web server listens (a free port)")
    parser.add_argument("--bus", metavar="ADDRESS", help="where a server counts: as for --serve")
    parser.add_argument(
        "--serve", metavar="ADDRESS", help="be that server: HOST:PORT, unix:PATH or a broker's"
    )
    arguments = parser.parse_args()
    logging.basicConfig()
    if arguments.serve is not None:
        serve_bus(arguments.serve)
    else:
        serve_web(arguments.port, arguments.bus)


if __name__ == "__main__":
    main()
