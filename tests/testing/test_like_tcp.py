"""In-memory sockets do what the system's TCP sockets do."""

from __future__ import annotations

import errno
import fcntl
import select
import socket
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from random import Random
from typing import Any

import pytest

from helpers import wait_until
from ratchet import testing
from ratchet.testing._connection import ConnectionEnd

Outcome = bytes | int | str
Operation = Callable[[Any], Outcome]
Step = tuple[int, Operation]
"""What one of the sides, 0 or 1, does."""
States = dict[int, tuple[int, int]]
"""Of each side that is open: libev's bits for what it is ready for, and the bytes it has not read."""


def receive(size: int) -> Operation:
    return lambda side: side.receive(size)


def send(data: bytes) -> Operation:
    return lambda side: side.send(data)


def shut_down(side: Any) -> Outcome:
    return str(side.shut_down())


def close(side: Any) -> Outcome:
    return str(side.close())


class Real:
    """One side of a TCP connection of the system's."""

    def __init__(self, raw: socket.socket) -> None:
        self._raw = raw
        raw.setblocking(False)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self, size: int) -> bytes:
        return self._raw.recv(size)

    def send(self, data: bytes) -> int:
        return self._raw.send(data)

    def shut_down(self) -> None:
        try:
            self._raw.shutdown(socket.SHUT_WR)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def close(self) -> None:
        self._raw.close()

    def state(self) -> tuple[int, int]:
        return self._readiness(), int.from_bytes(fcntl.ioctl(self._raw, termios.FIONREAD, bytes(4)), "little")

    def _readiness(self) -> int:
        poll = select.poll()
        poll.register(self._raw, select.POLLIN | select.POLLOUT)
        events = poll.poll(0)
        bits = events[0][1] if events else 0
        if bits & (select.POLLHUP | select.POLLERR):
            return 3
        return (1 if bits & select.POLLIN else 0) | (2 if bits & select.POLLOUT else 0)


class InMemory:
    """One side of an in-memory connection."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def receive(self, size: int) -> Any:
        return self._made.receive(size)

    def send(self, data: bytes) -> Any:
        return self._made.send(data)

    def shut_down(self) -> None:
        self._made.end_output()

    def close(self) -> None:
        self._made.close()

    def state(self) -> tuple[int, int]:
        end: ConnectionEnd = self._made._end
        return end.readiness(), end.incoming.unread


@contextmanager
def real_pair() -> Iterator[tuple[Real, Real]]:
    with ExitStack() as stack:
        listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
        connected = stack.enter_context(closing(socket.create_connection(listener.getsockname())))
        accepted = stack.enter_context(closing(listener.accept()[0]))
        yield Real(connected), Real(accepted)


@contextmanager
def memory_pair() -> Iterator[tuple[InMemory, InMemory]]:
    listener, connected = testing.socket_pair()
    accepted, _ = listener.accept()
    yield InMemory(connected), InMemory(accepted)
    for each in listener, connected, accepted:
        each.close()


def outcome(operation: Operation, side: Any) -> Outcome:
    try:
        return operation(side)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def program(random: Random) -> list[Step]:
    """Operations on either side; nothing comes after closing."""
    steps: list[Step] = []
    open_sides = [0, 1]
    for _ in range(random.randrange(2, 14)):
        if not open_sides:
            break
        side = random.choice(open_sides)
        operation = random.choice(
            [
                receive(random.choice([1, 10, 1000])),
                receive(1000),
                send(b"x" * random.choice([1, 5, 100])),
                send(b"x" * 20),
                shut_down,
                close,
            ]
        )
        steps.append((side, operation))
        if operation is close:
            open_sides.remove(side)
    return steps


def in_memory(steps: list[Step]) -> Iterator[tuple[Outcome, States]]:
    """What each step gives on in-memory sockets, and the states of the open sides then."""
    open_sides = {0, 1}
    with testing.virtual_time(), memory_pair() as sides:
        for number, operation in steps:
            got = outcome(operation, sides[number])
            open_sides -= {number} if operation is close else set()
            yield got, {side: sides[side].state() for side in open_sides}


@pytest.mark.skipif(sys.platform != "linux", reason="they are like Linux's")
@pytest.mark.parametrize("seed", range(300))
def test_what_they_return_and_raise_is_what_the_systems_do(seed: int) -> None:
    steps = program(Random(seed))
    expected = list(in_memory(steps))
    with real_pair() as sides:
        for (number, operation), (got, states) in zip(steps, expected, strict=True):
            assert outcome(operation, sides[number]) == got
            # Even this machine's own network takes its time.
            wait_until(lambda: {side: sides[side].state() for side in states} == states, f"{states}")  # noqa: B023
