"""A server with thousands of idle connections: still quick, and not too big.

The default is 10,000 connections; MANY_CONNECTIONS in the environment asks for
another number.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import PACKAGE

pytestmark = pytest.mark.slow

CONNECTIONS = int(os.environ.get("MANY_CONNECTIONS", "10000"))
MAX_BYTES = 4 * 1024
"""Memory of one idle connection in the server's process; measured: 1,340 bytes."""

# Each process needs a descriptor for each connection, and some for itself.
NEEDED = CONNECTIONS + 200

RAISE_LIMIT = f"""
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, ({NEEDED}, hard))
"""

SERVER = f"""
{RAISE_LIMIT}
import gc, gevent, sys
from ratchet import bus
from robustness.leaks import resident_memory

server = bus.listen("unix:" + sys.argv[1])
gevent.spawn(server.serve, bytes.upper)
warm = bus.connect(server.address)
assert warm.call(b"warm") == b"WARM"
warm.close()
gc.collect()
before = resident_memory()
print("listening", flush=True)
while server.stats().connections < {CONNECTIONS}:
    gevent.sleep(0.01)
gc.collect()
print((resident_memory() - before) // {CONNECTIONS}, flush=True)
gevent.socket.wait_read(sys.stdin.fileno())
while server.stats().connections:
    gevent.sleep(0.01)
print(server.stats().broken, flush=True)
"""

CLIENTS = f"""
{RAISE_LIMIT}
import socket, sys
import gevent
from ratchet import bus

idle = []
for _ in range({CONNECTIONS} - 1):
    idle.append(socket.socket(socket.AF_UNIX))
    idle[-1].connect(sys.argv[1])
with bus.connect("unix:" + sys.argv[1]) as client:
    for number in range(100):
        assert client.call(b"hello", 20) == b"HELLO"
    print("answered", flush=True)
    sys.stdin.readline()
    # Still: nobody was thrown out meanwhile, and an idle one is as good as any.
    assert client.call(b"again", 20) == b"AGAIN"
    idle[-1].sendall(bytes.fromhex("0001 00000005 68656c6c6f"))
    assert idle[-1].recv(100) == bytes.fromhex("0001 00000005 48454c4c4f")
print("answered again", flush=True)
for each in idle:
    each.close()
"""


def program(source: str, *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(PACKAGE.parent), str(Path(__file__).parents[1])])
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", source, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def line_of(process: subprocess.Popen[str]) -> str:
    """The next line that the program prints; pytest's own time-out ends a wait in vain."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


def say(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("go on\n")
    process.stdin.flush()


@pytest.mark.timeout(60)
def test_thousands_of_idle_connections_are_held_in_little_memory_and_one_is_still_answered(
    tmp_path: Path,
) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < NEEDED:
        pytest.skip(f"the hard limit of open files is {hard}; {NEEDED} are needed")
    path = str(tmp_path / "bus")
    with program(SERVER, path) as server:
        try:
            assert line_of(server) == "listening"
            with program(CLIENTS, path) as clients:
                try:
                    size = int(line_of(server))
                    assert line_of(clients) == "answered"
                    say(clients)
                    assert line_of(clients) == "answered again"
                    say(server)
                    assert line_of(server) == "0"
                    assert clients.wait() == 0
                finally:
                    clients.kill()
            assert server.wait() == 0
        finally:
            server.kill()
    print(f"{CONNECTIONS} idle connections take {size} bytes each in the server")
    assert size < MAX_BYTES
