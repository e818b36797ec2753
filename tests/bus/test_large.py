"""A large part that is received straight into its own memory, on either build."""

from __future__ import annotations

import itertools
import random
import socket as stdlib_socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

import ratchet
from helpers import LONG, wait_until
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.recipient import Recipient
from ratchet.bus._socket import wire
from ratchet.bus._socket.large import LargePart
from ratchet.bus._socket.read_size import READ_SIZE
from ratchet.bus._socket.stream import MessageStream
from ratchet.bus._socket.wire import Message, encode
from ratchet.bus._transport.transport import Transport
from ratchet.errors import BusError

MIB = 1 << 20
chance = random.Random(1)


class Owner(Recipient):
    """Keeps what it is told."""

    budget = None
    read_size = READ_SIZE

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.sizes: list[int] = []
        self.takes = True
        self.broken: list[BusError] = []
        self.ended = False
        self.lost = False

    def message_received(self, message: Message) -> None:
        self.messages.append(message)

    def short_received(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> None:
        self.messages.append((kind, flags, id, arg, [body]))

    def message_begun(self, size: int) -> bool:
        self.sizes.append(size)
        return self.takes

    def note_unsent(self) -> None:
        """Nothing is sent."""

    def eof_received(self) -> None:
        self.ended = True

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.broken.append(error)

    def pause_writing(self) -> None:
        """Nothing is sent."""

    def socket_closing(self) -> None:
        """Nothing is asked of the socket."""

    def resume_writing(self) -> None:
        """Nothing is sent."""

    def connection_lost(self, error: BaseException | None) -> None:
        self.lost = True


class Receiver:
    """A connection over a socket of the system, and the peer's end."""

    def __init__(self) -> None:
        ours, peer = stdlib_socket.socketpair()
        self.peer: Any = socket.socket(fileno=peer.detach())
        self.peer.settimeout(LONG)
        self.owner = Owner()
        self.stream = MessageStream(Transport(ours), Limits(max_message=100 * MIB), self.owner, "the peer")
        self.stream.open()

    def send(self, *pieces: bytes) -> gevent.Greenlet[[], None]:
        """Send from a thread of its own, with a pause behind each piece that lets it come."""

        def send_all() -> None:
            for piece in pieces:
                self.peer.sendall(piece)
                gevent.idle()

        return gevent.spawn(send_all)

    def take(self, count: int) -> list[bytes]:
        """The only parts of the next messages, when so many are here."""
        wait_until(lambda: len(self.owner.messages) >= count or bool(self.owner.broken))
        messages, self.owner.messages = self.owner.messages, []
        return [message[4][0] for message in messages]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.stream.abort()
    receiver.peer.close()


def request(*parts: bytes) -> bytes:
    return encode(wire.REQUEST, 0, 1, 0, parts)


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 262_144, MIB, 5 * MIB + 3, 40 * MIB])
def test_a_part_of_any_size_comes_out_as_it_was_sent(receiver: Receiver, size: int) -> None:
    body = chance.randbytes(size)
    receiver.send(request(body), request(b"short"), request(body), request(body))
    assert receiver.take(4) == [body, b"short", body, body]


def test_parts_come_whole_however_they_are_cut(receiver: Receiver) -> None:
    bodies = [chance.randbytes(chance.randrange(100_000, 2 * MIB)) for _ in range(20)]
    sent = b"".join(map(request, bodies))
    cuts = [0, *sorted(chance.randrange(len(sent)) for _ in range(60)), len(sent)]
    receiver.send(*(sent[begin:end] for begin, end in itertools.pairwise(cuts)))
    assert receiver.take(20) == bodies


def test_a_message_may_have_several_large_parts(receiver: Receiver) -> None:
    parts = [chance.randbytes(size) for size in (300_000, 5, MIB, 0, 100_000)]
    receiver.send(request(*parts), request(b"next"))
    wait_until(lambda: len(receiver.owner.messages) == 2)
    assert receiver.owner.messages[0] == (wire.REQUEST, 0, 1, 0, parts)


def test_parts_that_somebody_has_stay_as_they_are(receiver: Receiver) -> None:
    bodies = [chance.randbytes(MIB - number) for number in range(6)]
    receiver.send(*map(request, bodies))
    taken = receiver.take(6)
    receiver.send(*(request(bytes(len(body))) for body in bodies))
    assert len(receiver.take(6)) == 6
    assert taken == bodies


def test_parts_in_the_same_memory_have_hashes_of_their_own(receiver: Receiver) -> None:
    hashes = []
    for number in range(6):
        body = bytes([number]) * MIB
        receiver.send(request(body))
        [part] = receiver.take(1)
        assert part == body
        hashes.append(hash(part))
        assert hash(part) == hash(body)
        del part
    assert len(set(hashes)) == 6


def test_the_owner_may_take_the_rest_later(receiver: Receiver) -> None:
    body = chance.randbytes(MIB)
    receiver.owner.takes = False
    receiver.send(request(body))
    wait_until(lambda: receiver.owner.sizes)
    assert receiver.stream.input.paused
    receiver.owner.takes = True
    receiver.stream.input.resume_reading()
    assert receiver.take(1) == [body]


def test_a_peer_that_closes_in_the_middle_of_a_part_has_broken_off(receiver: Receiver) -> None:
    receiver.send(request(bytes(MIB))[:500_000]).get(timeout=LONG)
    receiver.peer.close()
    wait_until(lambda: receiver.owner.lost)
    [error] = receiver.owner.broken
    assert str(error).startswith("the peer closed in the middle of a message")
    assert not receiver.owner.ended


def test_what_has_come_of_a_part_is_not_lost_when_nothing_can_be_sent(receiver: Receiver) -> None:
    body = chance.randbytes(400_000)
    sent = request(body)
    receiver.send(sent[:350_000]).get(timeout=LONG)
    wait_until(lambda: receiver.owner.sizes)
    assert receiver.peer._sock.send(sent[350_000:]) == len(sent) - 350_000
    receiver.stream.send_failed(BrokenPipeError())
    assert receiver.take(1) == [body]


compiled_only = pytest.mark.skipif(
    not ratchet.build_info().compiled, reason="only the compiled build writes to bytes"
)


def received(length: int, sent: bytes) -> LargePart:
    """A part that announced its length, and of which this has come."""
    ours, peer = stdlib_socket.socketpair()
    with ours, peer:
        ours.setblocking(False)
        part = LargePart(length, b"")
        for start in range(0, len(sent), 50_000):
            peer.sendall(sent[start : start + 50_000])
            while not part.is_whole and part.receive(ours) > 0:
                pass
    return part


@compiled_only
def test_memory_is_used_again_once_nobody_has_it() -> None:
    # From whoever came before, what is kept may be as large; these take its place.
    kept = [received(200_000, bytes(200_000)).end() for _ in range(2)]
    addresses = {id(part) for part in kept}
    del kept
    for fill in (b"1", b"2"):
        part = received(150_000, fill * 150_000).end()
        assert id(part) in addresses
        assert part == fill * 150_000
        del part


@compiled_only
def test_two_take_turns_while_somebody_has_the_last_part() -> None:
    last = received(200_000, bytes(200_000)).end()
    addresses = set()
    for number in range(9):
        part = received(200_000, bytes(200_000)).end()
        # Whoever came before may have left memory that is large enough for the first ones.
        if number > 2:
            addresses.add(id(part))
        last = part
    assert len(addresses) == 2
    assert id(last) in addresses


@compiled_only
def test_memory_is_not_used_again_while_somebody_has_it() -> None:
    parts = [received(200_000, bytes([fill]) * 200_000).end() for fill in range(5)]
    assert [set(part) for part in parts] == [{fill} for fill in range(5)]
    assert len({id(part) for part in parts}) == 5


@compiled_only
def test_what_is_much_smaller_or_larger_takes_other_memory() -> None:
    for length in (99_000, 201_000):
        kept = [received(200_000, bytes(200_000)).end() for _ in range(2)]
        addresses = {id(part) for part in kept}
        others = [received(length, bytes(length))]
        del kept
        others.append(received(length, bytes(length)))
        assert not addresses & {id(part.end()) for part in others}


@compiled_only
def test_a_part_says_when_it_is_whole_and_when_nothing_comes() -> None:
    ours, peer = stdlib_socket.socketpair()
    with ours:
        ours.setblocking(False)
        part = LargePart(100_000, b"begun")
        with peer:
            assert part.receive(ours) < 0
            peer.sendall(bytes(50_000))
            assert part.receive(ours) == 50_000
            assert not part.is_whole
        assert part.receive(ours) == 0
        assert part.end() == b"begun" + bytes(50_000)
    with pytest.raises(OSError, match="Bad file descriptor"):
        part.receive(ours)
