"""A peer's machine that vanishes without a word, and one that is merely busy.

The two machines are network namespaces, joined by a pair of virtual Ethernet
devices; that needs a system that lets us make them.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from helpers import LONG, PACKAGE, wait_until
from ratchet import bus as ratchet_bus
from ratchet.bus import transport

BOUND = 3.0
"""Seconds until the kernel gives a peer up, with the constants below: 1 s of
silence and two probes a second apart."""

MARGIN = 5.0

# In place of about 30 s, which is tested by what the sockets are told.
SHORTENED = """
import sys, time
import gevent
from ratchet import BusError, ConnectionLost, bus
from ratchet.bus import transport

transport._KEEPALIVE_IDLE = transport._KEEPALIVE_INTERVAL = 1
transport._KEEPALIVE_PROBES = 2
transport._USER_TIMEOUT_MS = 3_000
"""

SERVER = f"""
{SHORTENED}
def handle(request):
    if request == b"burn":
        end = time.monotonic() + {BOUND + 2}
        while time.monotonic() < end:
            pass
        return b"burnt"
    gevent.sleep(600)

with bus.listen("10.99.0.1:4000") as server:
    print("listening", flush=True)
    server.serve(handle)
"""

CLIENT = f"""
{SHORTENED}
with bus.connect("10.99.0.1:4000") as client:
    begun = time.monotonic()
    print(client.call(b"burn", 60).decode(), time.monotonic() - begun, flush=True)
    sent = [client.send_request(b"wait") for _ in range(3)]
    # A one-way trip and back: the requests are on the other side.
    while client._link.connection.unsent:
        gevent.sleep(0.01)
    print("in flight", flush=True)
    sys.stdin.readline()
    begun = time.monotonic()
    sent.append(client.send_request(b"into the void"))
    for transaction in sent:
        try:
            transaction.recv_response(60)
        except BusError as error:
            print(type(error).__name__, error.outcome, time.monotonic() - begun, flush=True)
"""


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=LONG, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def two_machines() -> Iterator[tuple[str, str]]:
    """The names of two namespaces, whose ends of one line are called `line`."""
    here, there = (f"ratchet-{os.getpid()}-{name}" for name in ("here", "there"))
    with ExitStack() as stack:
        try:
            for name in (here, there):
                ip("netns", "add", name)
                stack.callback(ip, "netns", "del", name)
            ip("-n", here, "link", "add", "line", "type", "veth", "peer", "name", "line", "netns", there)
            for name, address in ((here, "10.99.0.2/24"), (there, "10.99.0.1/24")):
                ip("-n", name, "address", "add", address, "dev", "line")
                ip("-n", name, "link", "set", "line", "up")
        except OSError as error:
            pytest.skip(f"the system lets us make no network namespaces: {error}")
        yield here, there


@contextmanager
def program_on(machine: str, source: str) -> Iterator[subprocess.Popen[str]]:
    path = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    with subprocess.Popen(
        ["ip", "netns", "exec", machine, sys.executable, "-W", "error", "-c", source],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            # `ip` has become the program.
            process.kill()


def words_of(process: subprocess.Popen[str]) -> list[str]:
    assert process.stdout is not None
    return process.stdout.readline().split()


@pytest.mark.timeout(90)
def test_a_peer_that_vanishes_is_noticed_and_one_that_is_busy_is_not_taken_for_it() -> None:
    if shutil.which("ip") is None:
        pytest.skip("there is no program `ip`")
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    with two_machines() as (here, there), program_on(there, SERVER) as server:
        assert words_of(server) == ["listening"]
        with program_on(here, CLIENT) as client:
            answer, seconds = words_of(client)
            assert answer == "burnt"
            assert float(seconds) > BOUND
            assert words_of(client) == ["in", "flight"]
            ip("-n", there, "link", "set", "line", "down")
            assert client.stdin is not None
            client.stdin.write("the line is down\n")
            client.stdin.flush()
            for _ in range(4):
                error, outcome, seconds = words_of(client)
                assert (error, outcome) == ("ConnectionLost", "UNKNOWN")
                assert float(seconds) < BOUND + MARGIN
            assert client.wait(LONG) == 0


def test_every_tcp_connection_is_told_to_give_a_vanished_peer_up_after_thirty_seconds() -> None:
    server: Any = ratchet_bus.listen("127.0.0.1:0")
    with server, ratchet_bus.connect(server.address) as client:
        wait_until(lambda: server.stats().connections and client._link is not None, "both ends")
        assert client._link is not None
        (session,) = server._sessions
        for connection in (client._link.connection, session.connection):
            options = told(connection)
            assert options["SO_KEEPALIVE"] == 1
            silence = options["TCP_KEEPIDLE"] + options["TCP_KEEPINTVL"] * options["TCP_KEEPCNT"]
            assert 20 <= silence <= 35
            assert 20_000 <= options["TCP_USER_TIMEOUT"] <= 35_000
    assert transport._USER_TIMEOUT_MS == 30_000


def told(connection: Any) -> dict[str, int]:
    """What the kernel was told about a connection."""
    with socket.socket(fileno=os.dup(connection._transport.fileno())) as same:
        options = {"SO_KEEPALIVE": same.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)}
        for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT"):
            options[name] = same.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
    return options
