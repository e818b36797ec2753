"""How clients on gevent make their load, ours and the plain ones alike.

Rules of this room: it knows no sockets and no bus.  An exchange is a function
that makes one request and waits for its answer.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Any

import gevent
from gevent.event import Event
from gevent.queue import SimpleQueue

from benchmarks.common import BY_THE_CLOCK, LATENCY, SPACE, TIME, Figures, Meter, Server, resident_bytes

Exchange = Callable[[], object]
Spawn = Callable[..., Any]

TICK = 0.0005
"""Seconds from one burst of an open loop to the next."""


class Window:
    """The time in which exchanges count: open for some seconds from when it is made."""

    def __init__(self, seconds: float, server: Server | None) -> None:
        self.open = True
        gevent.spawn_later(seconds, self._close)
        self._meter = Meter(server)

    def figures(self, exchanges: int) -> Figures:
        """The outcome, when all exchanges that began in the window have ended."""
        return self._meter.figures(exchanges)

    def _close(self) -> None:
        self.open = False


def closed_loop(
    exchanges: Sequence[Exchange],
    seconds: float,
    server: Server | None,
    spawn: Spawn = gevent.spawn,
    least: int = 1,
) -> Figures:
    """Each exchange in a greenlet of its own, again as soon as it has ended, so often at least."""

    def work(exchange: Exchange) -> int:
        start.wait()
        done = 0
        while window.open or done < least:
            exchange()
            done += 1
        return done

    start = Event()
    workers = [spawn(work, exchange) for exchange in exchanges]
    # What it takes to make them is not to count: by now, all of them wait.
    spawn(int).join()
    window = Window(seconds, server)
    start.set()
    return window.figures(sum(worker.get() for worker in workers))


def open_loop(
    exchanges: Sequence[Exchange], seconds: float, rate: float, spawn: Spawn = gevent.spawn
) -> Figures:
    """Exchanges at a fixed rate, by whichever greenlet is free, whether the last ones have ended or not.

    The time of each counts from when it was due, so one that had to wait for a
    free greenlet is as late as it is.
    """
    due: SimpleQueue[float | None] = SimpleQueue()
    latencies: list[float] = []
    put = 0

    def work(exchange: Exchange) -> None:
        while (scheduled := due.get()) is not None:
            exchange()
            latencies.append(time.perf_counter() - scheduled)

    def put_due() -> None:
        """Hub callback: the burst of each tick that has passed."""
        nonlocal put
        ticks = int((time.perf_counter() - began) / TICK)
        while put < int(ticks * TICK * rate):
            put += 1
            # The first tick at which it is one of those that are due.
            due.put(began + TICK * math.ceil(put / rate / TICK))

    workers = [spawn(work, exchange) for exchange in exchanges]
    # An interval timer: the loop's own timers are no finer than a millisecond.
    alarm = gevent.get_hub().loop.signal(signal.SIGALRM)
    alarm.start(put_due)
    began = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, TICK, TICK)
    gevent.sleep(seconds)
    signal.setitimer(signal.ITIMER_REAL, 0)
    alarm.close()
    for _ in workers:
        due.put(None)
    gevent.joinall(workers, raise_error=True)
    return {LATENCY: sorted(latencies)[int(len(latencies) * 0.99)] * 1e6}


def spawn_many(spawn: Spawn, function: Callable[[], object], threads: int) -> Figures:
    """Time and memory of many threads, until each has ended or waits.

    Memory is what the process has grown by while all of them are alive.
    """
    before = resident_bytes(os.getpid())
    meter = Meter()
    for _ in range(threads):
        spawn(function)
    spawning = meter.passed()
    waiting_to_start = resident_bytes(os.getpid())
    meter = Meter()
    # They start in the order in which they were made, and this one last.
    spawn(int).join()
    used, passed = map(sum, zip(spawning, meter.passed(), strict=True))
    grown = max(waiting_to_start, resident_bytes(os.getpid())) - before
    return {
        TIME: used / threads * 1e6,
        BY_THE_CLOCK[TIME]: passed / threads * 1e6,
        SPACE: grown / threads,
    }
