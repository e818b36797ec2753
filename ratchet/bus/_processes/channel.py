"""Messages between a supervisor and a worker, or a program and its supervisor.

A channel is one end of a pair of Unix sockets that keep message boundaries.  A message is a
JSON object; one more kind carries a connected socket and the address of its peer.  Sending
never blocks: it fails while the other side does not read.  The end of one process is the end
of its channels, so each side learns of the other's death.

No process and no bus may live here.
"""

from __future__ import annotations

import errno
import json
import os
import socket as _socket
from array import array
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import starmap
from typing import Any, Final, TypeAlias

from gevent.monkey import get_original

from ratchet import _clock
from ratchet.bus._core.address import Address
from ratchet.bus._socket.accept import OUT_OF_SOMETHING

Message: TypeAlias = "dict[str, Any]"
"""A message; `kind` says what the rest of it is."""

# Not gevent's: its calls never block.
_system_socket = get_original("socket", "socket")
_INT_SIZE: Final = array("i").itemsize
_SPACE: Final = _socket.CMSG_SPACE(_INT_SIZE)
# Bytes of the longest message, which the system's buffers hold.
_LONGEST: Final = 128 * 1024
_FULL: Final = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS, errno.EMSGSIZE}


class ChannelClosed(Exception):
    """The process at the other end has closed the channel, or has died."""


class SocketLost(ConnectionAbortedError):
    """A socket was handed over, and the system had no descriptor for it."""


class Channel:
    """One end; it belongs to this process, and closes with it.

    Args:
        descriptor: of the socket, which is the channel's from now on.
    """

    def __init__(self, descriptor: int) -> None:
        self._socket: Any = _system_socket(fileno=descriptor)
        self._socket.set_inheritable(False)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to receive; -1 once it is closed."""
        descriptor: int = self._socket.fileno()
        return descriptor

    def close(self) -> None:
        """Close it; the other side sees the end.  Closing twice is fine."""
        self._socket.close()

    def send(self, message: Message) -> bool:
        """Send a message; False if the other side does not read, or if it is too long.  Does not block.

        Raises `ChannelClosed`.
        """
        return self._send(json.dumps(message).encode(), [])

    def send_first(self, message: Message) -> None:
        """Send the settings to a process that is being started; does not block.

        Raises `OSError` if they are too long for one message.
        """
        if not self.send(message):
            raise OSError(errno.EMSGSIZE, "the settings of a process, with the path of modules, are too long")

    def send_socket(self, descriptor: int, peer: Address) -> bool:
        """Hand over a connected socket, as `send` does a message; its descriptor stays open here."""
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, array("i", [descriptor]))
        return self._send(json.dumps(peer).encode(), [rights])

    def _send(self, data: bytes, ancillary: list[Any]) -> bool:
        if len(data) > _LONGEST:
            return False
        try:
            self._socket.sendmsg([data], ancillary)
        except OSError as error:
            if error.errno in _FULL:
                return False
            raise ChannelClosed from error
        return True

    def receive(self) -> Message | None:
        """Wait for the next message; None when the other side has closed the channel.  Blocks."""
        was_reset = False
        while True:
            try:
                data = self._socket.recv(_LONGEST)
            except BlockingIOError:
                _clock.wait_read(self.fileno())
                continue
            except ConnectionResetError:
                if was_reset:
                    return None
                # It had not read all when it closed.  The system tells that first, and once; what it
                # has said before is still there.
                was_reset = True
                continue
            except OSError:
                return None
            message: Message | None = json.loads(data) if data else None
            return message

    def receive_socket(self) -> tuple[int, Address]:
        """The next socket that was handed over, and its peer.  Does not block.

        Raises `BlockingIOError` if there is none, `ChannelClosed`, `SocketLost`, and `OSError` as long
        as this process has no descriptor left.
        """
        received: list[tuple[bytes, list[tuple[int, int, bytes]], int, Any]] = []
        try:
            # Of a socket for which there is no descriptor, only the message would come.
            self._socket.dup().close()
            # In one call of C: between two, a signal handler might raise and leak the descriptor.
            received.extend(starmap(self._socket.recvmsg, _RECEIVE))
            data, ancillary, _, _ = received[0]
            descriptors = _descriptors_in(ancillary)
            if not data:
                raise ChannelClosed
            if len(descriptors) != 1:
                raise SocketLost(errno.EMFILE, os.strerror(errno.EMFILE))
            return descriptors[0], received_address(json.loads(data))
        except BaseException as error:
            for _, ancillary, _, _ in received:
                for descriptor in _descriptors_in(ancillary):
                    with suppress(OSError):
                        os.close(descriptor)
            passes = isinstance(error, (BlockingIOError, SocketLost))
            if passes or not isinstance(error, OSError) or error.errno in OUT_OF_SOMETHING:
                raise
            raise ChannelClosed from error


# The arguments of `recvmsg`: bytes of data and of ancillary data, and that children get no descriptor.
_RECEIVE: Final = ((_LONGEST, _SPACE, getattr(_socket, "MSG_CMSG_CLOEXEC", 0)),)


def received_address(value: Any) -> Address:
    """An address that JSON has carried, as it was: JSON knows no tuples."""
    address: Address = tuple(value) if isinstance(value, list) else value
    return address


def _descriptors_in(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % _INT_SIZE])
    return list(found)


@contextmanager
def channel_pair() -> Iterator[tuple[Channel, int]]:
    """A channel, and the descriptor of its other end for a process that is started in the block.

    Leaving the block closes the descriptor, and by an exception the channel too.  Raises `OSError`.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    with theirs:
        channel = Channel(ours.detach())
        try:
            yield channel, theirs.fileno()
        except BaseException:
            channel.close()
            raise
