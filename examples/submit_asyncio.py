"""An asyncio program that calls a bus, whose scheduler runs in an OS thread of its own.

    python examples/submit_asyncio.py

A future of `kernel.submit` becomes one of asyncio's with `asyncio.wrap_future`.  Cancelling that
one, as `asyncio.timeout` does, ends the request on the bus as well.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from threading import Thread

import gevent

from ratchet import Ratchet, bus, thread

Client = bus.LocalBus[float, str]


def handle(seconds: float) -> str:
    """Answer a request: sleep, and say so."""
    try:
        thread.timer(seconds)
        return f"slept {seconds} s"
    finally:
        if seconds > 1:
            print("the handler was ended")


def run_bus(started: Future[tuple[Ratchet, Client]]) -> None:
    """The scheduler's OS thread.  All of its objects are made here."""
    server, client = bus.new_local()
    with Ratchet() as kernel:
        kernel.attach_background(server.serve, handle)
        kernel.attach(stay)
        started.set_result((kernel, client))
    gevent.get_hub().destroy()


def stay() -> None:
    """Keep the scheduler running, whether it is asked something or not, until `stop()`."""
    while True:
        thread.timer(3600)


@contextmanager
def bus_beside() -> Iterator[tuple[Ratchet, Client]]:
    """A bus in an OS thread of its own, which ends with the block."""
    started: Future[tuple[Ratchet, Client]] = Future()
    os_thread = Thread(target=run_bus, args=[started])
    os_thread.start()
    kernel, client = started.result()
    try:
        yield kernel, client
    finally:
        kernel.submit(kernel.stop)
        os_thread.join()


async def program(kernel: Ratchet, client: Client) -> None:
    async def call(seconds: float) -> str:
        return await asyncio.wrap_future(kernel.submit(client.call, seconds))

    for answer in await asyncio.gather(*(call(0.01 * number) for number in range(3))):
        print(answer)
    try:
        async with asyncio.timeout(0.1):
            print(await call(3600.0))
    except TimeoutError:
        print("asyncio's time-out")


def main() -> None:
    argparse.ArgumentParser(description="Call a bus from an asyncio program.").parse_args()
    with bus_beside() as (kernel, client):
        asyncio.run(program(kernel, client))


if __name__ == "__main__":
    main()
