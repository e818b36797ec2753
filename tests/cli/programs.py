"""Running the command line as a user does: a process, its output and its exit status."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from helpers import LONG
from ratchet.bus import Limits
from ratchet.bus._socket import wire

HERE = Path(__file__).parent

COMMAND = [sys.executable, "-W", "error", "-m", "ratchet"]


def run(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run `ratchet` to its end.  Without `input`, its stdin is empty."""
    if "stdin" not in options:
        options.setdefault("input", b"")
    options.setdefault("stdout", subprocess.PIPE)
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, timeout=LONG, check=False, **options
    )


def one_line(program: subprocess.CompletedProcess[bytes]) -> str:
    """The one line on stderr that says what went wrong."""
    lines = program.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("ratchet: ")
    return lines[0].removeprefix("ratchet: ")


@contextmanager
def started(*arguments: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """`ratchet` as it runs; it is killed in the end if it still does."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": HERE, **options}
    program = subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, **options)
    with program:
        try:
            yield program
        finally:
            program.kill()


@contextmanager
def serving(
    handler: str, *options: object, address: str = "127.0.0.1:0", cwd: Path = HERE
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`ratchet serve` with one of the handlers, and where it listens."""
    with started("serve", handler, address, "--workers", 4, *options, cwd=cwd) as server:
        assert server.stderr is not None
        # A supervisor has told of its workers before.
        where = read_until(server.stderr, "listening on ").rpartition("listening on ")[2]
        yield server, where.strip()


def wait_for(condition: Callable[[], object], what: str) -> None:
    """Wait until another process has made `condition()` true."""
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.005)


def read_until(pipe: IO[str], mark: str) -> str:
    """Read lines up to one that has `mark` in it; all of them."""
    text = ""
    while mark not in text:
        line = pipe.readline()
        assert line, f"the output ended before {mark!r}: {text}"
        text += line
    return text


def read_terminal(master: int, mark: bytes) -> bytes:
    """What a program has written to its terminal, up to `mark`."""
    output = b""
    while mark not in output:
        assert select.select([master], [], [], LONG)[0], f"waited in vain for {mark!r}: {output!r}"
        output += os.read(master, 65536)
    return output


@contextmanager
def nobody() -> Iterator[str]:
    """An address where nobody listens, nor anybody else can."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield "{}:{}".format(*bound.getsockname())


class Peer:
    """One client of a `scripted` server."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._decoder = wire.Decoder(Limits().max_message, Limits().max_parts)
        self._messages: list[wire.Message] = []
        connected.settimeout(LONG)

    def receive(self) -> wire.Message:
        """The next message that is not the client's hello."""
        while not self._messages:
            data = self._socket.recv(65536)
            assert data, "the client closed the connection"
            self._messages += [m for m in self._decoder.feed(data) if m[0] != wire.HELLO]
        return self._messages.pop(0)

    def receive_some(self) -> list[wire.Message]:
        """The next messages, the client's hello among them; none at the end."""
        while data := self._socket.recv(65536):
            if messages := self._decoder.feed(data):
                return messages
        return []

    def receive_rest(self) -> list[wire.Message]:
        """All messages until the client closes the connection."""
        while data := self._socket.recv(65536):
            self._messages += self._decoder.feed(data)
        return self._messages

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def wait_for_end(self) -> None:
        """Until the client closes the connection."""
        while self._socket.recv(65536):
            pass


@contextmanager
def scripted(*conversations: Callable[[Peer], object]) -> Iterator[str]:
    """The address of a server that has one conversation with one client after the other."""
    # In an OS thread, because the test waits for a process meanwhile.
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            for conversation in conversations:
                connected, _ = listener.accept()
                with connected:
                    conversation(Peer(connected))
        except BaseException as error:
            failures.append(error)

    # A Unix socket: to a port, a client of some other test might come.
    with TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/socket")
        listener.listen()
        listener.settimeout(LONG)
        server = threading.Thread(target=serve)
        server.start()
        yield f"unix:{folder}/socket"
        server.join(LONG)
    assert not failures, failures
    assert not server.is_alive()


def echo_all(peer: Peer) -> None:
    """A conversation with a server that answers each request with its parts."""
    while messages := peer.receive_some():
        for kind, _, id, _, parts in messages:
            if kind == wire.REQUEST:
                peer.send(wire.encode(wire.RESPONSE, 0, id, 0, parts))


def speak_http(peer: Peer) -> None:
    """A conversation with a server of another kind."""
    peer.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    peer.wait_for_end()
