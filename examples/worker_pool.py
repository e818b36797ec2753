"""A pool of processes that serve one address and stand in for each other.

    python examples/worker_pool.py LEDGER                   on a free port of 127.0.0.1
    python examples/worker_pool.py LEDGER 127.0.0.1:7000    on a port of your choice

The workers write each order that they get as a line of the file LEDGER.  One
that dies is replaced.  SIGHUP replaces all, one after the other; SIGTERM or
SIGINT ends the pool, and so does its supervisor's death.  A worker that is to
end answers what it has taken, and tells its clients, which connect again and so
come to another one.  `worker_pool_client.py` is such a client.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys

from ratchet import bus, thread

SECONDS_TO_DRAIN = 10
# How the workers, which import this module for themselves, learn of the file.
LEDGER = "WORKER_POOL_LEDGER"


def record(order: str) -> str:
    """The handler: what a worker does with an order."""
    if not order.isprintable():
        raise ValueError("an order is one line of text")
    thread.timer(0.01)  # stands for what takes time
    ledger = os.open(os.environ[LEDGER], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(ledger, order.encode() + b"\n")
    finally:
        os.close(ledger)
    return f"recorded by {os.getpid()}"


def tell_address(pool: bus.Supervisor) -> None:
    logging.info("listening on {}:{}".format(*pool.address))


def main() -> None:
    parser = argparse.ArgumentParser(description="Record orders, by a pool of processes.")
    parser.add_argument("ledger", help="the file to which orders are appended")
    parser.add_argument("address", nargs="?", default="127.0.0.1:0", help="HOST:PORT (a free port)")
    parser.add_argument("--processes", type=int, default=2, help="how many processes work (2)")
    options = parser.parse_args()
    os.environ[LEDGER] = os.path.abspath(options.ledger)
    # The pool says what becomes of its workers.
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
    finished = bus.serve_processes(
        options.address,
        "worker_pool:record",
        options.processes,
        codec="text",
        drain_timeout=SECONDS_TO_DRAIN,
        on_ready=tell_address,
    )
    if not finished:
        sys.exit("some orders were cut off")


if __name__ == "__main__":
    main()
