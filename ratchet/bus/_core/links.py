"""The links of a request, by which gevent's own waiting calls learn of its end.

The loop itself calls what is linked, as in gevent: `gevent.wait` links a function that switches
to the waiting thread.  Hardly any request has a link, so links share the list of those who wait
in other ways, which is made only when there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

Callback = Callable[[Any], object]


class Link:
    """A function that is to be called with a request that has ended."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback = callback


def find(waits: Iterable[object], callback: Callback) -> Link | None:
    """The first link to a function among those who wait; None if there is none."""
    return next((wait for wait in waits if isinstance(wait, Link) and wait.callback == callback), None)
