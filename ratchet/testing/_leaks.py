"""Leaks of a test: greenlets, watchers of the loop, descriptors.

A `Baseline` records what there is now; its `left_behind` gives anything new since then a
little time to go away: threads that were killed need a turn, and closing connections a few.
"""

from __future__ import annotations

import gc
import os
import weakref
from typing import Any, Final

import gevent
from gevent.hub import get_hub
from greenlet import greenlet

from ratchet import _clock
from ratchet.testing._dump import describe, greenlets_on

KINDS: Final = ("greenlets", "watchers", "descriptors")

# Checks in successive turns of the loop, and the seconds before each further check.
_EAGER_CHECKS: Final = 4
_PAUSES: Final = (0.01, 0.05, 0.25, 0.75, 1.0)

_DESCRIPTORS: Final = "/dev/fd"


class Baseline:
    """A record of what there is now of some of the `KINDS`, on the hub of this OS thread."""

    def __init__(self, kinds: tuple[str, ...]) -> None:
        # Made first, because a new hub opens descriptors of its own.
        self._hub = get_hub()
        self._loop: Any = self._hub.loop
        self._kinds = kinds
        # Weakly, so that nothing is kept alive.
        self._greenlets = {id(thread): weakref.ref(thread) for thread in self._living()}
        self._watchers = self._count_watchers()
        self._descriptors = self._open_descriptors()

    def left_behind(self) -> list[str]:
        """Describe what is new and does not go away within some seconds; blocks."""
        for _ in range(_EAGER_CHECKS):
            if not self._new():
                return []
            gevent.sleep(0)
        for pause in _PAUSES:
            if not self._new():
                return []
            _clock.sleep(pause)
            # Only here: it takes long, and greenlets are seldom part of a cycle.
            gc.collect()
        return self._new()

    def _new(self) -> list[str]:
        new = [
            f"greenlet: {describe(thread)}"
            for thread in self._living()
            if (known := self._greenlets.get(id(thread))) is None or known() is not thread
        ]
        watchers = self._count_watchers() - self._watchers
        # Fewer is fine: a greenlet that waited before may have had one.
        if watchers > 0:
            new.append(f"watchers: {watchers} more are active")
        for descriptor, name in self._open_descriptors().items():
            if descriptor not in self._descriptors:
                new.append(f"descriptor: {descriptor} ({name})")
        return new

    def _living(self) -> list[greenlet]:
        if "greenlets" not in self._kinds:
            return []
        return greenlets_on([self._hub])

    def _count_watchers(self) -> int:
        return int(self._loop.activecnt) if "watchers" in self._kinds else 0

    def _open_descriptors(self) -> dict[int, str]:
        if "descriptors" not in self._kinds:
            return {}
        found = dict.fromkeys(getattr(self._loop, "descriptors", ()), "in memory")
        for name in os.listdir(_DESCRIPTORS):
            try:
                found[int(name)] = os.readlink(f"{_DESCRIPTORS}/{name}")
            except FileNotFoundError:
                # The descriptor of the listing itself.
                continue
            except OSError:
                # It is not a link on every system.
                found[int(name)] = "open"
        return found
