"""A chat room for `nc` and `telnet`: what one guest types, all of them read.

    python examples/chat.py               on a free port of 127.0.0.1
    python examples/chat.py --port 7000   on a port of your choice
    nc 127.0.0.1 7000                     a guest

The first line that a guest types is the guest's name.  Who types nothing for
--idle seconds is shown out.  On SIGTERM or SIGINT the room closes, as soon as
everybody has been told.
"""

from __future__ import annotations

import argparse
from collections import deque
from io import BufferedReader

from gevent.server import StreamServer
from gevent.socket import IPPROTO_TCP, TCP_NODELAY, socket

from ratchet import Alarm, NotPaused, Ratchet, thread

MAX_LINE = 1000  # bytes; a longer one becomes several
MAX_UNREAD = 100  # lines that wait for a guest; of more, the oldest are lost
SECONDS_TO_LEAVE = 2.0


class Guest:
    """Two threads for each: one reads what the guest types, `write` is the other."""

    def __init__(self, connection: socket) -> None:
        self.connection = connection
        self.unread: deque[str] = deque(maxlen=MAX_UNREAD)
        self.leaving = False
        self.writer = thread.attach_background(self.write)

    def write(self) -> None:
        """The thread that writes to the guest: it pauses while there is nothing to write."""
        try:
            while self.unread or not self.leaving:
                if not self.unread:
                    thread.pause()
                    continue
                lines = "".join(f"{line}\n" for line in self.unread)
                self.unread.clear()
                self.connection.sendall(lines.encode())
        except OSError:
            pass  # the guest has gone; the thread that reads will see that too

    def tell(self, line: str) -> None:
        """Have a line written; does not block, however slowly the guest reads."""
        self.unread.append(line)
        self.wake_writer()

    def leave(self) -> None:
        """Let the writer end when all is written; does not block."""
        self.leaving = True
        self.wake_writer()

    def wake_writer(self) -> None:
        try:
            thread.unpause(self.writer)
        except NotPaused:
            pass  # it is writing, and looks again before it pauses


class Room:
    def __init__(self, idle: float) -> None:
        self.idle = idle
        self.guests: dict[str, Guest] = {}

    def welcome(self, connection: socket, address: object) -> None:
        """The thread that reads what a guest types; the server attaches one for each."""
        guest = Guest(connection)
        with connection.makefile("rb") as lines:
            try:
                connection.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
                self.entertain(guest, lines)
            except Alarm:
                guest.tell("You were silent for too long. Good bye!")
            except OSError:
                pass  # the guest has gone without a word
        guest.leave()
        if not thread.wait_all([guest.writer], SECONDS_TO_LEAVE):
            thread.kill(guest.writer)

    def entertain(self, guest: Guest, lines: BufferedReader) -> None:
        """Until the guest goes."""
        guest.tell("What is your name?")
        name = self.next_line(lines)
        while name == "" or name in self.guests:
            guest.tell("Please choose another name.")
            name = self.next_line(lines)
        if name is None:
            return
        self.guests[name] = guest
        try:
            self.say(f"* {name} comes in")
            while (line := self.next_line(lines)) is not None:
                self.say(f"{name}: {line}")
        finally:
            del self.guests[name]
            self.say(f"* {name} goes")

    def next_line(self, lines: BufferedReader) -> str | None:
        """What the guest types next, without what a terminal might obey; None at the end."""
        with thread.alarm(self.idle):
            line = lines.readline(MAX_LINE)
        # A guest who types without end must not keep the others from their turn.
        thread.timer(0)
        if not line:
            return None
        return "".join(filter(str.isprintable, line.decode(errors="replace")))

    def say(self, line: str) -> None:
        for guest in self.guests.values():
            guest.tell(line)

    def close_on(self, signal: str, server: StreamServer) -> None:
        thread.sigwait(signal)
        server.stop_accepting()
        self.say("* the room closes")
        guests = list(self.guests.values())
        for guest in guests:
            guest.leave()
        thread.wait_all([guest.writer for guest in guests], SECONDS_TO_LEAVE)
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="A chat room.")
    parser.add_argument("--port", type=int, default=0, help="where to listen on 127.0.0.1 (a free port)")
    parser.add_argument("--idle", type=float, default=300.0, help="seconds that a guest may be silent (300)")
    options = parser.parse_args()
    room = Room(options.idle)
    with Ratchet() as kernel:
        server = StreamServer(("127.0.0.1", options.port), room.welcome, spawn=kernel.attach_background)
        server.start()
        # The loop ends with this thread, when the server is stopped.
        kernel.attach(server.serve_forever)
        kernel.attach_background(room.close_on, "SIGTERM", server)
        kernel.attach_background(room.close_on, "SIGINT", server)
        # Last, so that whoever has read it may send a signal: both are waited for by then.
        kernel.attach(print, f"listening on 127.0.0.1:{server.server_port}", flush=True)


if __name__ == "__main__":
    main()
