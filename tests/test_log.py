"""Logging of errors: whatever the error does, it harms neither the log nor whoever logs it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from helpers import output_of, wait_until
from ratchet import Ratchet, thread
from ratchet._log import kernel_logger, log_error, log_soon, safe_repr, traceback_of


class Odd(Exception):
    """What hostile errors raise."""


def raise_odd(*args: object) -> Any:
    raise Odd


# Each is an error that raises where others answer.
NAMES = ["__bool__", "__len__", "__str__", "__repr__", "__getattribute__", "__eq__", "__hash__"]
PROPERTIES = ["__traceback__", "__cause__", "__context__", "__class__", "__notes__"]
HOSTILE = {
    **{name: type("Hostile", (Exception,), {name: raise_odd}) for name in NAMES},
    **{name: type("Hostile", (Exception,), {name: property(raise_odd)}) for name in PROPERTIES},
}


def raised(kind: type[BaseException]) -> BaseException:
    """An error of this type, with a traceback."""
    try:
        raise kind("gone")
    except BaseException as error:
        return error


each_hostile_error = pytest.mark.parametrize("kind", HOSTILE.values(), ids=HOSTILE)


@each_hostile_error
def test_an_error_is_logged_whatever_it_does(
    kind: type[BaseException], caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    error = raised(kind)
    log_error(kernel_logger, logging.ERROR, "it died of %s", safe_repr(error), error=error)
    log_soon(kernel_logger, logging.ERROR, "it died of %s", safe_repr(error), error=error)
    wait_until(lambda: len(caplog.records) == 2)
    for record in caplog.records:
        assert record.getMessage().startswith("it died of ")
        assert record.exc_info is None or record.exc_info[1] is error
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["__eq__", "__hash__", "__traceback__"])
def test_an_error_that_can_be_rendered_is_logged_with_its_traceback(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    error = raised(HOSTILE[name])
    log_error(kernel_logger, logging.ERROR, "it died", error=error)
    assert "in raised" in caplog.text
    assert traceback_of(error) is not None


def test_an_error_without_a_traceback_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    log_error(kernel_logger, logging.ERROR, "it died", error=KeyError("gone"))
    assert "KeyError: 'gone'" in caplog.text


@each_hostile_error
def test_a_thread_that_dies_of_it_harms_neither_loop_nor_a_thread_that_waits_for_it(
    kind: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        thread.timer(0)
        raise kind("gone")

    kernel = Ratchet()
    joined = kernel.attach(kernel.attach(fail).join)
    raised = False
    try:
        kernel.loop()
    except BaseException:
        # Nothing is asked of the error, which may have been hidden by the one that it raised.
        raised = True
    assert raised
    kernel.loop()
    assert joined.ready()
    assert capfd.readouterr() == ("", "")


def test_ctrl_c_while_an_error_is_safe_repr_is_not_swallowed() -> None:
    assert (
        output_of(
            """
            import os, signal
            from ratchet._log import safe_repr

            class Interrupting(Exception):
                def __repr__(self):
                    os.kill(os.getpid(), signal.SIGINT)
                    return "not interrupted"

            try:
                print(safe_repr(Interrupting()))
            except KeyboardInterrupt:
                print("interrupted")
            """
        )
        == "interrupted\n"
    )
