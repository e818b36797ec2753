"""systemd's protocols: socket activation, and telling the service manager of states.

Sockets that it has opened come as descriptors from 3 on, counted by LISTEN_FDS; states go
as datagrams to NOTIFY_SOCKET.  Without these variables, nothing here does anything.
"""

from __future__ import annotations

import os
import socket as _socket
from contextlib import suppress
from typing import Final

from gevent import socket
from gevent.monkey import get_original

from ratchet import _clock
from ratchet.bus._core.address import Endpoint, format_address
from ratchet.bus._socket.listen import check_listens, listening_address

VARIABLES: Final = ("LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "NOTIFY_SOCKET")
"""Environment variables that are for this process alone, not for its children."""

_FIRST_DESCRIPTOR: Final = 3

# Not gevent's: a call that never blocks needs no hub.
_system_socket = get_original("socket", "socket")


def passed_socket(endpoint: Endpoint) -> socket.socket | None:
    """The listening socket that the service manager has opened for us; None if it has not.

    The only one is taken whatever its address: the unit's file decides.  Of several, it is the
    one that listens on `endpoint`.  Raises `ValueError` if none of them does, or it does not listen,
    or they are no sockets.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    number = os.environ.get("LISTEN_FDS", "0")
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    if not (number.isascii() and number.isdigit()):
        raise ValueError(f"LISTEN_FDS must be a number of sockets, not {number!r}")
    count = int(number)
    passed = [_socket_at(_FIRST_DESCRIPTOR + index) for index in range(count)]
    fitting = [one for one in passed if count == 1 or listening_address(one) == endpoint.address]
    for one in passed:
        one.set_inheritable(False)
        if one not in fitting[:1]:
            one.close()
    if count and not fitting:
        where = format_address(endpoint.address)
        raise ValueError(
            f"none of the {count} sockets that the service manager has opened listens on {where}"
        )
    if fitting:
        check_listens(fitting[0])
        return fitting[0]
    return None


def _socket_at(descriptor: int) -> socket.socket:
    try:
        return socket.socket(fileno=descriptor)
    except OSError as error:
        text = f"the descriptor {descriptor}, which the service manager has opened, is no socket"
        raise ValueError(f"{text}: {error.strerror}") from error


def notify(*lines: str) -> None:
    """Tell the service manager, if there is one; raises nothing.  See sd_notify(3) for the lines."""
    path = os.environ.get("NOTIFY_SOCKET")
    if not path:
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    with suppress(OSError), _system_socket(_socket.AF_UNIX, _socket.SOCK_DGRAM) as manager:
        manager.setblocking(False)
        manager.sendto("\n".join(lines).encode(), address)


def notify_reloading() -> None:
    """Tell the service manager that workers are being replaced; `READY=1` tells that it is done."""
    notify("RELOADING=1", f"MONOTONIC_USEC={int(_clock.monotonic() * 1_000_000)}")
