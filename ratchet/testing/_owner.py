"""The owner of a greenlet: the simulated process that it belongs to, if any.

Sockets and greenlets belong to the process that opened or spawned them, and die with it.
This module knows no more of a process than its name and whether it is alive.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from functools import partial
from typing import Protocol

import gevent
from greenlet import GreenletExit

from ratchet._loop import AnyGreenlet
from ratchet.testing._undo import undoing


class Owner(Protocol):
    """A process of a simulation."""

    @property
    def name(self) -> str:
        """The name that others know it by."""

    @property
    def alive(self) -> bool:
        """Whether it may still open anything."""

    def note_spawned(self, greenlet: AnyGreenlet) -> None:
        """Take note of a greenlet that it has spawned."""


owner_variable: ContextVar[Owner | None] = ContextVar("ratchet.testing owner", default=None)
"""The owner of the current greenlet."""


def living_owner() -> Owner | None:
    """The owner of whatever the current greenlet opens; None if it has no owner.

    Raises `GreenletExit` if the owner is dead.
    """
    owner = owner_variable.get()
    if owner is not None and not owner.alive:
        raise GreenletExit
    return owner


@contextmanager
def owners_inherited() -> Iterator[None]:
    """Within the block, a new greenlet gets the owner of the one that spawns it."""

    def inherit(greenlet: AnyGreenlet) -> None:
        owner = owner_variable.get()
        if owner is None:
            return
        if not greenlet.gr_context:
            # A plain greenlet of gevent's starts without a copy of its spawner's context.
            greenlet.gr_context = Context()
            greenlet.gr_context.run(owner_variable.set, owner)
        owner.note_spawned(greenlet)

    with undoing(partial(gevent.Greenlet.remove_spawn_callback, inherit)):
        gevent.Greenlet.add_spawn_callback(inherit)
        yield
