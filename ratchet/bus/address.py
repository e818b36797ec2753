"""Addresses as a user writes them, and the sockets that listen there or connect to them.

("host", port)      "host:port"      "[::1]:port"      "unix:/path"
"""

from __future__ import annotations

import os
import stat
from typing import Any

from gevent import socket

__all__ = ["Target", "dial", "open_listener", "parse", "remove_socket_file", "shown"]

Target = tuple[str, int] | str
"""A parsed address: host and port, or the path of a Unix socket."""

_BACKLOG = 1024


def parse(address: object) -> Target:
    """Take an address apart; `TypeError` or `ValueError` if it is none."""
    expected = 'expected ("host", port), "host:port" or "unix:/path"'
    if isinstance(address, str):
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            if not path:
                raise ValueError(f"the address {address!r} has no path; {expected}")
            return path
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


def shown(family: int, address: Any) -> Target:
    """A socket's address as users write it."""
    if family == socket.AF_UNIX:
        return f"unix:{address if isinstance(address, str) else address.decode(errors='replace')}"
    host, port = address[:2]
    return host, port


def open_listener(target: Target) -> Any:
    """A socket that listens on `target`.  Looking up a host name blocks."""
    if isinstance(target, str):
        return _listen(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), target)
    host, port = target
    family, kind, protocol, _, sockaddr = socket.getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    return _listen(listener, sockaddr)


def _listen(listener: Any, where: Any) -> Any:
    try:
        listener.bind(where)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"cannot listen on {where!r}: {error.strerror or error}") from error
    return listener


def dial(target: Target) -> Any:
    """A socket that is connected to `target`; blocks.  Raises `OSError`."""
    if isinstance(target, str):
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.connect(target)
        except BaseException:
            connected.close()
            raise
        return connected
    return socket.create_connection(target)


def remove_socket_file(path: str) -> None:
    """Take away the file of a Unix socket that listens no more."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        pass
