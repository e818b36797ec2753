"""Endpoints on this machine: where to listen, and what a connection is good for."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.monkey import get_original

from helpers import LONG, turns
from ratchet.bus._core.address import Address, Endpoint, UnixEndpoint, parse
from ratchet.bus._socket.listen import open_listener
from ratchet.bus._transport.dial import dial
from ratchet.bus._transport.transport import Transport


def ipv6_works() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has abstract names")
needs_ipv6 = pytest.mark.skipif(not ipv6_works(), reason="this machine has no IPv6")


def at(path: str) -> UnixEndpoint:
    endpoint = parse(f"unix:{path}")
    assert isinstance(endpoint, UnixEndpoint)
    return endpoint


def listen(endpoint: Endpoint) -> Any:
    """A socket that listens there."""
    return open_listener(endpoint)[0]


def received(transport: Transport) -> bytes:
    """What the peer sends next, waiting for it."""
    socket.wait_read(transport.fileno(), timeout=LONG)
    return transport.receive(100)


def exchange(listener: Any, endpoint: Endpoint) -> Address:
    """Connect, pass a byte each way, and return whom the connecting side sees."""
    accepting = gevent.spawn(listener.accept)
    transport, peer = dial(endpoint)
    accepted = accepting.get(timeout=LONG)[0]
    accepted.settimeout(LONG)
    try:
        assert transport.ready
        accepted.sendall(b"x")
        assert received(transport) == b"x"
        assert transport.send(b"y") == 1
        assert accepted.recv(1) == b"y"
    finally:
        transport.close()
        accepted.close()
    return peer


def fill_backlog(listener: Any, where: Any, sockets: Callable[[Any], Any]) -> None:
    """Connect until the listener, whose backlog is the smallest, takes no more."""
    listener.listen(0)
    for _ in range(10):
        connecting = get_original("socket", "socket")(listener.family)
        sockets(connecting)
        connecting.setblocking(False)
        if connecting.connect_ex(where) == errno.EAGAIN:
            break
    turns()
