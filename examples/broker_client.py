"""A client that keeps asking `broker_server.py`, whatever becomes of the servers and of the broker.

    python examples/broker_client.py amqp://guest:guest@localhost/

Four threads have one thumbnail after the other rendered, and print what comes of each: the
answer, or the error and whether the request ran.  One that certainly did not run is sent again
by the bus, within its time; one that may have run is not.  On SIGTERM or SIGINT the client waits
for the last answers, and ends.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from itertools import count

from broker_server import SERVICE
from ratchet import BusError, Ratchet, bus, thread
from ratchet.bus import codecs

THREADS = 4
# Seconds for a request, all attempts included.  While there is no server, it lies in the broker's
# queue for so long; while there is no broker, it waits here.
TIMEOUT = 5.0
# Seconds after a failure.
PAUSE = 0.2


class Customer:
    def __init__(self) -> None:
        self.pictures = (f"picture {number}" for number in count(1))
        self.stopping = False

    def keep_asking(self, ask: Callable[[str, float], str]) -> None:
        """One thread: ask for one picture after the other."""
        while not self.stopping:
            picture = next(self.pictures)
            try:
                print(f"{picture}: {ask(picture, TIMEOUT)}", flush=True)
            except BusError as error:
                # After UNKNOWN it may be rendered or not, and it is for the program to decide
                # whether rendering it twice would do harm.
                print(f"{picture}: {type(error).__name__}, {error.outcome}: {error}", flush=True)
                thread.timer(PAUSE)

    def stop_on(self, signal: str) -> None:
        thread.sigwait(signal)
        self.stopping = True


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep having thumbnails rendered over a broker.")
    parser.add_argument("url", help="as for broker_server.py")
    url = parser.parse_args().url
    # It says why it is not connected.
    logging.basicConfig(format="%(message)s")
    customer = Customer()
    with bus.broker_client(url, SERVICE, codec=codecs.json) as servers, Ratchet() as kernel:
        kernel.attach_background(customer.stop_on, "SIGTERM")
        kernel.attach_background(customer.stop_on, "SIGINT")
        for _ in range(THREADS):
            kernel.attach(customer.keep_asking, servers.call)


if __name__ == "__main__":
    main()
