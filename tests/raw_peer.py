"""A peer that speaks bytes: what a test sees of the wire, and what it puts there."""

from __future__ import annotations

import json
import struct
from types import TracebackType
from typing import Any

import gevent
from gevent import socket, ssl

from helpers import LONG
from ratchet.bus._core.limits import Limits
from ratchet.bus._socket import wire

# The kind of message that each side says first.
HELLO = 7


class RawPeer:
    """One end of a connection.  Every call gives up, with an error, after `LONG` seconds."""

    def __init__(self, connected: Any) -> None:
        self._socket = connected
        self._decoder = wire.Decoder(Limits().max_message, Limits().max_parts)
        self._messages: list[wire.Message] = []
        connected.settimeout(LONG)
        if connected.family != socket.AF_UNIX:
            # Otherwise the kernel keeps what follows on something small, for as long as
            # the other side puts off its acknowledgement: 40 ms, which no test is about.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_in_single_bytes(self, data: bytes) -> None:
        for number in data:
            self._socket.sendall(bytes([number]))
            gevent.sleep(0)

    def request(self, id: int, body: bytes = b'"question"', flags: int = 0, arg: int = 0) -> None:
        """Send an extended request of one part."""
        self.send(wire.encode(wire.REQUEST, flags, id, arg, [body]))

    def say_hello(self, **members: Any) -> None:
        """The first extended message of a connection: the protocol's version, and what this side takes."""
        self.send(wire.encode(HELLO, 0, 1, 0, [json.dumps(members).encode()]))

    def receive_hello(self) -> dict[str, Any]:
        """The members of the peer's HELLO, which has to come next."""
        kind, flags, id, arg, parts = self._receive_any()
        assert (kind, flags, id, arg, len(parts)) == (HELLO, 0, 1, 0, 1)
        members = json.loads(parts[0])
        assert isinstance(members, dict)
        return members

    def receive(self, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            assert piece, f"the connection was closed after {data!r}"
            data += piece
        return data

    def receive_rest(self) -> bytes:
        """Everything up to the end of the connection."""
        data = b""
        while True:
            try:
                piece = self._socket.recv(65536)
            except ConnectionResetError:
                return data
            if not piece:
                return data
            data += piece

    def receive_message(self) -> wire.Message:
        """The next whole message that is not a HELLO."""
        while True:
            message = self._receive_any()
            if message[0] != HELLO:
                return message

    def _receive_any(self) -> wire.Message:
        while not self._messages:
            data = self._socket.recv(65536)
            assert data, "the connection was closed"
            self._messages += self._decoder.feed(data)
            assert self._decoder.error is None, self._decoder.error
        return self._messages.pop(0)

    def reset(self) -> None:
        """Break the connection, if it is TCP: the other side gets an error."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def end_input(self) -> None:
        """Send no more, but still read."""
        if hasattr(self._socket, "do_handshake"):
            try:
                # TLS has a word of its own for it, which `unwrap` would say and then read no more.
                self._socket._sslobj.shutdown()
            except ssl.SSLWantReadError:
                pass
        socket.socket.shutdown(self._socket, socket.SHUT_WR)

    @property
    def name(self) -> Any:
        """The address of this end."""
        return self._socket.getsockname()

    def close(self) -> None:
        self._socket.close()
