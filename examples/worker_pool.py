"""A pool of processes that share one listening socket and stand in for each other.

    python examples/worker_pool.py LEDGER                   on a free port of 127.0.0.1
    python examples/worker_pool.py LEDGER 127.0.0.1:7000    on a port of your choice

The workers write each order that they get as a line of the file LEDGER.  One
that dies is replaced.  SIGHUP replaces all, one after the other; SIGTERM or
SIGINT ends the pool, and so does its master's death.  A worker that is to end
stops accepting, answers what it has taken, and tells its clients, which connect
again and so come to another one.  `worker_pool_client.py` is such a client.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from gevent.subprocess import PIPE, Popen, TimeoutExpired

from ratchet import Ratchet, bus, thread
from ratchet.bus import codecs

Event = TypeVar("Event")

SECONDS_TO_DRAIN = 10


class Pool:
    """The master.  It accepts no client itself, and keeps others at it."""

    def __init__(self, listener: socket.socket, ledger: str) -> None:
        self.listener = listener
        self.ledger = ledger
        self.workers: set[Popen[bytes]] = set()
        self.stopping = False

    def keep_worker(self) -> None:
        """The thread of one place in the pool: start a worker, and another when that has ended."""
        while not self.stopping:
            began = time.monotonic()
            with self.start_worker() as worker:
                self.workers.add(worker)
                if self.stopping:
                    # It was started in the very moment in which all others were told to end.
                    thread.attach_background(end, worker)
                status = worker.wait()
            self.workers.remove(worker)
            say(f"worker {worker.pid} ended with {status}")
            if status and not self.stopping and time.monotonic() - began < 1:
                # What keeps it from working will hardly be gone at once.
                thread.timer(1)

    def start_worker(self) -> Popen[bytes]:
        descriptor = self.listener.fileno()
        command = [sys.executable, __file__, "--descriptor", str(descriptor), self.ledger]
        # A session of its own, because a Ctrl-C is for the master.
        return Popen(command, stdin=PIPE, pass_fds=[descriptor], start_new_session=True)

    def replace_all_on(self, name: str) -> None:
        # A signal that comes in the midst of a replacement is not to end the master.
        signal.signal(signal.Signals[name], signal.SIG_IGN)
        while thread.sigwait(name):
            for worker in list(self.workers):
                end(worker)
                # A new one has to start, and clients have to find it, before the next one goes.
                thread.timer(1)

    def stop_on(self, name: str) -> None:
        thread.sigwait(name)
        self.stopping = True
        try:
            # For all who share the socket: a client that one worker sends away
            # is not to queue up for another one that is about to end too.
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # not every system can do that to a socket that listens
        self.listener.close()
        for worker in self.workers:
            thread.attach_background(end, worker)


def say(line: str) -> None:
    """Print a line in one piece: several processes print."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def end(worker: Popen[bytes]) -> None:
    """Tell a worker to end, and wait until it has; one that is stuck is killed."""
    assert worker.stdin is not None
    # A worker ends with its input, and so it does when this process just dies.
    worker.stdin.close()
    try:
        worker.wait(SECONDS_TO_DRAIN + 1)
    except TimeoutExpired:
        worker.kill()


def work(listener: socket.socket, ledger: str) -> None:
    """What a worker does."""
    orders = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)

    def record(order: str) -> str:
        if not order.isprintable():
            raise ValueError("an order is one line of text")
        thread.timer(0.01)  # stands for what takes time
        os.write(orders, order.encode() + b"\n")
        return f"recorded by {os.getpid()}"

    try:
        server = bus.new_server(listener, codec=codecs.text)
    except ValueError:
        return  # nobody listens any more: the pool ended while this worker started

    def drain_after(wait: Callable[[Event], object], event: Event) -> None:
        wait(event)
        server.drain(SECONDS_TO_DRAIN)

    with Ratchet() as kernel:
        kernel.attach(server.serve, record)
        kernel.attach_background(drain_after, thread.sigwait, "SIGTERM")
        kernel.attach_background(drain_after, thread.block_on, [sys.stdin])
        kernel.attach(say, f"worker {os.getpid()} is ready")


def main() -> None:
    parser = argparse.ArgumentParser(description="Record orders, by a pool of processes.")
    parser.add_argument("ledger", help="the file to which orders are appended")
    parser.add_argument("address", nargs="?", default="127.0.0.1:0", help="HOST:PORT (a free port)")
    parser.add_argument("--workers", type=int, default=2, help="how many processes work (2)")
    # How the master starts a worker: with the socket that it is to accept from.
    parser.add_argument("--descriptor", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.descriptor is not None:
        with socket.socket(fileno=options.descriptor) as listener:
            work(listener, options.ledger)
        return
    host, _, port = options.address.rpartition(":")
    with socket.create_server((host, int(port)), backlog=1024) as listener, Ratchet() as kernel:
        pool = Pool(listener, options.ledger)
        kernel.attach_background(pool.replace_all_on, "SIGHUP")
        kernel.attach_background(pool.stop_on, "SIGTERM")
        kernel.attach_background(pool.stop_on, "SIGINT")
        # Here, so that whoever has read it may send a signal: all are waited for by then.
        kernel.attach(say, "listening on {}:{}".format(*listener.getsockname()))
        for _ in range(options.workers):
            kernel.attach(pool.keep_worker)


if __name__ == "__main__":
    main()
