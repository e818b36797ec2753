"""How a process that serves comes to its end: it drains, or closes at once, and says what was cut off."""

from __future__ import annotations

import logging
from typing import Any, Final

from ratchet import _clock
from ratchet._log import log_error
from ratchet.bus._core.server import ServerSide
from ratchet.kernel import Ratchet, Thread

_logger: Final = logging.getLogger("ratchet.serve")


class Ending:
    """The end of one server, and of the threads that its handlers have attached.

    Args:
        kernel: the scheduler of all of them.
        server: the server.
        timeout: seconds that what was taken has to end.
    """

    def __init__(self, kernel: Ratchet, server: ServerSide[Any, Any], timeout: float) -> None:
        self._kernel = kernel
        self._server = server
        self._timeout = timeout
        self._drainer: Thread | None = None
        # When whatever is left is cut off.
        self._end = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether the server drains."""
        return self._drainer is not None

    def drain(self) -> None:
        """Have the server drain.  Does not block; doing so twice is fine."""
        if self._drainer is None:
            self._end = _clock.monotonic() + self._timeout
            self._drainer = self._kernel.attach(self._server.drain, self._timeout)

    def close(self) -> None:
        """End at once.  Does not block."""
        self._end = 0.0
        self._server.close()
        self._kernel.stop()

    def finish(self) -> bool:
        """Wait for what is left once the server has stopped serving; blocks.  False if some was cut off."""
        drained = self._drainer is None or bool(self._drainer.get())
        # Threads that handlers have attached go on after the last answer.
        left = max(0.0, self._end - _clock.monotonic())
        _clock.with_timeout(left, self._kernel.loop, timeout_value=None)
        finished = drained and not self._kernel.num_threads
        self._kernel.close()
        return finished


def log_death(error: BaseException, thread: Thread) -> None:
    """Log that a thread which a handler has attached died."""
    log_error(_logger, logging.ERROR, "the thread %s died", thread.name, error=error)
