"""A client that keeps sending orders to `worker_pool.py`, whatever becomes of the workers.

    python examples/worker_pool_client.py ADDRESS

ADDRESS is what the pool printed.  Eight threads send, each over a connection of
its own.  An order that certainly did not run is sent again by the bus, within its
time; one that may have run is not, because it must not be recorded twice.  An
order that fails for all that is named.  On SIGTERM or SIGINT the client waits for
the last answers, and prints how the orders ended: `answered`, or with the outcome
of an error.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from itertools import count

from ratchet import BusError, Ratchet, bus, thread
from ratchet.bus import codecs

THREADS = 8
# Seconds for an order, all attempts included.  While the pool is away, it waits that long to be sent.
TIMEOUT = 5.0


class Customer:
    def __init__(self, address: str) -> None:
        self.address = address
        self.ends: Counter[str] = Counter()
        self.stopping = False

    def keep_sending(self, name: str) -> None:
        """One thread: send one order after the other."""
        with bus.connect(self.address, codec=codecs.text) as pool:
            for number in count(1):
                self.have_recorded(pool, f"{name}-{number}")
                if self.stopping:
                    return

    def have_recorded(self, pool: bus.ClientBus[str, str], order: str) -> None:
        """Send an order, and note how it ends."""
        try:
            pool.call(order, TIMEOUT)
        except BusError as error:
            self.ends[str(error.outcome)] += 1
            print(f"{order} {error.outcome}: {error.message}", flush=True)
        else:
            self.ends["answered"] += 1

    def stop_on(self, signal: str) -> None:
        thread.sigwait(signal)
        self.stopping = True


def main() -> None:
    parser = argparse.ArgumentParser(description="Keep sending orders to a pool of workers.")
    parser.add_argument("address", help="where the pool listens: HOST:PORT")
    customer = Customer(parser.parse_args().address)
    with Ratchet() as kernel:
        for number in range(THREADS):
            kernel.attach(customer.keep_sending, f"order-{os.getpid()}-{number}")
        kernel.attach_background(customer.stop_on, "SIGTERM")
        kernel.attach_background(customer.stop_on, "SIGINT")
    for end, times in sorted(customer.ends.items()):
        print(end, times)


if __name__ == "__main__":
    main()
