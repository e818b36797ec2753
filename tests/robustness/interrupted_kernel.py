"""The sweep: an exception at every line of the scheduler and of what threads call, one run each.

As Ctrl-C and a signal handler that raises may strike at any line, in a thread, in
`loop()` or in the hub, so does this: a scenario is run once to count its lines,
and then again for each of them, with an exception thrown just there.  After each
run the scheduler must still work, a new one too, and nothing may be left behind.

    PYTHONPATH=tests python -m robustness.interrupted_kernel [--every N] [--offset N]

runs it whole, or at every Nth line.  It prints how many exceptions it has thrown,
and fails with the line at which one did harm.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import signal
import socket
import sys
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from types import FrameType
from typing import Any

import gevent
import greenlet

import ratchet
from helpers import active_watchers, wait_until
from ratchet import Alarm, DeadlockError, NotPaused, Ratchet, Thread, _pause, _sigwait, _turns, kernel, thread
from ratchet._wait import WaitQueue

FILES = {
    os.path.join(os.path.dirname(ratchet.__file__), f"{name}.py")
    for name in [
        "kernel",
        "_thread",
        "_scheduler",
        "_submit",
        "_future",
        "_hub_errors",
        "thread",
        "_alarm",
        "_pause",
        "_block_on",
        "_sigwait",
        "_wait",
        "_run_queue",
        "_turns",
        "_death",
    ]
}
LATE = 0.1
"""Seconds of a time-out that is over only where a wake-up was lost."""

SECONDS = 10
"""After which a run is taken to hang."""


class Odd(BaseException):
    """What a signal handler may raise."""


class Planned(Exception):
    """What a thread of the scenario dies of."""


CONSEQUENCES = (DeadlockError, NotPaused, Planned, CancelledError, BaseExceptionGroup)
"""What may come out of a scenario one thread of which was struck."""


class Interrupter:
    """Throws `error` at line number `at` of those that are run in `FILES`, if that is given."""

    def __init__(self, error: BaseException | None = None, at: int = -1) -> None:
        self._error = error
        self._at = at
        self.lines = 0
        self.place = ""

    def __repr__(self) -> str:
        return f"line {self.lines}: {self.place}"

    def __enter__(self) -> Interrupter:
        self._on = True
        # Python traces each greenlet by itself.
        self._outer = greenlet.settrace(self._trace_on)
        sys.settrace(self._trace)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._on = False
        greenlet.settrace(self._outer)
        sys.settrace(None)

    def _trace_on(self, event: str, greenlets: Any) -> None:
        sys.settrace(self._trace if self._on else None)

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        return self._trace_lines if self._on and frame.f_code.co_filename in FILES else None

    def _trace_lines(self, frame: FrameType, event: str, argument: object) -> Any:
        if event == "line" and self._on:
            self.lines += 1
            if self._error is not None and self.lines == self._at:
                name = os.path.basename(frame.f_code.co_filename)
                self.place = f"{name}:{frame.f_lineno}, in {frame.f_code.co_name}"
                self._on = False
                raise self._error
        return self._trace_lines if self._on else None


class Scenario:
    """One run of all that a thread can do, in a scheduler of its own."""

    def __init__(self, *, errh: bool, off_main: bool) -> None:
        self.reported: list[BaseException] = []
        self.kernel = Ratchet(errh=self._report if errh else None)
        self._off_main = off_main
        self._near, self._far = socket.socketpair()
        self.submitted: list[Future[Any]] = []
        self.submitted_ran: list[int] = []
        self.struck: list[BaseException] = []

    def _report(self, error: BaseException, dead: Thread) -> None:
        self.reported.append(error)

    def __repr__(self) -> str:
        return self.kernel.dump()

    def close(self) -> None:
        self._near.close()
        self._far.close()

    def run(self) -> None:
        """Run it to its end; raises what strikes."""
        self.kernel.attach(self._main)
        if self._off_main:
            looper = gevent.spawn(self._loop_off_main)
            try:
                looper.join()
            finally:
                looper.kill()
            if looper.value is not None:
                raise looper.value
        else:
            self._loop()

    def _loop_off_main(self) -> BaseException | None:
        try:
            self._loop()
        except BaseException as error:
            # gevent would print it.
            return error
        return None

    def _loop(self) -> None:
        for step in (self.kernel.loop_once, self.kernel.loop, self.kernel.loop):
            try:
                step()
            except Planned:
                pass

    def _main(self) -> None:
        paused = thread.attach(thread.pause)
        thread.attach_background(thread.pause)
        thread.timer(0)
        thread.unpause(paused, 1, 2)
        thread.wait_all([paused, thread.attach(thread.timer, 0.001)], LATE)
        thread.block_on([self._near], timeout=0.001)
        self._far.send(b"x")
        thread.block_on([self._near])
        self._near.recv(1)
        self._alarms()
        thread.attach(os.kill, os.getpid(), signal.SIGUSR1)
        thread.sigwait("USR1", LATE)
        queue = WaitQueue()
        waiting = [thread.attach(queue.wait, "a turn", None, timeout) for timeout in (None, LATE)]
        thread.timer(0)
        gevent.get_hub().loop.run_callback(queue.wake_all)
        thread.wait_all(waiting)
        killed = thread.attach(thread.pause)
        thread.timer(0)
        thread.kill(killed)
        self._submit()
        thread.attach(self._fail)
        ratchet.run(thread.timer, 0)

    def _submit(self) -> None:
        for number in range(2):
            self.submitted.append(self.kernel.submit(self.submitted_ran.append, number))
        self.submitted.append(self.kernel.submit(self._fail))
        killed = self.kernel.submit(self._pause)
        self.submitted.append(killed)
        try:
            self.submitted[0].result(LATE)
            killed.result(0)
        except TimeoutError:
            killed.cancel()

    def _pause(self) -> None:
        try:
            thread.pause()
        except Odd as error:
            # It is logged, if the future has been cancelled by then.
            self.struck.append(error)
            raise

    def submitted_errors(self) -> list[BaseException | None]:
        """What the submitted functions raised, which nobody else hears of."""
        return [
            *self.struck,
            *(future.exception(0) for future in self.submitted if not future.cancelled()),
        ]

    def _alarms(self) -> None:
        with thread.alarm(60):
            thread.timer(0)
        for callback in (None, lambda: None):
            try:
                with thread.alarm(0, callback):
                    thread.timer(LATE)
            except Alarm:
                pass

    def _fail(self) -> None:
        raise Planned


under_way: list[object] = []
"""What a run that hangs consists of."""


def left_behind() -> list[Any]:
    """The registers that should be empty between two runs, and are not."""
    registers = [_pause.paused, _sigwait.waiters, _turns._off_main, kernel._entered]
    return [register for register in registers if register]


def check_after(scenario: Scenario, before: int) -> None:
    """The old scheduler works, and so does a new one; nothing is left."""
    try:
        scenario.kernel.loop()
    except CONSEQUENCES:
        # The thread that would have woken another one is gone.
        pass
    scenario.kernel.close()
    assert scenario.kernel.num_threads == 0, scenario.kernel.dump()
    ended = concurrent.futures.wait(scenario.submitted, 0)
    assert not ended.not_done, ended
    assert len(scenario.submitted_ran) == len(set(scenario.submitted_ran)), "a submission ran twice"
    assert not scenario.kernel._scheduler.submissions._open
    results: list[object] = []
    for works in (scenario.kernel, Ratchet()):
        paused = works.attach(thread.pause)
        works.attach(thread.unpause, paused, "value")
        works.attach(results.append, 1)
        works.loop()
        assert paused.value == "value"
    assert results == [1, 1]
    reported = [id(error) for error in scenario.reported]
    assert len(reported) == len(set(reported)), "errh was called twice for one error"
    thread.timer(0)
    left = [(dict(register), register.clear())[0] for register in left_behind()]
    assert left == [], left
    wait_until(lambda: active_watchers() <= before, "the watchers to be gone", 1)


def interrupt(make: Callable[[], Scenario], error: BaseException | None, at: int) -> tuple[Interrupter, bool]:
    """One run; returns its interrupter, and whether the exception came out."""
    before = active_watchers()
    scenario = make()
    interrupter = Interrupter(error, at)
    under_way[:] = [error, interrupter, scenario]
    came_out = False
    try:
        with interrupter:
            scenario.run()
    except (KeyboardInterrupt, Odd, *CONSEQUENCES) as raised:
        # One of the others, if it struck in a thread that others wait for.
        came_out = raised is error
    try:
        check_after(scenario, before)
    except BaseException as failure:
        raise AssertionError(f"{error!r} at {interrupter.place} did harm") from failure
    finally:
        scenario.close()
    told = [*scenario.reported, *scenario.submitted_errors()]
    return interrupter, came_out or any(reported is error for reported in told)


def hang(number: int, frame: object) -> None:
    """Signal handler: say where, and end."""
    for running in under_way:
        print("it hangs:", running, flush=True)
    os._exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(description="Throw an exception at every line.")
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--offset", type=int, default=1)
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, hang)
    signal.signal(signal.SIGUSR1, lambda number, frame: None)
    thrown = lost = harmful = 0
    for errh in (False, True):
        for off_main in (False, True):

            def make(errh: bool = errh, off_main: bool = off_main) -> Scenario:
                return Scenario(errh=errh, off_main=off_main)

            interrupt(make, None, -1)
            counted, _ = interrupt(make, None, -1)
            for at in range(arguments.offset, counted.lines + 1, arguments.every):
                for kind in (KeyboardInterrupt, Odd):
                    signal.alarm(SECONDS)
                    try:
                        interrupter, came_out = interrupt(make, kind(), at)
                    except AssertionError as failure:
                        harmful += 1
                        print(f"{failure}: {failure.__cause__!r}")
                        continue
                    thrown += bool(interrupter.place)
                    if interrupter.place and not came_out:
                        lost += 1
                        print(f"{kind.__name__} at {interrupter.place} did not come out")
    signal.alarm(0)
    print(f"{thrown} exceptions thrown, {lost} did not come out, {harmful} did harm")
    sys.exit(bool(lost or harmful))


if __name__ == "__main__":
    main()
