"""Registers of what is alive: the schedulers, the buses, the sockets that still deliver, and run queues.

Forking, repair after an interrupt and the end of a program walk them, in the order in
which things were made.  They keep nothing alive unless a test asks for it, import nothing
of ours, and know no more of their entries than the protocols here say.
"""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Generic, Protocol, TypeVar

from gevent.hub import Hub


class Living(Protocol):
    """A scheduler, a bus, a socket or a run queue."""

    _hub: Hub

    def _after_fork(self) -> None:
        """Release, in a forked child, what is the parent's.

        Sends nothing, wakes nobody, does not block.
        """

    def _settle(self) -> None:
        """Complete what an exception may have left half done.

        Runs in the hub and does not block.  Where nothing is half done, it
        changes nothing, and calling it twice is the same as once.
        """


class LivingScheduler(Living, Protocol):
    """A scheduler."""

    running: bool

    def take_error(self, error: BaseException) -> None:
        """Have `loop()` raise what a callback of the hub has raised."""

    def take_untold_errors(self) -> list[tuple[str, BaseException]]:
        """Errors that no `loop()` has raised, each with the name of the thread that died of it.

        They are forgotten here.
        """

    def hub_ended(self) -> None:
        """End what other OS threads wait for, because the hub is not going to run any more."""


class LivingBus(Living, Protocol):
    """A side of a bus, or both."""

    def close(self) -> None:
        """Close at once; does not block."""


Entry = TypeVar("Entry", bound=Living)


class Register(Generic[Entry]):
    """What is alive of one kind."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._entries: weakref.WeakValueDictionary[int, Entry] = weakref.WeakValueDictionary()
        self._keepers: list[list[Entry]] = []

    def add(self, entry: Entry) -> None:
        """Enter it, for as long as it lives."""
        self._entries[next(self._numbers)] = entry
        for kept in self._keepers:
            kept.append(entry)

    @contextmanager
    def keep(self) -> Iterator[list[Entry]]:
        """Keep alive, within the block, what is entered there; the list of it grows."""
        kept: list[Entry] = []
        self._keepers.append(kept)
        try:
            yield kept
        finally:
            # By identity: two empty lists are equal.
            self._keepers[:] = [other for other in self._keepers if other is not kept]

    def living(self) -> list[Entry]:
        """All that is alive now, oldest first."""
        # The references first, at once: another OS thread may add to them meanwhile.
        entries = [reference() for reference in self._entries.valuerefs()]
        return [entry for entry in entries if entry is not None]

    def living_on(self, hub: Hub) -> list[Entry]:
        """All that is alive now and belongs to a hub, oldest first."""
        return [entry for entry in self.living() if entry._hub is hub]


schedulers: Final[Register[LivingScheduler]] = Register()
buses: Final[Register[LivingBus]] = Register()
lingering: Final[Register[Living]] = Register()
run_queues: Final[Register[Living]] = Register()


def living() -> list[Living]:
    """List all that is alive now: the schedulers first, because they freeze a parent's threads."""
    return [*schedulers.living(), *buses.living(), *lingering.living(), *run_queues.living()]


def living_on(hub: Hub) -> list[Living]:
    """List what is alive now and belongs to a hub, in the same order."""
    return [
        *schedulers.living_on(hub),
        *buses.living_on(hub),
        *lingering.living_on(hub),
        *run_queues.living_on(hub),
    ]
