"""Addresses as users write them, and endpoints: the same, taken apart.

("host", port)      "host:port"      "[::1]:port"      "unix:/path"      "unix:\\0name"

`parse` makes an endpoint of an address, and `Endpoint.address` and `format_address`
lead back.  A path is absolute once it is parsed, because a program may change its
working directory.  Nothing here opens a socket.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

Address: TypeAlias = "tuple[str, int] | str"
"""As a user writes it, and as `server.address` says it."""

_LABEL: Final = re.compile("[A-Za-z0-9_-]{1,63}")
# In a URL; greedy, because there may be an "@" in a password.
_LOGIN: Final = re.compile("://.*@", re.DOTALL)
_LONGEST_NAME: Final = 253
# What an absolute path may hold that is left out as it is parsed.
_UNTIDY: Final = re.compile(r"//|/\.(/|$)|/$")


@dataclass(frozen=True, slots=True)
class TcpEndpoint:
    """A host, by name or number, and a port."""

    host: str
    port: int

    @property
    def address(self) -> Address:
        """As users write it."""
        return self.host, self.port


@dataclass(frozen=True, slots=True)
class UnixEndpoint:
    """The absolute path of a Unix socket, or NUL and an abstract name."""

    path: str

    @property
    def address(self) -> Address:
        """As users write it."""
        return f"unix:{self.path}"


Endpoint: TypeAlias = TcpEndpoint | UnixEndpoint


def parse(address: object) -> Endpoint:
    """Take an address apart; `TypeError` or `ValueError` if it is not one."""
    expected = 'expected ("host", port), "host:port" or "unix:/path"'
    if isinstance(address, str):
        if address.startswith("unix:"):
            return UnixEndpoint(_checked_path(address.removeprefix("unix:"), address))
        host, colon, port = address.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit():
            lacks = "no host" if address.isdigit() else "no port number"
            raise ValueError(f"the address {_without_login(address)!r} has {lacks}; {expected}")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(
                f"the address {_without_login(address)!r} is ambiguous; write IPv6 as [host]:port"
            )
        return _checked(host, int(port), address)
    if isinstance(address, tuple) and len(address) == 2:
        host, port_number = address
        if isinstance(host, str) and isinstance(port_number, int) and not isinstance(port_number, bool):
            return _checked(host, port_number, address)
    raise TypeError(f"{address!r} is not an address; {expected}")


def _without_login(address: str) -> str:
    """An address that is none, for an error: it may be a URL, and have a password."""
    return _LOGIN.sub("://...@", address)


def _checked(host: str, port: int, address: object) -> TcpEndpoint:
    if not 0 <= port <= 65535:
        raise ValueError(f"the port of the address {address!r} must be between 0 and 65535")
    return TcpEndpoint(host, port)


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
    if path.startswith("/") and not _UNTIDY.search(path):
        # Almost every one: `Path` takes 7 us, of the 60 that a client is made in.
        return path
    # It keeps each "..", which leads elsewhere behind a symbolic link.
    return str(Path(path).absolute())


def address_of(family: int, sockaddr: Any) -> Address:
    """A socket's address as users write it."""
    if family == socket.AF_UNIX:
        # Clients have no names of their own, and share this one text.
        return f"unix:{os.fsdecode(sockaddr)}" if sockaddr else "unix:"
    host, port = sockaddr[:2]
    return host, port


def format_address(address: Address) -> str:
    """An address as one printable text: "127.0.0.1:80", "[::1]:80" or "unix:/path"."""
    if isinstance(address, str):
        if address.isprintable():
            # Nearly all are.  A path of 30 characters takes 5 us the other way, at each connection.
            return address
        # The name of an abstract socket begins with a NUL, and names may hold any byte.
        return "".join(map(_printable, address))
    host, port = address
    if not host.isprintable():
        host = "".join(map(_printable, host))
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _printable(character: str) -> str:
    if character == "\0":
        return "\\0"
    return character if character.isprintable() else character.encode("unicode_escape").decode()


def check_host(host: str) -> None:
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
        socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return False
    return True
