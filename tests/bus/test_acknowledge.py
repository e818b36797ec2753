"""When a peer's machine is found gone; tests/robustness/test_vanished_peer.py cuts real lines."""

from __future__ import annotations

import socket as stdlib_socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent import socket

from helpers import active_watchers, burn, wait_until
from ratchet.bus._transport import acknowledge
from ratchet.bus._transport.acknowledge import AcknowledgeWatch
from ratchet.bus._transport.transport import Transport

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how the peer answers")


@pytest.fixture(autouse=True)
def frequent_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledge, "_LOOK", 0.005)


class Line:
    """What the kernel says, look by look; the last answer stays."""

    tells_answers = True

    def __init__(self, *answers: tuple[int, float] | None) -> None:
        self.answers = list(answers)
        self.looks = 0
        self.gone = 0

    def awaited_answer(self) -> tuple[int, float] | None:
        self.looks += 1
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def on_gone(self) -> None:
        self.gone += 1

    def watch(self) -> AcknowledgeWatch:
        transport: Any = self
        watch = AcknowledgeWatch(gevent.get_hub(), transport, self.on_gone)
        watch.begin()
        return watch


@pytest.mark.parametrize(
    "answer",
    [(0, 0.0), (0, 1000.0), (2, 1000.0), (1000, 29.9), (3, 0.0)],
    ids=["answers", "reads nothing for long", "lost two probes", "was there just now", "is slow"],
)
def test_a_machine_that_may_be_there_is_watched_on(answer: tuple[int, float]) -> None:
    line = Line(answer)
    before = active_watchers()
    watch = line.watch()
    # It is not to keep the loop alive.
    assert active_watchers() == before
    wait_until(lambda: line.looks > 5)
    assert not line.gone
    watch.close()
    looks = line.looks
    gevent.sleep(0.02)
    assert line.looks == looks


def test_a_machine_that_left_three_tries_and_thirty_seconds_without_an_answer_is_gone() -> None:
    line = Line((0, 10.0), (3, 20.0), (6, 29.0), (7, 30.0))
    line.watch()
    wait_until(lambda: line.gone)
    assert line.looks == 4
    gevent.sleep(0.02)
    assert (line.looks, line.gone) == (4, 1)


def test_nothing_is_looked_at_once_all_is_delivered_until_something_is_sent() -> None:
    line = Line((0, 0.0), None)
    watch = line.watch()
    watch.begin()
    wait_until(lambda: line.looks == 2)
    gevent.sleep(0.02)
    assert line.looks == 2
    watch.begin()
    wait_until(lambda: line.looks == 3)
    assert not line.gone


# What the kernel says


@pytest.fixture
def opened() -> Iterator[Callable[[Any], Any]]:
    """Closes what is passed to it at the end of the test."""
    sockets: list[Any] = []

    def remember(opened: Any) -> Any:
        sockets.append(opened)
        return opened

    yield remember
    for each in sockets:
        each.close()


def tcp_pair(opened: Callable[[Any], Any]) -> tuple[Transport, Any]:
    listener = opened(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    ours = opened(socket.create_connection(listener.getsockname()))
    return Transport(ours), opened(listener.accept()[0])


def test_what_the_peers_kernel_has_is_not_awaited(opened: Callable[[Any], Any]) -> None:
    transport, _ = tcp_pair(opened)
    assert transport.awaited_answer() is None
    transport.send(b"x")
    wait_until(lambda: transport.awaited_answer() is None)


def test_a_peer_that_reads_nothing_answers_and_one_that_goes_on_is_not_watched_any_more(
    opened: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acknowledge, "_SILENCE", 0.0)
    transport, peer = tcp_pair(opened)
    gone: list[bool] = []
    watch = AcknowledgeWatch(gevent.get_hub(), transport, lambda: gone.append(True))
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += transport.send(b"x" * 1_000_000)
    watch.begin()
    # A hub that is late makes no difference: it is the kernel that is asked.
    burn(0.3)
    gevent.sleep(0.3)
    answer = transport.awaited_answer()
    assert answer is not None
    assert answer[0] < 3
    assert not gone
    while sent:
        sent -= len(peer.recv(1_000_000))
    wait_until(lambda: watch.timer is None)
    assert not gone


def test_nothing_is_awaited_of_a_unix_socket_or_one_that_is_closed(opened: Callable[[Any], Any]) -> None:
    ours, _ = (opened(each) for each in stdlib_socket.socketpair())
    unix = Transport(ours)
    unix.send(b"x")
    closed, _ = tcp_pair(opened)
    closed.close()
    for transport in (unix, closed):
        assert transport.awaited_answer() is None
    watch = AcknowledgeWatch(gevent.get_hub(), unix, lambda: None)
    watch.begin()
    assert watch.timer is None
