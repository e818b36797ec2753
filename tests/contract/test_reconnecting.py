"""Reconnecting: what `connect` does while there is no server, and when there is one again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event
from gevent.server import StreamServer

from contract.buses import Start, client_tls, on_sockets, server_tls
from helpers import LONG, turns, wait_until
from ratchet import BusClosed, BusTimeout, ConnectionLost, Rejected, _clock
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus, ServerBus, codecs
from ratchet.bus._socket import wire
from raw_peer import RawPeer


class Place:
    """An address that is this test's, whether a server listens there or not."""

    def __init__(self, kind: str, directory: Path, stack: ExitStack) -> None:
        self._kind = kind
        self._stack = stack
        self.address: Any = f"unix:{directory}/bus"
        if kind != "unix":
            # Bound and not listening, it keeps others away, and refuses clients.
            keeper = stack.enter_context(socket.socket())
            keeper.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            keeper.bind(("127.0.0.1", 0))
            self.address = keeper.getsockname()

    def listen(self, **options: Any) -> ServerBus[Any, Any]:
        options = {"codec": codecs.json, "ssl_context": server_tls(self._kind), **options}
        return self._stack.enter_context(ratchet_bus.listen(self.address, **options))

    def connect(self) -> ClientBus[Any, Any]:
        options: dict[str, Any] = {"codec": codecs.json, "ssl_context": client_tls(self._kind)}
        return self._stack.enter_context(ratchet_bus.connect(self.address, **options))


@pytest.fixture
def place(kind: str, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(kind, tmp_path, stack)


def double(request: int) -> int:
    return 2 * request


@pytest.mark.virtual_time
@on_sockets
def test_a_request_that_found_no_server_in_time_fails_as_not_sent_and_says_not_connected(
    place: Place,
) -> None:
    client = place.connect()
    for call in (client.call, client.send_request):
        with pytest.raises(BusTimeout, match=r"not connected to .*: ") as raised:
            call(1, timeout=0.03)
        assert raised.value.outcome == "NOT_SENT"
    assert client.stats()[:3] == (0, 0, 0)


@pytest.mark.virtual_time
@on_sockets
def test_requests_wait_for_the_server_and_each_is_sent_once_when_it_comes_up(
    place: Place, start: Start
) -> None:
    clients = [place.connect() for _ in range(3)]
    calls = [start(client.call, number) for number in range(5) for client in clients]
    for call in calls:
        call.wait_until_blocked()
    assert [client.stats().queued for client in clients] == [5, 5, 5]
    with pytest.raises(BusTimeout):
        clients[0].call(99, timeout=0.01)
    ran: list[int] = []
    server = place.listen()
    start(server.serve, lambda request: ran.append(request))
    assert [call.result() for call in calls] == [None] * 15
    assert sorted(ran) == sorted([*range(5)] * 3)


@on_sockets
def test_a_client_that_is_closed_while_it_connects_says_so_to_each_request(
    place: Place, start: Start
) -> None:
    client = place.connect()
    calls = [start(client.call, number) for number in range(3)]
    for call in calls:
        call.wait_until_blocked()
    client.close()
    for call in calls:
        with pytest.raises(BusClosed) as raised:
            call.result()
        assert raised.value.outcome == "NOT_SENT"


@on_sockets
def test_a_request_in_flight_when_the_server_goes_is_unknown_and_never_sent_again(
    place: Place, start: Start
) -> None:
    first = place.listen()
    clients = [place.connect() for _ in range(3)]
    calls = [start(client.call, number) for number, client in enumerate(clients)]
    taken = [first.recv_request(LONG) for _ in calls]
    first.close()
    for call in calls:
        with pytest.raises(ConnectionLost) as raised:
            call.result()
        assert raised.value.outcome == "UNKNOWN"
    assert [transaction.cancelled for transaction, _ in taken] == [True] * 3
    later = [start(client.call, number) for number, client in enumerate(clients, 10)]
    second = place.listen()
    ran: list[int] = []

    def handler(request: int) -> int:
        ran.append(request)
        return double(request)

    start(second.serve, handler)
    assert [call.result() for call in later] == [20, 22, 24]
    assert sorted(ran) == [10, 11, 12]


@on_sockets
def test_a_connection_that_is_lost_at_once_is_made_again_after_growing_pauses(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        gevent.sleep(0)

    monkeypatch.setattr(_clock, "sleep", sleep)
    clients = [place.connect() for _ in range(2)]
    wait_until(lambda: len(pauses) >= 40)
    for each in clients:
        each.close()
    turns()
    # With two clients each pause comes twice, and no two are alike.
    longest = [min(0.05 * 2**number, 5.0) for number in range(len(pauses))]
    for upper, shown in zip(sorted([*longest, *longest])[:40], sorted(pauses)[:40], strict=True):
        assert shown <= upper
    assert all(0.025 <= pause <= 5.0 for pause in pauses)
    assert len(set(pauses)) == len(pauses)
    assert max(pauses) > 2.5


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_server_that_breaks_off_each_connection_is_not_called_in_a_rush(
    place: Place, kind: str, start: Start
) -> None:
    listener = socket.socket() if kind == "tcp" else socket.socket(socket.AF_UNIX)
    with listener:
        if kind == "tcp":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place.address)
        else:
            listener.bind(place.address.removeprefix("unix:"))
        listener.listen()
        client = place.connect()
        waiting = None
        for number in range(3):
            with RawPeer(listener.accept()[0]) as raw:
                # It asks again only because it was told to.
                waiting = start(client.call, number)
                body = raw.receive_message()[4]
            assert body == [b"%d" % number]
            with pytest.raises(ConnectionLost) as raised:
                waiting.result()
            assert raised.value.outcome == "UNKNOWN"
        with RawPeer(listener.accept()[0]) as raw:
            waiting = start(client.call, 7)
            id = raw.receive_message()[2]
            raw.send(wire.encode(wire.RESPONSE, 0, id, 0, [b"14"]))
            assert waiting.result() == 14


@pytest.mark.parametrize(
    "word",
    [wire.encode(wire.GOAWAY, 0, 0, 0, ()), wire.encode(wire.RESPONSE, 0, 77, 0, [b""])],
    ids=["goaway", "response"],
)
def test_a_server_that_says_one_thing_and_closes_is_not_called_in_a_rush(word: bytes) -> None:
    times = 0

    def say_it(connection: Any, _: object) -> None:
        nonlocal times
        times += 1
        connection.sendall(word)

    with StreamServer(("127.0.0.1", 0), say_it) as listener:
        listener.start()
        with ratchet_bus.connect(("127.0.0.1", int(listener.server_port or 0))):
            gevent.sleep(0.5)
    assert 1 <= times <= 8


@on_sockets
def test_clients_go_over_from_a_draining_server_to_a_new_one_and_no_request_is_lost(
    place: Place, start: Start
) -> None:
    ran: list[int] = []
    outcomes: set[str] = set()
    begun = Event()
    go_on = Event()

    def handler(request: int) -> int:
        ran.append(request)
        gevent.sleep(0)
        if request == 0:
            begun.set()
            go_on.wait()
        return double(request)

    def call_until_answered(client: ClientBus[Any, Any], request: int) -> int:
        while True:
            try:
                return int(client.call(request, LONG))
            except Rejected as error:
                outcomes.add(error.outcome)
                # What a real client would do too, if not at once.
                gevent.sleep(0)

    first = place.listen()
    serving_first = start(first.serve, handler, workers=4)
    clients = [place.connect() for _ in range(4)]
    calls = [start(call_until_answered, clients[0], 0)]
    assert begun.wait(LONG)
    calls += [start(call_until_answered, clients[number % 4], number) for number in range(1, 100)]
    wait_until(lambda: len(ran) >= 20)
    draining = start(first.drain)
    draining.wait_until_blocked()
    second = place.listen()
    serving_second = start(second.serve, handler, workers=4)
    calls += [start(call_until_answered, clients[number % 4], number) for number in range(100, 200)]
    wait_until(lambda: sum(call.ended for call in calls) == 199)
    go_on.set()
    assert [call.result() for call in calls] == [double(number) for number in range(200)]
    assert sorted(ran) == list(range(200))
    assert outcomes <= {"NOT_RUN"}
    assert draining.result() is True
    assert serving_first.result() is None
    assert second.stats().answered >= 100
    second.close()
    assert serving_second.result() is None
