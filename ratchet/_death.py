"""The steps that follow when a thread is killed, or dies of an error.

It imports nothing of ours but types.  Whoever has something to do registers it; whoever
sees a thread end says so.

An error's traceback keeps the frames of the thread that died of it, and with
them what their variables refer to.  Nobody can use these any more, but a
debugger, an error handler or a log may still want to look at them; so nothing is
cleared here.  `held_by_dead` only tells what nothing else refers to.  It counts
references, and runs no code of the error or of what it finds.
"""

from __future__ import annotations

import gc
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator
from types import CellType, FrameType, FunctionType, TracebackType
from typing import Final, TypeGuard, TypeVar

from greenlet import GreenletExit

from ratchet._loop import AnyGreenlet

Held = TypeVar("Held")

_registered: list[Callable[[BaseException], None]] = []

# Asked of the class: an error may have attributes of these names that do anything.
_fields: Final = BaseException.__dict__
_cause: Final[Callable[[BaseException], BaseException | None]] = _fields["__cause__"].__get__
_context: Final[Callable[[BaseException], BaseException | None]] = _fields["__context__"].__get__
_traceback: Final[Callable[[BaseException], TracebackType | None]] = _fields["__traceback__"].__get__
_mro: Final[Callable[[type], tuple[type, ...]]] = type.__dict__["__mro__"].__get__

_CONTAINERS: Final = (list, tuple, dict, set, frozenset, deque)


def after_death(act: Callable[[BaseException], None]) -> None:
    """Register `act(error)` to be called, in the hub, for each death that is seen; it must not block."""
    _registered.append(act)


def death_of(thread: AnyGreenlet) -> BaseException | None:
    """The error or the kill that ended a thread; None if it returned."""
    if thread.exception is not None:
        return thread.exception
    # The type is asked, not the value: its attributes may be anything.
    return thread.value if issubclass(type(thread.value), GreenletExit) else None


def on_thread_end(thread: AnyGreenlet) -> None:
    """Hub callback: a thread has ended, by return, error or kill."""
    death = death_of(thread)
    if death is not None:
        on_death(death)


def on_death(death: BaseException) -> None:
    """Hub callback: an error or a kill has ended a thread, or a call whose error somebody keeps."""
    for act in _registered:
        try:
            act(death)
        except Exception:
            # One that fails is not to spare the others.
            continue


def held_by_dead(error: BaseException, kind: type[Held]) -> list[Held]:
    """The objects of type `kind` to which only the frames of a dead thread still refer.

    These are the frames in the tracebacks of `error`, of its causes and of its
    contexts, as far as they have been left.  An object is looked for in their
    variables, and in lists, tuples, dicts, sets and deques that are in these, one
    level deep.  Any other reference, to the object or to what it was found in,
    means that somebody else may have it.

    Does not block, and raises nothing.
    """
    found = _References()
    for frame in _left_frames(error):
        found.add_referents(frame)
    # A variable that an inner function uses is in a cell, which that function has in a tuple.
    for types in (FunctionType,), (tuple,), (CellType,), _CONTAINERS:
        found.open(types)
    return found.alone_of_kind(kind)


class _References:
    """Objects that were found, and how often each was."""

    def __init__(self) -> None:
        self._objects: dict[int, object] = {}
        self._counts: Counter[int] = Counter()
        self._opened: set[int] = set()

    def add_referents(self, holder: object) -> None:
        # Not `f_locals`: that would make a copy of the variables, which the frame keeps.
        # A frame that is running or suspended shows none.
        for referent in gc.get_referents(holder):
            self._objects[id(referent)] = referent
            self._counts[id(referent)] += 1

    def open(self, types: tuple[type, ...]) -> None:
        """Add what objects of these very types refer to, if nothing else refers to them."""
        for key in self._keys_alone():
            if type(self._objects[key]) in types and key not in self._opened:
                self._opened.add(key)
                self.add_referents(self._objects[key])

    def alone_of_kind(self, kind: type[Held]) -> list[Held]:
        """The objects of a type, or of one derived from it, to which nothing else refers."""
        # Not `isinstance`: that asks the object for its class.
        alone = [self._objects[key] for key in self._keys_alone()]
        return [thing for thing in alone if _is_of_kind(thing, kind)]

    def _keys_alone(self) -> list[int]:
        return [key for key, count in self._counts.items() if _references(self._objects, key) == count]


def _is_of_kind(thing: object, kind: type[Held]) -> TypeGuard[Held]:
    return any(base is kind for base in _mro(type(thing)))


def _references(objects: dict[int, object], key: int) -> int:
    """Count the references to an object, without those that counting makes."""
    return sys.getrefcount(objects[key]) - _OF_ASKING


_OF_ASKING = 0
_OF_ASKING = _references({0: object()}, 0)


def _left_frames(error: BaseException) -> Iterator[FrameType]:
    """Each frame in the tracebacks of an error, of its causes and of its contexts, once."""
    errors: list[BaseException | None] = [error]
    # By identity, and kept, so that no other object gets the same.
    seen: dict[int, object] = {}
    while errors:
        current = errors.pop()
        if current is None or id(current) in seen:
            continue
        seen[id(current)] = current
        errors += (_cause(current), _context(current))
        trace = _traceback(current)
        while trace is not None:
            if id(trace.tb_frame) not in seen:
                seen[id(trace.tb_frame)] = trace.tb_frame
                yield trace.tb_frame
            trace = trace.tb_next
