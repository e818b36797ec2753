"""Opening sockets that listen, and the files of Unix sockets.

A stale file is replaced and a live one refused.  Which it is, and whose turn, is
decided under a lock on the directory.  No bytes are sent or received here, no client
is accepted, and nothing is remembered but which socket file is ours.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import socket as _socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from gevent import socket
from gevent.monkey import get_original

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet.bus._core.address import Address, Endpoint, UnixEndpoint, address_of
from ratchet.bus._transport.dial import fitting, resolve
from ratchet.bus._transport.transport import Socket

_BACKLOG: Final = 1024
# Seconds to wait for the lock of a directory, and between two tries.
_LOCK_TIMEOUT = 10.0
_LOCK_PAUSE: Final = 0.005

# That of the system, which never switches.
_system_socket = get_original("socket", "socket")


class SocketFile:
    """The file of a Unix socket that this process listens on."""

    def __init__(self, path: str) -> None:
        self._path = path
        # None until it is there.
        self._identity: tuple[int, int] | None = None
        self._process = os.getpid()

    def _found(self) -> tuple[int, int] | None:
        try:
            status = os.lstat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def created(self) -> None:
        """Note that the file is there, and ours."""
        self._identity = self._found()

    def remove(self) -> None:
        """Remove the file, unless it is another's by now, or this is a forked child.

        To be called while the socket is open still: afterwards another process may
        take the path, or the system give the file's number to another one.  Does not
        block, and raises nothing.
        """
        if self._process != os.getpid() or self._identity is None or self._found() != self._identity:
            return
        try:
            os.unlink(self._path)
        except OSError as error:
            log_soon(bus_logger, logging.WARNING, "cannot remove the socket %r: %s", self._path, error)
        # Only once: a file that is made later may get the same number.
        self._identity = None


def open_listener(endpoint: Endpoint) -> tuple[socket.socket, SocketFile | None]:
    """Open a socket that listens on `endpoint`; return its file too, if it has one.

    Blocks while a host name is looked up, and while others make a socket in the
    same directory.  Raises `OSError`, or `ValueError` for a host name that cannot
    exist.
    """
    if isinstance(endpoint, UnixEndpoint):
        path = endpoint.path
        with _closed_on_failure(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), path) as listener:
            if not path.startswith("\0"):
                return listener, _listen_on_file(listener, path)
            _listen(listener, path)
            return listener, None
    found = resolve(endpoint.host or None, endpoint.port, socket.AI_PASSIVE)
    family, kind, protocol, _, sockaddr = found[0]
    with _closed_on_failure(socket.socket(family, kind, protocol), sockaddr) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _listen(listener, sockaddr)
        return listener, None


@contextmanager
def _closed_on_failure(listener: socket.socket, where: object) -> Iterator[socket.socket]:
    try:
        yield listener
    except BaseException as error:
        listener.close()
        if not isinstance(error, OSError):
            raise
        raise OSError(error.errno, f"cannot listen on {where!r}: {error.strerror or error}") from error


def _listen(listener: socket.socket, where: Any) -> None:
    listener.bind(where)
    listener.listen(_BACKLOG)


def _listen_on_file(listener: socket.socket, path: str) -> SocketFile:
    """Listen on `path`, in place of a server that is gone.

    Of the servers that find the same stale file, one gets the lock first, and is alive
    for the others: none can look between its removal and the next one's listening.
    """
    file = SocketFile(path)
    try:
        with _DirectoryLock(os.path.dirname(path)):
            if _is_stale(path):
                os.unlink(path)
            listener.bind(fitting(path))
            file.created()
            listener.listen(_BACKLOG)
    except BaseException:
        file.remove()
        raise
    return file


class _DirectoryLock:
    """Keeps out the other processes that make a socket in a directory, in a `with` block.

    Whatever strikes on the way in or out, the lock ends when it is dropped.
    """

    _descriptor = -1

    def __init__(self, directory: str) -> None:
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> None:
        end = _clock.monotonic() + _LOCK_TIMEOUT
        try:
            while not self._take():
                if _clock.monotonic() > end:
                    reason = f"the directory stayed locked for {_LOCK_TIMEOUT:g} s"
                    raise TimeoutError(errno.ETIMEDOUT, reason)
                _clock.sleep(_LOCK_PAUSE)
        except BaseException:
            self._close()
            raise

    def _take(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        # Closing alone would not do, if another OS thread has forked meanwhile.
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = _close


def _is_stale(path: str) -> bool:
    """Whether a Unix socket's file is left from a server that is gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with _system_socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # So a server whose backlog is full is an error as well, but another one.
            probe.setblocking(False)
            probe.connect(fitting(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def listening_address(listener: Socket) -> Address:
    """The address that a socket listens on, as users write it; a path is absolute."""
    family, where = listener.family, listener.getsockname()
    if family != socket.AF_UNIX or not where or isinstance(where, bytes):
        return address_of(family, where)
    return address_of(family, Path(where).absolute())


def check_listens(socket: Socket) -> None:
    """Refuse anything but a listening stream socket."""
    if not hasattr(socket, "accept"):
        raise TypeError(f"new_server needs a socket that listens, not {socket!r}")
    if not socket.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN):
        raise ValueError(f"new_server needs a socket that listens; call listen() on {socket!r} first")
