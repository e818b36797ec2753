"""One connected socket: its watchers, its decoder, its outbox.

Rules of this room:

- It is the only file that reads or writes sockets.
- It knows messages, not what they mean: its owner is told of each, in the hub.
- No greenlet per connection.  One io watcher, started once, reads in its own
  callback, so that in the steady state an exchange costs each side three system
  calls: poll, recv, send.
- Writes never block.  The first one of a loop turn goes straight to the socket,
  which keeps a lone request's latency low; the others of the same turn go out
  together, in one send.
"""

from __future__ import annotations

import socket as _socket
from abc import ABC, abstractmethod
from collections import deque
from itertools import islice
from typing import Any, Final

from gevent.hub import Hub, get_hub

from ratchet._wait import WaitQueue
from ratchet.bus.codecs import Address
from ratchet.bus.limits import Limits
from ratchet.bus.wire import Decoder, Message
from ratchet.errors import BusError, BusTimeout, ConnectionLost, Outcome

_READ, _WRITE = 1, 2  # libev's event bits
_READ_SIZE: Final = 64 * 1024
# How much of the outbox is joined for one send.  More costs a copy for nothing:
# it is about what a socket's buffer takes.
_SEND_SIZE: Final = 256 * 1024
_SEND_FRAMES: Final = 1024

# The kernel notices within about 30 s that a peer's machine has vanished.  It
# answers for a peer that is merely busy, which a heartbeat of ours would not.
_KEEPALIVE_IDLE, _KEEPALIVE_INTERVAL, _KEEPALIVE_PROBES = 10, 5, 4
_USER_TIMEOUT_MS = 30_000


class ConnectionOwner(ABC):
    """Whom a connection tells what happens.  All calls come from the hub and must not block."""

    __slots__ = ()

    @abstractmethod
    def _on_message(self, message: Message) -> None:
        """A whole message has come."""

    @abstractmethod
    def _on_input_end(self) -> None:
        """The peer sends no more; it may still read."""

    @abstractmethod
    def _on_broken(self, error: BusError, refused: tuple[int, int] | None) -> None:
        """The peer broke the wire format, or a limit; `refused` is as in `Decoder`."""

    @abstractmethod
    def _on_closed(self, error: BaseException | None) -> None:
        """The connection is closed; by this side if there is no `error`."""


class Connection:
    """A connected socket that carries messages.

    Frames that are written have a sequence number, counted from 1, so that it
    can be told afterwards which ones reached the kernel as a whole.
    """

    __slots__ = (
        "_broken",
        "_decoder",
        "_flush_scheduled",
        "_hub",
        "_limits",
        "_outbox",
        "_owner",
        "_raw",
        "_reader",
        "_sequence",
        "_socket",
        "_writer",
        "_writers",
        "closed",
        "closing",
        "peer",
        "sent",
        "unsent",
    )

    def __init__(self, socket: Any, limits: Limits, owner: ConnectionOwner, peer: Address) -> None:
        self._hub: Hub = get_hub()
        self._limits = limits
        self._owner = owner
        self._socket = socket
        # gevent's sockets wrap one whose calls do not switch.
        self._raw = getattr(socket, "_sock", socket)
        self._raw.setblocking(False)
        set_options(self._raw)
        self._decoder = Decoder(limits.max_message, limits.max_parts)
        # A bytes object or, where a part of it is sent, a view of the rest.
        self._outbox: deque[bytes | memoryview] | None = None
        self._flush_scheduled = False
        # Nothing can be sent any more.
        self._broken = False
        self._writers: WaitQueue | None = None
        self._sequence = 0
        self.sent = 0
        self.unsent = 0
        self.closed = False
        self.closing = False
        self.peer = peer
        loop: Any = self._hub.loop
        self._reader = loop.io(self._raw.fileno(), _READ)
        self._writer: Any = None
        self._reader.start(self._on_readable)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "closing" if self.closing else "open"
        return f"<Connection at {id(self):#x} with {self.peer}: {state}, unsent={self.unsent}>"

    def write(self, frame: bytes) -> int:
        """Send a frame as soon as the socket takes it; returns its sequence number.

        Does not block and raises nothing: a failure comes to the owner.
        """
        self._sequence += 1
        if self.closed or self._broken:
            return self._sequence
        if self._outbox is None:
            self._outbox = deque()
        if self._flush_scheduled:
            self._outbox.append(frame)
            self.unsent += len(frame)
            return self._sequence
        self._flush_scheduled = True
        self._hub.loop.run_callback(self._flush)
        count = self._send(frame)
        if count == len(frame):
            self.sent = self._sequence
        else:
            self._outbox.append(memoryview(frame)[count:] if count else frame)
            self.unsent += len(frame) - count
        return self._sequence

    def write_last(self, frame: bytes) -> None:
        """Send a frame that is worth it only at once: the connection is about to be closed."""
        between_frames = not self._outbox or not isinstance(self._outbox[0], memoryview)
        if between_frames and not self.closed and not self._broken:
            self._send(frame)

    @property
    def crowded(self) -> bool:
        """Whether a writer has to wait for room, or behind those who do."""
        # There will be no more room on a closed connection, and nobody to tell of it.
        return not self.closed and (self.unsent >= self._limits.high_water or bool(self._writers))

    def wait_for_room(self, call: str, timeout: float | None) -> None:
        """Wait while too much is unsent; blocks.

        Raises `BusTimeout` or `ConnectionLost`, both with the outcome `NOT_SENT`.
        """
        if self.crowded:
            if self._writers is None:
                self._writers = WaitQueue()
            if not self._writers.wait(call, self, timeout):
                raise BusTimeout(f"{self!r} took too little in {timeout} s", outcome=Outcome.NOT_SENT)
        if self.closed:
            raise ConnectionLost(f"{self!r} is closed", outcome=Outcome.NOT_SENT)

    def take_back(self, sequence: int) -> bool:
        """Remove a frame of which nothing was sent yet; False if that is too late."""
        if sequence <= self.sent:
            return False
        if self.closed or self._broken:
            return True
        assert self._outbox is not None
        index = sequence - self.sent - 1
        if isinstance(self._outbox[index], memoryview):
            return False
        self.unsent -= len(self._outbox[index])
        self._outbox[index] = b""
        return True

    def stop_reading(self) -> None:
        """Leave what the peer sends in the kernel, until `start_reading`."""
        if not self.closed:
            self._reader.stop()

    def start_reading(self) -> None:
        """Undo `stop_reading`."""
        if not self.closed and not self.closing and not self._reader.active:
            self._reader.start(self._on_readable)

    def close_when_sent(self) -> None:
        """Close, but send first what is written already; nothing more is read."""
        self.closing = True
        self.stop_reading()
        if not self._outbox:
            self.close()

    def close(self, error: BaseException | None = None) -> None:
        """Close at once, and tell the owner; what is unsent is dropped."""
        if self.closed:
            return
        self.closed = True
        for watcher in (self._reader, self._writer):
            if watcher is not None:
                watcher.close()
        self._socket.close()
        self._outbox = None
        self.unsent = 0
        if self._writers:
            self._hub.loop.run_callback(self._writers.wake_all)
        self._owner._on_closed(error)

    def _on_readable(self) -> None:
        """Hub callback."""
        try:
            data = self._raw.recv(_READ_SIZE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self.close(error)
            return
        if not data:
            self._end_input()
            return
        for message in self._decoder.feed(data):
            self._owner._on_message(message)
            if self.closed or self.closing:
                return
        if self._decoder.error is not None:
            self._reader.stop()
            self._owner._on_broken(self._decoder.error, self._decoder.refused)

    def _end_input(self) -> None:
        self._reader.stop()
        if self._decoder.partial:
            self._owner._on_broken(ConnectionLost("the peer closed in the middle of a message"), None)
        else:
            self._owner._on_input_end()

    def _send(self, data: bytes | memoryview) -> int:
        """How many bytes the socket took."""
        try:
            count: int = self._raw.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._broken = True
            # What the peer said before it went is still to be read.
            self._hub.loop.run_callback(self._read_rest, error)
            return 0
        return count

    def _read_rest(self, error: OSError) -> None:
        """Hub callback: nothing can be sent any more."""
        while not self.closed and self._reader.active:
            try:
                data = self._raw.recv(_READ_SIZE)
            except OSError:
                break
            if not data:
                break
            for message in self._decoder.feed(data):
                self._owner._on_message(message)
                if self.closed or self.closing:
                    break
        self.close(error)

    def _flush(self) -> None:
        """Hub callback: send what was written since the turn's first write."""
        self._flush_scheduled = False
        if self.closed or self._broken:
            return
        if self._outbox:
            self._send_outbox(self._outbox)
        if self._broken:
            return
        if self._outbox:
            self._wait_until_writable()
        elif self.closing:
            self.close()
            return
        while self._writers and self.unsent < self._limits.high_water and not self.closed:
            self._writers.wake_next()

    def _send_outbox(self, outbox: deque[bytes | memoryview]) -> None:
        """Send as much of the outbox as the socket takes."""
        while outbox:
            frames, size = 0, 0
            for frame in islice(outbox, _SEND_FRAMES):
                if frames and size + len(frame) > _SEND_SIZE:
                    break
                frames += 1
                size += len(frame)
            data = outbox[0] if frames == 1 else b"".join(islice(outbox, frames))
            count = self._send(data) if size else 0
            self.unsent -= count
            if count < size:
                while len(outbox[0]) <= count:
                    count -= len(outbox.popleft())
                    self.sent += 1
                if count:
                    outbox[0] = memoryview(outbox[0])[count:]
                return
            for _ in range(frames):
                outbox.popleft()
            self.sent += frames

    def _wait_until_writable(self) -> None:
        # While it waits, `_flush_scheduled` keeps writers from trying themselves.
        self._flush_scheduled = True
        if self._writer is None:
            loop: Any = self._hub.loop
            self._writer = loop.io(self._raw.fileno(), _WRITE)
        self._writer.start(self._on_writable)

    def _on_writable(self) -> None:
        """Hub callback."""
        self._writer.stop()
        self._flush()


def set_options(socket: Any) -> None:
    """Turn on what every TCP connection has: no delay, and the kernel's keepalive."""
    if socket.family not in (_socket.AF_INET, _socket.AF_INET6):
        return
    tcp = _socket.IPPROTO_TCP
    socket.setsockopt(tcp, _socket.TCP_NODELAY, 1)
    socket.setsockopt(_socket.SOL_SOCKET, _socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _KEEPALIVE_IDLE),
        ("TCP_KEEPINTVL", _KEEPALIVE_INTERVAL),
        ("TCP_KEEPCNT", _KEEPALIVE_PROBES),
        ("TCP_USER_TIMEOUT", _USER_TIMEOUT_MS),
    ):
        # Not every system has each of them.
        option: int | None = getattr(_socket, name, None)
        if option is not None:
            socket.setsockopt(tcp, option, value)
