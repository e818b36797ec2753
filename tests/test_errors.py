"""The error tree: what is what, and which facts an error carries."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import gevent
import pytest

import ratchet
from helpers import active_watchers
from ratchet import errors
from ratchet.errors import (
    Abandoned,
    Alarm,
    AlreadyAnswered,
    BusClosed,
    BusError,
    BusTimeout,
    Cancelled,
    ConnectionLost,
    DeadlockError,
    MessageTooLarge,
    NotPaused,
    Outcome,
    ProtocolError,
    RatchetError,
    Rejected,
    RemoteError,
    WrongThread,
)
from ratchet.thread import alarm

# Class, parent, code, outcome.  A code is a promise: it never changes.
BUS_ERRORS: list[tuple[type[BusError], str, Outcome]] = [
    (BusError, "bus", Outcome.UNKNOWN),
    (BusClosed, "bus_closed", Outcome.UNKNOWN),
    (BusTimeout, "bus_timeout", Outcome.UNKNOWN),
    (ConnectionLost, "connection_lost", Outcome.UNKNOWN),
    (Rejected, "rejected", Outcome.NOT_RUN),
    (Cancelled, "cancelled", Outcome.UNKNOWN),
    (Abandoned, "abandoned", Outcome.UNKNOWN),
    (RemoteError, "remote_error", Outcome.RAN),
    (AlreadyAnswered, "already_answered", Outcome.RAN),
    (ProtocolError, "protocol_error", Outcome.UNKNOWN),
    (MessageTooLarge, "message_too_large", Outcome.NOT_SENT),
]


@pytest.mark.parametrize("name", errors.__all__)
def test_every_error_is_reexported_by_the_package(name: str) -> None:
    assert getattr(ratchet, name) is getattr(errors, name)
    assert name in ratchet.__all__


def test_every_error_class_is_public() -> None:
    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes - {"Any", "ClassVar"} == set(errors.__all__)


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (RatchetError, "ratchet"),
        (DeadlockError, "deadlock"),
        (NotPaused, "not_paused"),
        (WrongThread, "wrong_thread"),
    ],
)
def test_an_error_of_the_scheduler_is_a_ratchet_error_and_no_bus_error(
    kind: type[RatchetError], code: str
) -> None:
    assert issubclass(kind, RatchetError)
    assert not issubclass(kind, BusError)
    assert kind.code == code
    assert kind("text").code == code


@pytest.mark.parametrize(("kind", "code", "outcome"), BUS_ERRORS)
def test_a_bus_error_has_its_code_and_its_outcome(kind: type[BusError], code: str, outcome: Outcome) -> None:
    error = kind("text")
    assert isinstance(error, BusError)
    assert isinstance(error, RatchetError)
    assert (error.code, error.outcome) == (code, outcome)


def test_no_two_errors_share_a_code() -> None:
    codes = [
        value.code
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, RatchetError)
    ]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize("kind", [kind for kind, _, _ in BUS_ERRORS])
def test_one_error_may_have_another_outcome_than_its_class(kind: type[BusError]) -> None:
    usual = kind.outcome
    assert kind("text", outcome=Outcome.NOT_SENT).outcome is Outcome.NOT_SENT
    assert kind("text").outcome is usual


@pytest.mark.parametrize("kind", [kind for kind, _, _ in BUS_ERRORS])
@pytest.mark.parametrize("clone", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_copy_has_the_same_facts(kind: type[BusError], clone: Callable[[BusError], BusError]) -> None:
    error = kind("text", outcome=Outcome.NOT_RUN)
    twin = clone(error)
    assert type(twin) is kind
    assert (str(twin), twin.message, twin.args) == (str(error), "text", error.args)
    assert twin.outcome is Outcome.NOT_RUN


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome.NOT_SENT, "nothing was sent"),
        (Outcome.NOT_RUN, "nothing was run"),
        (Outcome.UNKNOWN, "the request may have run"),
        (Outcome.RAN, "the request has run"),
    ],
)
def test_the_text_of_an_error_ends_in_words_for_its_outcome(outcome: Outcome, words: str) -> None:
    error = ConnectionLost("the peer is gone", outcome=outcome)
    assert str(error) == f"the peer is gone; {words}"
    assert error.message == "the peer is gone"
    without_a_message = BusTimeout(outcome=outcome)
    assert (str(without_a_message), without_a_message.message) == (words, "")


def test_only_a_remote_error_that_did_not_run_says_so() -> None:
    assert str(RemoteError("KeyError", "'name'")) == "KeyError: 'name'"
    refused = RemoteError("KeyError", "'name'", outcome=Outcome.NOT_RUN)
    assert (str(refused), refused.message) == ("KeyError: 'name'; nothing was run", "KeyError: 'name'")


def test_the_repr_of_a_bus_error_says_the_outcome() -> None:
    assert repr(Rejected("it is draining")) == "Rejected('it is draining', outcome=NOT_RUN)"


def test_an_outcome_equals_the_string_of_its_name() -> None:
    for outcome in Outcome:
        assert outcome == outcome.name
        assert str(outcome) == f"{outcome}" == outcome.name


def test_there_are_four_outcomes() -> None:
    assert [outcome.name for outcome in Outcome] == ["NOT_SENT", "NOT_RUN", "UNKNOWN", "RAN"]


def test_a_wrong_thread_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError, match="belongs to another OS thread"):
        raise WrongThread("it belongs to another OS thread")


def test_a_bus_timeout_is_a_timeout_error() -> None:
    with pytest.raises(TimeoutError, match="5 seconds are over"):
        raise BusTimeout("5 seconds are over")


def test_a_remote_error_carries_what_the_handler_raised() -> None:
    error = RemoteError("KeyError", "'name'", "Traceback ...")
    assert (error.remote_type, error.remote_message) == ("KeyError", "'name'")
    assert error.remote_traceback == "Traceback ..."


def test_a_remote_error_without_a_message_is_named_by_its_type() -> None:
    error = RemoteError("KeyError")
    assert (error.remote_message, error.remote_traceback) == ("", "")
    assert str(error) == "KeyError"


def test_a_copy_of_a_remote_error_has_all_three_texts() -> None:
    error = pickle.loads(pickle.dumps(RemoteError("KeyError", "'name'", "Traceback ...")))
    assert error.remote_type == "KeyError"
    assert error.remote_message == "'name'"
    assert error.remote_traceback == "Traceback ..."


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda alarm: pickle.loads(pickle.dumps(alarm))])
def test_a_copy_of_an_alarm_has_its_seconds_and_rings_nobody(clone: Callable[[Alarm], Alarm]) -> None:
    before = active_watchers()
    with alarm(60) as original:
        assert active_watchers() == before + 1
        twin = clone(original)
        assert active_watchers() == before + 1
        assert original.pending
    assert type(twin) is Alarm
    assert (twin.seconds, str(twin), twin.pending) == (60, "60 seconds", False)
    with twin:
        twin.cancel()
    assert not twin.pending


def test_an_alarm_is_a_gevent_timeout_that_except_exception_does_not_swallow() -> None:
    assert issubclass(Alarm, gevent.Timeout)
    assert not issubclass(Alarm, Exception)
    assert not issubclass(Alarm, RatchetError)
