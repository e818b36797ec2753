"""The two ends of an in-memory connection, as the kernels on both sides see it.

They behave as TCP does on Linux.  Closing with unread input resets the connection, and so
does sending to a peer that has closed; what arrived before a reset can still be read; an
error is reported once.  An end is open as long as one of its descriptors is, and dies
with its owner.

How bytes get from one end to the other belongs in `_pipe`.
"""

from __future__ import annotations

import errno
import os

from ratchet.testing._faults import Line
from ratchet.testing._owner import Owner
from ratchet.testing._pipe import Pipe
from ratchet.testing._watchers import READ, WRITE

SocketName = tuple[str, int] | str
"""The result of `getsockname`: a host and a port, or the path of a Unix socket."""


def os_error(number: int) -> OSError:
    """Make the `OSError` with this number, and the system's text."""
    return OSError(number, os.strerror(number))


class ConnectionEnd:
    """One side of a connection.

    Attributes:
        incoming: the pipe from the other side.
        outgoing: the pipe to the other side.
        name: its own name.
        peer_name: the name of the other side.
        owner: the process with which it dies, if any.
        descriptors: its open descriptors.
        hub: the hub that it is of.
    """

    __slots__ = (
        "_broken",
        "_closed",
        "_dead",
        "_error",
        "_finished",
        "_loop",
        "descriptors",
        "hub",
        "incoming",
        "name",
        "outgoing",
        "owner",
        "peer_name",
    )

    incoming: Pipe
    outgoing: Pipe

    def __init__(self, line: Line, name: SocketName, peer_name: SocketName, owner: Owner | None) -> None:
        self._loop = line.loop
        self.hub = line.hub
        self.name = name
        self.peer_name = peer_name
        self.owner = owner
        self.descriptors: dict[int, None] = {}
        # An error that is still to be reported, and the ways in which it has ended.
        self._error: int | None = None
        self._broken = self._finished = self._closed = self._dead = False

    @property
    def takes(self) -> bool:
        """See `PipeEnd`."""
        return not (self._closed or self._broken)

    @property
    def broken(self) -> bool:
        """Whether it was reset."""
        return self._broken

    def touch(self) -> None:
        """See `PipeEnd`."""
        for descriptor in self.descriptors:
            self._loop.touch(descriptor)

    def fail(self, number: int) -> None:
        """See `PipeEnd`."""
        if not self._broken:
            # After a FIN from the other side, the news is only that it does not read either.
            self._error = errno.EPIPE if self.incoming.ended else number
            self._broken = True
            self.outgoing.give_up()
            self.touch()

    def open(self) -> int:
        """Open one more descriptor."""
        descriptor = self._loop.open_descriptor(self.readiness)
        self.descriptors[descriptor] = None
        return descriptor

    def close(self, descriptor: int) -> None:
        """Close one descriptor; the last one closes the connection."""
        if descriptor not in self.descriptors:
            return
        del self.descriptors[descriptor]
        self._loop.close_descriptor(descriptor)
        if self.descriptors:
            return
        self._closed = True
        self._leave()

    def _leave(self) -> None:
        """Tell the other side that this one is closed."""
        if self._broken:
            return
        if self.incoming.unread:
            # The sender must not believe that it was read.
            self.outgoing.reset()
        else:
            self.finish()

    def abort(self) -> None:
        """Break the connection as when a machine or its program crashes: both sides see a reset."""
        if not self._broken:
            self.outgoing.reset()
            self._broken = True
            self._error = errno.ECONNRESET
            self.touch()

    def kill(self) -> None:
        """Its program has died: close it as a kernel does, and drop whatever is sent from now on."""
        self._leave()
        self._broken = self._dead = True

    def bury(self) -> None:
        """Report a reset to what is left of its dead program."""
        self._error, self._dead = errno.ECONNRESET, False
        self.touch()

    def readiness(self) -> int:
        """Events that it is ready for, in libev's bits."""
        if self._dead:
            return 0
        if self._broken:
            return READ | WRITE
        writable = self._finished or self.outgoing.is_writable
        return (READ if self.incoming.readable else 0) | (WRITE if writable else 0)

    def receive(self, size: int) -> bytes:
        """Read as `recv` does."""
        if self._dead:
            raise os_error(errno.EAGAIN)
        data = self.incoming.take(size)
        if data or not size or self.incoming.at_end:
            return data
        self._raise_error()
        if self._broken:
            return b""
        raise os_error(errno.EAGAIN)

    def send(self, data: bytes | memoryview) -> int:
        """Write as `send` does."""
        if self._dead:
            return len(data)
        self._raise_error()
        if self._broken or self._finished:
            raise os_error(errno.EPIPE)
        return self.outgoing.send(bytes(data)) if data else 0

    def finish(self) -> None:
        """Stop sending, as `shutdown` does."""
        if not self._finished and not self._broken:
            self._finished = True
            self.outgoing.finish()

    def _raise_error(self) -> None:
        number, self._error = self._error, None
        if number is not None:
            raise os_error(number)


def new_connection(
    line: Line, client: tuple[SocketName, Owner | None], server: tuple[SocketName, Owner | None]
) -> tuple[ConnectionEnd, ConnectionEnd]:
    """Make the two ends of a connection, each from its name and its owner."""
    connecting = ConnectionEnd(line, client[0], server[0], client[1])
    accepting = ConnectionEnd(line, server[0], client[0], server[1])
    connecting.outgoing = accepting.incoming = Pipe(line, connecting, accepting)
    accepting.outgoing = connecting.incoming = Pipe(line, accepting, connecting)
    return connecting, accepting
