"""Casts that a server has not run, and that others are to run in its place, because it drains.

Each is published again, and acknowledged only when the broker has confirmed the copy.  If it were
returned instead, the broker would count that as a delivery, and so make a dead letter of it.
"""

from __future__ import annotations

import math

from pamqp.commands import Confirm

from ratchet import _clock
from ratchet.bus._broker import message, topology
from ratchet.bus._broker.link import Link
from ratchet.bus._broker.message import Request
from ratchet.bus._broker.unconfirmed import Unconfirmed
from ratchet.bus._core.deadline import time_left
from ratchet.bus._core.incoming import IncomingRequest


class GivenBack:
    """The casts of one link that were given back, as long as their copies are not confirmed."""

    __slots__ = ("_before", "_link", "_service", "_tags")

    def __init__(self, link: Link, service: str) -> None:
        self._link = link
        self._service = service
        # How many messages were published before any were confirmed; None while none are.
        self._before: int | None = None
        # Those of the deliveries.
        self._tags = Unconfirmed[int]()

    def __len__(self) -> int:
        return len(self._tags)

    def add(self, cast: IncomingRequest, tag: int) -> None:
        """Give back a cast, of the delivery `tag`; does not block."""
        if self._before is None:
            # Only now: before, the broker would confirm every answer.
            self._link.call(Confirm.Select(), _ignore)
            self._before = self._link.published
        left = time_left(cast.deadline)
        copy = Request(
            parts=cast.message,
            metadata=cast.metadata,
            expiration=None if left is None else math.ceil(left * 1000),
            deadline=None if left is None else math.ceil((_clock.wall_time() + left) * 1000),
        )
        properties, body = message.request(copy)
        _, number = self._link.publish(
            topology.REQUESTS, topology.cast_key(self._service), properties, body, mandatory=False
        )
        self._tags.add(number, tag)

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> int:
        """See `LinkListener`; one that the broker refuses becomes a dead letter when the link ends.

        Returns how many it has refused.
        """
        if self._before is None:
            return 0
        refused = 0
        for tag in self._tags.take(self._before + number, multiple):
            if accepted:
                self._link.acknowledge(tag)
            else:
                refused += 1
        return refused

    def clear(self) -> None:
        """The link has ended: the broker has them again."""
        self._tags.clear()


def _ignore(answer: object) -> None:
    pass
