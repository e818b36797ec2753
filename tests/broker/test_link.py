"""A link, and making it again, with a node that says what a test has it say."""

from __future__ import annotations

import os
from typing import Any

import pytest
from pamqp.commands import Basic, Channel, Connection, Queue

from broker.fake_node import FakeNode, connected, started
from broker.scripted import START
from callers import Caller, failure
from helpers import LONG, wait_until
from ratchet import BusClosed, BusError, BusTimeout, ConnectionLost, Outcome, ProtocolError, Rejected, bus


def test_a_cast_returns_when_it_is_confirmed(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    node.answer = lambda value: not isinstance(value, Basic.Publish)
    casting = Caller(lambda: client.cast(b"x")).started()
    node.wait_for("Basic.Publish")
    assert not casting.thread.ready()
    node.say(Basic.Ack(1))
    assert casting.result() is None


def test_one_confirm_may_stand_for_several(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    node.answer = lambda value: not isinstance(value, Basic.Publish)
    casting = [Caller(lambda: client.cast(b"x")).started() for _ in range(3)]
    node.wait_for("Basic.Publish", 3)
    node.say(Basic.Ack(2, True), Basic.Nack(3, False))
    assert [each.result() for each in casting[:2]] == [None, None]
    assert isinstance(casting[2].result(), Rejected)


def test_what_has_not_left_when_the_client_closes_was_not_sent_and_is_not(
    node: FakeNode, clients: list[Any]
) -> None:
    client = connected(node, clients)
    sent = client.send_request(b"sent", timeout=LONG)
    node.wait_for("Basic.Publish")
    unsent, cancelled = [client.send_request(b"unsent", timeout=LONG) for _ in range(2)]
    sent.cancel()
    client.close()
    assert failure(unsent.recv_response) == (BusClosed, Outcome.NOT_SENT)
    assert failure(cancelled.recv_response) == (BusClosed, Outcome.NOT_SENT)
    node.wait_for("Connection.Close")
    # The request, and its cancel.
    assert node.names().count("Basic.Publish") == 2


def test_what_has_begun_to_leave_when_the_client_closes_may_run(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients, limits=bus.Limits(high_water=100_000_000))
    node.pause()
    large = client.send_request(bytes(16_000_000), timeout=LONG)
    wait_until(lambda: 0 < client._connection.current.link.stream.unsent < 16_000_000, "a part to leave")
    small = client.send_request(b"small", timeout=LONG)
    client.close()
    assert failure(large.recv_response) == (BusClosed, Outcome.UNKNOWN)
    assert failure(small.recv_response) == (BusClosed, Outcome.NOT_SENT)


def test_a_cast_that_is_not_confirmed_in_time_is_unknown(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    node.answer = lambda value: not isinstance(value, Basic.Publish)
    assert failure(lambda: client.cast(b"x", timeout=0.05)) == (BusTimeout, Outcome.UNKNOWN)
    node.say(Basic.Ack(1))
    node.answer = lambda value: True
    assert client.stats().in_flight == 0


def test_what_is_cancelled_before_it_leaves_was_not_sent_and_keeps_its_number(
    node: FakeNode, clients: list[Any]
) -> None:
    client = connected(node, clients)
    sent = client.send_request(b"never sent")
    sent.cancel()
    assert failure(sent.recv_response)[1] is Outcome.NOT_SENT
    client.cast(b"confirmed as the second")
    published = [value for value in node.heard if isinstance(value, Basic.Publish)]
    assert [value.exchange for value in published] == ["", "ratchet.requests"]


def test_not_connected_a_request_waits_for_its_time_and_was_not_sent() -> None:
    with bus.broker_client("amqp://127.0.0.1:1/", "nobody", retry=None) as client:
        assert failure(lambda: client.call(b"", timeout=0.1)) == (BusTimeout, Outcome.NOT_SENT)
        assert failure(lambda: client.wait_connected(timeout=0.1)) == (BusTimeout, Outcome.NOT_SENT)
        with pytest.raises(BusTimeout, match="refused"):
            client.cast(b"", timeout=0.1)


def test_not_connected_a_server_waits_for_its_time_or_its_end() -> None:
    with bus.broker_server("amqp://127.0.0.1:1/", "nobody") as server:
        with pytest.raises(BusTimeout, match="refused"):
            server.wait_connected(timeout=0.1)
        waiting = Caller(server.wait_connected).started()
    assert isinstance(waiting.result(), BusClosed)


def test_while_the_broker_blocks_nothing_is_sent(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    node.say(Connection.Blocked("low on memory"))

    def is_held_up() -> bool:
        """Whether it has heard of that; until then a cast may be late, or not."""
        try:
            client.cast(b"x", timeout=0.05)
        except BusTimeout as error:
            return "low on memory" in str(error)
        return False

    wait_until(is_held_up, "the broker's word")
    waiting = Caller(lambda: client.cast(b"y", timeout=LONG)).started()
    node.say(Connection.Unblocked())
    assert waiting.result() is None


def test_while_too_many_are_unconfirmed_a_request_waits_for_its_time_and_was_not_sent(
    node: FakeNode, clients: list[Any]
) -> None:
    client = connected(node, clients, limits=bus.Limits(max_in_flight=2))
    node.answer = lambda value: not isinstance(value, Basic.Publish)
    for _ in range(2):
        sent = client.send_request(b"x", timeout=LONG)
        node.wait_for("Basic.Publish")
        # It has ended, and is not confirmed all the same.
        sent.cancel()
        node.heard.clear()
    assert client.stats().in_flight == 0
    with pytest.raises(BusTimeout, match="not answered or confirmed") as caught:
        client.call(b"y", timeout=0.05)
    assert caught.value.outcome is Outcome.NOT_SENT
    # A cancel has a number, too.
    node.say(Basic.Ack(3, True))
    waiting = Caller(lambda: client.call(b"y", timeout=LONG)).started()
    node.wait_for("Basic.Publish")
    waiting.thread.kill()


def test_above_the_high_water_mark_a_request_waits_for_its_time_and_was_not_sent(
    node: FakeNode, clients: list[Any]
) -> None:
    client = connected(node, clients, limits=bus.Limits(high_water=1000))
    node.pause()
    client.send_request(bytes(16_000_000), timeout=LONG)
    with pytest.raises(BusTimeout, match="takes less than is sent") as caught:
        client.call(b"x", timeout=0.05)
    assert caught.value.outcome is Outcome.NOT_SENT


def test_a_server_asks_for_no_more_requests_than_its_prefetch(node: FakeNode) -> None:
    with bus.broker_server(node.url, "any", prefetch=2) as server:
        server.wait_connected(LONG)
    assert [value.prefetch_count for value in node.heard if isinstance(value, Basic.Qos)] == [2]


def test_a_queue_without_bounds_is_declared_with_one_that_amqp_can_say(node: FakeNode) -> None:
    with bus.broker_server(node.url, "any", limits=bus.Limits(max_queued=10**30)) as server:
        server.wait_connected(LONG)
    declared = [value for value in node.heard if isinstance(value, Queue.Declare)]
    assert (declared[0].arguments or {})["x-max-length"] == 2**63 - 1


def test_nodes_are_tried_in_turn(node: FakeNode, clients: list[Any]) -> None:
    client = bus.broker_client(f"amqp://127.0.0.1:1,{node.address}/", "any", retry=None)
    clients.append(client)
    client.wait_connected(LONG)
    client.cast(b"x")


def test_a_broker_that_is_too_old_is_told_at_the_next_call(clients: list[Any]) -> None:
    node = started(clients, Connection.Start(server_properties={"version": "3.8.9"}, mechanisms="PLAIN"))
    client = bus.broker_client(node.url, "any", retry=None)
    clients.append(client)
    with pytest.raises(BusError, match=r"3\.8\.9"):
        client.call(b"x", timeout=LONG)
    assert node.links == 1


def test_what_is_no_broker_is_said_and_tried_again(clients: list[Any]) -> None:
    node = started(clients, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client = bus.broker_client(node.url, "any", retry=None)
    clients.append(client)
    wait_until(lambda: node.links > 1, "another try")
    with pytest.raises(BusTimeout, match="unknown kind"):
        client.call(b"x", timeout=0.01)


def test_a_link_that_breaks_the_protocol_ends_what_is_open(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    sent = client.send_request(b"x")
    node.wait_for("Basic.Publish")
    node.say(b"\x09\x00\x00\x00\x00\x00\x00\xce")
    assert failure(sent.recv_response) == (ProtocolError, Outcome.UNKNOWN)
    wait_until(lambda: node.links == 2 and client.stats().connections == 1, "another link")
    client.cast(b"y")


def test_a_channel_that_is_closed_ends_the_link_and_another_one_is_made(
    node: FakeNode, clients: list[Any]
) -> None:
    client = connected(node, clients)
    sent = client.send_request(b"x")
    node.wait_for("Basic.Publish")
    node.say(Channel.Close(541, "INTERNAL_ERROR", 0, 0))
    with pytest.raises(ConnectionLost, match="541 INTERNAL_ERROR"):
        sent.recv_response()
    wait_until(lambda: client.stats().connections == 1, "another link")


def test_closing_a_client_says_goodbye_and_ends_what_is_open(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    sent = client.send_request(b"x")
    node.wait_for("Basic.Publish")
    client.close()
    assert failure(sent.recv_response) == (BusClosed, Outcome.UNKNOWN)
    node.wait_for("Connection.Close")
    published = [value for value in node.heard if isinstance(value, Basic.Publish)]
    assert [value.exchange for value in published] == ["ratchet.requests", "ratchet.control"]


@pytest.mark.virtual_time
def test_a_goodbye_that_is_not_answered_ends_in_time(clients: list[Any]) -> None:
    node = started(clients)
    client = connected(node, clients)
    node.answer = lambda value: not isinstance(value, Connection.Close)
    before = len(os.listdir("/proc/self/fd"))
    client.close()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) < before, "the end of the socket")


@pytest.mark.virtual_time
def test_a_broker_that_does_not_greet_is_given_up_and_dialed_again(clients: list[Any]) -> None:
    node = started(clients, None)
    client = bus.broker_client(node.url, "any", retry=None)
    clients.append(client)
    wait_until(lambda: node.links == 1)
    node.greeting = START
    client.wait_connected(LONG)
    assert node.links == 2
