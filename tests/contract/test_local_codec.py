"""A local bus with a codec: what a socket would do to the messages, without one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest

from contract.buses import Start
from helpers import LONG, wait_until
from ratchet import MessageTooLarge, RemoteError
from ratchet import bus as ratchet_bus
from ratchet.bus import Codec, Limits, codecs


def new_local(codec: Any, *arguments: Any) -> tuple[Any, Any]:
    make: Any = ratchet_bus.new_local
    server, client = make(*arguments, codec=codec)
    assert server is client
    return server, client


@pytest.fixture
def local() -> Iterator[Any]:
    server, _ = new_local(codecs.json)
    with server:
        yield server


def test_each_message_is_encoded_and_decoded_on_its_way(local: Any, start: Start) -> None:
    seen: list[Any] = []

    def handler(request: Any) -> Any:
        seen.append(request)
        return (1, 2)

    start(local.serve, handler)
    request = {"a": (1, 2)}
    # As over a socket, JSON has no tuples.
    assert local.call(request, LONG) == [1, 2]
    assert seen == [{"a": [1, 2]}]


def test_nobody_shares_an_object(local: Any, start: Start) -> None:
    kept: list[Any] = []

    def handler(request: list[int]) -> list[int]:
        request.append(4)
        kept.append(request)
        return request

    start(local.serve, handler)
    request = [1, 2, 3]
    response = local.call(request, LONG)
    assert request == [1, 2, 3]
    assert response == [1, 2, 3, 4]
    assert response is not kept[0]


@pytest.mark.parametrize("call", ["call", "send_request", "cast"])
def test_a_request_that_cannot_be_encoded_is_an_error_at_the_call(local: Any, call: str) -> None:
    with pytest.raises(TypeError):
        getattr(local, call)(object())
    assert local.stats().queued == 0


def test_a_response_that_cannot_be_encoded_is_told_to_both_sides(local: Any) -> None:
    sent = local.send_request("question")
    transaction, _ = local.recv_request(LONG)
    with pytest.raises(TypeError):
        transaction.send_response(object())
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "TypeError"


def fail(*_: object) -> Any:
    raise ValueError("of the codec")


def test_a_request_that_cannot_be_decoded_is_logged_and_the_next_one_is_taken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    codec: Codec[Any, Any] = Codec(
        codecs.json.request_to_bus,
        lambda body: fail() if body == b'"bad"' else codecs.json.request_from_bus(body),
        codecs.json.response_to_bus,
        codecs.json.response_from_bus,
    )
    server, client = new_local(codec)
    with caplog.at_level(logging.WARNING, "ratchet"):
        bad, good = client.send_request("bad"), client.send_request("good")
        assert server.recv_request(LONG)[1] == "good"
        wait_until(lambda: caplog.records, "a line in the log")
    with pytest.raises(RemoteError) as raised:
        bad.recv_response(LONG)
    assert raised.value.outcome == "NOT_RUN"
    assert not good.cancel()
    server.close()


def test_a_response_that_cannot_be_decoded_is_the_waiter_s_error_alone() -> None:
    codec: Codec[Any, Any] = Codec(
        codecs.json.request_to_bus, codecs.json.request_from_bus, codecs.json.response_to_bus, fail
    )
    server, client = new_local(codec)
    sent = client.send_request("question")
    assert server.recv_request(LONG)[0].send_response("answer") is True
    for _ in range(2):
        with pytest.raises(ValueError, match="of the codec"):
            sent.recv_response(LONG)
    server.close()


def test_a_codec_goes_with_a_bound() -> None:
    server, client = new_local(codecs.text, 1)
    client.cast("one")
    assert server.recv_request(LONG)[1] == "one"
    with pytest.raises(TypeError):
        client.cast(1)
    server.close()


def test_a_message_over_the_limit_of_a_socket_is_refused(local: Any) -> None:
    with pytest.raises(MessageTooLarge) as raised:
        local.call("x" * (Limits().max_message + 1), LONG)
    assert raised.value.outcome == "NOT_SENT"


@pytest.mark.parametrize("codec", ["json", 1, codecs, Codec])
def test_a_codec_that_is_none_is_refused(codec: Any) -> None:
    with pytest.raises(TypeError, match="codec"):
        new_local(codec)
