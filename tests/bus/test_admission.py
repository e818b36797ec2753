"""Which requests of its clients a server lets in."""

from __future__ import annotations

import gevent
import pytest

from ratchet.bus import Limits
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.intake import Intake
from ratchet.bus._core.side import DRAINING
from ratchet.bus._socket.admission import Admission
from routes import Client, Owner


class Connection(Client):
    """A client's connection: the way of its answers, and a reader."""

    def __init__(self) -> None:
        super().__init__()
        self.in_process = False
        self.peer = ("client", 1)
        self.reads = 0

    def released(self, request: IncomingRequest) -> None:
        """Nothing is kept here for it."""

    def look_again(self) -> None:
        self.reads += 1


@pytest.fixture
def admission() -> Admission:
    return Admission(Intake(Owner(), gevent.get_hub(), None, None, None, None), Limits())


@pytest.fixture
def connection(admission: Admission) -> Connection:
    connection = Connection()
    admission.connections[connection] = None
    return connection


def come(admission: Admission, connection: Connection, *, one_way: bool) -> IncomingRequest:
    """Let a request, or a cast, come."""
    request = IncomingRequest(admission.requests, connection, [b"question"], one_way, None)
    admission.enqueue(request)
    return request


def test_what_comes_is_queued_in_order(admission: Admission, connection: Connection) -> None:
    came = [come(admission, connection, one_way=one_way) for one_way in (False, True, False)]
    assert list(admission.inbox) == came
    admission.dequeue(came[:1])
    assert list(admission.inbox) == came[1:]
    admission.dequeue([])
    assert list(admission.inbox) == came[1:]


def test_a_server_that_drains_lets_casts_in_and_refuses_requests(
    admission: Admission, connection: Connection
) -> None:
    admission.intake.life = DRAINING
    come(admission, connection, one_way=False)
    cast = come(admission, connection, one_way=True)
    assert list(admission.inbox) == [cast]
    assert connection.reasons == [Reason.DRAINING]
    assert admission.lost_casts == 0


def test_a_cast_that_comes_too_late_for_a_drain_is_counted_as_lost(
    admission: Admission, connection: Connection
) -> None:
    admission.inbox.close()
    come(admission, connection, one_way=False)
    come(admission, connection, one_way=True)
    assert list(admission.inbox) == []
    assert connection.reasons == [Reason.DRAINING]
    assert admission.lost_casts == 1


def test_every_connection_reads_on_when_there_is_room(admission: Admission, connection: Connection) -> None:
    other = Connection()
    admission.connections[other] = None
    admission.let_in()
    assert (connection.reads, other.reads) == (1, 1)
