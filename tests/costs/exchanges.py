"""Exchanges whose instructions are counted: both ends in one process, case after case.

    python -m costs.exchanges

It calls `mark` before, between and after two runs of each case, the second three times as long.
A call of `getsid` is what a counter can be told to look for; nothing else here calls it.
"""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import gevent

from costs.measure import BODY, CALL, STYLES, Client, Run, asking, local_bus, undisturbed
from helpers import LONG
from ratchet import bus as ratchet_bus

MARK: Final = "getsid"
EXCHANGES: Final = 1024
"""Of the shorter run."""
LONGER: Final = 3
"""How many times as many are in the longer one."""

SERVE, BY_HAND = "serve()", "by hand"


@contextmanager
def unix_bus(style: str, load: Callable[[Client], Run]) -> Iterator[Run]:
    """Both sides of a bus over one connection of a Unix socket."""
    with (
        tempfile.TemporaryDirectory() as folder,
        ratchet_bus.listen(f"unix:{Path(folder, 'bus')}") as server,
    ):
        serving = gevent.spawn(STYLES[style], server)
        with ratchet_bus.connect(server.address) as client:
            client.call(BODY, LONG)
            yield load(client)
    serving.join(LONG)


def keeping_in_flight(client: Any, count: int) -> Run:
    """Asks in one thread, which sends another request for each response."""

    def run(exchanges: int) -> None:
        sent = deque(client.send_request(BODY) for _ in range(count))
        for _ in range(exchanges - count):
            sent.popleft().recv_response()
            sent.append(client.send_request(BODY))
        while sent:
            sent.popleft().recv_response()

    return run


def in_threads(threads: int) -> Callable[[Client], Run]:
    """Asks in so many threads, each of which has one request in flight."""
    return partial(asking, way=CALL, threads=threads)


CASES: Final[dict[str, Callable[[], AbstractContextManager[Run]]]] = {
    "local, 64 clients, by hand": partial(local_bus, style=STYLES[BY_HAND], threads=64),
    "local, 64 clients, serve()": partial(local_bus, style=STYLES[SERVE], threads=64),
    "one connection, one in flight": partial(unix_bus, BY_HAND, in_threads(1)),
    "one connection, 64 threads": partial(unix_bus, BY_HAND, in_threads(64)),
    "256 in flight, by hand": partial(unix_bus, BY_HAND, partial(keeping_in_flight, count=256)),
    "256 in flight, serve()": partial(unix_bus, SERVE, partial(keeping_in_flight, count=256)),
}


def mark() -> None:
    """Let whoever counts note how many there are so far."""
    os.getsid(0)


def main(exchanges: int = EXCHANGES) -> None:
    """Run all cases, each with three marks."""
    for case in CASES.values():
        with case() as run:
            # What is made once is there then.
            run(exchanges)
            with undisturbed():
                mark()
                run(exchanges)
                mark()
                run(LONGER * exchanges)
                mark()


if __name__ == "__main__":
    main()
