"""The outbox: what leaves is what was written, whole frames are told by their numbers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ratchet.bus._socket import wire
from ratchet.bus._socket.outbox import Outbox

LARGE = 300 * 1024
"""More than what is joined for one send."""


class Line:
    """An outbox, what was written to it, and what has left."""

    def __init__(self) -> None:
        self.outbox = Outbox()
        self.frames: dict[int, bytes] = {}
        self.left = b""

    def write(self, *pieces: bytes) -> int:
        """Write a frame, of one piece or of several; returns its number."""
        self.outbox.written = number = self.outbox.written + 1
        self.outbox.add(number, pieces[0] if len(pieces) == 1 else list(pieces))
        self.frames[number] = b"".join(pieces)
        return number

    def write_short(self, body: bytes) -> int:
        """Write a response of one part, together with others if that is possible."""
        frame = wire.encode(wire.RESPONSE, 0, 7, 0, [body])
        number = self.outbox.written + 1
        if not self.outbox.add_short(number, wire.RESPONSE, 0, 7, 0, body):
            return self.write(frame)
        self.outbox.written = number
        self.frames[number] = frame
        return number

    def send(self, room: int) -> None:
        """Let a socket take as much as `room`."""
        while self.outbox and room:
            data = b"".join(self.outbox.chunk())
            taken = data[:room]
            self.left += taken
            room -= len(taken)
            self.outbox.advance(len(taken))

    def take_back(self, number: int) -> bool:
        taken = self.outbox.take_back(number)
        if taken:
            self.frames[number] = b""
        return taken

    def check(self) -> None:
        written = b"".join(self.frames.values())
        assert written.startswith(self.left)
        assert self.outbox.size == len(written) - len(self.left)


def test_a_large_frame_in_pieces_is_not_copied() -> None:
    line = Line()
    body = b"x" * LARGE
    line.write(b"small")
    line.write(b"head", body)
    small, large = line.outbox.chunk()
    assert small == b"smallhead"
    assert large is body


def test_a_frame_in_pieces_has_left_when_its_last_piece_has() -> None:
    line = Line()
    number = line.write(b"head", b"x" * LARGE)
    line.send(4)
    assert line.outbox.sent == 0
    assert not line.outbox.between_frames
    line.send(LARGE)
    assert line.outbox.sent == number
    assert line.outbox.between_frames


@pytest.mark.parametrize("room", [1, 4, 5, LARGE])
def test_a_frame_in_pieces_of_which_something_left_cannot_be_taken_back(room: int) -> None:
    line = Line()
    first, second = line.write(b"head", b"x" * LARGE), line.write(b"tail", b"y" * LARGE)
    line.send(room)
    assert not line.take_back(first)
    assert line.take_back(second)
    line.check()
    line.send(3 * LARGE)
    assert line.left == b"head" + b"x" * LARGE


PIECES = st.lists(st.sampled_from([b"", b"a", b"bcd", b"e" * 1000, b"f" * LARGE]), min_size=1, max_size=3)
WAYS = st.sampled_from(["one", "several", "short"])


# A busy machine must not fail a test.
@settings(deadline=None)
@given(st.lists(st.tuples(PIECES, WAYS, st.integers(0, 2 * LARGE), st.integers(0, 8)), max_size=12))
def test_whatever_is_written_sent_and_taken_back_frames_stay_whole(
    steps: list[tuple[list[bytes], str, int, int]],
) -> None:
    line = Line()
    for pieces, way, room, back in steps:
        if way == "several":
            for piece in pieces:
                line.write(piece)
        elif way == "short":
            for piece in pieces:
                line.write_short(piece)
        else:
            line.write(*pieces)
        numbers = list(line.frames)
        number = numbers[-1 - back % len(numbers)]
        untouched = len(line.left) <= sum(len(f) for n, f in line.frames.items() if n < number)
        whole = number <= line.outbox.sent
        taken = line.take_back(number)
        assert not (taken and whole)
        assert taken or not untouched or whole
        line.check()
        line.send(room)
        line.check()
    line.send(100 * LARGE)
    assert line.left == b"".join(line.frames.values())
    assert line.outbox.sent == line.outbox.written
    assert not line.outbox


def test_frames_that_are_kept_together_leave_as_they_are_and_are_told_by_their_numbers() -> None:
    line = Line()
    for number in range(1, 101):
        assert line.write_short(b"%d" % number) == number
    (data,) = line.outbox.chunk()
    assert data == b"".join(line.frames.values())
    line.send(len(line.frames[1]) + len(line.frames[2]) + 1)
    assert line.outbox.sent == 2
    assert not line.take_back(3)
    assert line.take_back(5)
    line.write_short(b"last")
    line.send(LARGE)
    assert line.left == b"".join(line.frames.values())
    assert (line.outbox.sent, line.outbox.size) == (101, 0)


def test_what_is_no_bytes_is_not_kept() -> None:
    outbox = Outbox()
    text: Any = "text"
    with pytest.raises(TypeError):
        outbox.add_short(1, wire.RESPONSE, 0, 7, 0, text)
    assert (outbox.size, bool(outbox)) == (0, False)


def test_a_frame_is_taken_back_where_numbers_do_not_follow_each_other() -> None:
    outbox = Outbox()
    # As a signal handler leaves them that writes in the middle of a write.
    for number in (1, 3, 2, 5, 7):
        outbox.add(number, b"%d" % number)
    for number in (2, 7, 3):
        assert outbox.take_back(number)
    outbox.sent = 7
    assert not outbox.take_back(4)
    assert not outbox.take_back(0)
    assert b"".join(outbox.chunk()) == b"15"
    assert outbox.size == 2


class Counted(int):
    """A number that counts how often one is compared with another, which the pure build does by this."""

    comparisons = 0

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return int(self) == other

    __hash__ = int.__hash__


def test_taking_back_looks_at_no_other_frame() -> None:
    line = Line()
    numbers = [line.write(b"%d" % index) for index in range(100)]
    for number in reversed(numbers):
        assert line.outbox.take_back(Counted(number))
    assert Counted.comparisons <= len(numbers)
    assert line.outbox.size == 0
