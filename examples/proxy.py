"""A bus in front of buses: what clients ask here is passed on to one of several servers.

    python examples/proxy.py SERVER...                           on a free port of 127.0.0.1
    python examples/proxy.py --listen 127.0.0.1:7000 SERVER...   on a port of your choice

Each SERVER is HOST:PORT or unix:PATH.  A request goes to the one with the
fewest unanswered requests, and its bytes, attachments and metadata stay as they
are.  The server has as much time for it as the client left, and is told when
the client gives up.

What certainly did not run, because its server was away, busy or draining, is
passed on to another one, for as long as the client waits.  What may have run
never is.  The client gets the error as a `RemoteError`, with the outcome that the
proxy got: UNKNOWN if the server was lost in the middle of it.  That is logged, and so
is a server to which it cannot connect.  SIGTERM and SIGINT end the proxy as they end
`socket_server.py`.
"""

from __future__ import annotations

import argparse
import logging
from contextlib import ExitStack

from ratchet import Alarm, BusError, ConnectionLost, Outcome, Ratchet, Rejected, bus, thread
from socket_server import address_of, drain_on

# As many requests are passed on at once; others wait in the queue of the proxy.
THREADS = 256
# Seconds until all servers are tried again, if none of them takes a request.
PAUSE = 0.1

Message = tuple[bytes, list[bytes]]
"""A body and its attachments; the proxy does not look into them."""

Server = bus.ClientBus[Message, Message]


def as_it_came(body: bytes, attachments: list[bytes]) -> Message:
    return body, attachments


def as_it_is(message: Message) -> Message:
    return message


CODEC: bus.Codec[Message, Message] = bus.Codec(as_it_is, as_it_came, as_it_is, as_it_came)


def load(server: Server) -> tuple[bool, int]:
    """What servers are sorted by: those that are away come last."""
    stats = server.stats()
    return stats.connections == 0, stats.in_flight


def response_to(passed_on: bus.ClientTransaction[Message, Message]) -> Message:
    """Wait for a server's answer; if the client gives up, so do we."""
    try:
        return passed_on.recv_response()
    finally:
        # Does nothing to a transaction that has ended.
        passed_on.cancel()


class Proxy:
    def __init__(self, servers: list[Server]) -> None:
        self.servers = servers

    def handle(self, message: Message, transaction: bus.ServerTransaction[Message, Message]) -> Message:
        """The handler.  `serve` lets its requests inherit the client's deadline, and
        interrupts it when the client gives up.
        """
        try:
            return self.pass_on(message, dict(transaction.metadata) or None)
        except BusError as error:
            # If it were only raised, it would say that the request ran.
            transaction.send_error(error, outcome=error.outcome)
            raise

    def pass_on(self, message: Message, metadata: dict[str, str] | None) -> Message:
        """Have one server answer, and no more than one run it."""
        while True:
            for server in sorted(self.servers, key=load):
                try:
                    # The alarm rings if it cannot be sent at once, and then nothing was sent.
                    with thread.alarm(0):
                        passed_on = server.send_request(message, metadata=metadata)
                    return response_to(passed_on)
                except Alarm:
                    continue
                except (ConnectionLost, Rejected) as error:
                    if error.outcome not in (Outcome.NOT_SENT, Outcome.NOT_RUN):
                        raise
            thread.timer(PAUSE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Pass requests on to one of several servers.")
    parser.add_argument("--listen", default="127.0.0.1:0", help="HOST:PORT or unix:PATH (a free port)")
    parser.add_argument("servers", nargs="+", metavar="server", help="HOST:PORT or unix:PATH")
    options = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with ExitStack() as stack:
        # It chooses the server itself, and its own client is the one that may send a request again.
        servers = [
            stack.enter_context(bus.connect(server, codec=CODEC, retry=None)) for server in options.servers
        ]
        front = stack.enter_context(bus.listen(options.listen, codec=CODEC))
        with Ratchet() as kernel:
            kernel.attach(front.serve, Proxy(servers).handle, THREADS)
            kernel.attach_background(drain_on, "SIGTERM", front)
            kernel.attach_background(drain_on, "SIGINT", front)
            kernel.attach(print, "listening on", address_of(front), flush=True)


if __name__ == "__main__":
    main()
