"""A listener that accepts clients: what it yields, what accepting fails of, and its end."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from endpoints import at, received
from helpers import LONG, output_of, wait_until
from ratchet.bus._core.address import TcpEndpoint, UnixEndpoint
from ratchet.bus._socket.accept import NotListening, SocketListener
from ratchet.bus._socket.listen import open_listener
from ratchet.bus._transport.dial import dial
from ratchet.bus._transport.transport import Transport
from robustness.leaks import open_descriptors

can_shut_down = pytest.mark.skipif(
    sys.platform != "linux", reason="not every system can shut a socket down that listens"
)


def opened(endpoint: TcpEndpoint | UnixEndpoint) -> SocketListener:
    opened_socket, file = open_listener(endpoint)
    return SocketListener(opened_socket, file=file, opened_here=True)


@pytest.fixture
def listener() -> Iterator[SocketListener]:
    listener = opened(TcpEndpoint("127.0.0.1", 0))
    yield listener
    listener.close()


def where(listener: SocketListener) -> TcpEndpoint:
    assert isinstance(listener.address, tuple)
    return TcpEndpoint(*listener.address)


def accepted(listener: SocketListener) -> tuple[Transport, Any]:
    """The next client, waiting for one."""
    socket.wait_read(listener.fileno(), timeout=LONG)
    return listener.accept()


def test_accepting_without_a_client_does_not_wait(listener: SocketListener) -> None:
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_client_is_a_transport_and_its_address(listener: SocketListener) -> None:
    connected, peer = dial(where(listener))
    assert peer == listener.address
    transport, client = accepted(listener)
    with socket.socket(fileno=os.dup(connected.fileno())) as same:
        assert client == same.getsockname()
    assert transport.send(b"x") == 1
    assert received(connected) == b"x"
    transport.close()
    connected.close()


@can_shut_down
def test_a_socket_that_was_shut_down_says_so_and_does_not_listen(listener: SocketListener) -> None:
    assert listener.listens
    with socket.socket(fileno=os.dup(listener.fileno())) as copy:
        copy.shutdown(socket.SHUT_RDWR)
    assert not listener.listens
    with pytest.raises(NotListening):
        listener.accept()


def test_a_listener_may_be_closed_twice_and_removes_its_file(folder: Path) -> None:
    before = open_descriptors()
    listener = opened(at("a.sock"))
    assert listener.address == f"unix:{folder}/a.sock"
    listener.close()
    assert not os.path.exists("a.sock")
    listener.close()
    assert open_descriptors() == before


@can_shut_down
def test_closing_ends_the_listening_of_a_copy_too() -> None:
    listener = opened(TcpEndpoint("127.0.0.1", 0))
    copy = SocketListener(socket.socket(fileno=os.dup(listener.fileno())))
    listener.close()
    wait_until(lambda: not copy.listens)
    copy.close()


def test_a_socket_that_a_child_serves_too_listens_on(folder: Path) -> None:
    listener = opened(at("a.sock"))
    copy = SocketListener(socket.socket(fileno=os.dup(listener.fileno())))
    # As the child does, in memory that both have.
    listener.share()
    listener.close()
    assert copy.listens
    connected = gevent.spawn(dial, at("a.sock")).get(timeout=LONG)[0]
    accepted(copy)[0].close()
    connected.close()
    copy.close()


def test_being_out_of_descriptors_is_no_fault_of_a_client() -> None:
    program = """
    import resource
    from gevent import socket
    from ratchet.bus._core.address import TcpEndpoint
    from ratchet.bus._socket.accept import Exhausted, SocketListener
    from ratchet.bus._transport.dial import dial
    from ratchet.bus._socket.listen import open_listener

    listener = SocketListener(open_listener(TcpEndpoint("127.0.0.1", 0))[0])
    connected, _ = dial(TcpEndpoint(*listener.address))
    socket.wait_read(listener.fileno())
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        listener.accept()
    except Exhausted as error:
        print("exhausted:", type(error.__cause__).__name__)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    listener.accept()[0].close()
    connected.close()
    listener.close()
    """
    assert output_of(program) == "exhausted: OSError\n"
