"""Interrupts at every switch point of a scenario, one run for each.

A thread can be interrupted where it gives up control, and nowhere else.  gevent calls
`switch_out` of a greenlet just before that, and there each watched thread counts its switch
points.  A first run, in which nothing is interrupted, counts all of them and measures each
wait in half turns of the loop.  Then there are two runs for each point and interrupt:

- At once: the interrupt is raised in `switch_out`.  To the thread, that is the same as
  being interrupted by the hub before anything else has happened.
- At the last moment: it is thrown from the hub, as a kill is, before the callbacks of the
  half turn in which the wait would end.  By then the other threads have done what they could.

A single run belongs in `_interrupted_run`; which interrupts are tried, in which order, and how a
failure is reported belongs here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

import gevent
from gevent.hub import Hub
from greenlet import GreenletExit

from ratchet import _clock
from ratchet._log import safe_repr
from ratchet._wait import check_may_wait, check_timeout
from ratchet.testing._interrupted_run import Hangs, Run, Strike
from ratchet.testing._time_functions import virtual_loop

# Seconds after which a run is assumed to hang, in real time and in virtual time.
_PATIENCE = 10.0
_VIRTUAL_PATIENCE = 3600.0

# Attempts to hit the last moment of a wait, which in real time varies from run to run.
_TRIES = 3


class ScenarioFailed(AssertionError):
    """Something did not hold in a run of `interrupt_everywhere`.

    Its `__cause__` is the error of the check, of the scenario, or of one of its threads.

    Attributes:
        interrupt: the exception that was raised at the switch point; None in a run without one.
        file: the file of the switch point; empty without one, as are `function` and `call`.
        function: the qualified name of the function that gave up control there.
        call: the source text of that call.
        line: the line of that call; 0 without one.
        run: the number of the run, counted from 1.
    """

    def __init__(self, what: str, strike: Strike | None, run: int) -> None:
        self.interrupt: BaseException | None = None
        self.file = self.function = self.call = ""
        self.line = 0
        self.run = run
        if strike is not None and strike.place is not None:
            self.interrupt = strike.error
            self.file, self.line, self.function, self.call = strike.place
        super().__init__(f"{what}\n{_when(strike, run)}")


def _when(strike: Strike | None, run: int) -> str:
    interrupted = strike is not None and strike.place is not None
    return f"in run {run}, {f'after {strike}' if interrupted else 'without an interrupt'}"


def interrupt_everywhere(
    scenario: Callable[[], object],
    check: Callable[[], object] | None = None,
    *,
    interrupts: Iterable[Callable[[], BaseException]] = (GreenletExit, gevent.Timeout),
    every_thread: bool = False,
    timeout: float | None = None,
    max_interrupts: int = 10_000,
) -> int:
    """Run `scenario()` again and again, each time with an interrupt at another switch point; blocks.

    A switch point is where a thread gives up control: in a sleep, in a call of a bus, waiting
    for a lock.  There, and only there, can it be killed, or be interrupted by a `gevent.Timeout` or an
    alarm of its caller.  Each interrupt is tried at each switch point twice: as soon as
    the thread waits, and just before it would resume.

    Each run is a thread of its own.  When it has ended, `check()` is called, in the
    thread that called this; the threads that the scenario has attached or spawned are
    still running then, so a check may call a server of the scenario to see that it still
    answers.  After that they are killed.  The first run is without an interrupt.

    It runs on the hub of the caller, so within `virtual_time()` a scenario with long waits
    takes no time.

    Args:
        scenario: the function that is interrupted.  It may return, or let the interrupt out;
            any other error fails the run.
        check: raises if something does not hold; `assert` does.
        interrupts: exception classes, or functions that make an exception.
        every_thread: also interrupt the threads that the scenario has attached or spawned,
            such as the workers of a server, where they wait in the program's own code.  The
            scenario has to catch the errors that this causes in it.
        timeout: seconds after which a run or a check is assumed never to end; None for 10, or for
            an hour on virtual time.
        max_interrupts: interrupts to raise at most; it returns then, even if some are left.

    Returns:
        The number of interrupts that it has raised.

    Raises `ScenarioFailed` as soon as something does not hold.

    .. code-block:: python

        from ratchet import testing, thread


        class Gauge:
            busy = 0

            def work(self):
                self.busy += 1
                try:
                    thread.timer(60)
                finally:
                    self.busy -= 1


        gauge = Gauge()


        def check():
            assert gauge.busy == 0


        with testing.virtual_time():
            print(testing.interrupt_everywhere(gauge.work, check), "interrupts")

    .. code-block:: text

        4 interrupts
    """
    makers = _checked(scenario, check, interrupts, max_interrupts)
    check_timeout(timeout)
    check_may_wait("interrupt_everywhere")
    if timeout is None:
        timeout = _PATIENCE if virtual_loop() is None else _VIRTUAL_PATIENCE
    return _Series(scenario, check, every_thread, timeout).play_all(makers, max_interrupts)


class _Series:
    """The runs of one scenario."""

    def __init__(
        self,
        scenario: Callable[[], object],
        check: Callable[[], object] | None,
        every_thread: bool,
        timeout: float,
    ) -> None:
        self._scenario = scenario
        self._check = check
        self._every_thread = every_thread
        self._timeout = timeout
        self._runs = 0
        # The half turns of the loop that the wait at each switch point took, in the last run that saw it.
        self._lasted: dict[int, int] = {}

    def play_all(self, makers: list[Callable[[], BaseException]], max_interrupts: int) -> int:
        """Try each interrupt at every switch point; return how many were raised."""
        self._play(None)
        tried = 0
        for make in makers:
            for point in itertools.count(1):
                reached, struck = self._strike_at(point, make, max_interrupts - tried)
                tried += struck
                if tried >= max_interrupts:
                    return tried
                if not reached:
                    break
        return tried

    def _strike_at(self, point: int, make: Callable[[], BaseException], left: int) -> tuple[bool, int]:
        """Interrupt a switch point at once and at the last moment, `left` times at most.

        Returns whether the point was reached, and how many interrupts were raised.
        """
        if not self._play(Strike(point, 0, _made(make))):
            return False, 0
        if left < 2:
            return True, 1
        for _ in range(_TRIES):
            halves = self._lasted.get(point, 0)
            if halves and self._play(Strike(point, halves, _made(make))):
                return True, 2
        return True, 1

    def _play(self, strike: Strike | None) -> bool:
        """Do one run and its check; return whether the interrupt was raised."""
        self._runs += 1
        run = Run(self._scenario, strike, every_thread=self._every_thread)
        try:
            try:
                run.play(self._timeout)
                self._report_errors(run, strike)
                self._call_check(strike)
            finally:
                run.end()
            self._report_errors(run, strike)
        except Hangs as hang:
            raise ScenarioFailed(str(hang), strike, self._runs) from None
        self._lasted.update(run.lasted)
        return strike is not None and strike.struck

    def _report_errors(self, run: Run, strike: Strike | None) -> None:
        for name, error in run.errors():
            raise ScenarioFailed(f"{name} raised {safe_repr(error)}", strike, self._runs) from error

    def _call_check(self, strike: Strike | None) -> None:
        if self._check is None:
            return
        hang = Hangs(f"check() has not returned within {self._timeout:g} s")
        try:
            with _clock.Timeout(self._timeout, hang):
                self._check()
        except Hangs:
            raise
        except Exception as error:
            raise ScenarioFailed(f"check() raised {safe_repr(error)}", strike, self._runs) from error
        except BaseException as error:
            # The ways in which a test framework fails or skips, and kills, are for the caller unchanged.
            error.add_note(_when(strike, self._runs))
            raise


def _made(make: Callable[[], BaseException]) -> BaseException:
    error = make()
    if not isinstance(error, BaseException):
        raise TypeError(f"interrupts must make exceptions, and {make!r} made {error!r}")
    if isinstance(error, Hub.SYSTEM_ERROR):
        raise ValueError(f"interrupts must not make {error!r}, which ends the program from any thread")
    return error


def _checked(
    scenario: object,
    check: object,
    interrupts: Iterable[Callable[[], BaseException]],
    max_interrupts: int,
) -> list[Callable[[], BaseException]]:
    """Check the arguments; return the functions that make the interrupts."""
    if not callable(scenario):
        raise TypeError(f"scenario must be callable, not {scenario!r}")
    if check is not None and not callable(check):
        raise TypeError(f"check must be callable or None, not {check!r}")
    if not isinstance(interrupts, Iterable):
        raise TypeError(f"interrupts must be a list of exception classes or functions, not {interrupts!r}")
    makers = list(interrupts)
    if not makers:
        raise ValueError("interrupts must not be empty")
    for make in makers:
        if not callable(make):
            raise TypeError(f"interrupts must be exception classes or functions, not {make!r}")
        _made(make)
    if isinstance(max_interrupts, bool) or not isinstance(max_interrupts, int):
        raise TypeError(f"max_interrupts must be a number of interrupts, not {max_interrupts!r}")
    if max_interrupts < 1:
        raise ValueError(f"max_interrupts must be at least 1, not {max_interrupts!r}")
    return makers
