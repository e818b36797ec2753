"""In-memory sockets, for `new_server` and `new_client`, on a hub on virtual time.

A `MemorySocket` is a descriptor of one end of a connection, a `MemoryListener` that of a
listening socket.  Each has as much of the interface of a system socket as a bus needs, and
is also what the bus would wrap that in: a transport, or a listener.

The behaviour of an end is in `_connection`; who connects to whom, in `_network`.
"""

from __future__ import annotations

import errno
import socket as _socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from ratchet._wait import check_hub
from ratchet.bus._core.address import Address
from ratchet.bus._socket.accept import NotListening
from ratchet.bus._transport.transport import Transport
from ratchet.testing._connection import ConnectionEnd, SocketName, new_connection, os_error
from ratchet.testing._faults import Faults, Line
from ratchet.testing._owner import Owner
from ratchet.testing._watchers import READ

_ALL: Final = 1 << 30


class _SocketBase:
    """The parts of a system socket's interface that do nothing here."""

    __slots__ = ()

    def setblocking(self, flag: bool, /) -> None:
        """Do nothing: no in-memory socket ever blocks."""

    def setsockopt(self, level: int, option: int, value: int, /) -> None:
        """Do nothing: there are no options."""

    def getsockopt(self, level: int, option: int, /) -> int:
        """Return 0: there are no options, except for whether it listens."""
        return 0


class MemorySocket(_SocketBase, Transport):
    """A connected in-memory socket, which is its own transport."""

    __slots__ = ("_descriptor", "_end")

    def __init__(self, end: ConnectionEnd) -> None:
        self._end = end
        self._descriptor = end.open()
        # Not one of its own, which would keep it alive.
        self.receive, self.send = end.receive, end.send
        self.ready = True

    def __repr__(self) -> str:
        return f"<MemorySocket {self.fileno()} at {self._end.name!r}, connected to {self._end.peer_name!r}>"

    @property
    def family(self) -> int:
        """The address family of its name."""
        return _family(self._end.name)

    @property
    def tells_answers(self) -> bool:
        return True

    @property
    def _is_open(self) -> bool:
        return self._descriptor in self._end.descriptors

    def fileno(self) -> int:
        return self._descriptor if self._is_open else -1

    def getsockname(self) -> SocketName:
        return self._end.name

    def getpeername(self) -> SocketName:
        # By this a client finds out whether it can use a socket.
        check_hub(self._end.hub, self)
        if not self._is_open:
            raise os_error(errno.EBADF)
        return self._end.peer_name

    def identify(self) -> None:
        """Nobody vouches for the peer."""

    def keep_identity(self) -> None:
        """Do nothing: nobody knows who it is."""

    def send_buffers(self, buffers: Sequence[bytes | memoryview]) -> int:
        return self._end.send(b"".join(buffers))

    def undelivered(self) -> int:
        return self._end.outgoing.undelivered if self._is_open else 0

    def is_broken(self) -> bool:
        return not self._is_open or self._end.broken

    def awaited_answer(self) -> tuple[int, float] | None:
        if not self.undelivered():
            return None
        silence = self._end.outgoing.silence
        # A kernel would try about once a second.
        return int(silence), silence

    def end_output(self) -> None:
        self._end.finish()

    def discard_input(self) -> bool:
        try:
            while self._end.receive(_ALL):
                pass
        except BlockingIOError:
            return False
        return True

    def duplicate(self) -> MemorySocket:
        return MemorySocket(self._end)

    def close(self) -> None:
        self._end.close(self._descriptor)

    def __del__(self) -> None:
        """Close it when nobody has it any more, as the system's are."""
        if hasattr(self, "_descriptor"):
            self.close()


class MemoryListener(_SocketBase):
    """An in-memory socket that listens: what `new_server` takes, and a server's listener.

    Args:
        line: the line of its connections.
        name: the address that it listens on.
        owner: the process with which it dies, if any.
        on_close: called once, when it stops listening.
    """

    def __init__(
        self,
        line: Line,
        name: SocketName,
        owner: Owner | None = None,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._hub = line.hub
        self._loop = line.loop
        self._name = name
        self._on_close = on_close
        self._queue: deque[ConnectionEnd] = deque()
        self._dead = False
        self.owner = owner
        self._descriptor = self._loop.open_descriptor(self._readiness)

    def __repr__(self) -> str:
        return f"<MemoryListener {self._descriptor} at {self._name!r}>"

    @property
    def family(self) -> int:
        """The address family of its name."""
        return _family(self._name)

    @property
    def address(self) -> Address:
        """See `Listener`."""
        return f"unix:{self._name}" if isinstance(self._name, str) else self._name

    @property
    def listens(self) -> bool:
        """See `Listener`."""
        return self._descriptor >= 0 and not self._dead

    def getsockopt(self, level: int, option: int, /) -> int:
        # By this a server finds out whether it can use a socket.
        check_hub(self._hub, self)
        return int(self.listens and (level, option) == (_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN))

    def fileno(self) -> int:
        """See `Listener`."""
        return self._descriptor

    def getsockname(self) -> SocketName:
        return self._name

    def getpeername(self) -> SocketName:
        raise os_error(errno.ENOTCONN)

    def share(self) -> None:
        """Do nothing: a forked child has a copy of its own."""

    def admit(self, end: ConnectionEnd) -> None:
        """Queue a connection until it is accepted."""
        # To its client it is open from here on, accepted or not.
        self._queue.append(end)
        self._loop.touch(self._descriptor)

    def accept(self) -> tuple[MemorySocket, Address]:
        """See `Listener`."""
        if self._dead:
            raise NotListening
        if not self._queue:
            raise os_error(errno.EAGAIN)
        end = self._queue.popleft()
        name = end.peer_name
        return MemorySocket(end), f"unix:{name}" if isinstance(name, str) else name

    def close(self) -> None:
        """See `Listener`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            self._loop.close_descriptor(descriptor)
            self._end()

    def kill(self) -> None:
        """Its program has died: reset the queued connections, refuse new ones, let its server find out."""
        if self.listens:
            self._dead = True
            self._end()
            self._loop.touch(self._descriptor)

    def _end(self) -> None:
        for end in self._queue:
            end.abort()
        self._queue.clear()
        on_close, self._on_close = self._on_close, None
        if on_close is not None:
            on_close()

    def _readiness(self) -> int:
        return READ if self._queue or self._dead else 0


def _family(name: SocketName) -> int:
    return int(_socket.AF_UNIX if isinstance(name, str) else _socket.AF_INET)


def socket_pair(faults: Faults | None = None) -> tuple[MemoryListener, MemorySocket]:
    """Make two connected in-memory sockets: a listening one for `new_server`, and one for `new_client`.

    The listening one accepts this connection and no other.  Does not block.

    Args:
        faults: the faults of the line between them; None for none.  They are drawn by the
            seed of `virtual_time`.

    Raises `RuntimeError` outside `with virtual_time():`.

    .. code-block:: python

        from ratchet import Ratchet, bus, testing

        with testing.virtual_time():
            listening, connected = testing.socket_pair(testing.Faults(latency=0.5))
            with Ratchet() as kernel, bus.new_server(listening) as server:
                kernel.attach_background(server.serve, bytes.upper)
                with bus.new_client(connected) as client:
                    print(client.call(b"tea", timeout=5))

    .. code-block:: text

        b'TEA'
    """
    line = Line("socket_pair()", faults)
    server, client = ("server", 1), ("client", 2)
    listener = MemoryListener(line, server)
    connecting, accepting = new_connection(line, (client, None), (server, None))
    connected = MemorySocket(connecting)
    listener.admit(accepting)
    return listener, connected
