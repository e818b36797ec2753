"""Those who write on a connection, and wait while too much is unsent."""

from __future__ import annotations

from typing import Any

import gevent
import pytest

from helpers import LONG, turns, wait_until
from ratchet._loop import loop_of
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket.interfaces import BROKEN, CLOSED, Stream, StreamState
from ratchet.bus._socket.outbox import Outbox
from ratchet.bus._socket.writers import Writers

HIGH_WATER = 10


class Owner:
    """Counts what it is told."""

    budget = None
    read_size = 0

    def __init__(self) -> None:
        self.paused = self.resumed = 0

    def message_begun(self, size: int) -> bool:
        return True

    def note_unsent(self) -> None:
        """Nothing is counted here."""

    def pause_writing(self) -> None:
        self.paused += 1

    def socket_closing(self) -> None:
        """Nothing is asked of the socket."""

    def resume_writing(self) -> None:
        self.resumed += 1

    def message_received(self, message: Any) -> None: ...
    def short_received(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> None: ...
    def eof_received(self) -> None: ...
    def protocol_error(self, error: Any, refused: Any) -> None: ...
    def connection_lost(self, error: Any) -> None: ...


class Line:
    """Writers, with what they write to."""

    def __init__(self) -> None:
        self.stream = Stream(Limits(), "the peer")
        self.owner = Owner()
        self.outbox = Outbox()
        self.writers = Writers(self.stream, self.owner, self.outbox, HIGH_WATER, loop_of(gevent.get_hub()))

    def fill(self) -> None:
        """Write as much as may be unsent."""
        self.outbox.written += 1
        self.outbox.add(self.outbox.written, bytes(HIGH_WATER))
        self.writers.pause()

    def send(self) -> None:
        """Have all of it leave, as a flush does."""
        self.outbox.clear()
        self.writers.look_for_room()
        gevent.get_hub().loop.run_callback(self.writers.let_go_on)
        turns()

    def waiting(self, timeout: float | None = LONG) -> gevent.Greenlet[..., bool]:
        """A thread that waits for room."""
        waiting = gevent.spawn(self.writers.wait_for_room, "send_request", timeout)
        wait_until(lambda: waiting.ready() or self.writers.line, "the wait")
        return waiting


@pytest.fixture
def line() -> Line:
    return Line()


def test_below_the_mark_nobody_waits(line: Line) -> None:
    assert not line.writers.above_high_water
    assert line.writers.wait_for_room("send_request", 0) is True


def test_at_the_mark_the_owner_is_told_and_writers_wait_until_it_is_sent(line: Line) -> None:
    line.fill()
    assert line.owner.paused == 1
    waiting = [line.waiting(), line.waiting()]
    turns()
    assert not any(each.ready() for each in waiting)
    line.send()
    assert [each.get(timeout=LONG) for each in waiting] == [True, True]
    assert not line.writers.above_high_water


def test_one_who_comes_while_others_wait_waits_behind_them(line: Line) -> None:
    line.fill()
    first = line.waiting()
    line.outbox.clear()
    line.writers.look_for_room()
    assert line.writers.above_high_water
    line.send()
    assert first.get(timeout=LONG) is True
    assert not line.writers.above_high_water


def test_a_wait_ends_when_its_time_is_over(line: Line) -> None:
    line.fill()
    assert line.writers.wait_for_room("send_request", 0.01) is False
    assert line.writers.above_high_water


def test_who_wants_to_hear_of_room_is_told_once(line: Line) -> None:
    line.fill()
    line.writers.wants_resume = True
    line.writers.let_go_on()
    assert line.owner.resumed == 0
    line.send()
    line.send()
    assert line.owner.resumed == 1


@pytest.mark.parametrize("state", [BROKEN, CLOSED])
def test_nobody_waits_for_room_on_a_connection_that_is_over(line: Line, state: StreamState) -> None:
    line.fill()
    waiting = line.waiting()
    line.stream.state = state
    line.writers.look_for_room()
    line.writers.wake_soon()
    assert waiting.get(timeout=LONG) is True
    assert not line.writers.above_high_water
    assert line.writers.wait_for_room("send_request", None) is True


def test_the_writers_of_a_parent_are_not_woken(line: Line) -> None:
    line.writers.leave_to_parent()
    line.fill()
    waiting = line.waiting()
    line.writers.leave_to_parent()
    line.send()
    assert not waiting.ready()
    waiting.kill()
