"""Exceptions from nowhere: a kill or an alarm where a thread waits, an error where the library works.

Tracing lines, as `robustness.interrupts` does, would take longer than all else here.  So
what strikes in the library does so where it calls one of its own methods: in place of the
call, or in place of the line behind it.  One strike is one exception.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any, Final

import gevent
from greenlet import GreenletExit

from ratchet import _wait
from ratchet._interrupts import settle_soon
from ratchet.kernel import Thread
from ratchet.testing import Clock
from simulation.journal import Journal
from simulation.plan import Strike, StrikeKind

Method = Callable[..., Any]


class OutOfMemory(MemoryError):
    """An allocation that fails."""


class OutOfStack(RecursionError):
    """A call that the interpreter refuses to make."""


class OfASignalHandler(BaseException):
    """Any exception that a program's own signal handler may raise."""


class Rung(gevent.Timeout):
    """An alarm that rings where nobody has set one."""


# A call that is refused has not been made.
_IN_PLACE: Final = (OutOfMemory, OutOfStack, OfASignalHandler)
_BEHIND: Final = (OutOfMemory, OfASignalHandler)
_STRIKES: Final = (OutOfMemory, OutOfStack, OfASignalHandler, Rung)


def is_strike(error: BaseException) -> bool:
    """Whether an error is one of these; a kill is none, and ends its thread."""
    return isinstance(error, _STRIKES)


def survives(error: BaseException) -> bool:
    """Whether a thread is to go on after an error: a strike, unless that has taken the place of a kill."""
    return is_strike(error) and not isinstance(error.__context__, GreenletExit)


@contextmanager
def striking(strikes: tuple[Strike, ...], clock: Clock, journal: Journal) -> Iterator[None]:
    """Have them strike within the block."""
    if not strikes:
        yield
        return
    _survive_in_hub()
    with ExitStack() as stack:
        steps: list[tuple[Strike, Method]] = []
        for strike in strikes:
            if strike.kind in (StrikeKind.KILL, StrikeKind.TIMEOUT):
                steps.append((strike, _hit_thread))
            else:
                stack.enter_context(_failing(strike, journal))
        stack.enter_context(_silent_in_del())
        _watch_steps(steps, clock, journal)
        yield


@contextmanager
def _silent_in_del() -> Iterator[None]:
    """Let a strike in a `__del__`, from which no way leads out, be printed by nobody."""
    before = sys.unraisablehook

    def on_unraisable(unraisable: Any) -> None:
        if not is_strike(unraisable.exc_value):
            before(unraisable)

    sys.unraisablehook = on_unraisable
    try:
        yield
    finally:
        sys.unraisablehook = before


def _survive_in_hub() -> None:
    """Let a strike in a callback of the hub end there, as if `loop()` had raised it and been called again."""
    hub: Any = gevent.get_hub()
    inner = hub.handle_error

    def handle_error(context: object, kind: type[BaseException], value: Any, tb: Any) -> None:
        if not isinstance(value, _STRIKES) or isinstance(context, Thread):
            inner(context, kind, value, tb)
        elif not isinstance(context, gevent.Greenlet):
            settle_soon(hub)

    hub.handle_error = handle_error


def _watch_steps(steps: list[tuple[Strike, Method]], clock: Clock, journal: Journal) -> None:
    if not steps:
        return
    loop: Any = clock.loop
    first, before = loop.steps, loop.on_step

    def on_step(callback: Method) -> None:
        if before is not None:
            before(callback)
        for entry in list(steps):
            strike, hit = entry
            if loop.steps - first >= strike.at and hit(strike, journal):
                steps.remove(entry)

    loop.on_step = on_step


def _hit_thread(strike: Strike, journal: Journal) -> bool:
    """Throw something into a thread where it waits; False if none can be hit now."""
    threads = journal.threads
    victims = [victim for victim in threads if victim and not victim.ready()]
    if not victims:
        return False
    victim = victims[int(strike.which * len(victims))]
    error: BaseException = GreenletExit() if strike.kind is StrikeKind.KILL else Rung()
    journal.struck.append(f"{type(error).__name__} in {victim.name}")
    gevent.get_hub().loop.run_callback(_throw, victim, error)
    return True


def _throw(victim: Thread, error: BaseException) -> None:
    """Hub callback."""
    if not victim.ready():
        victim.throw(error)


@contextmanager
def _failing(strike: Strike, journal: Journal) -> Iterator[None]:
    """Have the library raise once, at one of its own calls.

    At a call of one method, or of one class, whichever that is, or of any: the first finds
    what is rarely called, and the last what is called most.
    """
    methods = library_methods()
    share, where = divmod(3 * strike.which, 1)
    if share == 0:
        methods = [methods[int(where * len(methods))]]
    elif share == 1:
        classes = list(dict.fromkeys(owner for owner, _ in methods))
        chosen = classes[int(where * len(classes))]
        methods = [method for method in methods if method[0] is chosen]
    in_place = strike.kind is StrikeKind.BEFORE
    errors = _IN_PLACE if in_place else _BEHIND
    error = errors[int(strike.error * len(errors))]
    left = strike.at

    def failing(owner: type, name: str) -> Method:
        right = owner.__dict__[name]

        def fails_once(*args: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left != -1:
                return right(*args, **options)
            journal.struck.append(f"{error.__name__} {strike.kind.value} {owner.__name__}.{name}")
            if not in_place:
                right(*args, **options)
            raise error

        return fails_once

    before = [(owner, name, owner.__dict__[name]) for owner, name in methods]
    try:
        for owner, name in methods:
            setattr(owner, name, failing(owner, name))
        yield
    finally:
        for owner, name, right in before:
            setattr(owner, name, right)


@cache
def library_methods() -> list[tuple[type, str]]:
    """The methods of the bus, and of what its threads wait in: each class, and the method's name."""
    modules = [_wait]
    for package in (importlib.import_module(f"ratchet.bus.{name}") for name in ("_core", "_socket")):
        modules += [
            importlib.import_module(f"{package.__name__}.{found.name}")
            for found in pkgutil.iter_modules(package.__path__)
        ]
    return sorted(
        (
            (owner, name)
            for module in modules
            for owner in vars(module).values()
            if inspect.isclass(owner) and owner.__module__ == module.__name__
            # Those of a protocol are never called.
            if not getattr(owner, "_is_protocol", False)
            for name, method in vars(owner).items()
            if inspect.isfunction(method) and not name.startswith("__")
        ),
        key=lambda method: (method[0].__module__, method[0].__name__, method[1]),
    )
