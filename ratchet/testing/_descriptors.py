"""The descriptors that a virtual loop watches: those of the system, and virtual ones.

A virtual descriptor stands for a socket in memory.  Its number is higher than any of
the system's.  Whoever opens it supplies a function that returns what it is ready for, and
touches it whenever that may have changed.  Both kinds are level-triggered: a watcher whose
descriptor stays ready is fed in each turn.

The system's are watched with epoll, which is told of watchers as libev tells it: all changes
of a descriptor together, before the poll, and nothing when its last watcher stops.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from io import FileIO
from typing import Any, Final

from gevent.monkey import get_original

from ratchet.testing._stateful_watchers import Io
from ratchet.testing._watchers import READ, WRITE, LoopOfWatchers

# The originals, also in a program that gevent has patched.
_select: Final[Any] = {
    name: get_original("select", name) for name in ("epoll", "EPOLLIN", "EPOLLOUT", "EPOLLERR", "EPOLLHUP")
}
_IN: Final[int] = _select["EPOLLIN"]
_OUT: Final[int] = _select["EPOLLOUT"]
_BROKEN: Final[int] = _select["EPOLLERR"] | _select["EPOLLHUP"]

FIRST_VIRTUAL: Final = 1 << 20

_FAILED = 0x80000000  # libev's bit for a watcher whose descriptor is no good


class _Waker(FileIO):
    """A descriptor that is closed, without a warning, with a loop that an interrupt has left unfinished."""

    __del__ = FileIO.close


class Descriptors:
    """Watchers of descriptors, and what the descriptors are ready for.

    Attributes:
        virtual: the virtual descriptors that are open, each with its readiness function.
    """

    def __init__(self, loop: LoopOfWatchers) -> None:
        self.virtual: dict[int, Callable[[], int]] = {}
        self._loop = loop
        self._next = FIRST_VIRTUAL
        self._watchers: dict[int, list[Io]] = {}
        self._touched: dict[int, None] = {}
        self._open_system()

    def _open_system(self) -> None:
        self._waker = _Waker(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC), "r+")
        self._open_epoll()

    def _open_epoll(self) -> None:
        self._epoll = _select["epoll"]()
        self._epoll.register(self._waker, _IN)
        # The events that epoll watches for, those that watchers want, and the descriptors to tell it of.
        self._told: dict[int, int] = {}
        self._wanted: dict[int, int] = {}
        self._changed: dict[int, bool] = {}
        self._always_ready: dict[int, None] = {}

    def close(self) -> None:
        """Close what the system holds for it.  Closing twice is fine."""
        self._epoll.close()
        self._waker.close()

    def reinit(self) -> None:
        """In a forked child: replace what is shared with the parent."""
        self.close()
        self._open_system()
        self._tell_again()

    def _tell_again(self) -> None:
        self._changed.update((fd, True) for fd in self._watchers if fd < FIRST_VIRTUAL)

    def fileno(self) -> int:
        """The descriptor of the epoll object."""
        number: int = self._epoll.fileno()
        return number

    # --- virtual descriptors

    def open(self, readiness: Callable[[], int]) -> int:
        """Open a virtual one; `readiness()` returns 1 for readable, 2 for writable, 3 for both."""
        fd = self._next
        self._next += 1
        self.virtual[fd] = readiness
        return fd

    def touch(self, fd: int) -> None:
        """Check in the next turn what it is ready for."""
        self._touched[fd] = None

    def close_virtual(self, fd: int) -> None:
        """Close it; closing twice is fine."""
        self.virtual.pop(fd, None)
        self._touched.pop(fd, None)

    # --- watchers

    def check(self, fd: int) -> None:
        """Raise as the system does if a descriptor is not open."""
        if fd < 0:
            raise ValueError(f"fd must be non-negative: {fd!r}")
        if fd < FIRST_VIRTUAL:
            os.fstat(fd)
        elif fd not in self.virtual:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))

    def enter(self, watcher: Io) -> None:
        self._watchers.setdefault(watcher.fd, []).append(watcher)
        if watcher.fd >= FIRST_VIRTUAL:
            self._touched[watcher.fd] = None
        else:
            self._changed[watcher.fd] = watcher.fresh or self._changed.get(watcher.fd, False)
            watcher.fresh = False

    def leave(self, watcher: Io) -> None:
        watchers = self._watchers[watcher.fd]
        watchers.remove(watcher)
        if not watchers:
            del self._watchers[watcher.fd]
        if watcher.fd < FIRST_VIRTUAL:
            self._changed.setdefault(watcher.fd, False)

    def feed_all(self, fd: int) -> None:
        """Make all watchers of a descriptor pending, whatever they watch for."""
        for watcher in self._watching(fd):
            self._loop.feed(watcher, watcher.events)

    def _watching(self, fd: int) -> list[Io]:
        """The watchers of a descriptor in the order in which to feed them: the last one started first."""
        return self._watchers.get(fd, [])[::-1]

    # --- what is ready

    def tell_system(self) -> None:
        """Tell epoll what to watch for, where that has changed."""
        if not self._changed:
            return
        changed, self._changed = self._changed, {}
        for fd, fresh in changed.items():
            before = self._wanted.get(fd, 0)
            wanted = 0
            for watcher in self._watchers.get(fd, ()):
                wanted |= watcher.events
            if wanted:
                self._wanted[fd] = wanted
                if fresh or wanted != before:
                    self._tell(fd, before, wanted)
            else:
                self._wanted.pop(fd, None)

    def _tell(self, fd: int, before: int, wanted: int) -> None:
        told = self._told.get(fd, 0)
        mask = (_IN if wanted & READ else 0) | (_OUT if wanted & WRITE else 0)
        self._told[fd] = wanted
        try:
            if before and told != wanted:
                try:
                    self._epoll.modify(fd, mask)
                except FileNotFoundError:
                    self._epoll.register(fd, mask)
            else:
                try:
                    self._epoll.register(fd, mask)
                except FileExistsError:
                    if told != wanted:
                        self._epoll.modify(fd, mask)
        except PermissionError:
            # A regular file is always ready, and epoll refuses it.
            self._always_ready[fd] = None
        except OSError:
            del self._told[fd]
            for watcher in self._watching(fd):
                watcher.deactivate()
                self._loop.feed(watcher, _FAILED | READ | WRITE)

    def watches_system(self) -> bool:
        """Whether any watcher is on a descriptor of the system's."""
        return bool(self._wanted)

    def ready(self) -> list[tuple[Io, int]]:
        """Watchers whose descriptors are ready now, each with the events."""
        found: list[tuple[Io, int]] = []
        if self._touched:
            touched, self._touched = self._touched, {}
            for fd in touched:
                readiness = self.virtual.get(fd)
                if readiness is not None and fd in self._watchers and self._add(found, fd, readiness()):
                    self._touched[fd] = None
        if self._wanted:
            found += self.wait(0)
        return found

    def wait(self, seconds: float | None) -> list[tuple[Io, int]]:
        """Block until one of the system's is ready, for `seconds` at most, or until `wake`."""
        found: list[tuple[Io, int]] = []
        for fd, got in self._epoll.poll(0 if self._always_ready else seconds):
            if fd == self._waker.fileno():
                os.eventfd_read(fd)
                continue
            have = (READ if got & (_IN | _BROKEN) else 0) | (WRITE if got & (_OUT | _BROKEN) else 0)
            if self._told.get(fd) != self._wanted.get(fd):
                self._untell(fd)
            self._add(found, fd, have)
        for fd in list(self._always_ready):
            if not self._add(found, fd, READ | WRITE):
                del self._always_ready[fd]
                del self._told[fd]
        return found

    def _untell(self, fd: int) -> None:
        """Stop epoll from watching for what no watcher wants any more."""
        wanted = self._wanted.get(fd, 0)
        try:
            if wanted:
                self._epoll.modify(fd, (_IN if wanted & READ else 0) | (_OUT if wanted & WRITE else 0))
                self._told[fd] = wanted
            else:
                del self._told[fd]
                self._epoll.unregister(fd)
        except (OSError, KeyError):
            # The number has been reused for another file, and epoll still reports the old one.
            self._epoll.close()
            self._open_epoll()
            self._tell_again()

    def _add(self, found: list[tuple[Io, int]], fd: int, have: int) -> bool:
        hits = [(watcher, watcher.events & have) for watcher in self._watching(fd) if watcher.events & have]
        found += hits
        return bool(hits)

    def wake(self) -> None:
        """Make `wait` return; from any OS thread."""
        os.eventfd_write(self._waker.fileno(), 1)
