"""A server over a broker: any number of these, on any machines, share the requests of one service.

    python examples/broker_server.py amqp://guest:guest@localhost/

The URL is that of one RabbitMQ node, or of several: amqp://user:password@host1,host2/vhost.
Start as many servers as you like; whichever is free takes the next request.  On SIGTERM or
SIGINT a server answers what it has taken, and ends; a second signal ends it at once.
`broker_client.py` asks them.
"""

from __future__ import annotations

import argparse
import logging
import os

from ratchet import Ratchet, bus, thread
from ratchet.bus import codecs

SERVICE = "thumbnails"
SECONDS_TO_DRAIN = 10


def render(picture: str) -> str:
    """The handler; what it prints shows who has which request."""
    print("rendering", picture, flush=True)
    thread.timer(0.5)  # stands for what takes time
    return f"rendered by process {os.getpid()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Render thumbnails for those who ask over a broker.")
    parser.add_argument("url", help="amqp://USER:PASSWORD@HOST:PORT,HOST:PORT/VHOST")
    url = parser.parse_args().url
    # It says why it is not connected.
    logging.basicConfig(format="%(message)s")
    server = bus.broker_server(url, SERVICE, codec=codecs.json)

    def drain_on(signal: str) -> None:
        thread.sigwait(signal)
        server.drain(SECONDS_TO_DRAIN)

    with Ratchet() as kernel:
        kernel.attach(server.serve, render)
        kernel.attach_background(drain_on, "SIGTERM")
        kernel.attach_background(drain_on, "SIGINT")
        # Last, so that whoever has read it may send a signal: both are waited for by then.
        kernel.attach(print, "serving", server.name, flush=True)


if __name__ == "__main__":
    main()
