"""The two roles on a connection, message by message: no socket is opened here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from ratchet import MessageTooLarge, Outcome, ProtocolError
from ratchet.bus import Limits
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.numbered import Numbered
from ratchet.bus._socket import wire
from ratchet.bus._socket.heads import PLAIN_ID
from ratchet.bus._socket.protocol import (
    DRAINING,
    GREETING,
    READY,
    TRANSITIONS,
    ClientProtocol,
    ClientState,
    GivenUp,
    ServerProtocol,
)
from ratchet.bus._socket.wire import Message

LIMITS = Limits(max_message=1_000, max_parts=3)
HELLO = b"the server's hello"
KINDS = (
    wire.PLAIN,
    wire.REQUEST,
    wire.RESPONSE,
    wire.ERROR,
    wire.CANCEL,
    wire.PING,
    wire.PONG,
    wire.GOAWAY,
    wire.HELLO,
)


class Made(Numbered):
    """A request, as a connection would make it."""

    def __init__(
        self, parts: list[bytes], one_way: bool, left: int, id: int, metadata: Mapping[str, str] | None
    ) -> None:
        self.seen = (parts, one_way, left, id, metadata)
        self.id = id


def entered(role: ClientProtocol, id: int) -> Numbered:
    """A request that is open under this id."""
    request = Numbered()
    request.id = id
    role.open.setdefault(id, request)
    return request


def serving() -> ServerProtocol:
    return ServerProtocol(LIMITS, HELLO, ("client", 1))


def asking(plain: bool = False) -> ClientProtocol:
    return ClientProtocol(LIMITS, ("server", 2), plain)


def message(
    kind: int, flags: int = 0, id: int = 0, arg: int = 0, parts: list[bytes] | None = None
) -> Message:
    """A message of any kind, with parts that its kind may have."""
    if parts is None:
        parts = {wire.ERROR: [b"KeyError", b"text", b"trace"], wire.HELLO: [b"{}"]}.get(kind, [])
    return kind, flags, id, arg, parts


def decoded(frame: Any) -> Message:
    decoder = wire.Decoder(LIMITS.max_message, LIMITS.max_parts)
    (only,) = decoder.feed(b"".join(frame) if isinstance(frame, list) else frame)
    assert decoder.error is None
    return only


def hello(**members: object) -> Message:
    return message(wire.HELLO, id=1, parts=[json.dumps(members).encode()])


def received(role: ServerProtocol, *messages: Message) -> list[Made]:
    """The requests that come of these messages."""
    made = [role.receive(each, Made) for each in messages]
    assert all(isinstance(each, Made) for each in made)
    return [each for each in made if isinstance(each, Made)]


# The server's role.


def test_a_request_is_open_until_the_connection_takes_it_out() -> None:
    role = serving()
    (request,) = received(role, message(wire.REQUEST, id=7, arg=250, parts=[b"question"]))
    assert request.seen == ([b"question"], False, 250, 7, None)
    assert list(role.open.values()) == [request]
    assert role.unanswered == [request]
    assert decoded(role.response(7, [b"answer"])) == (wire.RESPONSE, 0, 7, 0, [b"answer"])
    assert list(role.open.values()) == [request]


def test_metadata_are_the_last_part() -> None:
    part = b'{"user":"Ada"}'
    (request,) = received(serving(), message(wire.REQUEST, wire.METADATA, id=1, parts=[b"question", part]))
    assert request.seen == ([b"question"], False, 0, 1, {"user": "Ada"})


def test_what_is_cast_is_not_open_and_may_have_the_id_of_one_that_is() -> None:
    role = serving()
    first, cast = received(
        role,
        message(wire.REQUEST, id=3, parts=[b"1"]),
        message(wire.REQUEST, wire.ONE_WAY, id=3, parts=[b"2"]),
    )
    assert cast.seen == ([b"2"], True, 0, 3, None)
    assert list(role.open.values()) == [first]


def test_an_id_that_is_used_twice_at_once_breaks_the_format() -> None:
    role = serving()
    (first,) = received(role, message(wire.REQUEST, id=3, parts=[b"1"]))
    with pytest.raises(ProtocolError, match="id 3 is used twice"):
        role.receive(message(wire.REQUEST, id=3, parts=[b"2"]), Made)
    assert list(role.open.values()) == [first]


def test_a_cancel_gives_up_the_request_of_its_id_and_no_other() -> None:
    role = serving()
    (request,) = received(role, message(wire.REQUEST, id=3, parts=[b"1"]))
    assert role.receive(message(wire.CANCEL, id=4), Made) is None
    assert role.receive(message(wire.CANCEL, id=3), Made) == GivenUp(request)


def test_a_ping_is_answered_with_its_own_id_and_argument() -> None:
    answer = serving().receive(message(wire.PING, id=5, arg=6), Made)
    assert decoded(answer) == (wire.PONG, 0, 5, 6, [])


def test_a_hello_is_answered_and_bounds_what_is_sent() -> None:
    role = serving()
    assert role.receive(hello(max_message=10, max_parts=9), Made) == HELLO
    assert (role.max_message, role.max_parts) == (10, 3)
    with pytest.raises(MessageTooLarge, match=r"11 bytes is over the limit of 10 \(client:1\)"):
        role.response(1, [b"x" * 11])


@pytest.mark.parametrize("kind", [wire.RESPONSE, wire.ERROR, wire.GOAWAY])
def test_what_only_a_server_says_breaks_the_format_from_a_client(kind: int) -> None:
    with pytest.raises(ProtocolError, match=f"kind {kind}"):
        serving().receive(message(kind), Made)


def test_goaway_names_the_last_request_and_a_plain_client_is_told_nothing() -> None:
    role = serving()
    assert role.goaway(None) == b""
    assert role.goaway(wire.PLAIN) == b""
    received(role, message(wire.PLAIN, parts=[b"1"]))
    assert role.goaway(None) == b""
    # In the middle of its first extended message, it will understand it.
    assert decoded(role.goaway(wire.REQUEST)) == (wire.GOAWAY, 0, 0, 0, [])
    received(role, message(wire.REQUEST, id=8, parts=[b"1"]))
    assert decoded(role.goaway(None)) == (wire.GOAWAY, 0, 8, 0, [])


def test_plain_requests_are_answered_in_their_order() -> None:
    role = serving()
    first, second = received(role, message(wire.PLAIN, parts=[b"1"]), message(wire.PLAIN, parts=[b"2"]))
    assert first.seen == ([b"1"], False, 0, PLAIN_ID, None)
    assert (role.may_answer_now(first), role.may_answer_now(second)) == (True, False)
    later = role.response(PLAIN_ID, [b"answer 2"])
    role.keep_answer(second, later)
    assert role.due_answer() is None
    assert role.kept == len(later)
    assert role.unanswered == [first]
    sooner = role.response(PLAIN_ID, [b"answer 1"])
    role.keep_answer(first, sooner)
    sent = []
    while due := role.due_answer():
        sent.append(due)
        role.answer_sent(*due)
    assert sent == [(first, sooner), (second, later)]
    assert (role.kept, role.plain) == (0, {})


def test_an_answer_that_has_left_or_is_kept_is_not_replaced() -> None:
    role = serving()
    (request,) = received(role, message(wire.PLAIN, parts=[b"1"]))
    role.keep_answer(request, b"answer")
    role.keep_answer(request, b"")
    assert role.due_answer() == (request, b"answer")
    role.answer_sent(request, b"answer")
    role.keep_answer(request, b"")
    assert role.due_answer() is None
    assert role.kept == 0


def test_an_error_has_a_frame_in_the_extended_form_alone() -> None:
    role = serving()
    texts = ("KeyError", "'x'", "trace")
    assert role.error(PLAIN_ID, Reason.HANDLER_RAISED, texts) == b""
    kind, _, id, arg, parts = decoded(role.error(4, Reason.HANDLER_RAISED, texts))
    assert (kind, id, arg, parts) == (wire.ERROR, 4, 1, [b"KeyError", b"'x'", b"trace"])


@pytest.mark.parametrize(
    ("outcome", "flags"),
    [(None, 0), (Outcome.NOT_RUN, 1), (Outcome.RAN, 2), (Outcome.UNKNOWN, 3)],
)
def test_an_outcome_that_a_server_vouches_for_is_in_the_flags_of_the_error(
    outcome: Outcome | None, flags: int
) -> None:
    frame = serving().error(4, Reason.HANDLER_RAISED, ("KeyError", "text", "trace"), outcome)
    assert decoded(frame) == (wire.ERROR, flags, 4, 1, [b"KeyError", b"text", b"trace"])
    role = asking()
    request = entered(role, 4)
    parts = [b"KeyError", b"text", b"trace"]
    # The flags from 16 up mean nothing yet.
    for more in (0, 0b1111_0000):
        answer = role.receive((wire.ERROR, flags | more, 4, 1, parts))
        assert answer == (request, 1, outcome, parts)


def test_only_a_request_that_is_too_large_has_a_last_word() -> None:
    role = serving()
    too_large = MessageTooLarge("too large")
    assert decoded(role.refusal(too_large, (wire.REQUEST, 6)))[:4] == (wire.ERROR, 0, 6, Reason.TOO_LARGE)
    assert role.refusal(too_large, (wire.CANCEL, 6)) == b""
    assert role.refusal(too_large, None) == b""
    assert role.refusal(ProtocolError("broken"), (wire.REQUEST, 6)) == b""


# The client's role.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ClientState)
def test_each_message_leads_from_each_state_where_the_table_says(state: ClientState, kind: int) -> None:
    role = asking()
    if state is not GREETING:
        role.receive(hello())
    if state is DRAINING:
        role.receive(message(wire.GOAWAY))
    assert role.state is state
    if kind in (wire.PLAIN, wire.REQUEST, wire.CANCEL):
        with pytest.raises(ProtocolError, match="unexpected"):
            role.receive(message(kind))
        assert role.state is state
    else:
        role.receive(message(kind))
        assert role.state is TRANSITIONS.get((state, kind), state)
        assert role.hello is not None


def test_the_first_word_says_what_this_side_takes_and_the_plain_form_has_none() -> None:
    kind, _, id, _, parts = decoded(asking().greeting())
    assert (kind, id) == (wire.HELLO, wire.VERSION)
    assert json.loads(parts[0]) == {"max_message": 1_000, "max_parts": 3, "features": []}
    assert asking(plain=True).greeting() == b""


def test_ids_go_round_and_skip_those_that_are_open() -> None:
    role = asking()
    assert role.new_id() == 1
    entered(role, 2)
    assert role.new_id() == 3
    role._last_id = wire.MAX_ID
    assert role.new_id() == 1


def test_an_answer_names_the_request_of_its_id() -> None:
    role = asking()
    id = role.new_id()
    frame = role.request(id, wire.ONE_WAY, 30, [b"question"])
    assert decoded(frame) == (wire.REQUEST, wire.ONE_WAY, id, 30, [b"question"])
    request = entered(role, id)
    assert role.receive(message(wire.RESPONSE, id=id, parts=[b"answer"])) == (
        request,
        None,
        None,
        [b"answer"],
    )
    assert list(role.open.values()) == [request]
    failed = role.receive(message(wire.ERROR, id=id, arg=5))
    assert failed == (request, 5, None, [b"KeyError", b"text", b"trace"])
    assert role.receive(message(wire.RESPONSE, id=99, parts=[b"late"])) == (
        None,
        None,
        None,
        [b"late"],
    )


def test_plain_answers_are_told_by_their_order_also_of_those_that_were_given_up() -> None:
    role = asking(plain=True)
    assert role.state is READY
    requests = []
    for name in ("first", "given up", "third"):
        id = role.new_id()
        frame = role.request(id, 0, 0, [name.encode()])
        assert decoded(frame)[0] == wire.PLAIN
        requests.append(entered(role, id))
        role.order.append(id)
    role.open.pop(2, None)
    answers = [role.receive(message(wire.PLAIN, parts=[b"%d" % number])) for number in range(3)]
    assert answers == [
        (requests[0], None, None, [b"0"]),
        (None, None, None, [b"1"]),
        (requests[2], None, None, [b"2"]),
    ]
    with pytest.raises(ProtocolError, match="unexpected"):
        role.receive(message(wire.PLAIN, parts=[b"more"]))


def test_a_hello_bounds_what_is_sent() -> None:
    role = asking()
    role.receive(hello(max_message=10, max_in_flight=2, server="name", something="new"))
    assert (role.narrow, role.max_in_flight) == (True, 2)
    assert role.hello == wire.Hello(max_message=10, max_in_flight=2, server="name")
    role.check_size([b"x" * 10])
    with pytest.raises(MessageTooLarge, match=r"11 bytes is over the limit of 10 \(server:2\)"):
        role.check_size([b"x" * 11])


def test_a_server_that_takes_as_much_narrows_nothing() -> None:
    role = asking()
    role.receive(hello(max_message=1_000, max_parts=4))
    assert role.narrow is False


def test_a_hello_may_say_any_number() -> None:
    number = 10**30
    client = asking()
    client.receive(hello(max_message=number, max_parts=number, max_in_flight=number))
    assert client.max_in_flight == wire.MAX_ID
    server = serving()
    server.receive(hello(max_message=number, max_parts=number), Made)
    assert (server.max_message, server.max_parts) == (LIMITS.max_message, LIMITS.max_parts)


def test_a_server_that_speaks_without_a_hello_is_an_older_one() -> None:
    role = asking()
    role.receive(message(wire.PONG))
    assert role.hello == wire.Hello()
    assert role.state is READY


@pytest.mark.parametrize("last_id", [2, wire.MAX_ID - 1])
def test_goaway_names_the_requests_that_were_sent_later_also_when_ids_went_round(last_id: int) -> None:
    role = asking()
    ids = [(last_id + step) % (wire.MAX_ID + 1) for step in range(-1, 3)]
    requests = [entered(role, id) for id in ids]
    not_run = role.receive(message(wire.GOAWAY, id=last_id))
    assert isinstance(not_run, list)
    assert {request.id for request in not_run} == {request.id for request in requests[2:]}
    assert role.state is DRAINING
    assert len(role.open) == 4


def test_cancels_go_out_together_and_never_in_the_plain_form() -> None:
    decoder = wire.Decoder(LIMITS.max_message, LIMITS.max_parts)
    cancels = decoder.feed(asking().cancel([3, 4]))
    assert [each[:3] for each in cancels] == [(wire.CANCEL, 0, 3), (wire.CANCEL, 0, 4)]
    assert asking(plain=True).cancel([3]) == b""


def test_a_ping_of_the_server_is_answered() -> None:
    assert decoded(asking().receive(message(wire.PING, id=5, arg=6))) == (wire.PONG, 0, 5, 6, [])
