"""What a user may say of a line, and that each misfortune does what its name says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest

from ratchet import testing
from ratchet.testing import Faults

Socket = Any


@contextmanager
def pair(seed: int = 0, **faults: Any) -> Iterator[tuple[Socket, Socket, testing.Clock]]:
    """Two connected sockets, and the clock."""
    with testing.virtual_time(seed) as clock:
        listener, connected = testing.socket_pair(Faults(**faults))
        accepted, _ = listener.accept()
        yield connected, accepted, clock
        for each in listener, connected, accepted:
            each.close()


def received(socket: Socket, size: int = 1 << 20) -> bytes | str | None:
    """What there is to read; None for nothing yet, and the name of the error for a broken connection."""
    try:
        data: bytes = socket.receive(size)
    except BlockingIOError:
        return None
    except OSError as error:
        return type(error).__name__
    return data


def all_received(socket: Socket) -> list[bytes | str]:
    """Everything that comes, piece by piece, up to an end or an error, within 10 s."""
    pieces: list[bytes | str] = []
    for _ in range(1000):
        got = received(socket)
        if got is not None:
            pieces.append(got)
            if not got or isinstance(got, str):
                break
        gevent.sleep(0.01)
    return pieces


def test_without_faults_what_is_sent_is_there_at_once() -> None:
    with pair() as (left, right, clock):
        assert left.send(b"hello") == 5
        assert received(right) == b"hello"
        assert left.undelivered() == 0
        assert clock.now == 0


def test_latency_is_exact_and_one_way() -> None:
    with pair(latency=0.25) as (left, right, clock):
        left.send(b"hello")
        assert left.undelivered() == 5
        gevent.sleep(0.249)
        assert received(right) is None
        gevent.sleep(0.002)
        assert received(right) == b"hello"
        assert left.undelivered() == 0
        assert clock.now == pytest.approx(0.251, abs=1e-5)


def test_pieces_that_take_longer_hold_up_those_behind_them() -> None:
    with pair(latency=(0.0, 1.0), delayed=0.3, delay=(1.0, 5.0), split=0.5) as (left, right, _):
        sent = bytes(range(256)) * 4
        for start in range(0, len(sent), 16):
            left.send(sent[start : start + 16])
        pieces = all_received(right)
        assert b"".join(piece for piece in pieces if isinstance(piece, bytes)) == sent


def test_what_is_split_arrives_in_two_pieces() -> None:
    with pair(split=1.0) as (left, right, _):
        left.send(b"hello")
        left.end_output()
        pieces = all_received(right)
        assert len(pieces) == 3
        assert b"".join(pieces) == b"hello"  # type: ignore[arg-type]


def test_a_partial_send_takes_less_than_there_is_room_for() -> None:
    with pair(partial=1.0) as (left, right, _):
        count = left.send(b"hello")
        assert 1 <= count < 5
        assert received(right) == b"hello"[:count]
        assert left.send(b"x") == 1


@pytest.mark.parametrize(
    ("kind", "end"), [("cut", b""), ("reset", "ConnectionResetError")], ids=["cut", "reset"]
)
@pytest.mark.parametrize("latency", [0.0, 0.01])
@pytest.mark.parametrize("at", [0, 1, 7, 100])
def test_a_connection_is_lost_at_an_exact_byte(kind: str, end: object, latency: float, at: int) -> None:
    with pair(latency=latency, lost_at=at, **{kind: 1}) as (left, right, _):
        told: list[object] = []
        for _ in range(20):
            try:
                left.send(b"0123456789")
            except OSError as error:
                told.append(type(error).__name__)
                break
        *data, last = all_received(right)
        assert b"".join(data) == (b"0123456789" * 20)[:at]  # type: ignore[arg-type]
        assert last == end
        # The other side learns of it as well, be it by what it sends into the void.
        assert end in (*told, *all_received(left)) or told


def test_what_is_sent_after_a_cut_is_answered_by_a_reset() -> None:
    with pair(cut=1, lost_at=5) as (left, right, _):
        left.send(b"hello, world")
        assert [received(right), received(right)] == [b"hello", b""]
        assert received(left) == b""
        right.send(b"anybody?")
        with pytest.raises(BrokenPipeError):
            right.send(b"there?")


def test_a_socket_takes_no_more_than_its_buffers_hold() -> None:
    with pair(send_buffer=100, receive_buffer=50) as (left, right, _):
        assert left.send(b"x" * 1000) == 100
        assert left.undelivered() == 50
        assert left.send(b"x" * 1000) == 50
        with pytest.raises(BlockingIOError):
            left.send(b"x")
        assert left.undelivered() == 100
        # A peer that reads opens its window, and what waited before it goes on.
        assert received(right) == b"x" * 50
        assert left.undelivered() == 50
        assert left.send(b"x" * 1000) == 50


def test_a_socket_is_writable_again_when_a_third_is_free() -> None:
    with pair(send_buffer=90, receive_buffer=30) as (left, right, _):
        left.send(b"x" * 1000)
        left.send(b"x" * 1000)
        waiting = gevent.spawn(gevent.socket.wait_write, left.fileno())
        gevent.sleep(1)
        right.receive(29)
        gevent.sleep(1)
        assert not waiting.ready()
        right.receive(1)
        gevent.sleep(1)
        assert waiting.ready()


def test_what_happens_has_the_probability_that_was_given() -> None:
    with testing.virtual_time(1):
        outcomes: Counter[object] = Counter()
        for _ in range(1000):
            listener, connected = testing.socket_pair(Faults(reset=0.2, cut=0.5, lost_at=3))
            accepted, _ = listener.accept()
            connected.send(b"hello")
            outcomes[received(accepted), received(accepted)] += 1
        assert outcomes.keys() == {
            (b"hello", None),
            (b"hel", b""),
            (b"hel", "ConnectionResetError"),
        }
        assert 150 < outcomes[b"hel", "ConnectionResetError"] < 250
        assert 350 < outcomes[b"hel", b""] < 450


def test_the_same_seed_has_the_same_faults() -> None:
    def run(seed: int) -> list[bytes | str]:
        with pair(seed, latency=(0, 1), split=0.5, partial=0.5, reset=0.5) as (left, right, _):
            for _ in range(10):
                left.send(b"0123456789")
            return all_received(right)

    assert [run(seed) for seed in range(5)] == [run(seed) for seed in range(5)]
    assert run(1) != run(2)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("split", 1.5, "probability from 0 to 1"),
        ("reset", -0.1, "probability from 0 to 1"),
        ("cut", "often", "probability from 0 to 1"),
        ("cut", True, "probability from 0 to 1"),
        ("latency", -1, "from 0 up"),
        ("latency", (2, 1), "from 0 up"),
        ("latency", float("nan"), "from 0 up"),
        ("latency", float("inf"), "from 0 up"),
        ("latency", "1", "pair of seconds"),
        ("delay", (1, 2, 3), "pair of seconds"),
        ("lost_at", 1.5, "pair of whole numbers"),
        ("lost_at", (5, 1), "from 0 up"),
        ("send_buffer", 0, "bytes above 0"),
        ("receive_buffer", "64k", "bytes above 0"),
    ],
)
def test_wrong_faults_are_refused_by_name(name: str, value: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"{name} must be .*{words}.*, not "):
        Faults(**{name: value})


def test_faults_are_given_by_name_alone() -> None:
    with pytest.raises(TypeError):
        Faults(0.1)  # type: ignore[call-arg]
    assert Faults(latency=1) == Faults(latency=1)


def test_what_is_no_faults_is_refused() -> None:
    with testing.virtual_time(), pytest.raises(TypeError, match=r"faults must be Faults or None, not 0\.1"):
        testing.socket_pair(0.1)  # type: ignore[arg-type]
