"""Waiting for signals, and whose they are otherwise."""

from __future__ import annotations

import signal
import time
from typing import Any

import gevent
import pytest

from callers import Caller, send_signal
from helpers import in_os_thread, output_of, turns, wait_until
from ratchet import Ratchet, WrongThread, thread
from ratchet._wait import waiting_on


@pytest.mark.parametrize("name", [signal.SIGUSR1, int(signal.SIGUSR1), "SIGUSR1", "USR1", "sigusr1", "usr1"])
def test_sigwait_takes_a_number_or_a_name(name: int | str, hits: list[int]) -> None:
    waiting = Caller(lambda: thread.sigwait(name)).started()
    assert waiting_on(waiting.thread) == "sigwait(SIGUSR1)"
    send_signal()
    assert waiting.result() is True
    assert hits == []


def test_sigwait_is_false_on_timeout(hits: list[int]) -> None:
    started = time.monotonic()
    assert thread.sigwait("USR1", timeout=0.02) is False
    assert time.monotonic() - started >= 0.02
    assert thread.sigwait("USR1", timeout=0) is False
    assert hits == []


@pytest.mark.parametrize("end", ["signal", "timeout", "kill"])
def test_pythons_handler_works_again_after_sigwait(end: str, hits: list[int]) -> None:
    waiting = Caller(lambda: thread.sigwait("USR1", 0.01 if end == "timeout" else None)).started()
    if end == "signal":
        send_signal()
    if end == "kill":
        thread.kill(waiting.thread)
    waiting.result()
    assert hits == []
    send_signal()
    wait_until(lambda: hits, "Python's handler")
    assert hits == [signal.SIGUSR1]


def test_all_threads_that_wait_for_a_signal_get_it_and_no_other_does(hits: list[int]) -> None:
    waiting = [Caller(lambda: thread.sigwait("USR1")).started() for _ in range(3)]
    other = Caller(lambda: thread.sigwait("USR2")).started()
    send_signal()
    assert [caller.result() for caller in waiting] == [True] * 3
    assert other.outcome is None
    send_signal(signal.SIGUSR2)
    assert other.result() is True
    assert hits == []


def test_a_waiter_that_is_killed_does_not_disturb_the_others(hits: list[int]) -> None:
    killed, waiting = (Caller(lambda: thread.sigwait("USR1")).started() for _ in range(2))
    thread.kill(killed.thread)
    send_signal()
    assert waiting.result() is True
    assert hits == []


def test_a_thread_that_waits_for_a_signal_keeps_the_loop_alive(hits: list[int]) -> None:
    kernel = Ratchet()
    waiting = kernel.attach(thread.sigwait, "USR1")
    looper = gevent.spawn(kernel.loop)
    turns(20)
    assert waiting.state == "waiting"
    send_signal()
    looper.get()
    assert waiting.value is True


@pytest.mark.parametrize("wrong", ["SIGNOTHING", "", "SIG", 0, -1, 1000])
def test_a_signal_that_does_not_exist_is_a_value_error(wrong: int | str) -> None:
    with pytest.raises(ValueError, match="there is no signal"):
        thread.sigwait(wrong, timeout=0)


@pytest.mark.parametrize("wrong", [None, True, 1.0, b"USR1"])
def test_what_is_no_signal_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="signal must be a number or a name"):
        thread.sigwait(wrong, timeout=0)


@pytest.mark.parametrize("name", ["SIGKILL", "kill", signal.SIGKILL, "STOP"])
def test_a_signal_that_cannot_be_caught_is_a_value_error(name: int | str) -> None:
    with pytest.raises(ValueError, match="cannot be waited for"):
        thread.sigwait(name, timeout=0)


def test_sigwait_in_another_os_thread_is_a_clear_error() -> None:
    error = in_os_thread(lambda: thread.sigwait("USR1", timeout=0))
    assert type(error) is WrongThread
    assert "main OS thread" in str(error)


def test_a_signal_that_is_ignored_is_ignored_again_afterwards() -> None:
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        waiting = Caller(lambda: thread.sigwait("USR1")).started()
        send_signal()
        assert waiting.result() is True
        send_signal()
        assert signal.getsignal(signal.SIGUSR1) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_sigwait_leaves_gevents_own_handlers_in_force() -> None:
    assert (
        output_of(
            """
            import os, signal, gevent, gevent.subprocess
            from ratchet import thread

            caught = gevent.event.AsyncResult()
            handler = gevent.signal_handler(signal.SIGUSR1, caught.set, "caught")
            print(thread.sigwait("USR1", timeout=0))
            os.kill(os.getpid(), signal.SIGUSR1)
            print(caught.get(timeout=10))

            gevent.subprocess.check_call(["true"])
            print(thread.sigwait("CHLD", timeout=0))
            print(gevent.subprocess.check_output(["echo", "child"], text=True).strip())
            """
        )
        == "False\ncaught\nFalse\nchild\n"
    )


def test_sigwait_for_ctrl_c_takes_it_and_gives_it_back() -> None:
    assert (
        output_of(
            """
            import os, signal, gevent
            from ratchet import Ratchet, thread

            waiting = gevent.spawn(thread.sigwait, "INT")
            gevent.sleep(0)
            os.kill(os.getpid(), signal.SIGINT)
            print(waiting.get())
            try:
                os.kill(os.getpid(), signal.SIGINT)
                gevent.sleep(10)
            except KeyboardInterrupt:
                print("interrupted")
            """
        )
        == "True\ninterrupted\n"
    )
