"""A plain OS thread that calls a bus, whose scheduler runs in the main OS thread.

    python examples/submit_thread.py

`kernel.submit` is the one call that any OS thread may make.  It returns a future at once; whoever
waits for the result waits in its own OS thread.
"""

from __future__ import annotations

import argparse
import threading

from ratchet import Ratchet, bus, thread


def ask(kernel: Ratchet, client: bus.LocalBus[str, str], done: threading.Event) -> None:
    """Another OS thread: it must not call the client itself, so it has the scheduler do that."""
    try:
        futures = [kernel.submit(client.call, word, timeout=5) for word in ("click", "clack")]
        for future in futures:
            print(future.result())
    finally:
        done.set()


def stay_until(done: threading.Event) -> None:
    """Keep the scheduler running: it would end, with nothing left to do, before it is asked."""
    while not done.is_set():
        thread.timer(0.05)


def main() -> None:
    argparse.ArgumentParser(description="Call a bus from a plain OS thread.").parse_args()
    server, client = bus.new_local()
    done = threading.Event()
    with Ratchet() as kernel:
        kernel.attach_background(server.serve, str.upper)
        kernel.attach(stay_until, done)
        threading.Thread(target=ask, args=(kernel, client, done)).start()


if __name__ == "__main__":
    main()
