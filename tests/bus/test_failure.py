"""What a client says of its last failure to get on with its server."""

from __future__ import annotations

import ssl

import pytest

from ratchet import ConnectionLost, Outcome, Rejected
from ratchet.bus._transport.failure import Failure


def certificate_refused() -> ssl.SSLError:
    error = ssl.SSLError("refused")
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    return error


def test_without_a_failure_there_is_nothing_to_say() -> None:
    failure = Failure("server:1")
    assert failure.suffix == ""
    assert str(failure.not_connected(0.25, silent=False)) == (
        "not connected to server:1 within 0.25 s; nothing was sent"
    )


def test_a_server_that_is_away_may_come_back() -> None:
    failure = Failure("server:1")
    failure.note(ConnectionRefusedError(111, "Connection refused"))
    assert failure.final is False
    assert failure.suffix == " ([Errno 111] Connection refused)"
    error = failure.not_connected(1, silent=False)
    assert "within 1 s: [Errno 111] Connection refused" in str(error)
    assert error.outcome is Outcome.NOT_SENT


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ValueError("no such host"), Outcome.NOT_SENT), (certificate_refused(), Outcome.NOT_RUN)],
)
def test_what_no_attempt_fixes_is_final_until_the_server_lets_this_side_in(
    error: Exception, outcome: Outcome
) -> None:
    failure = Failure("server:1")
    failure.note(error)
    assert failure.final is True
    assert failure.hopeless().outcome is outcome
    assert failure.lost().outcome is outcome
    failure.clear()
    assert failure.final is False


def test_a_connection_that_is_lost_for_good_says_why() -> None:
    failure = Failure("server:1")
    failure.note(ConnectionResetError(104, "Connection reset by peer"))
    error = failure.lost()
    assert isinstance(error, ConnectionLost)
    assert str(error) == (
        "the connection to server:1 was lost: [Errno 104] Connection reset by peer; nothing was sent"
    )


def test_a_server_that_drains_refuses() -> None:
    failure = Failure("server:1")
    failure.note_draining("the server is draining")
    error = failure.lost()
    assert isinstance(error, Rejected)
    assert str(error) == "the server is draining (server:1); nothing was run"


def test_a_server_that_says_no_hello_is_named_as_that() -> None:
    assert "does not say hello" in str(Failure("server:1").not_connected(1, silent=True))


def test_a_reason_is_told_once_until_another_one_comes_or_it_is_cleared() -> None:
    failure = Failure("server:1")
    assert [failure.note_told(reason) for reason in ("a", "a", "b", "a")] == [True, False, True, True]
    failure.clear()
    assert failure.note_told("a") is True


def test_a_connection_that_this_side_closes_afterwards_leaves_the_final_reason() -> None:
    failure = Failure("server:1")
    failure.note(certificate_refused())
    failure.note(None)
    assert failure.final is True
    assert "refused" in str(failure.hopeless())
