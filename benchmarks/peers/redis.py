"""Redis, asked by its own benchmark to send back what it is sent: C at both ends."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable

from benchmarks import programs
from benchmarks.common import BY_THE_CLOCK, EXCHANGES, MESSAGE, Figures, Server, cpu_seconds, target

# Its command line takes no zero bytes.
TEXT = "x" * len(MESSAGE)


def serve(ready: Callable[..., None]) -> None:
    """A server that keeps nothing on disk."""
    port, server = programs.start_server(
        "redis-server",
        lambda port: ["--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"],
    )
    ready(f"127.0.0.1:{port}", server.pid)
    server.wait()


def echo(seconds: float, server: Server, connections: int, in_flight: int) -> Figures:
    """Connections with so many requests in flight each.

    The benchmark takes a number and no time, and needs a while to begin and to
    end.  What a few exchanges cost says how many are to follow, and is taken off.
    """
    few = 1_000 + 100 * connections * in_flight
    used_by_few, _ = exchanges(few, server, connections, in_flight)
    more = int(few / used_by_few * seconds)
    used, passed = exchanges(few + more, server, connections, in_flight)
    rate = more / (used - used_by_few)
    begin_and_end = used_by_few - few / rate
    return {EXCHANGES: rate, BY_THE_CLOCK[EXCHANGES]: (few + more) / (passed - begin_and_end)}


def exchanges(count: int, server: Server, connections: int, in_flight: int) -> tuple[float, float]:
    """So many: what they took of the processor at both ends, and by the clock."""
    address, [process] = server
    _, where = target(address)
    options = {"-p": where[1], "-n": count, "-c": connections, "-P": in_flight}
    words = [str(word) for option in options.items() for word in option]
    used, began = cpu_seconds(process) + cpu_of_children(), time.perf_counter()
    programs.run("redis-benchmark", [*words, "ECHO", TEXT])
    return cpu_seconds(process) + cpu_of_children() - used, time.perf_counter() - began


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
