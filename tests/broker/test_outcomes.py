"""The ends of a request over a broker, and what each says about whether it ran; with a node that plays."""

from __future__ import annotations

from typing import Any

import pytest
from pamqp.commands import Basic, Connection

from broker.fake_node import FakeNode, connected, started
from broker.scripted import content
from callers import failure
from helpers import LONG, wait_until
from ratchet import Abandoned, BusTimeout, MessageTooLarge, Outcome, ProtocolError, Rejected
from ratchet.bus import Limits, Retry


def deliver(node: FakeNode, id: int, data: bytes = b"", **properties: Any) -> None:
    """Have the client that came last get a reply to a request of its."""
    method = Basic.Deliver("replies", 1, False, "", "")
    node.say(content(method, Basic.Properties(correlation_id=str(id), **properties), data))


def bury(node: FakeNode, id: int, reason: str, **headers: Any) -> None:
    """Have it get a dead letter."""
    deliver(node, id, headers={"x-death": [{"reason": reason, "queue": "ratchet.any"}], **headers})


def sent_to(node: FakeNode, client: Any, timeout: float = LONG) -> Any:
    """A request that the node has, and does not answer."""
    node.answer = lambda value: not isinstance(value, Basic.Publish)
    sent = client.send_request(b"x", timeout=timeout)
    node.wait_for("Basic.Publish")
    return sent


def test_an_answer_is_the_response(node: FakeNode, clients: list[Any]) -> None:
    sent = sent_to(node, connected(node, clients))
    deliver(node, 1, b"answer")
    assert sent.recv_response() == b"answer"


@pytest.mark.virtual_time
def test_an_answer_that_comes_after_the_deadline_says_that_it_ran(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    sent = sent_to(node, client, timeout=1)
    # The second one is the cancel: its time is over.
    node.wait_for("Basic.Publish", 2)
    deliver(node, 1, b"answer")
    assert failure(sent.recv_response) == (BusTimeout, Outcome.RAN)
    assert client.stats().dropped_late == 1


@pytest.mark.parametrize(
    ("version", "reason", "headers", "error", "outcome"),
    [
        ("3.10.8", "expired", {}, BusTimeout, Outcome.NOT_RUN),
        ("3.10.8", "expired", {"x-delivery-count": 1}, BusTimeout, Outcome.UNKNOWN),
        # It may have been with a server that came back uncounted, unless the letter says that it was not.
        ("4.0.0-rc.1", "expired", {}, BusTimeout, Outcome.UNKNOWN),
        ("4.3.0", "expired", {"x-acquired-count": 0}, BusTimeout, Outcome.NOT_RUN),
        ("4.3.0", "expired", {"x-acquired-count": 1}, BusTimeout, Outcome.UNKNOWN),
        ("3.10.8", "rejected", {}, MessageTooLarge, Outcome.NOT_RUN),
        ("3.10.8", "delivery_limit", {}, Abandoned, Outcome.UNKNOWN),
        ("3.10.8", "maxlen", {}, Abandoned, Outcome.UNKNOWN),
    ],
)
def test_a_dead_letter_says_whether_it_ran(
    version: str, reason: str, headers: Any, error: type[Exception], outcome: Outcome, clients: list[Any]
) -> None:
    greeting = Connection.Start(server_properties={"version": version}, mechanisms="PLAIN")
    node = started(clients, greeting)
    sent = sent_to(node, connected(node, clients))
    bury(node, 1, reason, **headers)
    assert failure(sent.recv_response) == (error, outcome)


def test_a_request_that_no_queue_takes_is_rejected_and_not_run(node: FakeNode, clients: list[Any]) -> None:
    sent = sent_to(node, connected(node, clients))
    returned = Basic.Return(312, "NO_ROUTE", "ratchet.requests", "any.1")
    node.say(content(returned, Basic.Properties(correlation_id="1"), b"x"), Basic.Ack(1))
    with pytest.raises(Rejected, match="no such service: 312 NO_ROUTE") as caught:
        sent.recv_response()
    assert caught.value.outcome is Outcome.NOT_RUN


def test_a_request_that_the_broker_refuses_is_rejected_and_not_run(
    node: FakeNode, clients: list[Any]
) -> None:
    sent = sent_to(node, connected(node, clients))
    node.say(Basic.Nack(1))
    assert failure(sent.recv_response) == (Rejected, Outcome.NOT_RUN)


def test_a_request_that_the_broker_refuses_is_tried_again_within_its_time(
    node: FakeNode, clients: list[Any]
) -> None:
    sent = sent_to(node, connected(node, clients, retry=Retry()))
    node.say(Basic.Nack(1))
    node.wait_for("Basic.Publish", 2)
    deliver(node, 2, b"answer")
    assert sent.recv_response() == b"answer"


def test_an_answer_over_the_client_s_limit_says_that_it_ran(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients, limits=Limits(max_message=3))
    sent = sent_to(node, client)
    deliver(node, 1, b"four")
    assert failure(sent.recv_response) == (MessageTooLarge, Outcome.RAN)
    assert client.stats().broken == 1


def test_an_answer_that_cannot_be_read_ends_its_request(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    sent = sent_to(node, client)
    deliver(node, 1, b"answer", headers={"parts": "many"})
    assert failure(sent.recv_response) == (ProtocolError, Outcome.UNKNOWN)
    assert client.stats().broken == 1


def test_only_answers_to_nobody_are_late(node: FakeNode, clients: list[Any]) -> None:
    client = connected(node, clients)
    deliver(node, 7, b"answer")
    # That its handler has raised is one as well; that it was cancelled, or is dead, is not.
    for reason in (1, 5):
        deliver(node, 7, b'{"reason": %d}' % reason, message_type="error")
    bury(node, 7, "expired")
    sent = sent_to(node, client)
    deliver(node, 1, b"answer")
    assert sent.recv_response() == b"answer"
    assert client.stats().dropped_late == 2
    wait_until(lambda: client.stats().in_flight == 0)
