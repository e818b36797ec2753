"""The content of a client's request or cast, and the message in which an attempt sends it.

The content stays the same however often it is sent; how much time is left does not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from ratchet import _clock
from ratchet.bus._broker.message import MAX_EXPIRATION, Request
from ratchet.bus._core.deadline import time_left
from ratchet.errors import BusTimeout, Outcome

# Seconds from which on a request has no deadline: more than a broker takes.
_FOREVER: Final = MAX_EXPIRATION / 1000


class Content(NamedTuple):
    """What travels of a request.

    Attributes:
        parts: the body, and the attachments.
        metadata: strings that go with it.
        one_way: whether it is a cast.
    """

    parts: Sequence[bytes]
    metadata: Mapping[str, str]
    one_way: bool

    def message(self, correlation_id: str, reply_to: str, deadline: float | None, name: str) -> Request:
        """The message of an attempt that is made now.

        Args:
            correlation_id: its number at its client.
            reply_to: the queue of the answer; a cast has none.
            deadline: when its time is over, by `_clock.monotonic`; None for never.
            name: the service and its broker, for people.

        Raises `BusTimeout` if its time is over.
        """
        if self.one_way:
            # Only how long it waited was bounded: it is over when it is sent.
            return Request(parts=self.parts, correlation_id=correlation_id, metadata=self.metadata)
        left = time_left(deadline)
        if left == 0:
            text = f"the time of the request was over before it could be sent to {name}"
            raise BusTimeout(text, outcome=Outcome.NOT_SENT)
        if left is not None and left >= _FOREVER:
            left = None
        return Request(
            parts=self.parts,
            correlation_id=correlation_id,
            reply_to=reply_to,
            expiration=None if left is None else math.ceil(left * 1000),
            deadline=None if left is None else math.ceil((_clock.wall_time() + left) * 1000),
            metadata=self.metadata,
        )
