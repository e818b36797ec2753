"""What travels of a client's request, and the message of an attempt."""

from __future__ import annotations

import pytest

from callers import failure
from ratchet import BusTimeout, Outcome, _clock
from ratchet.bus._broker.content import Content
from ratchet.bus._broker.message import MAX_EXPIRATION, Request

ASKED = Content([b"body"], {"trace": "1"}, one_way=False)


def in_seconds(seconds: float) -> Request:
    """The message of a request that has so many left."""
    return ASKED.message("7", "replies", _clock.monotonic() + seconds, "any")


def test_a_request_says_how_much_time_is_left_and_when_that_is_over() -> None:
    before = _clock.wall_time()
    request = in_seconds(10)
    assert request.expiration is not None
    assert request.deadline is not None
    assert 9_000 < request.expiration <= 10_000
    assert 1000 * (before + 9) < request.deadline <= 1000 * (_clock.wall_time() + 10) + 1
    assert (request.parts, request.metadata) == ([b"body"], {"trace": "1"})
    assert (request.correlation_id, request.reply_to) == ("7", "replies")


@pytest.mark.parametrize("seconds", [MAX_EXPIRATION / 1000 + 60, 1e30])
def test_more_time_than_a_broker_takes_is_no_deadline(seconds: float) -> None:
    request = in_seconds(seconds)
    assert (request.expiration, request.deadline) == (None, None)


def test_a_request_whose_time_is_over_is_not_sent() -> None:
    assert failure(lambda: in_seconds(-1)) == (BusTimeout, Outcome.NOT_SENT)


def test_a_cast_has_no_deadline_and_wants_no_answer() -> None:
    cast = ASKED._replace(one_way=True).message("7", "replies", _clock.monotonic() + 10, "any")
    assert cast == Request(parts=[b"body"], correlation_id="7", metadata={"trace": "1"})
