"""`proxy.py`, between a client and servers in the test's process."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gevent
import pytest
from gevent.event import Event

from examples.programs import ListeningProgram, listening, refuses, wait_for
from helpers import LONG
from ratchet import BusTimeout, Cancelled, Outcome, RemoteError, bus

pytestmark = pytest.mark.slow

Message = tuple[bytes, list[bytes]]
Client = bus.ClientBus[Message, Message]
Transaction = bus.ServerTransaction[Message, Message]


def as_it_came(body: bytes, attachments: list[bytes]) -> Message:
    return body, attachments


def as_it_is(message: Message) -> Message:
    return message


CODEC: bus.Codec[Message, Message] = bus.Codec(as_it_is, as_it_came, as_it_is, as_it_came)


class Server:
    """A server behind the proxy; it keeps what it has taken until it may go on."""

    def __init__(self, address: str, workers: int) -> None:
        self.bus = bus.listen(address, codec=CODEC)
        self.taken: list[Transaction] = []
        self.interrupted = 0
        self.may_go_on = Event()
        self.serving = gevent.spawn(self.bus.serve, self.handle, workers)

    def handle(self, message: Message, transaction: Transaction) -> Message:
        self.taken.append(transaction)
        try:
            self.may_go_on.wait(LONG)
        except BaseException:
            self.interrupted += 1
            raise
        if message[0] == b"raise":
            raise KeyError("what the handler raised")
        return message

    def wait_for(self, count: int) -> None:
        """Until it has taken as many requests."""
        wait_for(lambda: len(self.taken) == count, f"{count} requests")

    def wait_for_proxy(self) -> None:
        wait_for(lambda: self.bus.stats().connections == 1, "the proxy's connection")


@contextmanager
def server(folder: Path, name: str, workers: int = 64) -> Iterator[Server]:
    serves = Server(f"unix:{folder}/{name}", workers)
    with serves.bus:
        yield serves
    serves.serving.join()


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[ListeningProgram]:
    """A proxy for the two servers `a` and `b`, which may be there or not."""
    with listening("proxy.py", f"unix:{tmp_path}/a", f"unix:{tmp_path}/b") as program:
        yield program


@pytest.fixture
def client(proxy: ListeningProgram) -> Iterator[Client]:
    with bus.connect(proxy.address, codec=CODEC, retry=None) as client:
        yield client


AWAY = re.compile(r"WARNING:ratchet\.bus:cannot connect to unix:\S+/([ab]): .+; trying again\n")
"""What it logs of a server that is not there; such servers belong to these tests."""


def end(proxy: ListeningProgram) -> str:
    """See to it that it ends well; returns what else it has logged."""
    proxy.send(signal.SIGTERM)
    return logged(proxy)


def logged(proxy: ListeningProgram) -> str:
    """The same of one that has been told to end."""
    status, lines, errors = proxy.end()
    assert (status, lines) == (0, [])
    return AWAY.sub("", errors)


def test_requests_and_responses_stay_as_they_are(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a:
        a.may_go_on.set()
        messages: list[Message] = [
            (b"", []),
            (b"\xff\x00 no text", [b"", os.urandom(1000), b""]),
            (os.urandom(3_000_000), [os.urandom(2_000_000)]),
        ]
        for message in messages:
            assert client.call(message, LONG, {"trace": "7 \N{SNOWMAN}"}) == message
        assert [dict(taken.metadata) for taken in a.taken] == [{"trace": "7 \N{SNOWMAN}"}] * 3
        client.cast((b"one way", []))
        a.wait_for(4)
        assert a.taken[3].request == (b"one way", [])
        assert end(proxy) == ""


def test_a_request_goes_where_the_fewest_are_unanswered(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a, server(tmp_path, "b") as b:
        a.wait_for_proxy()
        b.wait_for_proxy()
        transactions = [client.send_request((b"wait", []), LONG) for _ in range(6)]
        a.wait_for(3)
        b.wait_for(3)
        a.may_go_on.set()
        wait_for(lambda: sum(transaction.done for transaction in transactions) == 3, "the answers of a")
        for _ in range(4):
            client.call((b"at once", []), LONG)
        assert (len(a.taken), len(b.taken)) == (7, 3)
        b.may_go_on.set()
        assert [transaction.recv_response(LONG) for transaction in transactions] == [(b"wait", [])] * 6
        assert end(proxy) == ""


def test_a_server_has_the_time_that_the_client_left(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a:
        client.send_request((b"in good time", []), 50)
        a.wait_for(1)
        assert a.taken[0].remaining is not None
        assert 0 < a.taken[0].remaining <= 50
        client.send_request((b"some day", []))
        a.wait_for(2)
        assert a.taken[1].remaining is None
        with pytest.raises(BusTimeout) as raised:
            client.call((b"quick", []), 1.0)
        assert raised.value.outcome == Outcome.UNKNOWN
        a.wait_for(3)
        wait_for(lambda: a.interrupted == 1, "the end of the request")
        assert a.taken[2].cancelled
        a.may_go_on.set()
        assert end(proxy) == ""


def test_a_server_is_told_when_the_client_gives_up(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a:
        transactions = [client.send_request((b"wait", []), LONG) for _ in range(3)]
        a.wait_for(3)
        transactions[0].cancel()
        with pytest.raises(Cancelled):
            transactions[0].recv_response(LONG)
        wait_for(lambda: a.interrupted == 1, "the end of what was cancelled")
        client.close()
        wait_for(lambda: a.interrupted == 3, "the end of what a client that is gone had asked")
        assert end(proxy) == ""


def test_what_a_draining_server_has_not_begun_goes_to_another_one(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a", workers=1) as a:
        begun = client.send_request((b"begun", []), LONG)
        a.wait_for(1)
        queued = client.send_request((b"queued", []), LONG)
        wait_for(lambda: a.bus.stats().queued == 1, "the second request")
        with server(tmp_path, "b") as b:
            b.may_go_on.set()
            draining = gevent.spawn(a.bus.drain, LONG)
            assert queued.recv_response(LONG) == (b"queued", [])
            assert client.call((b"later", []), LONG) == (b"later", [])
            assert [taken.request[0] for taken in b.taken] == [b"queued", b"later"]
            a.may_go_on.set()
            assert begun.recv_response(LONG) == (b"begun", [])
            assert draining.get(timeout=LONG)
            assert end(proxy) == ""


def test_what_a_lost_server_may_have_run_is_not_run_by_another_one(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a:
        lost = client.send_request((b"lost", []), LONG)
        a.wait_for(1)
        with server(tmp_path, "b") as b:
            b.may_go_on.set()
            b.wait_for_proxy()
            a.bus.close()
            with pytest.raises(RemoteError, match="the request may have run") as raised:
                lost.recv_response(LONG)
            assert raised.value.outcome == Outcome.UNKNOWN
            assert raised.value.remote_type == "ConnectionLost"
            assert client.call((b"next", []), LONG) == (b"next", [])
            assert [taken.request[0] for taken in b.taken] == [b"next"]
            assert "the handler of a request raised ConnectionLost" in end(proxy)


@pytest.mark.parametrize("outcome", [Outcome.NOT_RUN, Outcome.UNKNOWN, Outcome.RAN])
def test_the_outcome_that_a_server_tells_is_what_the_client_is_told(
    proxy: ListeningProgram, client: Client, tmp_path: Path, outcome: Outcome
) -> None:
    with server(tmp_path, "a", workers=1) as a:
        asked = client.send_request((b"question", []), LONG)
        a.wait_for(1)
        a.taken[0].send_error(PermissionError("not for you"), outcome=outcome)
        with pytest.raises(RemoteError, match="not for you") as raised:
            asked.recv_response(LONG)
        assert raised.value.outcome == outcome
        assert "PermissionError: not for you" in end(proxy)
        a.may_go_on.set()


def test_what_a_handler_raises_is_raised_by_the_client_s_call(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a:
        a.may_go_on.set()
        with pytest.raises(RemoteError, match=r"KeyError.*what the handler raised") as raised:
            client.call((b"raise", []), LONG)
        assert raised.value.outcome == Outcome.RAN
        assert client.call((b"next", []), LONG) == (b"next", [])
        assert "what the handler raised" in end(proxy)


def test_a_request_waits_for_a_server_as_long_as_its_client_does(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with pytest.raises(BusTimeout):
        client.call((b"short", []), 0.3)
    patient = client.send_request((b"patient", []))
    with server(tmp_path, "b") as b:
        b.may_go_on.set()
        assert patient.recv_response(LONG) == (b"patient", [])
        assert [taken.request[0] for taken in b.taken] == [b"patient"]
        assert {found[1] for found in AWAY.finditer(proxy.errors())} == {"a", "b"}
        assert end(proxy) == ""


def test_a_proxy_that_is_told_to_end_answers_what_it_has_taken(
    proxy: ListeningProgram, client: Client, tmp_path: Path
) -> None:
    with server(tmp_path, "a") as a:
        taken = [client.send_request((b"taken", []), LONG) for _ in range(5)]
        a.wait_for(5)
        proxy.send(signal.SIGTERM)
        wait_for(lambda: refuses(proxy.address), "the proxy to stop accepting")
        a.may_go_on.set()
        assert [transaction.recv_response(LONG) for transaction in taken] == [(b"taken", [])] * 5
        assert logged(proxy) == ""
