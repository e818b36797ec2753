"""A transport that speaks TLS: what it says of the bytes that a socket took, or did not."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from ratchet.bus._transport.tls import TlsTransport

RECORD = 16 * 1024


class Socket:
    """Takes so many records, and then fails in one way; `taken` is what has left."""

    family = None

    def __init__(self, records: int, failure: Exception) -> None:
        self.records = records
        self.failure = failure
        self.taken = b""

    def setblocking(self, blocking: bool) -> None:
        assert blocking is False

    def send(self, record: Any) -> int:
        if not self.records:
            raise self.failure
        self.records -= 1
        self.taken += bytes(record)
        return len(record)


def transport_over(socket: Socket) -> TlsTransport:
    return TlsTransport(socket, ready=True)


FIRST, SECOND = b"a" * (RECORD + 1000), b"b" * (2 * RECORD)


@pytest.mark.parametrize("records", range(5))
def test_each_byte_is_sent_once_however_often_the_socket_is_full(records: int) -> None:
    socket = Socket(records, ssl.SSLWantWriteError())
    transport = transport_over(socket)
    buffers = [FIRST, SECOND]
    while True:
        try:
            count = transport.send_buffers(buffers)
        except BlockingIOError:
            count = 0
        whole = b"".join(buffers)[count:]
        if not whole and not transport.wants_write:
            break
        buffers = [whole[:10_000], whole[10_000:]]
        socket.records += 1
    assert socket.taken == FIRST + SECOND


@pytest.mark.parametrize("records", range(1, 4))
def test_what_left_before_the_connection_broke_is_told_and_the_break_after_it(records: int) -> None:
    socket = Socket(records, ConnectionResetError())
    transport = transport_over(socket)
    assert transport.send_buffers([FIRST, SECOND]) == len(socket.taken)
    with pytest.raises(ConnectionResetError):
        transport.send_buffers([SECOND])


def test_a_connection_that_is_broken_already_says_so() -> None:
    with pytest.raises(ConnectionResetError):
        transport_over(Socket(0, ConnectionResetError())).send_buffers([FIRST, SECOND])
