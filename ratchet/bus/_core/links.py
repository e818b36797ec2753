"""The links of a request, by which gevent's own waiting calls learn of its end.

A link is called once, in the hub, as gevent does it: `gevent.wait` links what switches to
the thread that waits.  Hardly any request has one, so links stand among those who wait in
other ways, in a list that is made only then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from gevent.hub import Hub

Callback = Callable[[Any], object]


class Link:
    """A function that is to be called with a request that has ended."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback = callback


def call_each(waits: list[Any], request: object, hub: Hub) -> None:
    """Call the links among those who wait, for a request that has ended; only from a hub callback.

    Each is gone when it has been called, and one that was interrupted is still there.
    """
    while (link := next((wait for wait in waits if isinstance(wait, Link)), None)) is not None:
        try:
            link.callback(request)
        except BaseException:
            # As gevent does: the others are called all the same.
            discard(waits, link)
            hub.handle_error((link.callback, request), *sys.exc_info())
        discard(waits, link)


def discard(waits: list[Any], link: Link) -> None:
    """Take a link out.  Calling it twice is the same as once."""
    if link in waits:
        waits.remove(link)


def find(waits: list[Any], callback: Callback) -> Link | None:
    """The first link to a function; None if there is none."""
    return next((wait for wait in waits if isinstance(wait, Link) and wait.callback == callback), None)
