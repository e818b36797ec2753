"""Receiving and sending on the descriptor of a plain socket of the system.

Only the compiled build does: without an object for the socket's method, for its arguments and
for the error that nothing can be done now, a small exchange takes a tenth less.  So this module
is not compiled itself; its functions stand once more in `descriptor.pxd`, in C.  In the pure
build they would only be in the way.
"""

from __future__ import annotations

NONE = -1
"""No descriptor: the transport is to be asked."""

MOST = 64 * 1024
"""Bytes that are received at once."""


def direct(transport: object) -> int:
    """The descriptor of a transport whose socket may be passed by; `NONE` for any other."""
    return NONE


def receive(descriptor: int, size: int) -> bytes | None:
    """Read what the peer has sent, up to so many bytes; None if nothing has come.

    Raises `OSError` if the connection is broken.
    """
    raise NotImplementedError


def send(descriptor: int, data: bytes) -> int:
    """Write what the socket takes at once, and return how many bytes; raises `OSError`."""
    raise NotImplementedError
