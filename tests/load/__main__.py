"""The whole grid of overloads on virtual time, as a table: some minutes.

    PYTHONPATH=tests python -m load [WORD ...]

plays those whose lines have each WORD in them, such as `tcp`, `16 x` or `10 times`.
"""

from __future__ import annotations

import itertools
import sys
import time
from dataclasses import replace

from load.overload import AIMS, Load, play

KINDS = ("local", "tcp")
WORKERS = (1, 16)
HANDLING = ((0.001, 0.001), (0.01, 0.01), (0.001, 0.05))
CONNECTIONS = (1, 8, 100)


def grid() -> list[Load]:
    """Every load that the aims are about."""
    return [
        load(kind, workers, handling, connections, times)
        for kind, workers, handling, connections, times in itertools.product(
            KINDS, WORKERS, HANDLING, CONNECTIONS, AIMS
        )
        # A local bus has no connections.
        if kind != "local" or connections == 1
    ]


def load(kind: str, workers: int, handling: tuple[float, float], connections: int, times: int) -> Load:
    """One of the grid, as long as it takes for some hundred answers."""
    made = Load(kind, workers, handling, times, connections)
    return replace(made, seconds=max(made.seconds, 200 / made.capacity))


def main() -> None:
    print(f"{'':46} answered  in vain  the rest NOT_RUN")
    for each in grid():
        if not all(word in str(each) for word in sys.argv[1:]):
            continue
        began = time.process_time()
        result = play(each)
        used = time.process_time() - began
        shares = f"{result.answered_share:8.1%} {result.in_vain_share:8.1%} {result.not_run_share:17.1%}"
        print(f"{each!s:46} {shares}  {'missed' if result.missed else 'reached'}, {used:.1f} s", flush=True)


if __name__ == "__main__":
    main()
