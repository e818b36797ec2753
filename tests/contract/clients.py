"""Clients that connect by themselves, of a bus of any kind."""

from __future__ import annotations

from typing import Any

from contract.buses import Bus, client_tls
from ratchet import bus as ratchet_bus
from ratchet.bus import Retry


def connect(bus: Bus, **options: Any) -> Any:
    """A client that nothing here keeps or closes; on a local bus, the bus."""
    if bus.kind == "broker":
        return bus.over_broker(**{"retry": Retry(), **options})
    address: Any = bus.server.address
    if address is None:
        return bus.server
    return ratchet_bus.connect(
        address,
        codec=ratchet_bus.codecs.json,
        plain=bus.plain,
        ssl_context=client_tls(bus.kind),
        **options,
    )
