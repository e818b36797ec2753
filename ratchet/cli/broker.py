"""Asking a broker whether anybody serves: a link of its own, on which no request travels.

The broker answers by itself how many servers take requests from the queue of a service, and how many
requests lie there.  Only the commands that ask import this, because it needs pamqp.
"""

from __future__ import annotations

import ssl
from typing import Any

from gevent.event import AsyncResult
from gevent.hub import get_hub
from pamqp.commands import Basic, Queue

from ratchet import _clock
from ratchet.bus import Limits
from ratchet.bus._broker import topology
from ratchet.bus._broker.interfaces import NOT_FOUND, LinkFailure
from ratchet.bus._broker.link import Link
from ratchet.cli.address import BrokerAddress
from ratchet.cli.common import Failure
from ratchet.cli.connection import connect
from ratchet.errors import ConnectionLost, reason_of

__all__ = ["BrokerLine", "wait_for_server"]

# Seconds between two questions whether there is a server, and for each of them.
_PAUSE, _PATIENCE = 0.2, 10.0


class BrokerLine:
    """A link to a broker; blocks until the broker has let it in.

    Attributes:
        peer: the node that answers.

    Raises `Failure`.
    """

    def __init__(self, address: BrokerAddress, timeout: float, context: ssl.SSLContext | None) -> None:
        self._address = address
        # Whoever waits, for it to be let in or for an answer.
        self._waiting: AsyncResult[Any] = AsyncResult()
        self._failure: LinkFailure | None = None
        end = _clock.monotonic() + timeout
        transport, self.peer = connect(address, timeout, context)
        # It has no heartbeats: each question has a time-out.
        self._link = Link(
            get_hub(), transport, self.peer, address.broker, Limits(), 0, self, [Basic.Qos(prefetch_count=1)]
        )
        try:
            self._link.open()
            with _clock.Timeout(max(0.0, end - _clock.monotonic()), TimeoutError()):
                self._waiting.get()
        except TimeoutError as error:
            self.close()
            raise Failure(f"{address} did not let this side in in time") from error
        except ConnectionLost as error:
            self.close()
            raise Failure(error.message) from error
        except BaseException:
            self.close()
            raise

    def round_trip(self, sequence: int) -> tuple[float, str]:
        """Seconds until the broker has told how the service does, and that in words; blocks.

        Raises `Failure` if nobody serves, and `ConnectionLost`.
        """
        began = _clock.monotonic()
        servers, queued = self.ask()
        took = _clock.monotonic() - began
        if not servers:
            raise Failure(f"no server takes requests of {self._address}")
        return took, f" servers={servers} queued={queued}"

    def ask(self) -> tuple[int, int]:
        """How many servers take requests, and how many lie in the queue; blocks.

        No servers, and the link is at its end, if the service has no queue.
        """
        waiting: AsyncResult[Any] = AsyncResult()
        self._waiting = waiting
        queue = topology.request_queue(self._address.service)
        try:
            self._link.call(Queue.Declare(queue=queue, passive=True), waiting.set)
            reply: Any = waiting.get()
        except ConnectionLost:
            if self._failure is not None and self._failure.code == NOT_FOUND:
                return 0, 0
            raise
        return reply.consumer_count or 0, reply.message_count or 0

    def close(self) -> None:
        """Say goodbye; does not block."""
        self._link.close()

    # See `LinkUser`; nothing is published or consumed.

    def link_ready(self) -> None:
        self._waiting.set(None)

    def link_lost(self, failure: LinkFailure) -> None:
        self._failure = failure
        reason = "it was closed" if failure.error is None else reason_of(failure.error)
        self._waiting.set_exception(ConnectionLost(f"{reason} ({self._address})"))

    def delivered(self, delivery: object) -> None: ...

    def returned(self, returned: object) -> None: ...

    def confirmed(self, number: int, multiple: bool, accepted: bool) -> None: ...

    def blocked(self, reason: str | None) -> None: ...

    def writable(self) -> None: ...


def wait_for_server(address: BrokerAddress, end: float, context: ssl.SSLContext | None) -> bool:
    """Wait until a server takes requests, and no longer than until `end`; blocks.

    False if there is none by then.
    """
    while (left := end - _clock.monotonic()) > 0:
        if _clock.with_timeout(min(left, _PATIENCE), _is_served, address, context, timeout_value=False):
            return True
        _clock.sleep(min(_PAUSE, left))
    return False


def _is_served(address: BrokerAddress, context: ssl.SSLContext | None) -> bool:
    """Whether a server takes requests, as far as can be learned; blocks."""
    try:
        line = BrokerLine(address, _PATIENCE, context)
    except Failure:
        return False
    try:
        return bool(line.ask()[0])
    except ConnectionLost:
        return False
    finally:
        line.close()
