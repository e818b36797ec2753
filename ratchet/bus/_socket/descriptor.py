"""Receiving and sending on the descriptor of a plain socket of the system.

Only the compiled build does that: a small exchange takes a tenth less without an object for the
socket's method, for its arguments, and for the error that says that nothing can be done now.  So
this module is not compiled itself; its functions stand once more in `descriptor.pxd`, in C.  In
the pure build, `direct` refuses every socket, and the others are never called.
"""

from __future__ import annotations

MOST = 64 * 1024
"""Bytes that are received at once."""


def direct(transport: object) -> object:
    """The socket of a transport, if its methods may be bypassed; None for any other."""
    return None


def receive(socket: object, size: int) -> bytes | None:
    """Read what the peer has sent, up to so many bytes; None if nothing has come.

    Raises `OSError` if the connection is broken, or somebody has closed the socket.
    """
    raise NotImplementedError


def send(socket: object, data: bytes) -> int:
    """Write what the socket takes at once, and return how many bytes; below 0 if `send_error` says why."""
    raise NotImplementedError


def send_error() -> OSError:
    """Why `send` has failed just now."""
    raise NotImplementedError
