"""This side of a link to a broker, with a scripted one on the other side."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from functools import partial
from itertools import product
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pamqp import base
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue

from broker.scripted import HANDSHAKE, START, TUNE, Broker, content, opened, words
from ratchet.bus._broker.frames import Delivery, Returned
from ratchet.bus._broker.interfaces import CLOSED, OPEN, TRANSITIONS, LinkState
from ratchet.bus._broker.properties import Properties
from ratchet.errors import BusError, ConnectionLost, MessageTooLarge, ProtocolError

PROPERTIES = Properties(correlation_id="7")
SENT = Basic.Properties(correlation_id="7")
DELIVERY = content(Basic.Deliver("requests", 3, False, "", "a"), SENT, b"body")
RETURN = content(Basic.Return(312, "NO_ROUTE", "", "a"), SENT, b"body")


def publish(broker: Broker, data: bytes = b"body") -> tuple[int, int]:
    return broker.link.publish("", "a", PROPERTIES, data)


def closed(broker: Broker, code: int, text: str, cause: type[base.Frame] | None = None) -> None:
    """Have the broker close the connection, because of some method."""
    index = 0 if cause is None else cause.index
    broker.say(Connection.Close(code, text, index >> 16, index & 0xFFFF))


def test_the_handshake_is_that_of_amqp() -> None:
    broker = Broker()
    assert broker.names() == ["ProtocolHeader"]
    broker.say(START)
    (login,) = broker.heard
    assert (login.mechanism, login.response, login.locale) == ("PLAIN", "\0me\0hush", "en_US")
    assert login.client_properties["product"] == "ratchet"
    assert login.client_properties["capabilities"] == dict.fromkeys(
        [
            "authentication_failure_close",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
            "publisher_confirms",
        ],
        True,
    )
    broker.heard.clear()
    broker.say(TUNE)
    tune, vhost = broker.heard
    assert (tune.channel_max, tune.frame_max, tune.heartbeat) == (1, 131072, 60)
    assert vhost.virtual_host == "production"
    broker.heard.clear()
    broker.say(Connection.OpenOk())
    assert broker.names() == ["Channel.Open"]
    assert broker.told == []
    broker.say(Channel.OpenOk())
    assert broker.told == [("opened",)]
    assert broker.link.state is OPEN


@pytest.mark.parametrize(
    ("ours", "theirs", "agreed"), [(60, 60, 60), (60, 10, 10), (10, 60, 10), (0, 60, 0), (60, 0, 0)]
)
def test_the_shorter_heartbeat_is_agreed_on(ours: int, theirs: int, agreed: int) -> None:
    broker = Broker(heartbeat=ours)
    broker.say(START, Connection.Tune(0, 0, theirs))
    assert broker.heard[-2].heartbeat == agreed
    assert broker.link.heartbeat == agreed


@pytest.mark.parametrize(("theirs", "agreed"), [(0, 131072), (4096, 4096), (2**20, 131072)])
def test_the_smaller_frame_is_agreed_on(theirs: int, agreed: int) -> None:
    broker = Broker()
    broker.say(START, Connection.Tune(0, theirs, 0))
    assert broker.heard[-2].frame_max == agreed


def test_what_is_published_fits_into_the_frames_that_were_agreed_on() -> None:
    broker = Broker()
    broker.say(START, Connection.Tune(0, 4096, 0), *HANDSHAKE[2:])
    broker.heard.clear()
    publish(broker, b"x" * 4089)
    assert [len(piece) for piece in broker.heard[2:]] == [4088, 1]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("3.10.8", (3, 10, 8)),
        ("4.0.0-rc.1", (4, 0, 0)),
        ("4", (4,)),
        ("", ()),
        ("unknown", ()),
        ("9" * 5000, (999_999_999,)),
        (None, ()),
        (4, ()),
    ],
)
def test_the_brokers_version_is_known(text: Any, version: tuple[int, ...]) -> None:
    broker = Broker()
    broker.say(Connection.Start(server_properties={"version": text}, mechanisms="PLAIN"))
    assert broker.link.version == version


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ([b"AMQP\0\0\x09\x01"], "another version of AMQP"),
        ([Connection.Start(1, 0, {}, "PLAIN")], "speaks AMQP 1.0, not 0.9"),
        ([START, Connection.Tune(0, 4095, 0)], "takes frames of 4095 bytes, less than every peer has to"),
        ([START, Connection.Secure("?")], "unexpected Connection.Secure"),
        ([START, TUNE, Channel.OpenOk()], "unexpected Channel.OpenOk"),
        ([START, TUNE, DELIVERY], "unexpected Delivery"),
        ([*HANDSHAKE, Queue.DeclareOk("q", 0, 0)], "unexpected Queue.DeclareOk"),
        ([*HANDSHAKE, Channel.Flow(False)], "unexpected Channel.Flow"),
        ([*HANDSHAKE, Basic.Ack(1)], "confirmed 1, where 0 were published"),
        ([*HANDSHAKE, Basic.Ack(-1)], "confirmed -1, where 0 were published"),
        ([*HANDSHAKE, Connection.CloseOk()], "unexpected Connection.CloseOk"),
    ],
)
def test_a_broker_that_answers_wrongly_is_an_error(wrong: list[Any], text: str) -> None:
    broker = Broker()
    broker.say(*wrong, *HANDSHAKE, DELIVERY)
    assert isinstance(broker.ended.error, ProtocolError)
    assert text in broker.ended.error.message
    assert not broker.ended.fatal


METHODS = list(dict.fromkeys(method for _, method in TRANSITIONS))
WAYS: dict[LinkState, list[base.Frame]] = {
    state: HANDSHAKE[:count] for count, state in enumerate(list(LinkState)[: len(HANDSHAKE) + 1])
}


@pytest.mark.parametrize(("state", "method"), list(product(LinkState, METHODS)))
def test_each_method_leads_where_the_table_says(state: LinkState, method: type[base.Frame]) -> None:
    broker = Broker()
    broker.say(*WAYS.get(state, HANDSHAKE))
    if state.name in ("CLOSING", "CLOSED"):
        broker.link.close()
    if state is CLOSED:
        broker.say(Connection.CloseOk())
    assert broker.link.state is state
    failure, heard = broker.link.failure, len(broker.heard)
    broker.say(START if method is Connection.Start else method())
    after = TRANSITIONS.get((state, method))
    if after is not None:
        assert broker.link.state is after
    else:
        assert broker.link.state is CLOSED
        assert len(broker.heard) == heard
        # A link that this side closes ends well however the broker sees it.
        wanted = state.name in ("CLOSING", "CLOSED")
        assert wanted is (broker.ended.error is None)
    if state is CLOSED:
        assert broker.link.failure is failure


def test_a_broker_that_takes_no_password_is_not_asked_again() -> None:
    broker = Broker()
    broker.say(Connection.Start(mechanisms="EXTERNAL ANONYMOUS"), TUNE)
    assert broker.names() == ["ProtocolHeader"]
    assert broker.ended.fatal
    assert "only EXTERNAL, ANONYMOUS" in str(broker.ended.error)


def test_a_wrong_password_is_fatal_and_in_no_text() -> None:
    broker = Broker()
    broker.say(START)
    broker.heard.clear()
    closed(broker, 403, "ACCESS_REFUSED - Login was refused.")
    assert broker.names() == ["Connection.CloseOk"]
    error = broker.ended.error
    assert type(error) is BusError
    assert error.message == (
        "the broker closed the link: 403 ACCESS_REFUSED - Login was refused;"
        " check the user, the password and the permissions"
    )
    assert (broker.ended.fatal, broker.ended.code) == (True, 403)
    assert "hush" not in f"{error!r} {broker.link!r}"
    assert repr(broker.link) == "<LinkProtocol with amqp://localhost:5672: closed>"


@pytest.mark.parametrize(
    ("code", "text", "cause", "fatal"),
    [
        (320, "CONNECTION_FORCED - broker forced connection closure", None, False),
        (541, "INTERNAL_ERROR - vhost 'a' is down", Connection.Open, False),
        (403, "ACCESS_REFUSED - access to queue 'q' refused", Queue.Declare, True),
        (403, "ACCESS_REFUSED - access to exchange refused", Basic.Publish, True),
        (530, "NOT_ALLOWED - vhost a not found", Connection.Open, True),
        (530, "NOT_ALLOWED - connection limit (1) is reached", Connection.Open, False),
        (530, "NOT_ALLOWED - attempt to reuse consumer tag", Basic.Consume, False),
        (404, "NOT_FOUND - no exchange", Queue.Bind, True),
        # Declared again on the next link.
        (404, "NOT_FOUND - no exchange", Basic.Publish, False),
        (404, "NOT_FOUND - no queue", Basic.Consume, False),
        (405, "RESOURCE_LOCKED", Queue.Declare, False),
        (406, "PRECONDITION_FAILED - inequivalent arg 'x-max-length'", Queue.Declare, True),
        (406, "PRECONDITION_FAILED - inequivalent arg 'type'", Exchange.Declare, True),
        (406, "PRECONDITION_FAILED - queue limit in vhost 'a' (3) is reached", Queue.Declare, False),
        # A handler that took too long.
        (406, "PRECONDITION_FAILED - delivery acknowledgement timed out", None, False),
        (504, "CHANNEL_ERROR", Basic.Ack, False),
    ],
)
@pytest.mark.parametrize("kind", [Connection.Close, Channel.Close])
def test_whether_another_link_would_end_the_same_way(
    kind: type[Connection.Close | Channel.Close],
    code: int,
    text: str,
    cause: type[base.Frame] | None,
    fatal: bool,
) -> None:
    broker = opened()
    index = 0 if cause is None else cause.index
    broker.say(kind(code, text, index >> 16, index & 0xFFFF), DELIVERY)
    assert (broker.ended.fatal, broker.ended.code) == (fatal, code)
    assert type(broker.ended.error) is (BusError if fatal else ConnectionLost)
    assert f"{code} {text}" in broker.ended.error.message


def test_a_connection_that_the_broker_closes_is_said_goodbye_to() -> None:
    broker = opened()
    closed(broker, 320, "CONNECTION_FORCED")
    assert broker.names() == ["Connection.CloseOk"]


def test_a_connection_without_its_channel_is_closed() -> None:
    broker = opened()
    broker.say(Channel.Close(406, "PRECONDITION_FAILED", 60, 80))
    assert broker.names() == ["Channel.CloseOk", "Connection.Close"]
    assert broker.link.state is CLOSED


def test_answers_come_in_the_order_of_the_calls() -> None:
    broker = opened()
    replies: list[str] = []
    calls: list[base.Frame] = [
        Exchange.Declare(exchange="a"),
        Queue.Declare(queue="q"),
        Queue.Bind(queue="q", exchange="a"),
        Basic.Qos(prefetch_count=5),
        Basic.Consume(queue="q", consumer_tag="requests"),
        Confirm.Select(),
        Basic.Cancel("requests"),
    ]
    for method in calls:
        broker.link.call(method, lambda reply: replies.append(reply.name))
    assert broker.names() == [method.name for method in calls]
    answers = [
        Exchange.DeclareOk(),
        Queue.DeclareOk("q", 0, 0),
        Queue.BindOk(),
        Basic.QosOk(),
        Basic.ConsumeOk("requests"),
        Confirm.SelectOk(),
    ]
    broker.say(*answers[:2], DELIVERY, *answers[2:])
    assert replies == [answer.name for answer in answers]
    assert [event[0] for event in broker.told] == ["delivered"]
    broker.say(Basic.CancelOk("requests"))
    assert replies[-1] == "Basic.CancelOk"


def test_an_answer_may_overtake_another() -> None:
    broker = opened()
    answered: list[str] = []
    for tag in ["control", "requests"]:
        broker.link.call(
            Basic.Consume(queue="q", consumer_tag=tag), lambda reply: answered.append(reply.consumer_tag)
        )
    broker.link.call(Confirm.Select(), lambda reply: answered.append(reply.name))
    # A queue of its own process answers for each consumer.
    broker.say(Confirm.SelectOk(), Basic.ConsumeOk("requests"), Basic.ConsumeOk("control"))
    assert answered == ["Confirm.SelectOk", "requests", "control"]


def test_answers_of_one_kind_come_in_order() -> None:
    broker = opened()
    answered: list[str] = []
    for name in ["a", "b", "c"]:
        broker.link.call(Queue.Declare(queue=name), partial(note_answer, answered, name))
    broker.say(*[Queue.DeclareOk("q", 0, 0)] * 3)
    assert answered == ["a", "b", "c"]


def note_answer(answered: list[str], name: str, reply: Any) -> None:
    answered.append(name)


@pytest.mark.parametrize("wrong", [Basic.QosOk(), Basic.ConsumeOk("control"), Basic.CancelOk("requests")])
def test_an_answer_to_no_call_is_an_error(wrong: base.Frame) -> None:
    broker = opened()
    replies: list[Any] = []
    broker.link.call(Basic.Consume(queue="q", consumer_tag="requests"), replies.append)
    broker.say(wrong, Basic.ConsumeOk("requests"))
    assert f"unexpected {wrong.name}" in str(broker.ended.error)
    assert replies == []


def test_a_call_may_be_made_from_within_an_answer() -> None:
    broker = opened()
    replies: list[Any] = []
    broker.link.call(
        Queue.Declare(queue=""),
        lambda reply: broker.link.call(Queue.Bind(queue=reply.queue, exchange="a"), replies.append),
    )
    broker.say(Queue.DeclareOk("amq.gen-1", 0, 0))
    assert broker.heard[-1].queue == "amq.gen-1"
    broker.say(Queue.BindOk())
    assert [reply.name for reply in replies] == ["Queue.BindOk"]


def test_messages_are_numbered_as_the_broker_confirms_them() -> None:
    broker = opened()
    before = broker.writes
    assert [publish(broker) for _ in range(3)] == [(before + 1, 1), (before + 2, 2), (before + 3, 3)]
    assert broker.names() == ["Basic.Publish", "ContentHeader", "ContentBody"] * 3
    broker.say(Basic.Ack(1), Basic.Nack(2), Basic.Ack(3, True), Basic.Nack(3, True), Basic.Ack(0, True))
    assert broker.told == [
        ("confirmed", 1, False, True),
        ("confirmed", 2, False, False),
        ("confirmed", 3, True, True),
        ("confirmed", 3, True, False),
        ("confirmed", 3, True, True),
    ]


def test_a_message_that_is_refused_at_home_has_no_number() -> None:
    broker = opened()
    with pytest.raises(MessageTooLarge):
        broker.link.publish("", "a", Properties({"metadata": {"a": "x" * 140_000}}), b"")
    assert broker.heard == []
    assert publish(broker)[1] == 1


def test_what_the_broker_sends_is_told() -> None:
    broker = opened(max_message=3)
    broker.say(
        DELIVERY,
        content(Basic.Deliver("control", 4, True, "", "a"), SENT, b""),
        RETURN,
        Connection.Blocked("low on memory"),
        Basic.Cancel("requests"),
    )
    assert broker.link.blocked == "low on memory"
    broker.say(Connection.Unblocked())
    assert broker.link.blocked is None
    assert broker.told == [
        # Over the limit: it can still be rejected.
        ("delivered", Delivery("requests", 3, False, "", PROPERTIES, None, 4)),
        ("delivered", Delivery("control", 4, True, "", PROPERTIES, b"", 0)),
        ("returned", Returned(312, "NO_ROUTE", PROPERTIES)),
        ("blocked", "low on memory"),
        ("cancelled", "requests"),
        ("blocked", None),
    ]
    assert broker.heard == []


def test_a_delivery_is_acknowledged_or_rejected() -> None:
    broker = opened()
    broker.link.acknowledge(3)
    broker.link.reject(4)
    ack, reject = broker.heard
    assert (ack.name, ack.delivery_tag, ack.multiple) == ("Basic.Ack", 3, False)
    assert (reject.name, reject.delivery_tag, reject.requeue) == ("Basic.Reject", 4, False)


def test_a_link_is_closed_behind_what_was_sent() -> None:
    broker = opened()
    publish(broker)
    broker.link.close()
    broker.link.close()
    assert broker.names() == ["Basic.Publish", "ContentHeader", "ContentBody", "Connection.Close"]
    broker.say(Basic.Ack(1), DELIVERY, Queue.DeclareOk("q", 0, 0), Connection.Blocked("memory"))
    assert broker.told == []
    broker.say(Connection.CloseOk(), DELIVERY)
    assert broker.ended == (None, False, 0)


@pytest.mark.parametrize("end", ["close", "channel", "eof", "garbage", "silence"])
def test_a_link_that_this_side_closes_ends_well_however_it_ends(end: str) -> None:
    broker = opened(heartbeat=10)
    broker.link.close()
    match end:
        case "close":
            closed(broker, 320, "CONNECTION_FORCED")
        case "channel":
            broker.say(Channel.Close(406, "PRECONDITION_FAILED", 0, 0))
        case "eof":
            broker.link.eof_received()
        case "garbage":
            broker.say(b"HTTP/1.1")
        case "silence":
            for _ in range(5):
                broker.link.tick()
    assert broker.ended == (None, False, 0)


def test_a_link_that_is_not_open_yet_is_closed_without_a_word() -> None:
    broker = Broker()
    broker.say(START)
    broker.heard.clear()
    broker.link.close()
    assert broker.heard == []
    assert broker.ended.error is None


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ([START], "when it was to accept the login"),
        (HANDSHAKE, "without a word"),
        ([*HANDSHAKE, DELIVERY[:-3]], "in the middle of a message"),
    ],
)
def test_a_broker_that_disconnects_is_lost(said: list[Any], text: str) -> None:
    broker = Broker()
    broker.say(*said)
    broker.link.eof_received()
    assert type(broker.ended.error) is ConnectionLost
    assert broker.ended.error.message == f"the broker disconnected {text}"
    assert not broker.ended.fatal


def test_nothing_is_sent_or_told_behind_the_end() -> None:
    broker = opened()
    replies: list[Any] = []
    broker.link.call(Basic.Qos(), replies.append)
    broker.link.eof_received()
    ended = broker.ended
    broker.heard.clear()
    broker.say(Basic.QosOk(), DELIVERY)
    broker.link.tick()
    broker.link.eof_received()
    broker.link.close()
    broker.link.acknowledge(3)
    broker.link.reject(3)
    with pytest.raises(ConnectionLost, match="is closed, and not open; nothing was sent"):
        publish(broker)
    with pytest.raises(ConnectionLost, match="is closed, and not open"):
        broker.link.call(Basic.Qos(), replies.append)
    assert (broker.heard, replies, broker.ended) == ([], [], ended)


def test_nothing_is_published_before_the_link_is_open() -> None:
    broker = Broker()
    broker.say(START)
    with pytest.raises(ConnectionLost, match="is login, and not open"):
        publish(broker)
    assert broker.link.published == 0


def test_a_listener_may_close_the_link() -> None:
    broker = opened()
    broker.listener.then = lambda event: broker.link.close() if event[0] == "delivered" else None
    broker.say(DELIVERY, DELIVERY)
    assert [event[0] for event in broker.told] == ["delivered"]


def test_a_heartbeat_is_sent_where_nothing_else_was() -> None:
    broker = opened(heartbeat=10)
    broker.link.tick()
    assert broker.heard == []
    broker.link.tick()
    assert broker.names() == ["Heartbeat"]
    publish(broker)
    broker.heard.clear()
    broker.link.tick()
    assert broker.heard == []


def test_a_broker_that_is_silent_for_two_heartbeats_is_lost() -> None:
    broker = opened(heartbeat=10)
    for _ in range(3):
        broker.link.tick()
    broker.say(b"\x08")
    # It has spoken, if only a part of a word.
    for _ in range(4):
        broker.link.tick()
        assert broker.link.state is OPEN
    broker.link.tick()
    assert type(broker.ended.error) is ConnectionLost
    assert broker.ended.error.message == "the broker was silent for 20 s"


def test_without_a_heartbeat_silence_is_no_sign() -> None:
    broker = opened(heartbeat=0)
    for _ in range(10):
        broker.link.tick()
    assert (broker.heard, broker.told) == ([], [])


def interrupt() -> None:
    raise KeyboardInterrupt


def test_a_link_on_which_publishing_was_interrupted_is_not_used_again() -> None:
    broker = opened()
    broker.on_write = interrupt
    with pytest.raises(KeyboardInterrupt):
        publish(broker)
    broker.on_write = lambda: None
    assert broker.link.failure is not None
    assert str(broker.link.failure.error).startswith("interrupted by KeyboardInterrupt")
    broker.say(Basic.Ack(1))
    broker.link.eof_received()
    assert broker.told == []


@pytest.mark.parametrize("swallows", [False, True])
def test_two_messages_that_are_published_at_once_end_the_link(swallows: bool) -> None:
    broker = opened()

    def publish_another() -> None:
        broker.on_write = lambda: None
        with suppress(ConnectionLost) if swallows else nullcontext():
            publish(broker)

    broker.on_write = publish_another
    with pytest.raises(
        ConnectionLost, match="was lost while" if swallows else "two messages were published at once"
    ):
        publish(broker)
    assert broker.link.state is CLOSED
    assert broker.told == []


def test_a_link_on_which_a_call_was_interrupted_is_not_used_again() -> None:
    broker = opened()
    broker.on_write = interrupt
    replies: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        broker.link.call(Basic.Qos(), replies.append)
    assert broker.link.state is CLOSED


def test_a_link_on_which_a_message_was_lost_is_not_used_again() -> None:
    broker = opened()
    broker.listener.then = lambda event: interrupt()
    with pytest.raises(KeyboardInterrupt):
        broker.say(DELIVERY, DELIVERY)
    assert len(broker.told) == 1
    assert broker.link.state is CLOSED


CONVERSATION = words(
    *HANDSHAKE,
    Exchange.DeclareOk(),
    DELIVERY,
    Connection.Blocked("memory"),
    RETURN,
    Basic.Ack(1),
    b"\x08\0\0\0\0\0\0\xce",
    Basic.Nack(2, True),
    Connection.Unblocked(),
    Basic.Cancel("requests"),
    Connection.Close(320, "CONNECTION_FORCED", 0, 0),
)


def conversing() -> Broker:
    """A link that publishes twice and makes a call as soon as it can."""
    broker = Broker()

    def begin(event: tuple[Any, ...]) -> None:
        if event[0] == "opened":
            publish(broker)
            publish(broker)
            broker.link.call(Exchange.Declare(exchange="a"), lambda reply: broker.told.append((reply.name,)))

    broker.listener.then = begin
    return broker


EVENTS = [
    "opened",
    "Exchange.DeclareOk",
    "delivered",
    "blocked",
    "returned",
    "confirmed",
    "confirmed",
    "blocked",
    "cancelled",
    "closed",
]


@pytest.mark.parametrize("trailing", [b"", b"\x01", DELIVERY, b"HTTP/1.1"])
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_whole_byte_by_byte_and_with_trailing_bytes(size: int, trailing: bytes) -> None:
    broker = conversing()
    data = CONVERSATION + trailing
    for start in range(0, len(data), size):
        broker.link.receive(data[start : start + size])
    assert [event[0] for event in broker.told] == EVENTS
    assert broker.ended.code == 320


@settings(deadline=None, database=None, max_examples=300)
@given(st.data())
def test_whatever_comes_the_link_ends_once_and_tells_nothing_behind_that(data: st.DataObject) -> None:
    garbage = bytearray(CONVERSATION)
    for place in data.draw(st.lists(st.integers(0, len(garbage) - 1), max_size=4)):
        garbage[place] = data.draw(st.integers(0, 255))
    broker = conversing()
    size = data.draw(st.sampled_from([50, 10_000]))
    for start in range(0, len(garbage), size):
        broker.link.receive(bytes(garbage[start : start + size]))
    broker.link.eof_received()
    assert broker.ended.error is not None


@settings(deadline=None, database=None, max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [*HANDSHAKE, DELIVERY, RETURN, Basic.Ack(1), Basic.Cancel("a"), Channel.Close(1, "", 0, 0)]
        )
    )
)
def test_in_whatever_order_a_broker_speaks_it_is_understood_or_wrong(said: list[Any]) -> None:
    broker = conversing()
    broker.say(*said)
    broker.link.eof_received()
    assert broker.ended.error is not None
