"""What the links of one server have in common: what it serves, and the cancels that it remembers.

A cancel goes to all servers of a service, because nobody knows which of them has the request, or will.
Those that are not for a request here are remembered, in case the request comes later.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from gevent.hub import Hub

from ratchet.bus._broker import topology
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.limits import Limits, countable

# How many cancels are remembered that came before their requests, or for another server's.
_MOST_CANCELS: Final = 10_000


class Desk:
    """What the links of one server share.

    Args:
        hub: the server's.
        intake: takes the requests.
        service: the service that it serves.
        url: the broker.
        limits: the server's.
        heartbeat: seconds between heartbeats; 0 for none.
        prefetch: how many requests it holds that are not answered.
        redeliver: as for `topology.request_arguments`.

    Attributes:
        cancels: those that were for no request here, by `reply_to` and `correlation_id`.
        refused: how many casts the broker would not take back; they are dead letters.
    """

    __slots__ = (
        "cancels",
        "heartbeat",
        "hub",
        "intake",
        "limits",
        "prefetch",
        "redeliver",
        "refused",
        "service",
        "url",
    )

    def __init__(
        self,
        hub: Hub,
        intake: Intake,
        service: str,
        url: BrokerUrl,
        limits: Limits,
        heartbeat: int,
        prefetch: int,
        redeliver: int,
    ) -> None:
        self.hub = hub
        self.intake = intake
        self.service = service
        self.url = url
        self.limits = limits
        self.heartbeat = heartbeat
        self.prefetch = prefetch
        self.redeliver = redeliver
        self.cancels: OrderedDict[tuple[str, str], None] = OrderedDict()
        self.refused = 0

    def set_up(self) -> topology.Methods:
        """What a link declares before it is ready."""
        return [
            *topology.exchanges(),
            *topology.service_queues(self.service, countable(self.limits.max_queued), self.redeliver),
            *topology.take_cancels(self.service),
            *topology.take_requests(self.service, self.prefetch),
        ]

    def remember_cancel(self, key: tuple[str, str]) -> None:
        """Note a cancel for a request that may come later."""
        self.cancels[key] = None
        if len(self.cancels) > _MOST_CANCELS:
            self.cancels.popitem(last=False)
