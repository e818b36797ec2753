"""A client of several servers: which one a request goes to, and how it hears of new ones."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent.event import Event

from helpers import LONG, wait_until
from ratchet import Alarm, BusClosed, BusTimeout, ConnectionLost, RemoteError
from ratchet import bus as ratchet_bus


class Farm:
    """Servers that each answer with their own name, or as a test wants."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.servers: dict[str, Any] = {}

    def add(self, name: str, handler: Any = None, workers: int = 8) -> Any:
        server = self._stack.enter_context(ratchet_bus.listen("127.0.0.1:0"))
        serving = gevent.spawn(server.serve, handler or (lambda _: name.encode()), workers)
        self._stack.callback(serving.kill)
        self.servers[name] = server
        return server.address

    def client(self, addresses: Any, **options: Any) -> Any:
        return self._stack.enter_context(ratchet_bus.connect(addresses, **options))


class Unshown(Exception):
    """An error, or an address, that nobody can show."""

    def __str__(self) -> str:
        raise ValueError

    __repr__ = __str__


@pytest.fixture
def farm() -> Iterator[Farm]:
    with ExitStack() as stack:
        yield Farm(stack)


@pytest.fixture
def dead_address() -> Iterator[Any]:
    """An address at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()


def connected(client: Any, count: int) -> None:
    """Wait until so many servers have said hello."""
    wait_until(lambda: sum(place.is_ready for place in client._servers.places) == count, "the connections")


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ([], ValueError),
        ([3], TypeError),
        (["host"], ValueError),
        (3, TypeError),
        ({"127.0.0.1:1"}, TypeError),
    ],
)
def test_what_is_no_address_is_refused(address: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        ratchet_bus.connect(address)


@pytest.mark.parametrize(("connections", "error"), [(0, ValueError), ("1", TypeError), (True, TypeError)])
def test_what_is_no_number_of_connections_is_refused(connections: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^connections must be"):
        ratchet_bus.connect("127.0.0.1:1", connections=connections)


def test_requests_go_to_the_connection_with_the_fewest_in_flight(farm: Farm) -> None:
    go_on = Event()
    started: Counter[str] = Counter()

    def handler(name: str) -> Any:
        def handle(_: bytes) -> bytes:
            started[name] += 1
            go_on.wait()
            return name.encode()

        return handle

    client = farm.client([farm.add(name, handler(name)) for name in "abcd"])
    connected(client, 4)
    sent = [client.send_request(b"x", LONG) for _ in range(12)]
    wait_until(lambda: started.total() == 12)
    assert started == dict.fromkeys("abcd", 3)
    go_on.set()
    assert sorted(each.recv_response() for each in sent) == sorted([b"a", b"b", b"c", b"d"] * 3)


def test_of_many_connections_requests_go_to_all(farm: Farm) -> None:
    client = farm.client([farm.add("a"), farm.add("b")], connections=10)
    connected(client, 20)
    assert client.stats().connections == 20
    answers = Counter(client.call_many([b"x"] * 1000, LONG))
    assert set(answers) == {b"a", b"b"}


def test_one_address_has_as_many_connections_as_are_asked_for(farm: Farm) -> None:
    client = farm.client(farm.add("a"), connections=3)
    connected(client, 3)
    assert farm.servers["a"].stats().connections == 3
    assert client.call(b"x", LONG) == b"a"


def test_nobody_waits_for_a_server_that_is_not_there(farm: Farm, dead_address: Any) -> None:
    client = farm.client([dead_address, farm.add("good")])
    assert [client.call(b"x", LONG) for _ in range(20)] == [b"good"] * 20
    assert "connected to 1 of 2" in repr(client)


def test_nobody_waits_for_a_server_that_lets_clients_connect_and_says_nothing(farm: Farm) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = farm.client([silent.getsockname(), farm.add("good")])
        assert [client.call(b"x", LONG) for _ in range(20)] == [b"good"] * 20


def test_one_slow_and_one_dead_server_do_not_slow_the_others_down(farm: Farm, dead_address: Any) -> None:
    def slow(_: bytes) -> bytes:
        gevent.sleep(0.3)
        return b"slow"

    client = farm.client([dead_address, farm.add("slow", slow), farm.add("good")])
    connected(client, 2)
    times = []
    for _ in range(50):
        began = time.monotonic()
        client.call(b"x", LONG)
        times.append(time.monotonic() - began)
    assert statistics.median(times) < 0.1
    assert sum(each > 0.3 for each in times) <= 3


def test_a_server_that_fails_at_once_does_not_get_the_requests_of_all(farm: Farm) -> None:
    def good(_: bytes) -> bytes:
        gevent.sleep(0.01)
        return b"good"

    def broken(_: bytes) -> bytes:
        raise ValueError("no database")

    client = farm.client([farm.add("good", good), farm.add("broken", broken)])
    connected(client, 2)
    results: list[Any] = []

    def call() -> None:
        for _ in range(25):
            try:
                results.append(client.call(b"x", LONG))
            except RemoteError as error:
                results.append(type(error))

    gevent.joinall([gevent.spawn(call) for _ in range(4)], raise_error=True)
    assert results.count(RemoteError) <= 25, "a fair share would be most of them"


def test_a_server_that_drains_hands_over_without_a_failure(farm: Farm) -> None:
    def handle(request: bytes) -> bytes:
        gevent.sleep(0.002)
        return request

    client = farm.client([farm.add(name, handle) for name in "abc"])
    connected(client, 3)
    done = 0

    def call(number: int) -> None:
        nonlocal done
        for _ in range(100):
            assert client.call(b"%d" % number, LONG) == b"%d" % number
            done += 1

    callers = [gevent.spawn(call, number) for number in range(16)]
    wait_until(lambda: done >= 400)
    assert farm.servers["a"].drain(LONG)
    wait_until(lambda: done >= 800)
    assert farm.servers["b"].drain(LONG)
    gevent.joinall(callers, raise_error=True)
    assert done == 1600
    assert client.stats().failed == 0


def test_a_server_that_dies_is_no_failure_of_what_may_run_twice(farm: Farm) -> None:
    def handle(request: bytes) -> bytes:
        gevent.sleep(0.002)
        return request

    client = farm.client([farm.add(name, handle) for name in "ab"])
    connected(client, 2)

    def call() -> None:
        for _ in range(100):
            assert client.call(b"x", LONG, idempotent=True) == b"x"

    callers = [gevent.spawn(call) for _ in range(8)]
    wait_until(lambda: client.stats().answered > 100)
    farm.servers["a"].close()
    gevent.joinall(callers, raise_error=True)


def test_a_function_is_asked_where_servers_are_and_again_when_one_goes(farm: Farm) -> None:
    addresses = [farm.add("old")]
    asked = 0

    def where() -> list[Any]:
        nonlocal asked
        asked += 1
        return list(addresses)

    client = farm.client(where)
    assert client.call(b"x", LONG) == b"old"
    assert asked == 1
    addresses[:] = [farm.add("new")]
    farm.servers["old"].drain(LONG)
    wait_until(lambda: asked > 1, "it to be asked again")
    assert client.call(b"x", LONG) == b"new"
    connected(client, 1)
    wait_until(lambda: client.stats().connections == 1)


def test_what_is_open_on_a_server_that_is_no_longer_named_is_still_answered(farm: Farm) -> None:
    go_on = Event()

    def wait(_: bytes) -> bytes:
        go_on.wait()
        return b"old"

    addresses = [farm.add("old", wait)]
    client = farm.client(lambda: list(addresses))
    sent = client.send_request(b"x", LONG)
    addresses[:] = [farm.add("new")]
    client._servers.waiters.note_gone()
    wait_until(lambda: farm.servers["new"].stats().connections == 1, "the new server")
    assert client.call(b"x", LONG) == b"new"
    go_on.set()
    assert sent.recv_response() == b"old"
    wait_until(lambda: farm.servers["old"].stats().connections == 0, "the old one to be left")


def test_a_function_that_fails_is_logged_once_and_asked_again(
    farm: Farm, caplog: pytest.LogCaptureFixture
) -> None:
    answers: list[Any] = [
        OSError("no name server"),
        OSError("no name server"),
        "nonsense",
        [farm.add("good")],
    ]

    def where() -> Any:
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = farm.client(where)
    with pytest.raises(BusTimeout) as caught:
        client.call(b"x", 0.01)
    assert caught.value.outcome == "NOT_SENT"
    asking = gevent.spawn(client.call, b"x", LONG)
    while not asking.ready():
        client._servers.waiters.note_gone()
        gevent.sleep(0.01)
    assert asking.get() == b"good"
    told = [record.getMessage() for record in caplog.records if "cannot ask" in record.getMessage()]
    assert len(told) == 2, told


@pytest.mark.parametrize(
    "error", [gevent.Timeout(0.5), Alarm(0.5), gevent.GreenletExit(), Unshown(), [Unshown()], []]
)
def test_whatever_a_function_makes_of_it_it_is_asked_again_before_long(
    farm: Farm, error: Any, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    good = farm.add("good")
    asked = 0

    def where() -> Any:
        nonlocal asked
        asked += 1
        if asked > 1:
            return [good]
        if isinstance(error, BaseException):
            raise error
        return error

    client = farm.client(where)
    with pytest.raises(BusTimeout) as caught:
        client.call(b"x", 0.2)
    assert asked == 1
    why = caught.value.message.partition(" s: ")[2]
    assert why
    assert why in repr(client)
    assert client.call(b"x", LONG) == b"good"
    assert why not in repr(client)
    assert len([record for record in caplog.records if "cannot ask" in record.getMessage()]) == 1
    assert capsys.readouterr().err == ""


async def _coroutine() -> list[str]:
    return []


@pytest.mark.parametrize("source", [_coroutine, lambda service: [], lambda *, service: []])
def test_a_function_that_cannot_be_asked_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match=r"^address must be .*function"):
        ratchet_bus.connect(source)


def test_wait_connected_waits_for_any_of_them(farm: Farm, dead_address: Any) -> None:
    client = farm.client([dead_address, farm.add("good")])
    client.wait_connected(LONG)
    nobody = farm.client([dead_address, dead_address])
    with pytest.raises(BusTimeout, match="Connection refused"):
        nobody.wait_connected(0.1)


def test_where_nothing_can_help_nobody_waits(farm: Farm) -> None:
    client = farm.client(["no host!:1", "nor this one!:1"])
    with pytest.raises(ConnectionLost) as caught:
        client.call(b"x", LONG)
    assert caught.value.outcome == "NOT_SENT"


def test_closing_closes_all(farm: Farm) -> None:
    addresses = [farm.add(name) for name in "abc"]
    client = farm.client(addresses, connections=2)
    connected(client, 6)
    client.close()
    wait_until(lambda: not any(server.stats().connections for server in farm.servers.values()))
    with pytest.raises(BusClosed):
        client.call(b"x")


def test_dropping_closes_all(farm: Farm) -> None:
    client = ratchet_bus.connect([farm.add(name) for name in "ab"])
    connected(client, 2)
    with pytest.warns(ResourceWarning, match="was dropped without close"):
        del client
    wait_until(lambda: not any(server.stats().connections for server in farm.servers.values()))


def test_draining_waits_for_what_is_open_at_all_of_them(farm: Farm) -> None:
    def slow(_: bytes) -> bytes:
        gevent.sleep(0.05)
        return b"done"

    client = farm.client([farm.add(name, slow) for name in "ab"])
    connected(client, 2)
    sent = [client.send_request(b"x", LONG) for _ in range(6)]
    assert client.drain(LONG)
    assert [each.recv_response() for each in sent] == [b"done"] * 6


def test_the_plain_form_works_over_several(farm: Farm) -> None:
    client = farm.client([farm.add("a"), farm.add("b")], plain=True)
    connected(client, 2)
    assert {client.call(b"x", LONG) for _ in range(8)} <= {b"a", b"b"}
