"""Threads that wait until the system says that an object is ready: `block_on`.

Each object has a watcher on the hub, and the first that finds its object ready wakes
the thread; then all of them are closed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TypeVar

from gevent.hub import get_hub

from ratchet._loop import Watcher, loop_of
from ratchet._wait import TIMED_OUT, check_timeout, new_wait, suspend

Ready = TypeVar("Ready")

_READ, _WRITE = 1, 2  # libev's event bits


def block_on(
    reads: Iterable[Ready], writes: Iterable[Ready] = (), timeout: float | None = None
) -> Ready | None:
    """Wait until one of the objects is ready, and return it; None on time-out.

    Args:
        reads: objects with `fileno()`, or file descriptors, to be readable.
        writes: the same, to be writable.
        timeout: seconds; None for ever.

    Raises `ValueError` for a closed object, or for none at all, and `TypeError`
    for what is neither an object with `fileno()` nor a descriptor.

    .. code-block:: python

        import socket

        from ratchet import thread

        ours, theirs = socket.socketpair()
        with ours, theirs:
            print(thread.block_on([ours], timeout=0.01))
            theirs.send(b"hello")
            print(thread.block_on([ours]) is ours)

    .. code-block:: text

        None
        True
    """
    check_timeout(timeout)
    wanted = [(ready, _READ) for ready in reads] + [(ready, _WRITE) for ready in writes]
    if not wanted:
        raise ValueError("block_on needs at least one object to wait for")
    objects = [ready for ready, _ in wanted]
    descriptors = [_open_descriptor(ready) for ready in objects]
    wait = new_wait()
    loop = loop_of(get_hub())
    watchers: list[Watcher] = []
    try:
        for (ready, events), descriptor in zip(wanted, descriptors, strict=True):
            # Two may be ready in one turn; the second finds nobody in the wait.
            # MAXPRI: what is ready goes before a time-out of the same turn.
            watcher = loop.io(descriptor, events, priority=loop.MAXPRI)
            watchers.append(watcher)
            watcher.start(wait.switch, ready)
        # No comprehension in here: of what strikes in one, CPython 3.12.1 skips the `except`.
        value = suspend(wait, "block_on", objects, timeout)
        _close(watchers)
        return None if value is TIMED_OUT else value
    except BaseException:
        _close(watchers)
        raise


def _close(watchers: list[Watcher]) -> None:
    for watcher in watchers:
        watcher.close()


def _open_descriptor(ready: object) -> int:
    fileno: Callable[[], int] | None = getattr(ready, "fileno", None)
    descriptor = ready if fileno is None else fileno()
    if not isinstance(descriptor, int) or isinstance(descriptor, bool):
        raise TypeError(f"block_on needs objects with fileno(), not {ready!r}")
    try:
        os.fstat(descriptor)
    except OSError as error:
        raise ValueError(f"block_on needs open objects; {ready!r} is closed") from error
    return descriptor
