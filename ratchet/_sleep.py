"""The object that a thread sleeps on in the compiled build; the pure build has gevent's `Waiter` instead.

Both can be woken before they are slept on, and again afterwards.  This one also knows what its
thread waits for: a compiled function has no frame from which `waiting_on` could read that.  Those
that are slept on are in a doubly linked list, because a set would take longer.

A thread that goes to sleep switches straight to the next one, if it is known: two switches by way
of the hub, and a callback of its loop, cost more than all that a local bus does for a request.

Only `_native` gives waits out, so in the pure build nothing sleeps on one, and a `Dispatcher` is
never asked.  When threads are to run is for `_run_queue` to say.
"""

from __future__ import annotations

import sys
from typing import Any

from gevent.exceptions import BlockingSwitchOutError
from gevent.hub import Hub, get_hub
from greenlet import greenlet

from ratchet import _greenlets

_greenlets.load()


askers: set[object] = set()
"""Those who want `switch_out` of a thread called before it sleeps, as gevent always does.

Looking for that method takes longer than all else here, so it is done only while there are any.
"""


hubs_stay = True
"""Whether no hub has ever taken another one's place, as happens for virtual time.

Until then, the hub of a greenlet is its parent.
"""


def current_hub() -> Hub:
    """The hub of this OS thread, as gevent's `get_hub`, which takes three times as long."""
    parent = _greenlets.parent()
    if hubs_stay and type(parent) is Hub:
        return parent
    return get_hub()


def current_thread() -> greenlet:
    """The running greenlet, as `getcurrent`, which takes twice as long to call."""
    return _greenlets.current()


def expect_other_hubs() -> None:
    """Note that a hub is about to take another one's place."""
    global hubs_stay
    hubs_stay = False


# The hub that `hub_here` returned last, and the number of its OS thread.
_hub_here: Hub | None = None
_os_thread_of_hub = 0


def hub_here() -> Hub:
    """The hub of this OS thread, as `current_hub`; it takes a fifth of that where it is asked often."""
    global _hub_here, _os_thread_of_hub
    if not hubs_stay:
        return current_hub()
    thread = _greenlets.os_thread()
    if _hub_here is not None and thread == _os_thread_of_hub and not _greenlets.is_dead(_hub_here):
        return _hub_here
    # Not freed before the new one and its thread are noted together: another OS thread may run then.
    before = _hub_here  # noqa: F841
    hub = current_hub()
    _hub_here, _os_thread_of_hub = hub, thread
    return hub


def forget_hub() -> None:
    """Note that a hub is being destroyed: `gevent` does not end each one's greenlet."""
    global _hub_here
    _hub_here = None


class Dispatcher:
    """An object that knows which thread is to run next: a run queue, or an inbox with a request."""

    __slots__ = ()

    def next_wait(self) -> Any:
        """The wait of the next thread, which is to be woken at once; None to leave that to the hub."""
        raise NotImplementedError


class Wait:
    """The object that one thread sleeps on, once.

    Attributes:
        hub: the hub of its OS thread.
        greenlet: the thread, while it sleeps.
        call: the call that waits, as a person would name it.
        subject: the object that the call waits on, if there is one.
    """

    __slots__ = ("_is_woken", "_next", "_previous", "_value", "call", "greenlet", "hub", "subject")

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """As `__init__`, which takes the compiled build five times as long to call."""
        self.hub = hub_here()
        self.greenlet: greenlet | None = None
        self.call = ""
        self.subject: object = None
        # What it was woken with, if that was before it slept.
        self._is_woken = False
        self._value: object = None
        self._previous: Wait | None = None
        self._next: Wait | None = None

    def sleep(self, call: str, subject: object) -> Any:
        """Sleep until it is woken, and return the value that it is woken with."""
        if self._is_woken:
            return self._value
        current = _greenlets.current()
        if current is self.hub:
            raise BlockingSwitchOutError("Impossible to call blocking function in the event loop callback")
        self.call, self.subject = call, subject
        self.greenlet = current
        _enter(self)
        try:
            if askers:
                _ask(current)
            line = _running
            if line is None:
                following = _next_of(self.hub)
            else:
                following = line.following(self.hub)
            if following is None:
                return _greenlets.switch_to_hub(self.hub)
            assert following.greenlet is not None
            # The hub would only do the same.  The other thread is kept by its own wait until it runs, and
            # not by this function while that sleeps: `serving` counts references.
            return _greenlets.switch(_greenlets.target(following.greenlet), None)
        finally:
            _leave(self)
            # What is waited for keeps this, so this is not to keep what is waited for.
            self.greenlet = None
            self.subject = None

    def clear(self) -> None:
        """Let nothing wake its thread any more."""
        self.greenlet = None

    def switch(self, value: object = None) -> None:
        """Wake its thread, which runs until it waits for something else; only from a hub callback."""
        if self.greenlet is None:
            self._value = value
            self._is_woken = True
            return
        if _greenlets.current() is not self.hub:
            raise AssertionError("only the hub wakes threads")
        try:
            # As in `sleep`: each thread has as many references, however it is woken.
            _greenlets.switch(_greenlets.target(self.greenlet), value)
        except BaseException:
            self.hub.handle_error(self.switch, *sys.exc_info())


class Line:
    """Threads that are woken one after the other.

    Attributes:
        waits: what they sleep on.
        position: how many of them have been woken.
    """

    __slots__ = ("position", "waits")

    def __init__(self, waits: list[Wait]) -> None:
        self.waits = waits
        self.position = 0

    def following(self, hub: greenlet) -> Wait | None:
        """The wait of the next thread, which counts as woken now; None if there is none of this hub."""
        while self.position < len(self.waits):
            wait = self.waits[self.position]
            if wait.hub is not hub:
                return None
            self.position += 1
            if wait.greenlet is not None:
                return wait
        return None


_running: Line | None = None
"""The line that a hub runs; with hubs in several OS threads, the latest of theirs."""


def run_line(waits: list[Wait]) -> None:
    """Wake the threads that sleep on these, in order; only from a callback of their hub.

    Each one that goes to sleep switches straight to the next, and the last one to the hub.
    """
    global _running
    line = Line(waits)
    _running = line
    try:
        while line.position < len(waits):
            wait = waits[line.position]
            line.position += 1
            wait.switch(None)
    finally:
        if _running is line:
            _running = None


# The hub whose dispatcher was asked last, and that; to look for it each time would take as long as to
# switch by way of the hub.
_asked_hub: Hub | None = None
_asked: Dispatcher | None = None


def _next_of(hub: Hub) -> Wait | None:
    """The wait of the thread that is to run next on a hub; None to leave that to the hub."""
    if not hubs_stay:
        # Virtual time goes step by step, the same in both builds.
        return None
    global _asked_hub, _asked
    dispatcher = _asked
    if dispatcher is None or hub is not _asked_hub:
        # Kept as in `hub_here`: the two must be of one hub whenever another OS thread runs.
        before = _asked_hub  # noqa: F841
        dispatcher = hub.__dict__.get("_run_queue")
        _asked_hub, _asked = hub, dispatcher
    return None if dispatcher is None else dispatcher.next_wait()


def _ask(thread: object) -> None:
    switch_out = getattr(thread, "switch_out", None)
    if switch_out is not None:
        switch_out()


# Without `begin`, which would ask for a hub: importing this starts none.
_sleeping = Wait.__new__(Wait)
_sleeping.greenlet = None
# Before the first and behind the last of the list.
_sleeping._previous = _sleeping._next = _sleeping


def _enter(wait: Wait) -> None:
    last = _sleeping._previous
    assert last is not None
    wait._previous = last
    wait._next = _sleeping
    last._next = wait
    _sleeping._previous = wait


def _leave(wait: Wait) -> None:
    before, behind = wait._previous, wait._next
    if before is not None and behind is not None:
        before._next = behind
        behind._previous = before
    wait._previous = wait._next = None


def wait_of(thread: object) -> Wait | None:
    """The object that a thread sleeps on; None if it does not sleep on any."""
    wait = _sleeping._next
    while wait is not None and wait is not _sleeping:
        if wait.greenlet is thread:
            return wait
        wait = wait._next
    return None
