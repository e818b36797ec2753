"""ADDRESS on the command line: how it is read and shown, and the side of a bus that is opened there.

This is the one place that knows that there are brokers among them.  What a broker's URL has of a
password stays inside it: as text, it is the service and the nodes.
"""

from __future__ import annotations

import argparse
import ssl
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from ratchet import bus
from ratchet.bus import Codec, Retry
from ratchet.bus._broker.url import BrokerUrl, is_broker_url
from ratchet.bus._broker.url import parse as parse_url
from ratchet.bus._broker_opening import MOST_PREFETCH
from ratchet.bus._core.address import Address, TcpEndpoint, parse
from ratchet.bus._core.client import ClientSide
from ratchet.bus._core.server import ServerSide
from ratchet.cli.common import USAGE, Failure

__all__ = [
    "FORMS",
    "BrokerAddress",
    "Place",
    "address",
    "check",
    "open_client",
    "open_server",
    "shown_address",
]

FORMS: Final = "HOST:PORT, [IPv6]:PORT, unix:PATH or amqp://USER:PASSWORD@HOST/VHOST?service=NAME"
"""Whatever an ADDRESS may be."""

# How many requests a server holds that are not answered: so many that its threads need not wait while
# the broker learns of answers, and two for each of them, up to what a broker takes.
_FEWEST_HELD: Final = 128
_HELD_FOR_EACH: Final = 2


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """A service over a broker.

    Attributes:
        url: as it was given.
        service: the service that it names.
        broker: the URL, taken apart.
    """

    url: str = field(repr=False)
    service: str
    broker: BrokerUrl

    def __str__(self) -> str:
        """The service and the nodes, without who logs in there."""
        return f"{self.service} at {self.broker}"


Place: TypeAlias = str | BrokerAddress
"""An ADDRESS that was read."""


def address(text: str) -> Place:
    """The type of ADDRESS."""
    if is_broker_url(text):
        return _broker_address(text)
    try:
        endpoint = parse(text)
        if isinstance(endpoint, TcpEndpoint):
            # What the system is asked for; a name that has no such form is none.
            endpoint.host.encode("idna")
    except UnicodeError:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address; write {FORMS}") from None
    except ValueError as error:
        # Not what Python programs may write; some say by themselves what to do.
        reason, _, _ = str(error).partition("; expected ")
        advice = "" if "; write " in reason else f"; write {FORMS}"
        raise argparse.ArgumentTypeError(reason + advice) from None
    return text


def _broker_address(text: str) -> BrokerAddress:
    try:
        broker = parse_url(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if broker.service is None:
        raise argparse.ArgumentTypeError("the URL of a broker must name a service; add ?service=NAME")
    return BrokerAddress(text, broker.service, broker)


def shown_address(address: Address) -> str:
    """An address of the library, as `address` takes it."""
    if isinstance(address, str):
        return address
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check(place: Place, *, plain: bool = False) -> None:
    """Refuse a broker where pamqp is missing, or where the plain form is asked for.  Raises `Failure`."""
    if not isinstance(place, BrokerAddress):
        return
    if plain:
        raise Failure("a broker does not carry the plain form; leave out --plain", USAGE)
    try:
        import pamqp  # noqa: F401
    except ImportError as error:
        raise Failure("a broker needs pamqp; install it with: pip install 'gevent-ratchet[amqp]'") from error


def open_client(
    place: Place,
    codec: Codec[Any, Any] | None,
    context: ssl.SSLContext | None,
    *,
    plain: bool = False,
    retry: Retry | None = None,
) -> ClientSide[Any, Any]:
    """The client's side of a bus at a place that was checked; it connects in the background."""
    options: dict[str, Any] = {"codec": codec, "ssl_context": context, "retry": retry}
    if isinstance(place, BrokerAddress):
        return bus.broker_client(place.url, place.service, **options)
    return bus.connect(place, plain=plain, **options)


def open_server(
    place: Place, codec: Codec[Any, Any] | None, context: ssl.SSLContext | None, *, workers: int
) -> ServerSide[Any, Any]:
    """The server's side of a bus, for so many workers, at a place that was checked.

    Blocks while a host name is looked up.  Raises `OSError` if it cannot listen there.
    """
    options: dict[str, Any] = {"codec": codec, "ssl_context": context}
    if isinstance(place, BrokerAddress):
        held = min(max(_FEWEST_HELD, _HELD_FOR_EACH * workers), MOST_PREFETCH)
        return bus.broker_server(place.url, place.service, prefetch=held, **options)
    return bus.listen(place, **options)
