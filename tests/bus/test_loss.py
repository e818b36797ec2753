"""The end of all requests on one connection: in which error each ends, and with which outcome."""

from __future__ import annotations

import ssl

import gevent
import pytest

from ratchet.bus import Limits
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.outgoing import ClientRoute, OutgoingRequest
from ratchet.bus._core.stats import Counters
from ratchet.bus._socket.loss import fail_closed, fail_lost
from ratchet.bus._socket.protocol import ClientProtocol
from ratchet.bus._socket.wire import Hello
from ratchet.errors import BusClosed, BusError, ConnectionLost, Outcome, ProtocolError

SENT = 7
"""The number of the last frame that has left."""

CONNECTION_RESET = ConnectionResetError(104, "Connection reset by peer")


class Route(ClientRoute):
    """The way to a server that is told nothing."""

    server_name = "server:1"

    def __init__(self, protocol: ClientProtocol) -> None:
        self.protocol = protocol
        super().__init__(gevent.get_hub(), Counters(), ("server", 1))

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        return Outcome.UNKNOWN

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        return False

    def forget(self, transaction: OutgoingRequest) -> None:
        self.protocol.open.pop(transaction.id, None)


@pytest.fixture
def route() -> Route:
    return Route(ClientProtocol(Limits(), ("server", 1), plain=False))


@pytest.fixture
def protocol(route: Route) -> ClientProtocol:
    """A client's role, with a request that has left, and one that has not."""
    protocol = route.protocol
    protocol.hello = Hello()
    for id, number in enumerate((SENT, SENT + 1), 1):
        request: OutgoingRequest = ClientTransaction(None, route, "question", None)
        request.id, request.frame_number = id, number
        protocol.open.setdefault(id, request)
        protocol.order.append(id)
    return protocol


def ends_of(requests: list[OutgoingRequest]) -> list[BusError]:
    """In what they ended."""
    errors = [request.error for request in requests if request.error is not None]
    assert len(errors) == len(requests)
    return errors


def test_a_request_that_has_left_may_have_run_and_another_one_was_not_sent(
    route: Route, protocol: ClientProtocol
) -> None:
    requests = list(protocol.open.values())
    fail_closed(route, protocol, SENT, "the bus was closed")
    errors = ends_of(requests)
    assert [type(error) for error in errors] == [BusClosed, BusClosed]
    assert [error.message for error in errors] == ["the bus was closed"] * 2
    assert [error.outcome for error in errors] == [Outcome.UNKNOWN, Outcome.NOT_SENT]
    assert not protocol.open
    assert not protocol.order


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (CONNECTION_RESET, ConnectionLost),
        (ConnectionLost("the server closed the connection"), ConnectionLost),
        (ProtocolError("kind 99"), ProtocolError),
    ],
)
def test_a_lost_connection_is_named_and_its_error_is_the_cause(
    route: Route, protocol: ClientProtocol, error: Exception, kind: type[BusError]
) -> None:
    requests = list(protocol.open.values())
    fail_lost(route, protocol, SENT, "server:1", error)
    for end in ends_of(requests):
        assert type(end) is kind
        assert end.message.startswith("the connection to server:1 was lost: ")
        assert end.__cause__ is error


@pytest.mark.parametrize(
    ("hello", "outcomes"),
    [
        (None, [Outcome.NOT_RUN, Outcome.NOT_RUN]),
        (Hello(), [Outcome.UNKNOWN, Outcome.NOT_SENT]),
    ],
)
def test_a_server_that_let_nobody_in_ran_nothing(
    route: Route, protocol: ClientProtocol, hello: Hello | None, outcomes: list[Outcome]
) -> None:
    refusal = ssl.SSLError(1, "certificate required")
    refusal.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    protocol.hello = hello
    requests = list(protocol.open.values())
    fail_lost(route, protocol, SENT, "server:1", refusal)
    assert [error.outcome for error in ends_of(requests)] == outcomes


def test_a_request_that_is_sent_elsewhere_by_now_is_only_forgotten(
    route: Route, protocol: ClientProtocol
) -> None:
    moved, left = protocol.open.values()
    moved.route = elsewhere = Route(ClientProtocol(Limits(), ("server", 2), plain=False))
    elsewhere.protocol.open.setdefault(moved.id, moved)
    fail_lost(route, protocol, SENT, "server:1", CONNECTION_RESET)
    assert not protocol.open
    assert moved.error is None
    assert list(elsewhere.protocol.open.values()) == [moved]
    assert ends_of([left])
