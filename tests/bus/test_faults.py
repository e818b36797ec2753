"""Errors as texts and back, metadata, and sizes: what of them may travel."""

from __future__ import annotations

import json

import pytest

from ratchet import Abandoned, BusError, Cancelled, MessageTooLarge, ProtocolError, Rejected, RemoteError
from ratchet.bus._core.faults import (
    MAX_ERROR_TEXT,
    MAX_METADATA,
    Reason,
    check_size,
    copy_metadata,
    decode_metadata,
    encode_metadata,
    error_from_reason,
    error_texts,
    json_object,
)
from ratchet.errors import Outcome

ENDS: dict[Reason, tuple[type[BusError], Outcome]] = {
    Reason.HANDLER_RAISED: (RemoteError, Outcome.RAN),
    Reason.OVERLOADED: (Rejected, Outcome.NOT_RUN),
    Reason.DRAINING: (Rejected, Outcome.NOT_RUN),
    Reason.OUT_OF_TIME: (Rejected, Outcome.NOT_RUN),
    Reason.CANCELLED: (Cancelled, Outcome.UNKNOWN),
    Reason.ABANDONED: (Abandoned, Outcome.UNKNOWN),
    Reason.NOT_DECODED: (RemoteError, Outcome.NOT_RUN),
    Reason.TOO_LARGE: (MessageTooLarge, Outcome.NOT_RUN),
}


def raised(error: BaseException) -> BaseException:
    """The error, with a traceback."""
    try:
        raise error
    except BaseException as caught:
        return caught


class Unspeakable(Exception):
    """Its text raises what it was made with."""

    def __str__(self) -> str:
        failure: BaseException = self.args[0]
        raise failure


@pytest.mark.parametrize("reason", Reason)
def test_each_reason_has_its_error_and_its_outcome(reason: Reason) -> None:
    error = error_from_reason(reason, ("KeyError", "'a name'", "a traceback"))
    kind, outcome = ENDS[reason]
    assert (type(error), error.outcome) == (kind, outcome)
    assert "'a name'" in error.message


@pytest.mark.parametrize("outcome", [Outcome.NOT_RUN, Outcome.RAN, Outcome.UNKNOWN])
@pytest.mark.parametrize("reason", Reason)
def test_an_outcome_that_the_server_vouches_for_goes_before_that_of_the_reason(
    reason: Reason, outcome: Outcome
) -> None:
    error = error_from_reason(reason, ("KeyError", "'a name'", "a traceback"), outcome=outcome)
    assert (type(error), error.outcome) == (ENDS[reason][0], outcome)


def test_the_error_of_a_handler_comes_out_with_its_type_its_text_and_its_traceback() -> None:
    texts = error_texts(raised(KeyError("a name")))
    error = error_from_reason(Reason.HANDLER_RAISED, texts, "server:1")
    assert isinstance(error, RemoteError)
    assert error.remote_type == "KeyError"
    assert error.message == "KeyError: 'a name'"
    assert "in raised" in error.remote_traceback
    assert error.__notes__ == ["raised by the server at server:1"]


def test_the_text_of_a_bus_error_travels_without_its_outcome() -> None:
    error = Cancelled("given up", outcome=Outcome.RAN)
    assert error_texts(error)[:2] == ("Cancelled", "given up")


@pytest.mark.parametrize("reason", sorted(set(Reason) - {Reason.HANDLER_RAISED, Reason.NOT_DECODED}))
def test_an_error_of_the_bus_names_the_server(reason: Reason) -> None:
    assert error_from_reason(reason, ("", "why", ""), "server:1").message == "why (server:1)"


def test_a_reason_of_a_later_version_is_an_error_that_shows_it() -> None:
    error = error_from_reason(99, ("", "why", ""))
    assert type(error) is BusError
    assert error.message == "error 99 of the server: why"


@pytest.mark.parametrize("failure", [ValueError(), SystemExit(), RecursionError()])
def test_an_error_that_cannot_be_rendered_gets_a_stand_in(failure: BaseException) -> None:
    name, message, trace = error_texts(raised(Unspeakable(failure)))
    assert name == "Unspeakable"
    assert message == f"<the text of this Unspeakable cannot be shown: {type(failure).__name__}>"
    assert "Unspeakable" in trace


def test_ctrl_c_while_an_error_is_rendered_comes_out() -> None:
    with pytest.raises(KeyboardInterrupt):
        error_texts(Unspeakable(KeyboardInterrupt()))


def test_of_long_texts_the_beginning_of_the_message_and_the_end_of_the_traceback_are_kept() -> None:
    _, message, trace = error_texts(raised(ValueError("begin" + "x" * MAX_ERROR_TEXT + "end")))
    assert len(message) == len(trace) == MAX_ERROR_TEXT
    assert message.startswith("begin")
    assert trace.endswith("end\n")


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([b"x" * 11], "a message of 11 bytes is over the limit of 10 (server:1)"),
        ([b"x" * 6, b"y" * 5], "a message of 11 bytes is over the limit of 10 (server:1)"),
        ([b"", b"", b""], "a message of 3 parts is over the limit of 2 (server:1)"),
    ],
)
def test_a_message_over_a_limit_is_refused_by_an_error_that_names_both(parts: list[bytes], told: str) -> None:
    with pytest.raises(MessageTooLarge) as refused:
        check_size(parts, 10, 2, ("server", 1))
    assert refused.value.message == told


@pytest.mark.parametrize("parts", [[], [b"x" * 10], [b"x" * 4, b"y" * 6]])
def test_a_message_that_reaches_the_limits_passes(parts: list[bytes]) -> None:
    check_size(parts, 10, 2)


@pytest.mark.parametrize("metadata", [{}, {"": ""}, {"a trace": "1-2", "\u00fc": "\U0001f600\0\n"}])
def test_metadata_come_out_as_they_went_in(metadata: dict[str, str]) -> None:
    assert decode_metadata(encode_metadata(metadata)) == metadata
    copied = copy_metadata(metadata)
    assert copied == metadata
    assert copied is not metadata


def test_metadata_may_reach_their_limit_and_no_more() -> None:
    largest = {"a": "x" * (MAX_METADATA - len('{"a":""}'))}
    encoded = encode_metadata(largest)
    assert len(encoded) == MAX_METADATA
    assert decode_metadata(encoded) == largest
    largest["a"] += "x"
    with pytest.raises(ValueError, match=f"{MAX_METADATA + 1} bytes is over the limit of {MAX_METADATA}"):
        encode_metadata(largest)
    with pytest.raises(ProtocolError, match=f"over the limit of {MAX_METADATA}"):
        decode_metadata(encoded + b" ")


@pytest.mark.parametrize("part", [b"", b"\xff", b"[]", b'"a"', b'{"a":1}', b'{"a":null}', b"[" * 10_000])
def test_what_is_no_object_of_strings_violates_the_format(part: bytes) -> None:
    with pytest.raises(ProtocolError, match="metadata must be"):
        decode_metadata(part)


def test_a_json_object_may_hold_anything() -> None:
    members = {"a": 1, "b": [None, {"c": "d"}]}
    assert json_object(json.dumps(members).encode(), "a hello") == members
