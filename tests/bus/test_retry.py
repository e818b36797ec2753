"""Whether, when and how often a request is sent again."""

from __future__ import annotations

import copy
from typing import Any

import gevent
import pytest
from gevent import socket

from helpers import LONG, wait_until
from ratchet import (
    BusClosed,
    BusError,
    BusTimeout,
    Cancelled,
    ConnectionLost,
    MessageTooLarge,
    Outcome,
    Rejected,
    RemoteError,
    _clock,
)
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits, Retry
from ratchet.bus._core.client import ClientTransaction
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.outgoing import ClientRoute, OutgoingRequest
from ratchet.bus._core.retry import Budget, Retrier
from ratchet.bus._core.stats import Counters
from ratchet.bus._socket import wire
from ratchet.testing import virtual_time
from raw_peer import RawPeer

REFUSED = ("Rejected", "the server has too much to do", "")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"attempts": 0}, ValueError),
        ({"attempts": 1.0}, TypeError),
        ({"attempts": True}, TypeError),
        ({"back_off": -1}, ValueError),
        ({"back_off": "1"}, TypeError),
        ({"back_off": 10**400}, ValueError),
        ({"most": float("inf")}, ValueError),
        ({"most": float("nan")}, ValueError),
        ({"budget": None}, TypeError),
        ({"budget": True}, TypeError),
    ],
)
def test_what_is_no_retry_is_refused(options: dict[str, Any], error: type[Exception]) -> None:
    (name,) = options
    with pytest.raises(error, match=f"^{name} must be"):
        Retry(**options)
    with pytest.raises(TypeError, match=r"^retry must be a Retry or None, not 3$"):
        ratchet_bus.connect("127.0.0.1:1", retry=3)  # type: ignore[call-overload]


def test_pauses_grow_up_to_the_longest() -> None:
    retry = Retry(back_off=0.05, most=2.0)
    assert [retry.pause_before(attempt) for attempt in (2, 3, 4, 7, 8, 100_000)] == [
        0.05,
        0.1,
        0.2,
        1.6,
        2.0,
        2.0,
    ]


@pytest.mark.virtual_time
def test_retries_are_a_share_of_the_first_tries_of_the_last_ten_seconds() -> None:
    budget = Budget(0.1)
    assert sum(budget.take(0) for _ in range(100)) == 10, "some are allowed in any case"
    assert sum(budget.take(1000) for _ in range(200)) == 90
    _clock.sleep(5)
    assert not budget.take(1000), "all of that is still in the window"
    for _ in range(7):
        _clock.sleep(1)
        budget.take(1000)
    assert sum(budget.take(1000) for _ in range(200)) <= 10, "and now it is not"


def test_tries_of_long_ago_count_as_if_they_had_come_evenly() -> None:
    with virtual_time():
        budget = Budget(0.1)
        _clock.sleep(1000)
        assert sum(budget.take(100_000) for _ in range(2000)) == 100


def test_a_budget_of_nothing_allows_nothing() -> None:
    budget = Budget(0)
    assert not budget.take(1000)


class Scripted:
    """A server that a test plays by hand: each connection is taken with `accept`."""

    def __init__(self, **options: Any) -> None:
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._peers: list[RawPeer] = []
        self.client: Any = ratchet_bus.connect(self._listener.getsockname(), **options)

    def accept(self) -> RawPeer:
        with gevent.Timeout(LONG):
            accepted, _ = self._listener.accept()
        peer = RawPeer(accepted)
        self._peers.append(peer)
        peer.receive_hello()
        peer.say_hello()
        return peer

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self._listener.close()
        for peer in self._peers:
            peer.close()


def refuse(peer: RawPeer, reason: Reason = Reason.OVERLOADED) -> None:
    """Take the next request, and refuse it."""
    kind, _, id, _, _ = peer.receive_message()
    assert kind == wire.REQUEST
    peer.send(wire.encode_error(id, reason, REFUSED))


def answer(peer: RawPeer, response: bytes) -> tuple[int, list[bytes]]:
    """Take the next request, answer it, and return its `arg` and parts."""
    kind, _, id, arg, parts = peer.receive_message()
    assert kind == wire.REQUEST
    peer.send(wire.encode(wire.RESPONSE, 0, id, 0, [response]))
    return arg, parts


@pytest.mark.parametrize("reason", [Reason.OVERLOADED, Reason.OUT_OF_TIME, Reason.NOT_DECODED])
def test_a_request_that_was_refused_is_sent_again(reason: Reason) -> None:
    with Scripted() as server:
        sent = server.client.send_request(b"question", LONG, {"to": "all"})
        peer = server.accept()
        refuse(peer, reason)
        arg, parts = answer(peer, b"answer")
        assert parts == [b"question", b'{"to":"all"}']
        assert 0 < arg < LONG * 1000, "its time goes on"
        assert sent.recv_response() == b"answer"
        assert server.client.stats()[2:6] == (0, 1, 0, 0)


def test_after_so_many_attempts_it_ends_in_the_last_error() -> None:
    with Scripted(retry=Retry(attempts=3, back_off=0.001)) as server:
        sent = server.client.send_request(b"question", LONG)
        peer = server.accept()
        for _ in range(3):
            refuse(peer)
        with pytest.raises(Rejected) as caught:
            sent.recv_response(LONG)
        assert (caught.value.attempts, caught.value.outcome) == (3, "NOT_RUN")
        assert copy.copy(caught.value).attempts == 3
        assert server.client.stats().failed == 1


def test_without_a_retry_the_first_error_is_the_end() -> None:
    with Scripted(retry=None) as server:
        sent = server.client.send_request(b"question", LONG)
        refuse(server.accept())
        with pytest.raises(Rejected) as caught:
            sent.recv_response(LONG)
        assert caught.value.attempts == 1


@pytest.mark.parametrize("reason", [Reason.HANDLER_RAISED, Reason.TOO_LARGE, Reason.ABANDONED])
def test_what_ran_or_may_have_or_never_can_run_is_not_sent_again(reason: Reason) -> None:
    with Scripted() as server:
        sent = server.client.send_request(b"question", LONG)
        refuse(server.accept(), reason)
        with pytest.raises((RemoteError, MessageTooLarge, BusError)) as caught:
            sent.recv_response(LONG)
        assert caught.value.attempts == 1


@pytest.mark.parametrize("call", ["call", "call_many"])
def test_what_may_have_run_is_sent_again_if_it_may_run_twice(call: str) -> None:
    with Scripted() as server:
        request: Any = b"question" if call == "call" else [b"question"]
        calling = gevent.spawn(getattr(server.client, call), request, LONG, idempotent=True)
        peer = server.accept()
        peer.receive_message()
        peer.close()
        answer(server.accept(), b"answer")
        assert calling.get(timeout=LONG) == (b"answer" if call == "call" else [b"answer"])


def test_no_outcome_is_false_for_an_earlier_attempt() -> None:
    with Scripted(retry=Retry(attempts=2, back_off=0.001)) as server:
        sent = server.client.send_request(b"question", LONG, idempotent=True)
        peer = server.accept()
        peer.receive_message()
        peer.close()
        refuse(server.accept())
        with pytest.raises(Rejected) as caught:
            sent.recv_response(LONG)
        assert (caught.value.outcome, caught.value.attempts) == (Outcome.UNKNOWN, 2)


def test_what_may_have_run_is_otherwise_not_sent_again() -> None:
    with Scripted() as server:
        sent = server.client.send_request(b"question", LONG)
        peer = server.accept()
        peer.receive_message()
        peer.close()
        with pytest.raises(ConnectionLost) as caught:
            sent.recv_response(LONG)
        assert (caught.value.outcome, caught.value.attempts) == (Outcome.UNKNOWN, 1)


@pytest.mark.virtual_time
def test_its_time_ends_it_between_two_attempts() -> None:
    with Scripted(retry=Retry(back_off=1.0)) as server:
        began = _clock.monotonic()
        sent = server.client.send_request(b"question", 1.2)
        peer = server.accept()
        refuse(peer)
        # The second attempt is under way when its time ends, and of the third one there is no time.
        kind = peer.receive_message()[0]
        assert kind == wire.REQUEST
        with pytest.raises(BusTimeout) as caught:
            sent.recv_response()
        assert 1.1 < _clock.monotonic() - began < 1.4
        assert caught.value.attempts == 2


def test_no_time_is_waited_for_a_retry_that_would_come_too_late() -> None:
    with Scripted(retry=Retry(back_off=LONG, most=LONG)) as server:
        sent = server.client.send_request(b"question", LONG / 2)
        refuse(server.accept())
        with pytest.raises(Rejected):
            sent.recv_response(LONG / 4)


def test_cancelling_between_two_attempts_says_that_it_did_not_run() -> None:
    with Scripted(retry=Retry(back_off=1000.0, most=1000.0)) as server:
        sent = server.client.send_request(b"question")
        refuse(server.accept())
        wait_until(lambda: len(server.client._servers.retrier) == 1)
        assert server.client.stats().in_flight == 1
        sent.cancel()
        with pytest.raises(Cancelled) as caught:
            sent.recv_response()
        assert caught.value.outcome == "NOT_RUN"
        assert len(server.client._servers.retrier) == 0


@pytest.mark.parametrize("end", ["close", "drain"])
def test_closing_ends_what_waits_for_its_next_attempt(end: str) -> None:
    with Scripted(retry=Retry(back_off=1000.0, most=1000.0)) as server:
        sent = server.client.send_request(b"question")
        refuse(server.accept())
        wait_until(lambda: len(server.client._servers.retrier) == 1)
        getattr(server.client, end)()
        with pytest.raises(BusError) as caught:
            sent.recv_response(LONG)
        assert caught.value.outcome == "NOT_RUN"
        assert type(caught.value) is (BusClosed if end == "close" else Rejected)


def test_a_server_that_refuses_all_gets_at_most_a_tenth_more() -> None:
    received = 0
    with Scripted(retry=Retry(back_off=0.001, most=0.001), limits=Limits(max_in_flight=10_000)) as server:
        many = gevent.spawn(server.client.call_many, [b"question"] * 1000, LONG)
        peer = server.accept()

        def serve() -> None:
            nonlocal received
            while True:
                refuse(peer)
                received += 1

        serving = gevent.spawn(serve)
        results = many.get(timeout=LONG)
        serving.kill()
    assert {type(each) for each in results} == {Rejected}
    assert 1000 < received <= 1100


def test_casts_that_have_not_left_go_over_the_next_connection() -> None:
    size = 1_000_000
    with Scripted(limits=Limits(high_water=64 * size)) as server:
        for number in range(32):
            server.client.cast(b"%04d" % number + b"x" * size)
        peer = server.accept()
        got = [peer.receive_message()[4][0][:4]]
        peer.close()
        peer = server.accept()
        again = [peer.receive_message()[4][0][:4]]
        while again[-1] != b"0031":
            again.append(peer.receive_message()[4][0][:4])
        assert got == [b"0000"]
        assert again == sorted(set(again)), "in order, and none twice"
        assert again[0] > b"0000"


def test_requests_that_had_not_left_or_run_go_to_the_next_server_without_a_pause() -> None:
    # More than the budget allows: they have been no load to anybody.
    with Scripted(retry=Retry(back_off=1000.0, most=1000.0)) as server:
        many = gevent.spawn(server.client.call_many, [b"%d" % number for number in range(100)], LONG)
        peer = server.accept()
        first = peer.receive_message()
        peer.send(wire.encode(wire.GOAWAY, 0, first[2], 0, ()))
        peer.send(wire.encode(wire.RESPONSE, 0, first[2], 0, [b"first"]))
        other = server.accept()
        for _ in range(99):
            answer(other, b"other")
        assert many.get(timeout=LONG) == [b"first"] + [b"other"] * 99


# What strikes, or fails, in the middle of an attempt.


class Connection(ClientRoute):
    """A connection whose first request fails while it is sent, or just afterwards."""

    server_name = "the server"

    def __init__(self, at_once: bool) -> None:
        super().__init__(gevent.get_hub(), Counters(), None)
        self._at_once = at_once
        self.tries = 1000
        self.sent = 0
        self.retrier = Retrier(self.hub, self.counters, "the server", Retry(back_off=1.0))
        self.retrier.sender = self

    def send_again(self, transaction: OutgoingRequest) -> None:
        self.sent += 1
        transaction.attempts += 1
        transaction.route = self
        error = ConnectionLost(outcome=Outcome.NOT_SENT)
        if self.sent > 1:
            return
        if self._at_once:
            transaction.fail(error)
        else:
            self.run_callback(transaction.fail, error)

    def retry(self, transaction: OutgoingRequest, error: BusError, moves: bool) -> bool:
        assert self.retrier.take(transaction, error, moves)
        self.retrier.begin(transaction)
        return True

    def withdraw(self, transaction: OutgoingRequest) -> Outcome:
        return Outcome.UNKNOWN

    def ask_for_last_word(self, transaction: OutgoingRequest) -> bool:
        return False

    def forget(self, transaction: OutgoingRequest) -> None:
        """Nothing is kept here."""

    def request(self) -> OutgoingRequest:
        """A request that was sent once."""
        transaction: OutgoingRequest = ClientTransaction(None, self, "question", None)
        transaction.keep_to_send_again(b"question", 0)
        return transaction


@pytest.mark.virtual_time
@pytest.mark.parametrize("at_once", [True, False])
def test_an_attempt_that_fails_at_once_is_followed_by_one_other(at_once: bool) -> None:
    connection = Connection(at_once)
    transaction = connection.request()
    transaction.fail(ConnectionLost(outcome=Outcome.NOT_SENT))
    _clock.sleep(0.1)
    assert (connection.sent, len(connection.retrier)) == (1, 1), "it waits for the next attempt"
    _clock.sleep(10.0)
    assert (connection.sent, len(connection.retrier)) == (2, 0)
    assert transaction.attempts == 3


@pytest.mark.virtual_time
def test_giving_up_after_an_attempt_that_failed_at_once_ends_the_next_one() -> None:
    connection = Connection(at_once=True)
    transaction = connection.request()
    transaction.fail(ConnectionLost(outcome=Outcome.NOT_SENT))
    _clock.sleep(0.1)
    transaction.end_cancelled()
    assert transaction.error is not None
    assert transaction.error.outcome == "NOT_SENT"
    _clock.sleep(10.0)
    assert (connection.sent, len(connection.retrier)) == (1, 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize("step", ["rawlink", "start"])
def test_a_request_whose_next_attempt_could_not_be_begun_is_settled(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    struck = iter([KeyboardInterrupt()])

    class Struck(gevent.Greenlet):  # type: ignore[type-arg]
        def rawlink(self, *args: Any) -> None:
            strike("rawlink")
            super().rawlink(*args)

        def start(self) -> None:
            strike("start")
            super().start()

    def strike(where: str) -> None:
        for error in struck if where == step else ():
            raise error

    connection = Connection(at_once=False)
    transaction = connection.request()
    monkeypatch.setattr(gevent, "Greenlet", Struck)
    with pytest.raises(KeyboardInterrupt):
        transaction.fail(ConnectionLost(outcome=Outcome.NOT_SENT))
    connection.retrier.settle()
    _clock.sleep(10.0)
    assert (connection.sent, len(connection.retrier)) == (2, 0)


def test_a_request_that_its_connection_has_not_handed_over_is_not_kept() -> None:
    connection = Connection(at_once=True)
    transaction = connection.request()
    assert connection.retrier.take(transaction, ConnectionLost(outcome=Outcome.NOT_SENT), moves=True)
    # As if it had been struck before that.
    transaction.route = connection
    connection.retrier.settle()
    assert len(connection.retrier) == 0


@pytest.mark.pure
def test_a_drain_that_is_interrupted_ends_what_waits_for_its_next_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def strike(*_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    with Scripted(retry=Retry(back_off=1000.0, most=1000.0)) as server:
        sent = server.client.send_request(b"question")
        refuse(server.accept())
        wait_until(lambda: len(server.client._servers.retrier) == 1)
        monkeypatch.setattr(OutgoingRequest, "end_failed", strike)
        with pytest.raises(KeyboardInterrupt):
            server.client.drain()
        with pytest.raises(Rejected) as caught:
            sent.recv_response(LONG)
        assert caught.value.outcome == "NOT_RUN"
