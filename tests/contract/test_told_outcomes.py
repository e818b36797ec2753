"""Outcomes that a server tells: the client's error has the one that the server vouches for."""

from __future__ import annotations

from typing import Any

import pytest

from contract.buses import Bus, OpenBus, OpenClient, Start, on_plain_sockets, on_sockets
from helpers import LONG, wait_until
from ratchet import AlreadyAnswered, BusError, BusTimeout, Cancelled, ConnectionLost, Outcome, RemoteError
from ratchet.bus._core.faults import Reason
from ratchet.bus._socket import wire

TOLD = [
    (Outcome.NOT_SENT, "NOT_RUN"),
    (Outcome.NOT_RUN, "NOT_RUN"),
    (Outcome.UNKNOWN, "UNKNOWN"),
    (Outcome.RAN, "RAN"),
]


@pytest.mark.parametrize("spelled", [Outcome, str], ids=["Outcome", "str"])
@pytest.mark.parametrize(("outcome", "received"), TOLD)
def test_send_error_passes_an_outcome_on(
    bus: Bus, outcome: Outcome, received: str, spelled: type[Outcome | str]
) -> None:
    sent = bus.client.send_request("question")
    assert bus.take().send_error(ValueError("wrong"), outcome=spelled(outcome)) is True
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert (raised.value.outcome, raised.value.remote_type) == (received, "ValueError")
    assert bus.server.stats().failed == 1
    bus.check_works()


def test_without_an_outcome_an_error_says_that_the_request_ran(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    bus.take().send_error(ValueError("wrong"))
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == "RAN"


@pytest.mark.parametrize("wrong", ["ran", "", None, 1, b"RAN", ["RAN"], True])
def test_anything_but_an_outcome_is_refused_at_the_call(bus: Bus, wrong: Any) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    with pytest.raises(ValueError, match="outcome must be one of NOT_SENT, NOT_RUN, UNKNOWN, RAN, not "):
        transaction.send_error(ValueError("wrong"), outcome=wrong)
    # It still has no answer.
    assert transaction.send_response("answer") is True
    assert sent.recv_response(LONG) == "answer"


def test_a_handler_may_send_the_error_and_its_outcome_itself(bus: Bus, start: Start) -> None:
    def handler(request: object, transaction: Any) -> None:
        transaction.send_error(PermissionError("not today"), outcome="NOT_RUN")

    start(bus.server.serve, handler)
    with pytest.raises(RemoteError, match="not today; nothing was run") as raised:
        bus.client.call("question", LONG)
    assert raised.value.outcome == "NOT_RUN"


def test_a_server_in_between_passes_each_outcome_on(bus: Bus, start: Start, open_bus: OpenBus) -> None:
    front = open_bus()

    def pass_on(request: object, transaction: Any) -> object:
        try:
            return bus.client.call(request)
        except BusError as error:
            transaction.send_error(error, outcome=error.outcome)
            return None

    start(front.server.serve, pass_on)
    for outcome, received in TOLD:
        call = start(front.client.call, "question", LONG)
        bus.take().send_error(ValueError("wrong"), outcome=outcome)
        with pytest.raises(RemoteError) as raised:
            call.result()
        assert raised.value.outcome == received
    bus.client.close()
    with pytest.raises(RemoteError, match="nothing was run") as raised:
        front.client.call("question", LONG)
    assert raised.value.outcome == "NOT_RUN"


def test_an_outcome_comes_too_late_for_a_client_that_gave_up(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    sent.cancel()
    wait_until(lambda: transaction.cancelled, "word of the cancelling")
    assert transaction.send_error(ValueError("wrong"), outcome="NOT_RUN") is False
    with pytest.raises(Cancelled):
        sent.recv_response(LONG)


def test_a_second_error_is_already_answered_whatever_its_outcome(bus: Bus) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    transaction.send_error(ValueError("wrong"), outcome="NOT_RUN")
    with pytest.raises(AlreadyAnswered):
        transaction.send_error(ValueError("wrong"), outcome="UNKNOWN")


@on_sockets
@pytest.mark.parametrize("reason", Reason)
@pytest.mark.parametrize(
    ("flags", "outcome"), [(1, "NOT_RUN"), (2, "RAN"), (3, "UNKNOWN"), (0b1111_0001, "NOT_RUN")]
)
def test_the_flags_of_any_error_say_what_became_of_the_request(
    open_client: OpenClient, reason: Reason, flags: int, outcome: str
) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.ERROR, flags, id, reason, [b"KeyError", b"text", b""]))
    with pytest.raises(BusError) as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == outcome


@on_sockets
@pytest.mark.parametrize("flags", [4, 8])
def test_a_critical_flag_of_an_error_violates_the_format(open_client: OpenClient, flags: int) -> None:
    client, raw = open_client()
    sent = client.send_request("question")
    id = raw.receive_message()[2]
    raw.send(wire.encode(wire.ERROR, flags, id, Reason.HANDLER_RAISED, [b"KeyError", b"text", b""]))
    with pytest.raises(BusError):
        sent.recv_response(LONG)
    assert client.stats().broken == 1


@on_sockets
def test_the_flags_of_the_last_word_say_what_became_of_a_request_whose_time_is_over(
    open_client: OpenClient,
) -> None:
    client, raw = open_client()
    sent = client.send_request("question", timeout=0.05)
    id = raw.receive_message()[2]
    assert raw.receive_message()[0] == wire.CANCEL
    raw.send(wire.encode(wire.ERROR, 1, id, Reason.CANCELLED, [b"Cancelled", b"", b""]))
    with pytest.raises(BusTimeout) as raised:
        sent.recv_response(LONG)
    assert raised.value.outcome == "NOT_RUN"


@on_plain_sockets
def test_a_plain_client_hears_of_no_outcome(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    bus.take().send_error(ValueError("wrong"), outcome="NOT_RUN")
    with pytest.raises(ConnectionLost):
        sent.recv_response(LONG)
