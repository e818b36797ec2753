"""`chat.py`: guests with plain sockets, who see what they would see in `nc`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import gevent
import pytest
from gevent import socket

from examples.programs import ListeningProgram, listening
from helpers import LONG

pytestmark = pytest.mark.slow


class Guest:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._lines = connection.makefile("r", encoding="utf-8", newline="\n")

    def type(self, line: str) -> None:
        self.connection.sendall(line.encode() + b"\n")

    def reads(self, *expected: str) -> None:
        """The next lines are these."""
        assert [self._lines.readline() for _ in expected] == [line + "\n" for line in expected]

    def reads_last(self, *expected: str) -> None:
        """The next lines are these, and then the room has closed the connection."""
        self.reads(*expected)
        assert self._lines.read() == ""

    def goes(self) -> None:
        self._lines.close()
        self.connection.close()


class Room:
    def __init__(self, program: ListeningProgram) -> None:
        self.program = program
        host, port = program.address.split(":")
        self._address = host, int(port)

    @contextmanager
    def stranger(self) -> Iterator[Guest]:
        """Somebody who has been asked for a name."""
        guest = Guest(socket.create_connection(self._address, timeout=LONG))
        try:
            guest.reads("What is your name?")
            yield guest
        finally:
            guest.goes()

    @contextmanager
    def guest(self, name: str) -> Iterator[Guest]:
        """Somebody who has come in."""
        with self.stranger() as guest:
            guest.type(name)
            guest.reads(f"* {name} comes in")
            yield guest


@pytest.fixture
def room() -> Iterator[Room]:
    with listening("chat.py") as program:
        yield Room(program)


def test_guests_read_what_all_of_them_type(room: Room) -> None:
    with room.guest("Ann") as ann:
        with room.guest("Ben") as ben:
            ann.reads("* Ben comes in")
            ann.type("Hello Ben!")
            for guest in (ann, ben):
                guest.reads("Ann: Hello Ben!")
            ben.type("Good evening, \N{LATIN SMALL LETTER A WITH GRAVE} vous.\x1b[2J\r")
            for guest in (ann, ben):
                guest.reads("Ben: Good evening, \N{LATIN SMALL LETTER A WITH GRAVE} vous.[2J")
        ann.reads("* Ben goes")


def test_a_name_is_given_once(room: Room) -> None:
    with room.guest("Ann") as ann, room.stranger() as stranger:
        for name in ("", "Ann"):
            stranger.type(name)
            stranger.reads("Please choose another name.")
        stranger.type("Ann II")
        stranger.reads("* Ann II comes in")
        ann.reads("* Ann II comes in")


def test_a_guest_who_hears_nothing_more_may_still_be_in_the_midst_of_a_line(room: Room) -> None:
    with room.guest("Ann") as ann, room.guest("Ben") as ben:
        ben.connection.sendall(b"the end")
        ben.connection.shutdown(socket.SHUT_WR)
        ann.reads("* Ben comes in", "Ben: the end", "* Ben goes")
        ben.reads_last("Ben: the end")


def test_a_guest_who_does_not_read_holds_up_nobody(room: Room) -> None:
    line = "x" * 900
    with room.guest("Ann") as ann, room.guest("Ben"), room.stranger() as stranger:
        ann.reads("* Ben comes in")
        # More than the system keeps for Ben.
        for _ in range(200):
            ann.connection.sendall(f"{line}\n".encode() * 50)
            ann.reads(*[f"Ann: {line}"] * 50)
        stranger.type("Cid")
        stranger.reads("* Cid comes in")


def test_a_guest_who_types_without_end_leaves_the_others_their_turn(room: Room) -> None:
    with room.guest("Ann") as ann:

        def type_without_end() -> None:
            while True:
                ann.connection.sendall(b"\n" * 100_000)
                gevent.sleep(0)

        typing = gevent.spawn(type_without_end)
        try:
            for _ in range(3):
                with room.stranger() as stranger:
                    stranger.type("Ann")
                    stranger.reads("Please choose another name.")
        finally:
            typing.kill()


def test_who_is_silent_is_shown_out() -> None:
    with listening("chat.py", "--idle", 0.2) as program:
        room = Room(program)
        with room.stranger() as stranger:
            stranger.reads_last("You were silent for too long. Good bye!")
        with room.guest("Ann") as ann:
            ann.reads_last("You were silent for too long. Good bye!")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_the_room_closes_when_everybody_has_read_that(room: Room, number: signal.Signals) -> None:
    with room.guest("Ann") as ann, room.guest("Ben") as ben, room.stranger():
        ann.reads("* Ben comes in")
        room.program.send(number)
        for guest in (ann, ben):
            guest.reads("* the room closes")
        assert room.program.end() == (0, [], "")
        for guest in (ann, ben):
            guest.reads_last()
