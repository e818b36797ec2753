"""What processes say to each other, within one process."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from helpers import LONG, output_of, turns, wait_until
from ratchet.bus._core.address import Address
from ratchet.bus._processes.acceptor import Acceptor
from ratchet.bus._processes.channel import Channel, ChannelClosed, channel_pair
from ratchet.bus._processes.listener import ChannelListener
from ratchet.bus._socket.accept import NotListening, SocketListener

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture
def channels() -> Iterator[tuple[Channel, Channel]]:
    with channel_pair() as (one, descriptor):
        other = Channel(os.dup(descriptor))
    yield one, other
    one.close()
    other.close()


def test_messages_keep_their_borders_and_their_order(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    for number in range(3):
        assert one.send({"kind": "x" * 1000, "number": number})
    messages = [other.receive() for _ in range(3)]
    assert messages == [{"kind": "x" * 1000, "number": number} for number in range(3)]


def test_receiving_waits_and_the_end_of_the_other_side_is_seen(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    receiving = gevent.spawn(other.receive)
    turns()
    assert not receiving.ready()
    one.send({"kind": "one"})
    assert receiving.get(timeout=LONG) == {"kind": "one"}
    receiving = gevent.spawn(other.receive)
    turns()
    one.close()
    assert receiving.get(timeout=LONG) is None
    with pytest.raises(ChannelClosed):
        other.send({"kind": "to nobody"})


def test_who_does_not_read_is_not_waited_for(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    sent = 0
    while one.send({"kind": "x" * 1000}):
        sent += 1
    assert sent > 10
    for _ in range(sent):
        other.receive()
    assert one.send({"kind": "room again"})


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="it counts descriptors in /proc")
def test_sockets_are_handed_over_and_none_leaks(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    before = len(os.listdir(DESCRIPTORS))
    ours, theirs = socket.socketpair()
    assert one.send_socket(theirs.fileno(), ("::1", 7))
    theirs.close()
    descriptor, peer = other.receive_socket()
    assert peer == ("::1", 7)
    assert not os.get_inheritable(descriptor)
    with socket.socket(fileno=descriptor) as received:
        ours.sendall(b"x")
        assert received.recv(1) == b"x"
    with pytest.raises(BlockingIOError):
        other.receive_socket()
    sent = 0
    while one.send_socket(ours.fileno(), "unix:"):
        sent += 1
    assert sent > 10
    # What has not been received goes with the channel.
    one.close()
    other.close()
    ours.close()
    wait_until(lambda: len(os.listdir(DESCRIPTORS)) == before - 2, "the channels' own to be gone")


def test_a_client_that_has_gone_costs_nothing(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    came: list[int] = []
    listener = ChannelListener(other, socket.AF_UNIX, "unix:/x", None, lambda: came.append(1))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert one.send_socket(theirs.fileno(), "unix:")
    transport, peer = listener.accept()
    assert peer == "unix:"
    assert transport.receive(1) == b""
    transport.close()
    assert (listener.received, came) == (1, [1])
    one.close()
    with pytest.raises(NotListening):
        listener.accept()
    listener.close()


def test_without_a_descriptor_a_client_waits_until_there_is_one() -> None:
    program = """
    import resource, socket
    from ratchet.bus._processes.channel import Channel, channel_pair
    from ratchet.bus._processes.listener import ChannelListener
    from ratchet.bus._socket.accept import Exhausted

    ours, theirs = socket.socketpair()
    with channel_pair() as (one, descriptor):
        listener = ChannelListener(Channel(socket.dup(descriptor)), socket.AF_UNIX, "unix:/x", None, int)
    one.send_socket(theirs.fileno(), "unix:")
    theirs.close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    for _ in range(2):
        try:
            listener.accept()
        except Exhausted as error:
            print("exhausted:", error.__cause__, listener.received)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    transport, _ = listener.accept()
    ours.sendall(b"x")
    print(transport.receive(1), listener.received)
    transport.close()
    ours.close()
    one.close()
    listener.close()
    """
    exhausted = "exhausted: [Errno 24] Too many open files 0\n"
    assert output_of(program) == f"{exhausted}{exhausted}b'x' 1\n"


def test_a_client_that_was_lost_on_its_way_is_no_end(channels: tuple[Channel, Channel]) -> None:
    one, other = channels
    listener = ChannelListener(other, socket.AF_UNIX, "unix:/x", None, lambda: None)
    # As the system hands it over that has no descriptor for it.
    assert one.send({"kind": "no socket"})
    with pytest.raises(ConnectionAbortedError, match="Too many open files"):
        listener.accept()
    assert listener.received == 1
    with pytest.raises(BlockingIOError):
        listener.accept()


def test_a_client_that_nobody_takes_waits_and_those_behind_it_too() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        taken: list[Address] = []
        changed, has_room = Event(), False

        def hand_over(descriptor: int, peer: Address) -> bool:
            if has_room:
                taken.append(peer)
            return has_room

        acceptor = Acceptor(SocketListener(listening), hand_over, changed)
        accepting = gevent.spawn(acceptor.run)
        try:
            first, second = (socket.create_connection(listening.getsockname()) for _ in range(2))
            with first, second:
                changed.set()
                wait_until(lambda: not changed.is_set(), "the attempt")
                changed.set()
                wait_until(lambda: not changed.is_set(), "another attempt")
                assert taken == []
                has_room = True
                changed.set()
                wait_until(lambda: len(taken) == 2, "both")
                assert taken == [first.getsockname(), second.getsockname()]
        finally:
            accepting.kill()
