"""Requests, answers, errors and cancels as messages of AMQP."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp.commands import Exchange, Queue

from ratchet.bus._broker import message, topology
from ratchet.bus._broker.message import Answer, Cancel, DeadLetter, Failure, Request
from ratchet.bus._broker.properties import Properties, decode, encode
from ratchet.bus._core.faults import MAX_ERROR_TEXT, MAX_METADATA, Reason, error_from_reason
from ratchet.errors import Outcome, ProtocolError, RemoteError

MAX_PARTS = 4


def over_the_wire(properties: Properties) -> Properties:
    """The same, as the other side reads them."""
    return decode(encode(properties), 0)


@pytest.mark.parametrize(
    "sent",
    [
        Request(parts=[b"body"], correlation_id="1", reply_to="ratchet.reply.a"),
        Request(parts=[b""]),
        Request(parts=[b"body", b"", b"abc", b"\0"], correlation_id="1", reply_to="a"),
        Request(parts=[b"body"], correlation_id="1", reply_to="a", expiration=0, deadline=0),
        Request(parts=[b"body"], expiration=30_000, deadline=1_700_000_000_000),
        Request(parts=[b"body"], metadata={"trace": "1", "": "", "ü": "\0"}),
    ],
)
def test_a_request_comes_out_as_it_went_in(sent: Request) -> None:
    properties, body = message.request(sent)
    assert message.read_request(over_the_wire(properties), body, MAX_PARTS) == sent


def test_a_request_looks_as_the_manual_says() -> None:
    sent = Request(
        parts=[b"body", b"one", b"two!"],
        correlation_id="7",
        reply_to="ratchet.reply.a",
        expiration=1500,
        deadline=1_700_000_000_000,
        metadata={"trace": "1"},
    )
    properties, body = message.request(sent)
    assert body == b"bodyonetwo!"
    assert properties == Properties(
        correlation_id="7",
        reply_to="ratchet.reply.a",
        expiration="1500",
        delivery_mode=2,
        headers={"parts": [3, 4], "metadata": {"trace": "1"}, "deadline": 1_700_000_000_000},
    )


def test_a_plain_request_has_no_headers() -> None:
    properties, body = message.request(Request(parts=[b"body"], correlation_id="7", reply_to="a"))
    assert body == b"body"
    assert properties.headers is None


@pytest.mark.parametrize(
    ("expiration", "deadline", "left"),
    [
        (None, None, None),
        (1500, None, 1.5),
        (None, 101_000, 1.0),
        (1500, 101_000, 1.0),
        # A clock that is behind lengthens nothing.
        (1500, 109_000, 1.5),
        (1500, 99_000, 0.0),
        (0, 101_000, 0.0),
    ],
)
def test_what_remains_is_the_smaller_of_both(
    expiration: int | None, deadline: int | None, left: float | None
) -> None:
    assert Request(parts=[b""], expiration=expiration, deadline=deadline).remaining(100.0) == left


@pytest.mark.parametrize(
    ("metadata", "kind", "text"),
    [
        ({"a": 1}, TypeError, "must be a dict of strings"),
        ({"a": "x" * MAX_METADATA}, ValueError, "is over the limit"),
        ({"ü" * 65: ""}, ValueError, "a name in metadata must have at most 128 bytes"),
    ],
)
def test_bad_metadata_is_refused_at_home(metadata: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        message.request(Request(parts=[b""], metadata=metadata))


def properties(**fields: Any) -> Properties:
    return Properties(**{"correlation_id": "7", "reply_to": "a", **fields})


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (properties(correlation_id=""), "must have a correlation_id"),
        (properties(reply_to="amq.rabbitmq.reply-to.g1.x"), "the reply_to must be the name of a queue"),
        (properties(headers={"parts": 3}), "'parts' must be a list of lengths"),
        (properties(headers={"parts": [True]}), "'parts' must be a list of lengths"),
        (properties(headers={"parts": [-1]}), "'parts' must be a list of lengths"),
        (properties(headers={"parts": ["1"]}), "'parts' must be a list of lengths"),
        (properties(headers={"parts": [3, 2]}), "must fit into the body, which has 4 bytes"),
        (properties(headers={"parts": [0, 0, 0, 0]}), "5 parts is over the limit of 4"),
        (properties(headers={"metadata": "{}"}), "'metadata' must be a table of strings"),
        (properties(headers={"metadata": {"a": 1}}), "'metadata' must be a table of strings"),
        (properties(headers={"metadata": {"a": "x" * MAX_METADATA}}), "is over the limit"),
        (properties(headers={"deadline": "soon"}), "'deadline' must be whole milliseconds, not 'soon'"),
        (properties(headers={"deadline": True}), "'deadline' must be whole milliseconds, not True"),
        (properties(headers={"deadline": 1.5}), "'deadline' must be whole milliseconds, not 1.5"),
        (properties(expiration="soon"), "expiration must be a number of milliseconds, not 'soon'"),
        (properties(expiration="-1"), "expiration must be a number of milliseconds, not '-1'"),
        (properties(expiration="\u0661"), "expiration must be a number of milliseconds"),
        (properties(expiration="1" * 11), "expiration must be a number of milliseconds"),
    ],
)
def test_a_wrong_request_is_an_error(wrong: Properties, text: str) -> None:
    with pytest.raises(ProtocolError, match=text):
        message.read_request(wrong, b"body", MAX_PARTS)


def test_what_others_add_is_not_minded() -> None:
    sent = properties(headers={"x-delivery-count": 1, "mine": [None]})
    assert message.read_request(sent, b"body", MAX_PARTS) == Request(
        parts=[b"body"], correlation_id="7", reply_to="a"
    )


@pytest.mark.parametrize(
    "sent",
    [
        Answer(correlation_id="7", parts=[b"body"]),
        Answer(correlation_id="7", parts=[b""]),
        Answer(correlation_id="7", parts=[b"body", b"one", b""]),
    ],
)
def test_an_answer_comes_out_as_it_went_in(sent: Answer) -> None:
    made, body = message.answer(sent)
    assert message.read_reply(over_the_wire(made), body, MAX_PARTS) == sent


@pytest.mark.parametrize("outcome", [None, *Outcome])
def test_an_error_comes_out_as_it_went_in(outcome: Outcome | None) -> None:
    sent = Failure(
        correlation_id="7",
        reason=Reason.HANDLER_RAISED,
        texts=("KeyError", "'ü\ud800'", "..."),
        outcome=outcome,
    )
    made, body = message.failure(sent)
    assert made.type == "error"
    assert message.read_reply(over_the_wire(made), body, MAX_PARTS) == sent


def test_the_texts_of_an_error_are_cut() -> None:
    long = "x" * MAX_ERROR_TEXT
    made, body = message.failure(
        Failure(correlation_id="7", reason=1, texts=(long + "y", long + "y", "y" + long))
    )
    read = message.read_reply(made, body, MAX_PARTS)
    assert isinstance(read, Failure)
    assert read.texts == (long, long, long)


def test_another_program_may_send_a_shorter_error() -> None:
    sent = Properties(correlation_id="7", type="error")
    read = message.read_reply(sent, b'{"message": "no such file"}', MAX_PARTS)
    assert isinstance(read, Failure)
    error = error_from_reason(read.reason, read.texts, outcome=read.outcome)
    assert isinstance(error, RemoteError)
    assert error.remote_message == "no such file"


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ("{", "an error must be JSON"),
        ("[1]", "an error must be a JSON object"),
        ({"reason": "1"}, "reason of an error must be a number, not '1'"),
        ({"reason": True}, "reason of an error must be a number, not True"),
        ({"message": 1}, "must be strings"),
        ({"outcome": "LOST"}, "outcome of an error must be one of the known, not 'LOST'"),
        ({"outcome": ["RAN"]}, "outcome of an error must be one of the known"),
    ],
)
def test_a_wrong_error_is_an_error(members: Any, text: str) -> None:
    body = members if isinstance(members, str) else json.dumps(members)
    with pytest.raises(ProtocolError, match=text):
        message.read_reply(Properties(correlation_id="7", type="error"), body.encode(), MAX_PARTS)


def test_a_reply_says_to_what() -> None:
    with pytest.raises(ProtocolError, match="must have a correlation_id"):
        message.read_reply(Properties(), b"", MAX_PARTS)


@pytest.mark.parametrize(
    ("headers", "reason", "delivered"),
    [
        ({}, "expired", None),
        ({}, "delivery_limit", None),
        ({}, "rejected", None),
        ({"x-acquired-count": 1}, "expired", True),
        ({"x-acquired-count": 1, "x-delivery-count": 0}, "expired", True),
        ({"x-delivery-count": 2}, "expired", True),
        ({"x-acquired-count": 0}, "expired", False),
        # It counts only those that came back.
        ({"x-delivery-count": 0}, "expired", None),
        ({"x-acquired-count": "many"}, "expired", None),
    ],
)
def test_a_dead_letter_says_what_became_of_it(
    headers: dict[str, Any], reason: str, delivered: bool | None
) -> None:
    latest = {"reason": reason, "queue": "ratchet.a", "count": 1, "routing-keys": ["a.b"]}
    earlier = {"reason": "maxlen", "queue": "other"}
    sent = properties(headers={"x-death": [latest, earlier], "parts": [99], **headers})
    assert message.read_reply(over_the_wire(sent), b"body", MAX_PARTS) == DeadLetter(
        correlation_id="7", reason=reason, delivered=delivered
    )


@pytest.mark.parametrize(
    "deaths",
    [None, [], "expired", ["expired"], [{}], [{"queue": "a"}], [{"reason": 1, "queue": "a"}]],
)
def test_a_wrong_dead_letter_is_an_error(deaths: Any) -> None:
    with pytest.raises(ProtocolError, match="must say its reason"):
        message.read_reply(properties(headers={"x-death": deaths}), b"", MAX_PARTS)


def test_a_cancel_comes_out_as_it_went_in() -> None:
    sent = Cancel(correlation_id="7", reply_to="a")
    made, body = message.cancel(sent)
    assert body == b""
    assert message.read_cancel(over_the_wire(made)) == sent


@pytest.mark.parametrize("wrong", [Properties(correlation_id="7"), Properties(reply_to="a"), Properties()])
def test_a_wrong_cancel_is_an_error(wrong: Properties) -> None:
    with pytest.raises(ProtocolError, match="a cancel must have"):
        message.read_cancel(wrong)


tables = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 2**40)
    | st.text(max_size=5)
    | st.binary(max_size=5).map(bytearray),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["reason", "queue", "a"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = ["parts", "metadata", "deadline", "x-death", "x-acquired-count", "x-delivery-count"]
READERS: list[Callable[[Properties, bytes], object]] = [
    lambda made, body: message.read_request(made, body, MAX_PARTS),
    lambda made, body: message.read_reply(made, body, MAX_PARTS),
    lambda made, body: message.read_cancel(made),
]


@settings(deadline=None, database=None, max_examples=300)
@given(
    st.dictionaries(st.sampled_from(NAMES), tables),
    *[st.sampled_from(["", "7"])] * 3,
    st.sampled_from(["", "error"]),
    st.binary(max_size=10),
)
def test_any_properties_are_read_or_refused_by_one_error(
    headers: Any, correlation_id: str, reply_to: str, expiration: str, kind: str, body: bytes
) -> None:
    made = Properties(
        headers=headers,
        correlation_id=correlation_id,
        reply_to=reply_to,
        expiration=expiration,
        type=kind,
    )
    for read in READERS:
        with suppress(ProtocolError):
            assert read(made, body) is not None


def test_the_methods_that_declare_a_service_are_these() -> None:
    declared = [
        *topology.exchanges(),
        *topology.service_queues("a", 10, 0),
        *topology.take_cancels("a"),
        *topology.take_requests("a", 128),
        *topology.take_replies("b"),
    ]
    assert [method.name for method in declared if isinstance(method, Exchange.Declare)] == [
        "Exchange.Declare"
    ] * 3
    assert [method.queue for method in declared if isinstance(method, Queue.Declare)] == [
        "ratchet.a",
        "ratchet.dead.a",
        "",
        "ratchet.reply.b",
    ]
    assert [
        (method.queue, method.exchange, method.routing_key)
        for method in declared
        if isinstance(method, Queue.Bind)
    ] == [
        ("ratchet.a", "ratchet.requests", "a.*"),
        ("ratchet.dead.a", "ratchet.dead", "a.cast"),
        ("", "ratchet.control", "a"),
        ("ratchet.reply.b", "ratchet.dead", "#.b"),
    ]
    assert all(method.synchronous for method in declared)


def test_a_service_lasts_and_a_client_leaves_nothing() -> None:
    requests = topology.service_queues("a", 10, 0)[0]
    assert isinstance(requests, Queue.Declare)
    assert (requests.durable, requests.exclusive) == (True, False)
    assert requests.arguments == {
        "x-queue-type": "quorum",
        "x-delivery-limit": 0,
        "x-dead-letter-exchange": "ratchet.dead",
        "x-max-length": 10,
        "x-overflow": "reject-publish",
    }
    replies = topology.take_replies("b")[0]
    assert isinstance(replies, Queue.Declare)
    assert (replies.durable, replies.exclusive, replies.auto_delete) == (False, True, True)


def test_the_keys_lead_where_the_queues_are_bound() -> None:
    assert topology.request_key("a", "b") == "a.b"
    assert topology.cast_key("a") == "a.cast"


def test_dead_letters_of_a_service_that_redelivers_come_by_another_way() -> None:
    declared, bound, requests = topology.service_queues("a", 10, 3)[:3]
    assert isinstance(declared, Exchange.Declare)
    assert isinstance(bound, Exchange.Bind)
    assert isinstance(requests, Queue.Declare)
    assert (bound.source, bound.destination, bound.routing_key) == (declared.exchange, topology.DEAD, "#")
    assert requests.arguments is not None
    assert requests.arguments["x-delivery-limit"] == 3
    assert requests.arguments["x-dead-letter-exchange"] == declared.exchange != topology.DEAD
