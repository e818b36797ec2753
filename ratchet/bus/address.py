"""Addresses as a user writes them, and the sockets that listen there or connect to them.

("host", port)      "host:port"      "[::1]:port"      "unix:/path"      "unix:\\0name"

`parse` takes an address apart, `open_listener` and `dial` make sockets of the parts,
and `shown` and `format_address` put them together again.  A path is absolute once it
is parsed, because a program may change its working directory.  No bytes are sent or
received here, and nothing is remembered but which socket file is ours.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import re
import socket as _socket
import ssl
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import gevent
from gevent import socket
from gevent.monkey import get_original

from ratchet._log import bus_logger, log_soon
from ratchet.bus.transport import Transport, begin_tls

__all__ = [
    "SocketFile",
    "Target",
    "dial",
    "format_address",
    "listening_address",
    "open_listener",
    "parse",
    "shown",
    "shown_target",
]

Target = tuple[str, int] | str
"""A parsed address: host and port, or the absolute path of a Unix socket, or NUL and an abstract name."""

_BACKLOG = 1024
# Seconds until an attempt to connect is given up, and after it the TLS handshake.
_CONNECT_TIMEOUT = 10.0
# Seconds until the lock of a directory is waited for in vain, and between two tries.
_LOCK_TIMEOUT = 10.0
_LOCK_PAUSE: Final = 0.005
# Bytes that a Unix socket's path may have.
_LONGEST_PATH: Final = 107 if sys.platform == "linux" else 103

# Those of the system, which never switch.  gevent's `connect` would try without end
# where a Unix socket's backlog is full.
_plain_socket = get_original("socket", "socket")
_plain_getaddrinfo = get_original("socket", "getaddrinfo")

_BACKLOG_FULL: Final = "the server has more connections waiting than it takes"
_LABEL: Final = re.compile("[A-Za-z0-9_-]{1,63}")
_LONGEST_NAME: Final = 253


def parse(address: object) -> Target:
    """Take an address apart; `TypeError` or `ValueError` if it is none."""
    expected = 'expected ("host", port), "host:port" or "unix:/path"'
    if isinstance(address, str):
        if address.startswith("unix:"):
            return _checked_path(address.removeprefix("unix:"), address)
        host, colon, port = address.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            raise ValueError(f"the address {address!r} has no port number; {expected}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"the address {address!r} is ambiguous; write IPv6 as [host]:port")
        return _checked(host, int(port), address)
    if isinstance(address, tuple) and len(address) == 2:
        host, port_number = address
        if isinstance(host, str) and isinstance(port_number, int) and not isinstance(port_number, bool):
            return _checked(host, port_number, address)
    raise TypeError(f"{address!r} is no address; {expected}")


def _checked(host: str, port: int, address: object) -> tuple[str, int]:
    if not 0 <= port <= 65535:
        raise ValueError(f"the port of the address {address!r} must be between 0 and 65535")
    return host, port


def _checked_path(path: str, address: str) -> str:
    if not path or path == "\0":
        raise ValueError(f'the address {address!r} has no path; expected "unix:/path"')
    if path.startswith("//"):
        name = path.lstrip("/")
        raise ValueError(
            f"the address {address!r} must not begin with unix://; write 'unix:/{name}' for an absolute"
            f" path or 'unix:{name}' for one in the working directory"
        )
    if path.startswith("\0"):
        if sys.platform != "linux":
            raise ValueError(f"only Linux has abstract names such as {address!r}; write unix:/path")
        return path
    if "\0" in path:
        raise ValueError(f"the path of the address {address!r} must not contain a NUL")
    # It keeps each "..", which leads elsewhere behind a symbolic link.
    return str(Path(path).absolute())


def shown(family: int, address: Any) -> Target:
    """A socket's address as users write it."""
    if family == socket.AF_UNIX:
        return f"unix:{os.fsdecode(address)}"
    host, port = address[:2]
    return host, port


def shown_target(target: Target) -> Target:
    """A parsed address as users write it."""
    return f"unix:{target}" if isinstance(target, str) else target


def format_address(address: Target) -> str:
    """An address as one printable text: "127.0.0.1:80", "[::1]:80" or "unix:/path"."""
    if isinstance(address, str):
        # The name of an abstract socket begins with a NUL, and names may hold any byte.
        return "".join(map(_printable, address))
    host, port = "".join(map(_printable, address[0])), address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _printable(character: str) -> str:
    if character == "\0":
        return "\\0"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def listening_address(listener: Any) -> Target:
    """Where a socket listens, as users write it; a path is absolute."""
    family, where = listener.family, listener.getsockname()
    if family != socket.AF_UNIX or not where or isinstance(where, bytes):
        return shown(family, where)
    return shown(family, Path(where).absolute())


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
        """The file is there, and ours."""
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


def open_listener(target: Target) -> tuple[Any, SocketFile | None]:
    """A socket that listens on `target`, and its file if it has one.

    Blocks while a host name is looked up, and while others make a socket in the
    same directory.  Raises `OSError`, or `ValueError` for a host name that cannot
    exist.
    """
    if isinstance(target, str):
        with _closed_on_failure(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), target) as listener:
            if not target.startswith("\0"):
                return listener, _listen_on_file(listener, target)
            _listen(listener, target)
            return listener, None
    host, port = target
    family, kind, protocol, _, sockaddr = _resolve(host or None, port, socket.AI_PASSIVE)[0]
    with _closed_on_failure(socket.socket(family, kind, protocol), sockaddr) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        _listen(listener, sockaddr)
        return listener, None


@contextmanager
def _closed_on_failure(listener: Any, where: Any) -> Iterator[Any]:
    try:
        yield listener
    except BaseException as error:
        listener.close()
        if not isinstance(error, OSError):
            raise
        raise OSError(error.errno, f"cannot listen on {where!r}: {error.strerror or error}") from error


def _listen(listener: Any, where: Any) -> None:
    listener.bind(where)
    listener.listen(_BACKLOG)


def _listen_on_file(listener: Any, path: str) -> SocketFile:
    """Listen there, in place of a server that is no more.

    Of those that find the same stale file one gets there first, and is alive for
    the others: none can look between its removal and the next one's listening.
    """
    file = SocketFile(path)
    try:
        with _DirectoryLock(os.path.dirname(path)):
            if _is_stale(path):
                os.unlink(path)
            listener.bind(_fitting(path))
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
        end = time.monotonic() + _LOCK_TIMEOUT
        try:
            while not self._take():
                if time.monotonic() > end:
                    reason = f"the directory stayed locked for {_LOCK_TIMEOUT:g} s"
                    raise TimeoutError(errno.ETIMEDOUT, reason)
                gevent.sleep(_LOCK_PAUSE)
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
    """Whether a Unix socket's file is left from a server that is no more."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return False
        with _plain_socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            # So a server whose backlog is full is an error as well, but another one.
            probe.setblocking(False)
            probe.connect(_fitting(path))
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _fitting(path: str) -> str:
    """The path of a Unix socket as the system takes it: a long one from the working directory."""
    if path.startswith("\0") or len(os.fsencode(path)) <= _LONGEST_PATH:
        return path
    return os.path.relpath(path)


def dial(target: Target, ssl_context: ssl.SSLContext | None = None) -> tuple[Transport, Target]:
    """Connect to `target`; blocks.

    Returns the transport, over which TLS has shaken hands, and the address.  Raises
    `OSError`, or `ValueError` for a host name that cannot exist.
    """
    opened: Any = _connect(target)
    try:
        if isinstance(target, str):
            name, peer = None, shown_target(target)
        else:
            name, peer = target[0], shown(opened.family, opened.getpeername())
        if ssl_context is None:
            return Transport(opened), peer
        opened = transport = begin_tls(ssl_context, opened, server_side=False, server_name=name)
        _shake_hands(transport)
        return transport, peer
    except BaseException:
        opened.close()
        raise


def _shake_hands(transport: Transport) -> None:
    late = TimeoutError(errno.ETIMEDOUT, f"the TLS handshake took more than {_CONNECT_TIMEOUT:g} s")
    end = time.monotonic() + _CONNECT_TIMEOUT
    transport.shake_hands()
    while not transport.ready:
        left = end - time.monotonic()
        if left <= 0:
            raise late
        wait = socket.wait_write if transport.wants_write else socket.wait_read
        wait(transport.fileno(), timeout=left, timeout_exc=late)
        transport.shake_hands()


def _connect(target: Target) -> Any:
    """A socket that is connected to `target`; each address of a host is tried in turn."""
    if isinstance(target, str):
        return _connected(socket.AF_UNIX, _fitting(target))
    *others, last = _resolve(*target)
    for family, _, _, _, sockaddr in others:
        try:
            return _connected(family, sockaddr)
        except OSError:
            continue
    return _connected(last[0], last[4])


def _connected(family: int, where: Any) -> Any:
    connecting = _plain_socket(family, _socket.SOCK_STREAM)
    try:
        connecting.setblocking(False)
        number = connecting.connect_ex(where)
        if number == errno.EINPROGRESS:
            late = TimeoutError(errno.ETIMEDOUT, f"no connection within {_CONNECT_TIMEOUT:g} s")
            socket.wait_write(connecting.fileno(), timeout=_CONNECT_TIMEOUT, timeout_exc=late)
            number = connecting.getsockopt(_socket.SOL_SOCKET, _socket.SO_ERROR)
        if number:
            full = number == errno.EAGAIN and family == socket.AF_UNIX
            raise OSError(number, _BACKLOG_FULL if full else os.strerror(number))
    except BaseException:
        connecting.close()
        raise
    return connecting


def _resolve(host: str | None, port: int, flags: int = 0) -> Any:
    """The addresses of a host, as `getaddrinfo` has them; blocks if it is a name.

    A number needs no resolver, whose threads a forked child does not have.
    """
    kind = _socket.SOCK_STREAM
    try:
        return _plain_getaddrinfo(host, port, type=kind, flags=flags | _socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        if host is None:
            raise
    _check_host(host)
    return socket.getaddrinfo(host, port, type=kind, flags=flags)


def _check_host(host: str) -> None:
    """Refuse what no host can be called."""
    address, percent, scope = host.partition("%")
    if percent and _is_ipv6(address):
        # It may be there later.
        raise OSError(errno.ENODEV, f"there is no network interface {scope!r}")
    try:
        name = host.encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"{host!r} cannot be the name of a host: {error}") from error
    labels = name.removesuffix(".").split(".")
    if len(name) > _LONGEST_NAME or not all(map(_LABEL.fullmatch, labels)):
        raise ValueError(f"{host!r} cannot be the name of a host")


def _is_ipv6(text: str) -> bool:
    try:
        _socket.inet_pton(_socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True
