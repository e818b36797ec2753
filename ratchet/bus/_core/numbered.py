"""The base of requests, at their clients and at their servers.

It is one, and no protocol, so that the compiled build reads the id without a look-up.
"""

from __future__ import annotations


class Numbered:
    """A request, which its connection knows by a number.

    Attributes:
        id: the number.
    """

    __slots__ = ("id",)

    id: int
