"""The requests that a server has taken on a link, with a node that says what a test has it say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from pamqp import body
from pamqp.commands import Basic

from broker.fake_node import FakeNode
from broker.scripted import content
from helpers import LONG, wait_until
from ratchet import BusTimeout, bus
from ratchet.bus._core.faults import Reason


@pytest.fixture
def server(node: FakeNode) -> Iterator[Any]:
    """A server of which the node has no requests yet."""
    with bus.broker_server(node.url, "any") as server:
        server.wait_connected(LONG)
        yield server


def deliver(node: FakeNode, tag: int, *, redelivered: bool = False, reply_to: str = "replies") -> None:
    """Have the server get a request, whose number at its client is its tag; a cast, without a queue."""
    method = Basic.Deliver("requests", tag, redelivered, "ratchet.requests", "any.1")
    node.say(content(method, Basic.Properties(correlation_id=str(tag), reply_to=reply_to or None), b"x"))


def cancel(node: FakeNode, number: int) -> None:
    """Have it get the cancel of a request."""
    method = Basic.Deliver("control", 1, False, "ratchet.control", "any")
    node.say(content(method, Basic.Properties(correlation_id=str(number), reply_to="replies"), b""))


def reasons(node: FakeNode) -> list[Reason]:
    """Why requests have failed, as their client is told."""
    said = [value.value for value in node.heard if isinstance(value, body.ContentBody)]
    return [Reason(json.loads(each)["reason"]) for each in said]


def test_an_answer_is_followed_by_the_acknowledgement(node: FakeNode, server: Any) -> None:
    deliver(node, 1)
    transaction, request = server.recv_request(LONG)
    assert request == b"x"
    node.heard.clear()
    assert transaction.send_response(b"y") is True
    node.wait_for("Basic.Ack")
    assert [name for name in node.names() if name.startswith("Basic.")] == ["Basic.Publish", "Basic.Ack"]


def test_a_cancel_of_a_queued_request_has_it_never_run(node: FakeNode, server: Any) -> None:
    deliver(node, 1)
    wait_until(lambda: server.stats().queued == 1)
    cancel(node, 1)
    node.wait_for("Basic.Ack")
    assert reasons(node) == [Reason.OUT_OF_TIME]
    assert server.stats().queued == 0


def test_a_cancel_of_a_request_that_runs_interrupts_it(node: FakeNode, server: Any) -> None:
    deliver(node, 1)
    transaction, _ = server.recv_request(LONG)
    cancel(node, 1)
    wait_until(lambda: transaction.cancelled)
    assert transaction.send_response(b"y") is False
    node.wait_for("Basic.Ack")
    assert reasons(node) == [Reason.CANCELLED]


def test_a_cancel_that_overtakes_its_request_has_it_never_run(node: FakeNode, server: Any) -> None:
    cancel(node, 1)
    deliver(node, 1)
    node.wait_for("Basic.Ack")
    assert reasons(node) == [Reason.OUT_OF_TIME]
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0)


def test_a_request_that_another_server_had_is_abandoned_and_not_run(node: FakeNode, server: Any) -> None:
    deliver(node, 1, redelivered=True)
    node.wait_for("Basic.Ack")
    assert reasons(node) == [Reason.ABANDONED]
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0)


def test_a_cast_that_another_server_had_becomes_a_dead_letter(node: FakeNode, server: Any) -> None:
    deliver(node, 1, redelivered=True, reply_to="")
    node.wait_for("Basic.Reject")
    assert [value.requeue for value in node.heard if isinstance(value, Basic.Reject)] == [False]
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0)


def test_with_redeliver_it_is_run_and_says_so(node: FakeNode) -> None:
    with bus.broker_server(node.url, "any", redeliver=1) as server:
        server.wait_connected(LONG)
        deliver(node, 1, redelivered=True)
        transaction, _ = server.recv_request(LONG)
        assert transaction.redelivered is True
        transaction.send_response(b"y")
        node.wait_for("Basic.Ack")


def test_a_drain_gives_an_untaken_cast_back_before_it_acknowledges_it(node: FakeNode, server: Any) -> None:
    deliver(node, 1, reply_to="")
    wait_until(lambda: server.stats().queued == 1)
    node.heard.clear()
    assert server.drain(LONG) is True
    names = [name for name in node.names() if name in ("Confirm.Select", "Basic.Publish", "Basic.Ack")]
    assert names == ["Confirm.Select", "Basic.Publish", "Basic.Ack"]
    (published,) = [value for value in node.heard if isinstance(value, Basic.Publish)]
    assert (published.exchange, published.routing_key) == ("ratchet.requests", "any.cast")


def test_a_cast_whose_copy_is_refused_is_not_acknowledged(node: FakeNode, server: Any) -> None:
    deliver(node, 1, reply_to="")
    wait_until(lambda: server.stats().queued == 1)
    node.heard.clear()

    def refuse(value: Any) -> bool:
        if isinstance(value, Basic.Publish):
            node.say(Basic.Nack(1))
        return not isinstance(value, Basic.Publish)

    node.answer = refuse
    server.drain(LONG)
    assert "Basic.Ack" not in node.names()
