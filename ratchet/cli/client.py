"""The client that commands send requests with, and its errors in the words of the command line.

It moves parts as they are; what is in them is the business of `forms`.
"""

from __future__ import annotations

import math
import ssl
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from ratchet import _clock
from ratchet.bus import ClientBus, Codec, Limits, Retry
from ratchet.bus._core.address import format_address
from ratchet.bus._core.client import ClientSide
from ratchet.bus.codecs import client_functions
from ratchet.cli.address import BrokerAddress, Place, open_client
from ratchet.cli.common import Failure, reason
from ratchet.cli.connection import connect, keep_hub_quiet
from ratchet.cli.forms import Response
from ratchet.errors import BusError, BusTimeout, ConnectionLost, Outcome, ProtocolError, RemoteError

__all__ = ["Client", "new_client", "what_happened"]

Client: TypeAlias = ClientSide[Sequence[bytes], Response]


def new_client(
    address: Place,
    timeout: float,
    context: ssl.SSLContext | None,
    *,
    plain: bool = False,
    wait: float | None = None,
    retries: int = 0,
    lasting: bool = False,
) -> Client:
    """Connect to a server; blocks.

    Args:
        timeout: seconds to connect, without `wait` and `retries`.
        wait: seconds to wait until a server is up (over a broker: one that takes requests), infinite
            for ever; None for one attempt.
        retries: how many times a request that has not run is sent again.  Connecting is part
            of a request then, and does not block here.
        lasting: whether a lost connection is made again, as it always is with `wait` or `retries`.

    Raises `Failure`, which says why there is no connection.
    """
    if wait is None and not retries:
        # It shows why there is no connection, if there is none.
        transport, peer = connect(address, timeout, context)
        if not lasting and not isinstance(address, BrokerAddress):
            encode, decode = client_functions(_message, Response, None)
            return ClientBus(
                format_address(peer),
                encode,
                decode,
                Limits(),
                plain,
                None,
                lambda servers: servers.use(transport, peer),
            )
        transport.close()
    keep_hub_quiet()
    retry = Retry(attempts=1 + retries) if retries else None
    client: Client = open_client(address, _PARTS, context, plain=plain, retry=retry)
    if wait is not None:
        try:
            _wait_until_up(client, address, wait, context)
        except BaseException:
            client.close()
            raise
    return client


def _message(parts: Sequence[bytes]) -> tuple[bytes, Sequence[bytes]]:
    """The `request_to_bus` of parts."""
    return parts[0], parts[1:]


# Only a client uses it, so two of its functions are never called.
_PARTS: Final = Codec[Any, Any](_message, Response, _message, Response)


def _wait_until_up(client: Client, address: Place, seconds: float, context: ssl.SSLContext | None) -> None:
    end = _clock.monotonic() + seconds
    try:
        client.wait_connected(None if seconds == math.inf else seconds)
    except BusTimeout as error:
        raise Failure(f"{error.message}; check that it starts, or wait longer with --wait") from error
    except BusError as error:
        raise Failure(f"{what_happened(error, address, seconds)}; check the address") from error
    if isinstance(address, BrokerAddress):
        # It is up, but its clients are told that there is no service while no server has ever come.
        from ratchet.cli.broker import wait_for_server

        if not wait_for_server(address, end, context):
            raise Failure(
                f"no server took requests of {address} within {seconds:g} s; check that one starts,"
                " or wait longer with --wait"
            )


def what_happened(error: BusError, address: Place, timeout: float) -> str:
    """An error of the bus in the words of the command line."""
    over_a_broker = isinstance(address, BrokerAddress)
    match error:
        case RemoteError(outcome=Outcome.RAN):
            return f"the handler raised {error}"
        case RemoteError():
            return f"the server could not decode the request: {error.message}"
        case BusTimeout(outcome=Outcome.NOT_SENT):
            return error.message
        case BusTimeout():
            return f"{address} did not answer within {timeout:g} s"
        case (
            ProtocolError(__cause__=BaseException() as cause)
            | ConnectionLost(__cause__=ProtocolError() as cause)
        ) if not over_a_broker:
            return f"{address} does not speak ratchet's wire format ({reason(cause)})"
        case ConnectionLost(__cause__=BaseException() as cause):
            return f"the connection to {address} was lost ({reason(cause)})"
    return error.message
