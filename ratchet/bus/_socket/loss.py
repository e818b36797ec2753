"""The end of all requests on one connection, and what is certain about each.

The connection is lost, or closed by this side.  A request of which nothing has left was
not sent; of any other one nobody knows, unless the server did not let this side in.
"""

from __future__ import annotations

from ratchet.bus._core.outgoing import ClientRoute
from ratchet.bus._socket.protocol import ClientProtocol
from ratchet.bus._transport.tls import refused_us
from ratchet.errors import BusClosed, BusError, ConnectionLost, Outcome, ProtocolError, reason_of


def fail_closed(route: ClientRoute, protocol: ClientProtocol, sent: int, message: str) -> None:
    """End them because this side has closed; `sent` is the number of the last frame that has left."""
    _fail_all(route, protocol, sent, BusClosed, message, None)


def fail_lost(
    route: ClientRoute, protocol: ClientProtocol, sent: int, server: str, error: BaseException | None
) -> None:
    """End them because the connection to `server` was lost in an error."""
    error_type = ProtocolError if isinstance(error, ProtocolError) else ConnectionLost
    _fail_all(
        route, protocol, sent, error_type, f"the connection to {server} was lost: {reason_of(error)}", error
    )


def _fail_all(
    route: ClientRoute,
    protocol: ClientProtocol,
    sent: int,
    error_type: type[BusError],
    message: str,
    cause: BaseException | None,
) -> None:
    for transaction in list(protocol.open.values()):
        # One that is sent elsewhere was interrupted before it was forgotten here.
        if transaction.route is route:
            error = error_type(message, outcome=_outcome(protocol, cause, transaction.frame_number > sent))
            error.__cause__ = cause
            transaction.fail(error)
    protocol.open.clear()
    protocol.order.clear()


def _outcome(protocol: ClientProtocol, cause: BaseException | None, unsent: bool) -> Outcome:
    if protocol.hello is None and cause is not None and refused_us(cause):
        # A server that did not let this side in ran nothing that it sent.
        return Outcome.NOT_RUN
    return Outcome.NOT_SENT if unsent else Outcome.UNKNOWN
