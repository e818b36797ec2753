"""The base class of whatever receives the messages of a connection.

It is the base of both kinds of route, because a connection is one, and a class of the compiled
build has only one base, through which it is called directly.  Nothing else may be in it.
"""

from __future__ import annotations

from typing import Any


class Recipient:
    """Callbacks for messages, from the hub or from a thread that sends; they must not block."""

    __slots__ = ()

    def message_received(self, message: Any) -> None:
        """A whole message has come: kind, flags, id, arg and parts."""
        raise NotImplementedError

    def short_received(self, kind: int, flags: int, id: int, arg: int, body: bytes) -> None:
        """The same for one part, as almost all have: without a tuple and a list for it."""
        self.message_received((kind, flags, id, arg, [body]))
