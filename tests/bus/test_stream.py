"""One connected socket: what goes out when, what comes in, and what is left when it closes."""

from __future__ import annotations

import errno
import gc
import random
import socket as stdlib_socket
import struct
import sys
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.hub import get_hub

from helpers import LONG, active_watchers, turns, wait_until
from ratchet._wait import waiting_on
from ratchet.bus._core.address import TcpEndpoint
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.recipient import Recipient
from ratchet.bus._socket import wire
from ratchet.bus._socket.interfaces import CLOSING
from ratchet.bus._socket.listen import open_listener
from ratchet.bus._socket.read_size import READ_SIZE
from ratchet.bus._socket.stream import MessageStream
from ratchet.bus._socket.wire import Message, encode
from ratchet.bus._transport.transport import Transport
from ratchet.errors import BusError, ConnectionLost, MessageTooLarge, ProtocolError

NO_ROOM = 0
ALL_ROOM = 10**9


class CountingSocket:
    """A real socket that notes each send, and takes no more bytes than it is told to."""

    def __init__(self, real: stdlib_socket.socket) -> None:
        self.real = real
        self.family = real.family
        self.sends: list[bytes] = []
        self.offered: list[int] = []
        self.room = ALL_ROOM
        self.recv_errors: list[OSError] = []

    def send(self, data: bytes) -> int:
        self.offered.append(len(data))
        if not self.room:
            raise BlockingIOError(errno.EAGAIN, "no room")
        count = self.real.send(memoryview(data)[: self.room])
        self.sends.append(bytes(data[:count]))
        if self.room != ALL_ROOM:
            self.room -= count
        return count

    def recv(self, size: int) -> bytes:
        if self.recv_errors:
            raise self.recv_errors.pop()
        return self.real.recv(size)

    def fileno(self) -> int:
        return self.real.fileno()

    def setblocking(self, flag: bool) -> None:
        self.real.setblocking(flag)

    def close(self) -> None:
        self.real.close()


class Owner(Recipient):
    """Notes what it is told, in order."""

    budget = None
    read_size = READ_SIZE

    def __init__(self) -> None:
        self.crowds = 0
        self.messages: list[Message] = []
        self.events: list[str] = []
        self.broken: list[tuple[BusError, tuple[int, int] | None]] = []
        self.errors: list[BaseException | None] = []
        self.on_message: Callable[[Message], object] = lambda message: None
        self.on_broken: Callable[[], object] = lambda: None
        self.hub_only = True

    def note(self, event: str) -> None:
        self.events.append(event)
        assert self.events.count("closed") <= 1

    def message_received(self, message: Message) -> None:
        self.hub_only = self.hub_only and gevent.getcurrent() is get_hub()
        self.messages.append(message)
        self.note("message")
        self.on_message(message)

    def message_begun(self, size: int) -> bool:
        return True

    def note_unsent(self) -> None:
        """Nothing is counted here."""

    def eof_received(self) -> None:
        self.note("input end")

    def protocol_error(self, error: BusError, refused: tuple[int, int] | None) -> None:
        self.broken.append((error, refused))
        self.note("broken")
        self.on_broken()

    def pause_writing(self) -> None:
        self.crowds += 1

    def socket_closing(self) -> None:
        """Nothing is asked of the socket."""

    def resume_writing(self) -> None:
        self.note("room")

    def connection_lost(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self.note("closed")


def connection_over(socket: Any, owner: Owner, limits: Limits | None = None) -> MessageStream:
    connection = MessageStream(Transport(socket), limits or Limits(), owner, "the peer")
    connection.open()
    return connection


class Pair:
    """A connection of ours, and the peer's end of it as a plain socket."""

    def __init__(self, limits: Limits, ours: Any, peer: Any) -> None:
        self.peer = peer
        self.owner = Owner()
        self.socket = ours
        self.connection = connection_over(ours, self.owner, limits)

    @property
    def sends(self) -> list[bytes]:
        sends: list[bytes] = self.socket.sends
        return sends

    def read(self, count: int) -> bytes:
        """So many bytes, from the peer's end; the other greenlets run meanwhile."""
        data = bytearray()
        while len(data) < count:
            piece = self.peer.recv(min(count - len(data), 65536))
            assert piece, f"the end came after {bytes(data[-100:])!r}"
            data += piece
        return bytes(data)

    def read_now(self) -> bytes:
        """What the peer has already got, with no switch."""
        try:
            return bytes(self.peer._sock.recv(1 << 20))
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.connection.abort()
        self.peer.close()


MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair() -> Iterator[MakePair]:
    """Makes a pair over a Unix socket; `room` is how many bytes ours takes."""
    pairs: list[Pair] = []

    def make(room: int = ALL_ROOM, **limits: Any) -> Pair:
        ours, peer = stdlib_socket.socketpair()
        counting = CountingSocket(ours)
        counting.room = room
        gevent_peer = socket.socket(fileno=peer.detach())
        gevent_peer.settimeout(LONG)
        pairs.append(Pair(Limits(**limits), counting, gevent_peer))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


@pytest.fixture
def pair(make_pair: MakePair) -> Pair:
    return make_pair()


@pytest.fixture
def full(make_pair: MakePair) -> Pair:
    """A pair whose socket takes nothing yet."""
    return make_pair(room=NO_ROOM)


def tcp_pair() -> tuple[Any, Any]:
    listener, _ = open_listener(TcpEndpoint("127.0.0.1", 0))
    with listener:
        accepting = gevent.spawn(listener.accept)
        peer = socket.create_connection(listener.getsockname())
        peer.settimeout(LONG)
        return accepting.get(timeout=LONG)[0], peer


def polls(count: int = 3) -> None:
    """Let the hub look at its sockets some times: time for something that must not happen.

    Threads that merely take turns do not make it look.
    """
    hub = get_hub()
    for _ in range(count):
        timer = hub.loop.timer(0)
        try:
            hub.wait(timer)
        finally:
            timer.close()


def request(id: int, body: bytes = b"x") -> bytes:
    return encode(wire.REQUEST, 0, id, 0, [body])


def ids(owner: Owner) -> list[int]:
    return [message[2] for message in owner.messages]


# Reading


def test_a_message_of_the_peer_comes_to_the_owner_in_the_hub(pair: Pair) -> None:
    pair.peer.sendall(request(7, b"hello"))
    wait_until(lambda: pair.owner.messages)
    assert pair.owner.messages == [(wire.REQUEST, 0, 7, 0, [b"hello"])]
    assert pair.owner.hub_only
    assert pair.owner.events == ["message"]


def test_messages_come_whole_and_in_order_however_they_are_cut(pair: Pair) -> None:
    data = b"".join(request(id, b"x" * id) for id in range(1, 40))
    chance = random.Random(1)
    while data:
        size = chance.randint(1, 60)
        pair.peer.sendall(data[:size])
        data = data[size:]
        turns(1)
    wait_until(lambda: len(pair.owner.messages) == 39)
    assert ids(pair.owner) == list(range(1, 40))


def test_a_message_larger_than_one_read_comes_whole(pair: Pair) -> None:
    body = random.Random(2).randbytes(1_000_000)
    sending = gevent.spawn(pair.peer.sendall, request(1, body))
    wait_until(lambda: pair.owner.messages)
    sending.get(timeout=LONG)
    assert pair.owner.messages == [(wire.REQUEST, 0, 1, 0, [body])]


@pytest.mark.parametrize("error", [BlockingIOError(errno.EAGAIN, "again"), InterruptedError(errno.EINTR, "")])
def test_a_read_that_is_to_be_tried_again_is_tried_again(pair: Pair, error: OSError) -> None:
    pair.socket.recv_errors.append(error)
    pair.peer.sendall(request(1))
    wait_until(lambda: pair.owner.messages)
    assert pair.owner.events == ["message"]
    assert pair.socket.recv_errors == []


def test_while_reading_is_stopped_the_data_stays_in_the_kernel(pair: Pair) -> None:
    pair.connection.input.pause_reading()
    pair.connection.input.pause_reading()
    pair.peer.sendall(request(1))
    polls()
    assert pair.owner.messages == []
    pair.connection.input.resume_reading()
    pair.connection.input.resume_reading()
    wait_until(lambda: pair.owner.messages)
    assert ids(pair.owner) == [1]


def test_an_owner_may_stop_reading_when_told_of_a_message(pair: Pair) -> None:
    pair.owner.on_message = lambda message: pair.connection.input.pause_reading()
    pair.peer.sendall(request(1))
    wait_until(lambda: pair.owner.messages)
    pair.peer.sendall(request(2))
    polls()
    assert ids(pair.owner) == [1]
    pair.connection.input.resume_reading()
    wait_until(lambda: len(pair.owner.messages) == 2)


def test_an_owner_that_closes_when_told_of_a_message_is_told_of_no_more(pair: Pair) -> None:
    pair.owner.on_message = lambda message: pair.connection.abort()
    pair.peer.sendall(request(1) + request(2) + request(3))
    wait_until(lambda: pair.connection.closed)
    polls()
    assert ids(pair.owner) == [1]
    assert pair.owner.events == ["message", "closed"]
    assert pair.owner.errors == [None]


# The end of what the peer sends


def test_the_end_of_input_is_told_once_and_the_peer_may_still_read(pair: Pair) -> None:
    pair.peer.sendall(request(1))
    pair.peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: "input end" in pair.owner.events)
    polls()
    assert pair.owner.events == ["message", "input end"]
    assert not pair.connection.closed
    pair.connection.output.write(b"answer")
    assert pair.read(6) == b"answer"


@pytest.mark.parametrize("length", [1, 2, 11, 12, 15, 16])
def test_the_end_in_the_middle_of_a_message_breaks_the_connection(pair: Pair, length: int) -> None:
    pair.peer.sendall(request(1) + request(2)[:length])
    pair.peer.shutdown(socket.SHUT_WR)
    wait_until(lambda: pair.owner.broken)
    polls()
    assert pair.owner.events == ["message", "broken", "closed"]
    ((error, refused),) = pair.owner.broken
    assert isinstance(error, ConnectionLost)
    assert "in the middle of a message" in str(error)
    assert refused is None


def test_a_peer_that_resets_the_connection_closes_it_with_the_systems_error() -> None:
    ours, peer = tcp_pair()
    owner = Owner()
    connection = connection_over(ours, owner)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    wait_until(lambda: connection.closed)
    assert owner.events == ["closed"]
    assert isinstance(owner.errors[0], ConnectionResetError)


# What breaks the format


@pytest.mark.parametrize(
    ("data", "kind", "refused"),
    [
        (struct.pack(">HBBII", 0x8000, 100, 0, 9, 0), ProtocolError, (100, 9)),
        (struct.pack(">HBBIII", 0x8001, wire.REQUEST, 0, 9, 0, 101), MessageTooLarge, (wire.REQUEST, 9)),
        (struct.pack(">HI", 1, 101), MessageTooLarge, (wire.PLAIN, 0)),
        (b"\x7f\xff", ProtocolError, (wire.PLAIN, 0)),
    ],
    ids=["kind", "message", "plain message", "parts"],
)
def test_what_breaks_the_format_is_told_once_after_the_messages_before_it(
    make_pair: MakePair, data: bytes, kind: type[BusError], refused: tuple[int, int]
) -> None:
    pair = make_pair(max_message=100)

    def part() -> None:
        # What to do about it, and what to say first, is the owner's business.
        assert not pair.connection.closed
        pair.connection.output.write(b"sorry")
        pair.connection.output.write(b", no")
        pair.connection.close()

    pair.owner.on_broken = part
    pair.peer.sendall(request(1) + data + request(2))
    assert pair.read(9) == b"sorry, no"
    wait_until(lambda: pair.connection.closed)
    assert pair.owner.events == ["message", "broken", "closed"]
    assert ids(pair.owner) == [1]
    ((error, told),) = pair.owner.broken
    assert type(error) is kind
    assert told == refused
    assert pair.owner.errors == [None]


# Writing


def test_the_first_write_of_a_turn_goes_out_at_once(pair: Pair) -> None:
    pair.connection.output.write(b"first")
    assert pair.sends == [b"first"]
    assert pair.read_now() == b"first"


def test_later_writes_of_the_same_turn_go_out_in_one_send(pair: Pair) -> None:
    for frame in (b"first", b"second", b"third", b"fourth"):
        pair.connection.output.write(frame)
    assert pair.sends == [b"first"]
    assert pair.connection.output.unsent == len(b"secondthirdfourth")
    polls()
    assert pair.sends == [b"first", b"secondthirdfourth"]
    assert pair.connection.output.unsent == 0
    assert pair.read_now() == b"firstsecondthirdfourth"


def write_together(pair: Pair, *frames: bytes) -> int:
    """Write several frames at once; returns the number of the last one."""
    numbers = [pair.connection.output.write_later(frame) for frame in frames]
    pair.connection.output.send_written()
    return numbers[-1]


def test_many_frames_go_out_at_once_and_in_one_send(pair: Pair) -> None:
    assert write_together(pair, b"first", b"second") == 2
    assert pair.sends == [b"firstsecond"]
    assert pair.connection.output.sent == 2
    assert write_together(pair, b"third", b"fourth") == 4
    pair.connection.output.write(b"fifth")
    assert pair.connection.output.unsent == len(b"thirdfourthfifth")
    polls()
    assert pair.sends == [b"firstsecond", b"thirdfourthfifth"]
    assert pair.read_now() == b"firstsecondthirdfourthfifth"
    assert pair.connection.output.sent == 5


def test_many_frames_wait_while_the_socket_is_full_and_each_can_be_taken_back(full: Pair) -> None:
    number = write_together(full, b"first", b"second", b"third")
    assert full.connection.output.take_back(number - 1)
    polls()
    full.socket.room = ALL_ROOM
    assert full.read(10) == b"firstthird"


def test_many_frames_on_a_closed_connection_are_dropped(pair: Pair) -> None:
    pair.connection.abort()
    assert write_together(pair, b"first", b"second") == 2
    assert pair.connection.output.unsent == 0
    assert pair.connection.output.sent == 0


def test_each_turn_has_its_own_first_write(pair: Pair) -> None:
    for number in range(3):
        pair.connection.output.write(b"a")
        pair.connection.output.write(b"b")
        assert len(pair.sends) == 2 * number + 1
        polls()
    assert pair.sends == [b"a", b"b"] * 3


def test_writes_from_the_hub_are_collected_too(pair: Pair) -> None:
    def answer(message: Message) -> None:
        pair.connection.output.write(b"<%d>" % message[2])

    pair.owner.on_message = answer
    pair.peer.sendall(b"".join(request(id) for id in range(1, 6)))
    assert pair.read(15) == b"<1><2><3><4><5>"
    assert pair.sends == [b"<1>", b"<2><3><4><5>"]


def test_writes_of_several_threads_in_one_turn_are_collected(pair: Pair) -> None:
    # From here on there are fifty callbacks before the loop ends a turn of which the time is over.
    polls(1)
    gevent.joinall([gevent.spawn(pair.connection.output.write, b"<%d>" % number) for number in range(9)])
    assert pair.read(27) == b"".join(b"<%d>" % number for number in range(9))
    assert pair.sends[0] == b"<0>"
    assert len(pair.sends) == 2


def test_a_great_many_writes_of_one_turn_take_few_sends(pair: Pair) -> None:
    frames = [b"%06d" % number for number in range(5000)]
    for frame in frames:
        pair.connection.output.write(frame)
    assert pair.read(6 * 5000) == b"".join(frames)
    assert len(pair.sends) <= 10
    assert pair.connection.output.sent == 5000


def test_a_large_outbox_is_not_joined_anew_for_each_send(full: Pair) -> None:
    frames = [b"%06d" % number + b"x" * 10_000 for number in range(400)]
    for frame in frames:
        full.connection.output.write(frame)
    full.socket.room = ALL_ROOM
    assert full.read(400 * 10_006) == b"".join(frames)
    assert max(full.socket.offered) <= 512 * 1024


def test_a_write_that_nobody_waits_for_leaves_no_watcher_on_the_socket(pair: Pair) -> None:
    polls()
    before = active_watchers()
    pair.connection.output.write(b"a")
    pair.connection.output.write(b"b")
    polls()
    assert active_watchers() <= before


def test_frames_are_numbered_from_1_and_sent_says_which_ones_are_out(pair: Pair) -> None:
    assert [pair.connection.output.write(b"a") > pair.connection.output.sent for _ in range(3)] == [
        False,
        True,
        True,
    ]
    assert pair.connection.output.sent == 1
    polls()
    assert pair.connection.output.sent == 3
    assert pair.connection.output.write(b"a") == 4
    assert pair.connection.output.sent == 4


def test_a_frame_of_no_bytes_is_sent_like_any_other(pair: Pair) -> None:
    for frame in (b"", b"a", b"", b"b", b""):
        pair.connection.output.write(frame)
    assert pair.read(2) == b"ab"
    wait_until(lambda: pair.connection.output.sent == 5)
    assert pair.connection.output.unsent == 0


def test_a_socket_that_takes_little_gets_every_byte_in_order() -> None:
    ours, peer = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    peer.settimeout(LONG)
    pair = Pair(Limits(), ours, peer)
    chance = random.Random(3)
    frames = [chance.randbytes(chance.choice([0, 1, 100, 5000, 70_000, 300_000])) for _ in range(30)]
    for frame in frames:
        pair.connection.output.write(frame)
    assert pair.connection.output.unsent > 0
    before = active_watchers()
    assert pair.read(sum(map(len, frames))) == b"".join(frames)
    wait_until(lambda: pair.connection.output.unsent == 0)
    assert pair.connection.output.sent == 30
    # It waits for the socket no more.
    wait_until(lambda: active_watchers() <= before - 1)
    pair.close()


@pytest.mark.parametrize("room", [1, 2, 3, 7])
def test_sent_counts_whole_frames_at_each_step(make_pair: MakePair, room: int) -> None:
    frames = [b"", b"a", b"bcd", b"", b"efghij", b"k", b""]
    pair = make_pair(room=NO_ROOM)
    for frame in frames:
        pair.connection.output.write(frame)
    out = 0
    while pair.connection.output.sent < len(frames):
        pair.socket.room = room
        wait_until(lambda: pair.socket.room == 0 or pair.connection.output.sent == len(frames))
        out += room - pair.socket.room
        ends = [len(b"".join(frames[: number + 1])) for number in range(len(frames))]
        assert pair.connection.output.sent == sum(end <= out for end in ends)
        assert pair.connection.output.unsent == 11 - out
    assert pair.read_now() == b"abcdefghijk"


def test_writes_while_the_socket_is_full_are_collected_and_not_tried(full: Pair) -> None:
    for _ in range(5):
        full.connection.output.write(b"abc")
        polls()
    assert full.sends == []
    assert full.connection.output.unsent == 15
    full.socket.room = ALL_ROOM
    assert full.read(15) == b"abc" * 5
    assert len(full.sends) == 1


# Taking frames back


def test_a_frame_of_which_nothing_was_sent_can_be_taken_back(pair: Pair) -> None:
    sequences = [pair.connection.output.write(frame) for frame in (b"one", b"two", b"three", b"four")]
    assert pair.connection.output.take_back(sequences[2]) is True
    assert pair.connection.output.unsent == len(b"twofour")
    assert pair.read(10) == b"onetwofour"
    wait_until(lambda: pair.connection.output.sent == 4)
    assert pair.connection.output.unsent == 0


def test_a_frame_that_was_sent_cannot_be_taken_back(pair: Pair) -> None:
    first, second = pair.connection.output.write(b"one"), pair.connection.output.write(b"two")
    assert pair.connection.output.take_back(first) is False
    polls()
    assert pair.connection.output.take_back(second) is False
    assert pair.read(6) == b"onetwo"


@pytest.mark.parametrize("room", [1, 2])
def test_a_frame_of_which_a_part_was_sent_cannot_be_taken_back(make_pair: MakePair, room: int) -> None:
    pair = make_pair(room=room)
    first, second = pair.connection.output.write(b"one"), pair.connection.output.write(b"two")
    assert pair.connection.output.take_back(first) is False
    assert pair.connection.output.take_back(second) is True
    pair.connection.output.write(b"three")
    pair.socket.room = ALL_ROOM
    # Frames on the wire stay whole.
    assert pair.read(8) == b"onethree"


def test_a_frame_of_which_a_part_was_sent_in_a_later_turn_cannot_be_taken_back(full: Pair) -> None:
    sequences = [full.connection.output.write(frame) for frame in (b"one", b"two", b"three")]
    full.socket.room = 4
    wait_until(lambda: full.socket.room == 0)
    assert full.connection.output.sent == 1
    assert [full.connection.output.take_back(sequence) for sequence in sequences] == [False, False, True]
    full.socket.room = ALL_ROOM
    assert full.read(6) == b"onetwo"


def test_a_frame_can_be_taken_back_twice(full: Pair) -> None:
    full.connection.output.write(b"one")
    second = full.connection.output.write(b"two")
    assert full.connection.output.take_back(second)
    assert full.connection.output.take_back(second)
    assert full.connection.output.unsent == 3
    full.socket.room = ALL_ROOM
    assert full.read(3) == b"one"


def test_all_frames_can_be_taken_back(full: Pair) -> None:
    sequences = [full.connection.output.write(b"abc") for _ in range(5)]
    assert all(map(full.connection.output.take_back, sequences))
    assert full.connection.output.unsent == 0
    full.socket.room = ALL_ROOM
    wait_until(lambda: full.connection.output.sent == 5)
    assert full.sends == []
    full.connection.output.write(b"next")
    assert full.read(4) == b"next"


@pytest.mark.parametrize("seed", range(15))
def test_any_frames_can_be_taken_back_at_any_time(full: Pair, seed: int) -> None:
    chance = random.Random(seed)
    connection = full.connection
    written: dict[int, bytes] = {}
    for number in range(60):
        full.socket.room = chance.randint(0, 12)
        frame = b"<%s>" % (b"%d" % number * chance.randint(1, 3))
        written[connection.output.write(frame)] = frame
        if chance.random() < 0.4:
            turns(1)
        for sequence in chance.sample(sorted(written), min(2, len(written))):
            sent = connection.output.sent
            if connection.output.take_back(sequence):
                assert sequence > sent
                del written[sequence]
            assert connection.output.sent == sent
    full.socket.room = ALL_ROOM
    wait_until(lambda: connection.output.sent == 60)
    assert connection.output.unsent == 0
    assert full.read_now() == b"".join(written.values())


def test_what_is_unsent_when_the_connection_closes_can_be_taken_back(full: Pair) -> None:
    full.socket.room = 3
    first, second = full.connection.output.write(b"one"), full.connection.output.write(b"two")
    full.connection.abort()
    assert full.connection.output.take_back(first) is False
    assert full.connection.output.take_back(second) is True
    assert full.connection.output.take_back(full.connection.output.write(b"three")) is True


# The high-water mark


def writer(pair: Pair, frame: bytes, timeout: float | None = None) -> gevent.Greenlet[[], int]:
    """A thread that writes when there is room, and has come to its wait."""

    def write() -> int:
        if pair.connection.output.writers.above_high_water:
            pair.connection.output.writers.wait_for_room("send_request", timeout)
        return pair.connection.output.write(frame)

    thread = gevent.spawn(write)
    wait_until(lambda: thread.ready() or waiting_on(thread))
    return thread


@pytest.fixture
def crowded(make_pair: MakePair) -> Pair:
    """A pair with as much unsent as may be."""
    pair = make_pair(room=NO_ROOM, high_water=10)
    pair.connection.output.write(b"x" * 10)
    return pair


def test_below_the_high_water_mark_nobody_waits(make_pair: MakePair) -> None:
    pair = make_pair(room=NO_ROOM, high_water=10)
    pair.connection.output.write(b"x" * 9)
    assert not pair.connection.output.writers.above_high_water
    others: list[str] = []
    get_hub().loop.run_callback(others.append, "ran")
    pair.connection.output.writers.wait_for_room("send_request", 0)
    assert others == []
    pair.connection.output.write(b"x")
    assert pair.connection.output.writers.above_high_water


def test_a_writer_at_the_high_water_mark_waits_until_the_peer_reads(crowded: Pair) -> None:
    waiting = writer(crowded, b"next")
    polls()
    assert waiting_on(waiting) == f"send_request on {crowded.connection!r}"
    assert "unsent=10" in str(waiting_on(waiting))
    crowded.socket.room = 1
    wait_until(lambda: waiting.ready())
    assert crowded.connection.output.unsent == 13
    crowded.socket.room = ALL_ROOM
    assert crowded.read(14) == b"x" * 10 + b"next"


def test_writers_are_served_in_the_order_in_which_they_came_and_none_barges_in(crowded: Pair) -> None:
    first, second = writer(crowded, b"1" * 10), writer(crowded, b"2" * 10)
    crowded.socket.room = 10
    # The first one fills it up again.
    wait_until(lambda: first.ready())
    polls()
    assert not second.ready()
    third = writer(crowded, b"3" * 10)
    crowded.socket.room = ALL_ROOM
    assert crowded.read(40) == b"x" * 10 + b"1" * 10 + b"2" * 10 + b"3" * 10
    gevent.joinall([second, third], timeout=LONG)
    assert (first.value, second.value, third.value) == (2, 3, 4)


def test_a_newcomer_waits_behind_those_who_wait_even_if_there_is_room(make_pair: MakePair) -> None:
    pair = make_pair(room=NO_ROOM, high_water=10)
    pair.connection.output.write(b"x" * 5)
    second = pair.connection.output.write(b"y" * 5)
    first, next_one = writer(pair, b"1"), writer(pair, b"2")
    pair.connection.output.take_back(second)
    assert pair.connection.output.unsent < 10
    assert pair.connection.output.writers.above_high_water
    pair.socket.room = ALL_ROOM
    assert pair.read(7) == b"xxxxx12"
    assert (first.get(timeout=LONG), next_one.get(timeout=LONG)) == (3, 4)
    assert not pair.connection.output.writers.above_high_water


def test_what_is_unsent_never_grows_by_more_than_a_frame_over_the_mark(make_pair: MakePair) -> None:
    pair = make_pair(high_water=1000)
    pair.connection.output.write(b"")
    highest = 0

    def write_much() -> None:
        nonlocal highest
        for _ in range(50):
            if pair.connection.output.writers.above_high_water:
                pair.connection.output.writers.wait_for_room("send_request", LONG)
            pair.connection.output.write(b"x" * 100)
            highest = max(highest, pair.connection.output.unsent)

    pair.socket.room = NO_ROOM
    threads = [gevent.spawn(write_much) for _ in range(5)]
    polls()
    for _ in range(20):
        pair.socket.room = 150
        polls()
    pair.socket.room = ALL_ROOM
    assert pair.read(5 * 50 * 100) == b"x" * (5 * 50 * 100)
    gevent.joinall(threads, timeout=LONG)
    assert all(thread.successful() for thread in threads)
    assert highest < 1000 + 100


def test_a_writer_that_has_no_room_in_time_is_told_and_leaves_the_line(crowded: Pair) -> None:
    before = active_watchers()
    for timeout in (0.01, 0, -1):
        assert crowded.connection.output.writers.wait_for_room("send_request", timeout) is False
    assert active_watchers() <= before
    waiting = writer(crowded, b"next")
    crowded.socket.room = ALL_ROOM
    assert crowded.read(14) == b"x" * 10 + b"next"
    waiting.get(timeout=LONG)


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout(60)])
def test_a_writer_that_is_ended_leaves_the_line_and_disturbs_no_other(crowded: Pair, error: Any) -> None:
    before = active_watchers()
    raised = []

    def wait() -> None:
        try:
            crowded.connection.output.writers.wait_for_room("send_request", 60)
        except BaseException as caught:
            raised.append(caught)

    first = gevent.spawn(wait)
    wait_until(lambda: waiting_on(first))
    second = writer(crowded, b"second", timeout=60)
    first.kill(error, timeout=LONG)
    assert [type(caught) for caught in raised] == [error if isinstance(error, type) else type(error)]
    crowded.socket.room = ALL_ROOM
    assert crowded.read(16) == b"x" * 10 + b"second"
    second.get(timeout=LONG)
    wait_until(lambda: active_watchers() < before)


@pytest.mark.parametrize("room_first", [True, False])
def test_room_is_not_lost_on_a_writer_that_is_killed_in_the_same_turn(
    crowded: Pair, room_first: bool
) -> None:
    first, second = writer(crowded, b"1"), writer(crowded, b"2")
    if room_first:
        crowded.socket.room = ALL_ROOM
        first.kill(block=False)
    else:
        first.kill(block=False)
        crowded.socket.room = ALL_ROOM
    assert crowded.read(11)[:10] == b"x" * 10
    second.get(timeout=LONG)
    assert not crowded.connection.output.writers.above_high_water


def test_writers_that_wait_when_the_connection_closes_return_and_find_it_closed(crowded: Pair) -> None:
    def wait() -> bool:
        assert crowded.connection.output.writers.wait_for_room("send_request", LONG)
        return crowded.connection.closed

    threads = [gevent.spawn(wait) for _ in range(3)]
    wait_until(lambda: all(map(waiting_on, threads)))
    crowded.connection.abort()
    assert [thread.get(timeout=LONG) for thread in threads] == [True, True, True]


def test_nobody_waits_on_a_closed_connection_however_much_was_unsent(crowded: Pair) -> None:
    crowded.connection.abort()
    assert not crowded.connection.output.writers.above_high_water
    assert crowded.connection.output.writers.wait_for_room("send_request", 0) is True


def test_a_writer_that_comes_back_at_once_after_a_close_does_not_wait_again(crowded: Pair) -> None:
    returned: list[bool] = []

    def insist() -> None:
        for _ in range(3):
            returned.append(crowded.connection.output.writers.wait_for_room("send_request", LONG))

    threads = [gevent.spawn(insist) for _ in range(2)]
    wait_until(lambda: all(map(waiting_on, threads)))
    crowded.connection.abort()
    # And one that comes between the close and the wake of the others.
    assert crowded.connection.output.writers.wait_for_room("send_request", 0)
    gevent.joinall(threads, timeout=LONG)
    assert returned == [True] * 6


# Word of room, for owners that do not wait


def test_an_owner_that_asks_is_told_once_when_there_is_room(crowded: Pair) -> None:
    crowded.connection.output.writers.wants_resume = True
    polls()
    assert crowded.owner.events == []
    crowded.socket.room = 1
    wait_until(lambda: crowded.owner.events)
    assert crowded.owner.events == ["room"]
    assert not crowded.connection.output.writers.wants_resume
    crowded.socket.room = ALL_ROOM
    assert crowded.read(10) == b"x" * 10
    polls()
    assert crowded.owner.events == ["room"]


def test_an_owner_that_does_not_ask_is_not_told_of_room(crowded: Pair) -> None:
    crowded.socket.room = ALL_ROOM
    assert crowded.read(10) == b"x" * 10
    polls()
    assert crowded.owner.events == []


def test_an_owner_is_not_told_of_room_on_a_closed_connection(crowded: Pair) -> None:
    crowded.connection.output.writers.wants_resume = True
    crowded.connection.abort()
    crowded.socket.room = ALL_ROOM
    polls()
    assert crowded.owner.events == ["closed"]


# Closing


def test_close_tells_the_owner_once_and_leaves_no_watcher() -> None:
    polls()
    before = active_watchers()
    ours, peer = socket.socketpair()
    pair = Pair(Limits(), ours, peer)
    assert active_watchers() == before + 1
    pair.connection.abort()
    assert active_watchers() == before
    pair.connection.abort()
    pair.connection.abort(OSError("too late"))
    assert pair.owner.errors == [None]
    assert pair.connection.closed
    assert ours.fileno() == -1
    peer.close()


def test_close_with_unsent_data_leaves_no_watcher_and_drops_the_data() -> None:
    polls()
    before = active_watchers()
    ours, peer = stdlib_socket.socketpair()
    counting = CountingSocket(ours)
    counting.room = 2
    pair = Pair(Limits(), counting, socket.socket(fileno=peer.detach()))
    pair.connection.output.write(b"frame")
    # Now it waits for the socket, to read and to write.
    wait_until(lambda: active_watchers() == before + 2)
    polls()
    assert active_watchers() == before + 2
    pair.connection.abort()
    wait_until(lambda: active_watchers() == before)
    assert pair.connection.output.unsent == 0
    polls()
    assert pair.read_now() == b"fr"
    pair.peer.close()


def test_close_tells_its_reason_to_the_owner(pair: Pair) -> None:
    reason = ConnectionLost("for a reason")
    pair.connection.abort(reason)
    assert pair.owner.errors == [reason]


def test_after_close_nothing_is_sent_or_read_and_no_call_fails(pair: Pair) -> None:
    pair.connection.output.write(b"a")
    pair.connection.output.write(b"b")
    pair.peer.sendall(request(1))
    pair.connection.abort()
    assert pair.connection.output.write(b"c") > pair.connection.output.sent
    pair.connection.input.pause_reading()
    pair.connection.input.resume_reading()
    pair.connection.close()
    polls()
    assert pair.owner.events == ["closed"]
    assert pair.sends == [b"a"]


def test_a_closed_connection_is_not_kept_in_memory() -> None:
    owner = Owner()
    ours, peer = stdlib_socket.socketpair()
    connection = connection_over(ours, owner)
    connection.output.write(b"x" * 10_000_000)
    polls()
    connection.abort()
    polls()
    gone = weakref.ref(owner)
    del owner, connection
    gc.collect()
    assert gone() is None
    peer.close()


def test_a_closed_connection_keeps_nothing_of_what_was_unsent(full: Pair) -> None:
    frame = bytes(bytearray(50))
    before = sys.getrefcount(frame)
    for _ in range(5):
        full.connection.output.write(frame)
    assert sys.getrefcount(frame) > before
    full.connection.abort()
    polls()
    assert sys.getrefcount(frame) == before


def test_close_when_sent_closes_at_once_if_all_is_sent(pair: Pair) -> None:
    pair.connection.output.write(b"frame")
    pair.connection.close()
    assert pair.connection.closed
    assert pair.owner.errors == [None]
    assert pair.read(5) == b"frame"
    assert pair.peer.recv(1) == b""


def test_close_when_sent_sends_the_other_writes_of_the_turn_first(pair: Pair) -> None:
    for frame in (b"a", b"b", b"c"):
        pair.connection.output.write(frame)
    pair.connection.close()
    assert not pair.connection.closed
    assert pair.connection.state is CLOSING
    assert pair.read(3) == b"abc"
    assert pair.peer.recv(1) == b""
    assert pair.owner.events == ["closed"]


def test_close_when_sent_waits_for_a_peer_that_reads_slowly(full: Pair) -> None:
    full.connection.output.write(b"frame")
    polls()
    full.connection.close()
    full.connection.close()
    for taken in range(5):
        assert not full.connection.closed
        full.socket.room = 1
        wait_until(lambda: full.socket.room == 0)
        assert full.read(1) == b"frame"[taken : taken + 1]
    assert full.peer.recv(1) == b""
    assert full.owner.events == ["closed"]


def test_close_when_sent_reads_no_more(full: Pair) -> None:
    full.connection.output.write(b"frame")
    full.connection.close()
    full.peer.sendall(request(1))
    polls()
    full.connection.input.resume_reading()
    polls()
    assert full.owner.events == []
    full.socket.room = ALL_ROOM
    assert full.read(5) == b"frame"
    wait_until(lambda: full.connection.closed)
    assert full.owner.events == ["closed"]


def test_an_owner_that_closes_when_sent_is_told_of_no_more_messages(full: Pair) -> None:
    full.connection.output.write(b"frame")
    full.owner.on_message = lambda message: full.connection.close()
    full.peer.sendall(request(1) + request(2) + request(3))
    wait_until(lambda: full.owner.messages)
    polls()
    assert ids(full.owner) == [1]
    full.socket.room = ALL_ROOM
    assert full.read(5) == b"frame"


def test_close_when_sent_gives_up_when_the_peer_is_gone(full: Pair) -> None:
    full.connection.output.write(b"frame")
    polls()
    full.connection.close()
    full.peer.close()
    full.socket.room = ALL_ROOM
    wait_until(lambda: full.connection.closed)
    assert full.owner.events == ["closed"]
    assert isinstance(full.owner.errors[0], OSError)


# A peer that is gone


def test_what_the_peer_said_before_it_went_is_read_before_the_connection_closes(pair: Pair) -> None:
    pair.peer.sendall(request(1) + request(2))
    pair.peer.close()
    pair.connection.output.write(b"too late")
    # A write raises nothing, and tells nothing yet.
    assert pair.owner.events == []
    wait_until(lambda: pair.connection.closed)
    assert ids(pair.owner) == [1, 2]
    # Where the hub is late, the end of the input is read before anything else is written.
    assert [event for event in pair.owner.events if event != "input end"] == ["message", "message", "closed"]
    assert isinstance(pair.owner.errors[0], (BrokenPipeError, ConnectionResetError))


def test_all_that_the_peer_said_before_it_went_is_read(pair: Pair) -> None:
    size = 50_000
    for id in (1, 2, 3):
        pair.peer.sendall(request(id, b"x" * size))
    pair.peer.close()
    pair.connection.output.write(b"too late")
    wait_until(lambda: pair.connection.closed)
    assert ids(pair.owner) == [1, 2, 3]


def test_a_later_write_of_a_turn_may_be_the_one_that_finds_the_peer_gone(pair: Pair) -> None:
    pair.connection.output.write(b"in time")
    second = pair.connection.output.write(b"too late")
    pair.peer.sendall(request(1))
    pair.peer.close()
    wait_until(lambda: pair.connection.closed)
    assert pair.owner.events == ["message", "closed"]
    assert pair.connection.output.sent == 1
    assert pair.connection.output.take_back(second)


def test_writes_after_a_failed_one_are_numbered_and_never_sent(pair: Pair) -> None:
    pair.peer.close()
    assert [pair.connection.output.write(b"a") > pair.connection.output.sent for _ in range(3)] == [
        True,
        True,
        True,
    ]
    assert [pair.connection.output.take_back(sequence) for sequence in (1, 2, 3)] == [True, True, True]
    wait_until(lambda: pair.connection.closed)
    assert pair.connection.output.sent == 0
    assert pair.sends == []


def test_an_owner_that_closes_while_the_rest_is_read_is_told_of_no_more(pair: Pair) -> None:
    pair.owner.on_message = lambda message: pair.connection.abort()
    pair.peer.sendall(request(1) + request(2))
    pair.peer.close()
    pair.connection.output.write(b"too late")
    wait_until(lambda: pair.connection.closed)
    polls()
    assert ids(pair.owner) == [1]
    assert pair.owner.errors == [None]


def test_a_peer_that_is_gone_leaves_no_watcher_and_wakes_the_writers(crowded: Pair) -> None:
    polls()
    waiting = gevent.spawn(crowded.connection.output.writers.wait_for_room, "send_request", LONG)
    wait_until(lambda: waiting_on(waiting))
    crowded.peer.close()
    crowded.socket.room = ALL_ROOM
    assert waiting.get(timeout=LONG) is True
    assert crowded.connection.closed
    assert crowded.owner.events[-1] == "closed"


def test_an_error_of_a_read_closes_the_connection_with_it(pair: Pair) -> None:
    error = OSError(errno.EHOSTUNREACH, "no route")
    pair.socket.recv_errors.append(error)
    pair.peer.sendall(request(1))
    wait_until(lambda: pair.connection.closed)
    assert pair.owner.errors == [error]
    assert pair.owner.events == ["closed"]


# A last word, and none at all


def test_a_last_frame_goes_out_at_once_or_not_at_all(pair: Pair) -> None:
    pair.connection.output.write_last(b"last")
    assert pair.read_now() == b"last"
    pair.connection.abort()
    pair.connection.output.write_last(b"too late")
    assert pair.sends == [b"last"]


def test_a_last_frame_does_not_tear_another_apart(make_pair: MakePair) -> None:
    pair = make_pair(room=2)
    pair.connection.output.write(b"frame")
    pair.socket.room = 2
    pair.connection.output.write_last(b"last")
    assert b"".join(pair.sends) == b"fram"


def test_a_last_frame_goes_behind_all_that_is_written(make_pair: MakePair) -> None:
    pair = make_pair(room=2)
    pair.connection.output.write(b"frame")
    pair.connection.output.write(b"another")
    pair.socket.room = ALL_ROOM
    pair.connection.output.write_last(b"last")
    assert b"".join(pair.sends) == b"frameanotherlast"
    assert pair.read(5) == b"frame"


def test_to_forsake_a_connection_sends_nothing_tells_nobody_and_leaves_no_watcher(crowded: Pair) -> None:
    polls()
    crowded.socket.room = ALL_ROOM
    crowded.connection.abandon()
    assert crowded.connection.closed
    crowded.connection.abort()
    crowded.connection.close()
    crowded.connection.input.pause_reading()
    crowded.connection.input.resume_reading()
    polls()
    assert crowded.owner.events == []
    assert crowded.peer.recv(1) == b""


# A peer that stalls


def test_a_peer_that_stalls_in_the_middle_of_a_message_is_dropped(make_pair: MakePair) -> None:
    pair = make_pair(stall_timeout=0.03)
    started = time.monotonic()
    pair.peer.sendall(request(1) + request(2)[:-1])
    wait_until(lambda: pair.connection.closed)
    assert time.monotonic() - started >= 0.03
    assert pair.owner.events == ["message", "broken", "closed"]
    ((error, refused),) = pair.owner.broken
    assert isinstance(error, ConnectionLost)
    assert "stalled for 0.03 s" in str(error)
    assert refused is None


def test_a_peer_that_is_silent_between_messages_is_not_dropped(make_pair: MakePair) -> None:
    pair = make_pair(stall_timeout=0.4)

    def is_watched() -> bool:
        watch = pair.connection.input._stall
        return watch is not None and watch.timer is not None

    pair.peer.sendall(request(1)[:-1])
    wait_until(is_watched)
    pair.peer.sendall(request(1)[-1:] + request(2))
    wait_until(lambda: len(pair.owner.messages) == 2)
    wait_until(lambda: not is_watched(), "the end of the watch")
    assert pair.owner.events == ["message", "message"]


@pytest.mark.parametrize("closing", [True, False])
def test_a_peer_that_does_not_read_is_dropped_only_if_the_connection_is_to_be_closed(
    make_pair: MakePair, closing: bool
) -> None:
    pair = make_pair(room=NO_ROOM, stall_timeout=0.02)
    pair.connection.output.write(b"frame")
    if closing:
        pair.connection.close()
        wait_until(lambda: pair.connection.closed)
        assert pair.owner.events == ["broken", "closed"]
    else:
        gevent.sleep(0.06)
        assert pair.owner.events == []


def test_a_peer_that_we_do_not_read_from_does_not_stall(make_pair: MakePair) -> None:
    pair = make_pair(stall_timeout=0.02)
    pair.owner.on_message = lambda message: pair.connection.input.pause_reading()
    pair.peer.sendall(request(1) + request(2)[:-1])
    wait_until(lambda: pair.owner.messages)
    gevent.sleep(0.06)
    assert pair.owner.events == ["message"]
    # But from when we do, it has to go on.
    pair.connection.input.resume_reading()
    wait_until(lambda: pair.connection.closed)
    assert pair.owner.events == ["message", "broken", "closed"]


def test_an_owner_that_closes_between_the_pieces_of_a_message_is_told_of_no_stall(
    make_pair: MakePair,
) -> None:
    pair = make_pair(stall_timeout=0.01)
    polls()
    before = active_watchers()
    pair.owner.on_message = lambda message: pair.connection.abort()
    pair.peer.sendall(request(1) + request(2)[:-1])
    wait_until(lambda: pair.connection.closed)
    wait_until(lambda: active_watchers() < before)
    gevent.sleep(0.05)
    assert pair.owner.events == ["message", "closed"]


# The socket itself


def test_a_tcp_connection_has_no_delay_and_the_kernels_keepalive() -> None:
    ours, peer = tcp_pair()
    connection = connection_over(ours, Owner())
    try:
        tcp = socket.IPPROTO_TCP
        assert ours.getsockopt(tcp, socket.TCP_NODELAY)
        assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(stdlib_socket, "TCP_USER_TIMEOUT"):
            assert ours.getsockopt(tcp, stdlib_socket.TCP_USER_TIMEOUT) == 0
            idle, interval, probes = (
                ours.getsockopt(tcp, getattr(stdlib_socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            )
            # A machine that vanishes is noticed within about 30 s.
            assert 20 <= idle + interval * probes <= 40
    finally:
        connection.abort()
        peer.close()


def test_a_connection_never_blocks_on_its_socket() -> None:
    ours, peer = stdlib_socket.socketpair()
    connection = connection_over(ours, Owner())
    assert ours.getblocking() is False
    connection.output.write(b"x" * 10_000_000)
    assert connection.output.unsent > 0
    connection.abort()
    peer.close()


def test_messages_pass_over_tcp_in_both_directions() -> None:
    ours, peer = tcp_pair()
    here, there = Owner(), Owner()
    connection = connection_over(ours, here)
    other = connection_over(peer, there)
    for id in range(1, 4):
        connection.output.write(request(id))
        other.output.write(request(10 * id))
    wait_until(lambda: len(here.messages) == len(there.messages) == 3)
    assert (ids(here), ids(there)) == ([10, 20, 30], [1, 2, 3])
    connection.close()
    wait_until(lambda: "input end" in there.events)
    other.close()


def test_a_connection_shows_its_peer_and_its_state(full: Pair) -> None:
    assert "with the peer: open, unsent=0" in repr(full.connection)
    full.connection.output.write(b"frame")
    assert "open, unsent=5" in repr(full.connection)
    full.connection.close()
    assert "closing, unsent=5" in repr(full.connection)
    full.connection.abort()
    assert "closed" in repr(full.connection)
