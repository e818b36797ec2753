"""What the programs that are measured have in common, whatever they run on.

Rules of this room: it imports nothing from outside the standard library, since
programs on asyncio and on gevent both import it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import socket
import struct
import time
from collections.abc import Callable

Figures = dict[str, float]
"""What one round has measured, by unit."""

Server = tuple[str, list[int]]
"""Where a server listens, `host:port` or `unix:path`, and the processes that it consists of."""

MESSAGE = bytes(range(100))

Order = dict[str, object]
ORDER: Order = {
    "order": 48213,
    "customer": "Eva Dvorak",
    "items": ["green tea", "teapot", "cup", "kettle"],
    "express": True,
}
"""What a call over several processes carries there and back: as JSON without blanks, as long as a message."""

# Made once, for peers; json.dumps() would make one for each call that is not to write blanks.
to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode

# The CPU time of these is that of all processes that take part, those of both ends.
EXCHANGES = "exchanges per CPU second"
# Here it is that of the servers alone.
SERVED = "exchanges per CPU second of the server"
THROUGHPUT = "MiB per CPU second"
CPU = "µs of CPU per exchange"
LATENCY = "µs, 99th percentile"
CONNECTION = "bytes per connection"
TIME = "µs of CPU per thread"
SPACE = "bytes per thread"
ANSWERED = "% in time, of what could be"
IN_VAIN = "% in vain, of what was begun"
NOT_RUN = "% NOT_RUN, of the rest"
MEDIAN = "ms, median"
SLOWEST = "ms, 99th percentile"
TAKEN = "MiB above idle, at most"

BY_THE_CLOCK = {EXCHANGES: "exchanges/s", THROUGHPUT: "MiB/s", TIME: "µs per thread"}
"""The units that count CPU time, and those that count what passes by the clock meanwhile."""

RATES = {EXCHANGES, BY_THE_CLOCK[EXCHANGES], SERVED, THROUGHPUT, ANSWERED, NOT_RUN}
"""The units of which more is better; of the others, less is."""


def request_head(id: int, size: int) -> bytes:
    """What comes before the body of a request in the extended form, with one part and no deadline."""
    return struct.pack(">HBBIII", 0x8001, 0, 0, id, 0, size)


def request_frame(id: int, body: bytes = MESSAGE) -> bytes:
    """Such a request."""
    return request_head(id, len(body)) + body


FRAME = request_frame(1)

# Descriptors that a process needs for itself.
_OTHER_FILES = 200


def target(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """A printed address as the socket module wants it."""
    if address.startswith("unix:"):
        return socket.AF_UNIX, address.removeprefix("unix:")
    host, port = address.rsplit(":", 1)
    return socket.AF_INET, (host, int(port))


def handle(order: Order) -> Order:
    """The handler of such calls: what comes goes back."""
    return order


def own_socket_path() -> str:
    """Where this process may listen; its folder goes with the run."""
    return os.path.abspath(f"{os.getpid()}.socket")


def receive_exactly(connection: socket.socket, buffer: memoryview) -> None:
    """Fill the buffer."""
    got = 0
    while got < len(buffer):
        count = connection.recv_into(buffer[got:])
        if not count:
            raise EOFError(f"the connection ended after {got} of {len(buffer)} bytes")
        got += count


class Meter:
    """Measures, from when it is made, what passes by the clock and what both ends use of the processor."""

    def __init__(self, server: Server | None = None) -> None:
        self._servers = server[1] if server else []
        self._used_by_servers = self._cpu_seconds_of_servers()
        self._used = self._cpu_seconds()
        self._began = time.perf_counter()

    def passed(self) -> tuple[float, float]:
        """Seconds of CPU time, and seconds by the clock."""
        return self._cpu_seconds() - self._used, time.perf_counter() - self._began

    def figures(self, exchanges: int) -> Figures:
        """The outcome, if there were so many exchanges meanwhile."""
        used, passed = self.passed()
        figures = {
            EXCHANGES: exchanges / used,
            BY_THE_CLOCK[EXCHANGES]: exchanges / passed,
            CPU: used / exchanges * 1e6,
        }
        if self._servers:
            figures[SERVED] = exchanges / (self._cpu_seconds_of_servers() - self._used_by_servers)
        return figures

    def _cpu_seconds(self) -> float:
        return cpu_seconds(os.getpid()) + self._cpu_seconds_of_servers()

    def _cpu_seconds_of_servers(self) -> float:
        return sum(map(cpu_seconds, self._servers))


def timed_loop(exchange: Callable[[], object], seconds: float, server: Server) -> Figures:
    """One exchange after another, for clients that block the whole process."""
    done = 0
    meter = Meter(server)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        exchange()
        done += 1
    return meter.figures(done)


def throughput(figures: Figures, message_size: int) -> Figures:
    """The same figures in MiB instead of messages."""
    return {
        THROUGHPUT: figures[EXCHANGES] * message_size / 2**20,
        BY_THE_CLOCK[THROUGHPUT]: figures[BY_THE_CLOCK[EXCHANGES]] * message_size / 2**20,
    }


def cpu_seconds(process: int) -> float:
    """What a process has used of the processor so far, in user and in system mode."""
    clock = ctypes.c_int()
    error = ctypes.CDLL(None).clock_getcpuclockid(process, ctypes.byref(clock))
    if error:
        raise OSError(error, os.strerror(error))
    return time.clock_gettime(clock.value)


def children_of(process: int) -> list[int]:
    """The processes that the main thread of a process has started, and that have not ended."""
    with open(f"/proc/{process}/task/{process}/children") as children:
        return [int(child) for child in children.read().split()]


def resident_bytes(process: int) -> int:
    """How much memory a process holds."""
    with open(f"/proc/{process}/statm") as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def most_connections() -> int:
    """How many connections one process may have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return (1 << 31 if hard == resource.RLIM_INFINITY else hard) - _OTHER_FILES


def raise_file_limit() -> None:
    """Let this process open as many files as it ever may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def idle_connections(address: str, count: int) -> list[socket.socket]:
    """Connections that made one exchange each and do nothing since."""
    family, where = target(address)
    buffer = memoryview(bytearray(len(FRAME)))
    connections = []
    for _ in range(count):
        connections.append(socket.socket(family))
        connections[-1].connect(where)
        connections[-1].sendall(FRAME)
        receive_exactly(connections[-1], buffer)
    return connections


def idle_memory(seconds: float, server: Server, connections: int) -> Figures:
    """How much a server grows with each idle connection; the seconds do not matter."""
    raise_file_limit()
    address, [process] = server
    for warm in idle_connections(address, 10):
        warm.close()
    before = resident_bytes(process)
    idle_connections(address, connections)
    return {CONNECTION: (resident_bytes(process) - before) / connections}
