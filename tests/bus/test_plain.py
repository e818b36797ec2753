"""The order in which plain requests are sent and noted, also when one interrupts another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ratchet.bus._socket.plain import DEFERRED, PlainSender


class Request:
    """A request at its client, as far as its sending goes."""

    def __init__(self, id: int) -> None:
        self.id = id
        self.frame_number = 0


class Outgoing:
    """Stands for the output, the role and the casts of one connection."""

    def __init__(self) -> None:
        self.frames: list[Any] = []
        self.order: list[int] = []
        self.open: dict[int, Any] = {}
        self.cast: list[Request] = []
        self.meanwhile: Callable[[], object] = lambda: None

    def write(self, frame: bytes) -> int:
        self.frames.append(frame)
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        return len(self.frames)

    def note(self, cast: Any) -> None:
        self.cast.append(cast)


def sender() -> tuple[Any, Outgoing]:
    outgoing: Any = Outgoing()
    return PlainSender(outgoing, outgoing, outgoing), outgoing


def test_requests_are_noted_in_the_order_in_which_they_are_written() -> None:
    plain, outgoing = sender()
    requests = [Request(7), Request(3)]
    for request in requests:
        plain.send(request, b"%d" % request.id)
    assert outgoing.frames == [b"7", b"3"]
    assert outgoing.order == [7, 3]
    assert [request.frame_number for request in requests] == [1, 2]


def test_one_that_a_signal_handler_sends_in_the_middle_of_another_goes_behind_it() -> None:
    plain, outgoing = sender()
    first, second, cast = Request(1), Request(2), Request(3)
    outgoing.open[2] = second
    states = []

    def handle_signal() -> None:
        plain.send(second, b"2")
        plain.send(cast, b"3")
        states.append(second.frame_number)

    outgoing.meanwhile = handle_signal
    plain.send(first, b"1")
    assert states == [DEFERRED]
    assert outgoing.frames == [b"1", b"2", b"3"]
    assert outgoing.order == [1, 2, 3]
    # What waits for its answer is open; a cast is told of when it is written.
    assert outgoing.cast == [cast]


def test_one_that_is_given_up_before_it_is_written_is_not_sent() -> None:
    plain, outgoing = sender()
    first, second = Request(1), Request(2)

    def handle_signal() -> None:
        plain.send(second, b"2")
        plain.take_back(second)

    outgoing.meanwhile = handle_signal
    plain.send(first, b"1")
    assert outgoing.frames == [b"1"]
    assert outgoing.order == [1]


def test_an_interrupted_sending_does_not_put_off_the_next_one() -> None:
    plain, outgoing = sender()

    def fail() -> None:
        raise KeyboardInterrupt

    outgoing.meanwhile = fail
    try:
        plain.send(Request(1), b"1")
    except KeyboardInterrupt:
        pass
    plain.send(Request(2), b"2")
    assert outgoing.frames == [b"1", b"2"]
    assert outgoing.order == [2]
