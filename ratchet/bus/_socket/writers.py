"""The line of those who write faster than the peer reads.

Nobody is held up by a write itself, nothing is dropped, and nothing grows: above the
high-water mark, a thread waits in this line before it writes, and who does not wait is
called once when there is room.  How frames leave is the affair of `output`.
"""

from __future__ import annotations

from ratchet._loop import Loop
from ratchet._wait import WaitQueue
from ratchet.bus._socket.interfaces import BROKEN, CLOSED, Stream, StreamOwner
from ratchet.bus._socket.outbox import Outbox


class Writers:
    """Those who write on one connection.

    Attributes:
        high_water: how many bytes may be unsent before a writer has to wait.
        above_high_water: whether a writer has to wait for room, or behind those who do.
        line: the threads that wait; None until one does.
        wants_resume: set by who wants to hear once when there is room.
    """

    __slots__ = (
        "_loop",
        "_outbox",
        "_owner",
        "_stream",
        "above_high_water",
        "high_water",
        "line",
        "wants_resume",
    )

    def __init__(
        self,
        stream: Stream,
        owner: StreamOwner,
        outbox: Outbox,
        high_water: int,
        loop: Loop,
    ) -> None:
        self._stream = stream
        self._owner = owner
        self._outbox = outbox
        self._loop = loop
        self.high_water = high_water
        self.above_high_water = False
        # Made on first use: most connections never need it.
        self.line: WaitQueue | None = None
        self.wants_resume = False

    def pause(self) -> None:
        """A write has reached the high-water mark."""
        self.above_high_water = True
        self._owner.pause_writing()

    def wait_for_room(self, call: str, timeout: float | None) -> bool:
        """Wait while too much is unsent; blocks.  False when the time is over.

        Returns at once when the connection is closed.
        """
        if not self.above_high_water:
            return True
        if self.line is None:
            self.line = WaitQueue()
        try:
            return self.line.wait(call, self._stream, timeout)
        finally:
            self.look_for_room()

    def look_for_room(self) -> None:
        """Bring `above_high_water` up to date, after anything but a write."""
        # There will be no more room on a closed connection, and nobody to tell of it.
        gone = self._stream.state >= BROKEN
        self.above_high_water = not gone and (self._outbox.size >= self.high_water or bool(self.line))

    def let_go_on(self) -> None:
        """Hub callback: let those write who wait, as far as there is room."""
        while self.line and self._outbox.size < self.high_water and self._stream.state is not CLOSED:
            self.line.wake_next()
        if self.wants_resume and self._outbox.size < self.high_water:
            self.wants_resume = False
            self._owner.resume_writing()

    def wake_soon(self) -> None:
        """Let those who wait look again at whether they still want room."""
        if self.line:
            self._loop.run_callback(self.line.wake_all)

    def leave_to_parent(self) -> None:
        """In a forked child: those who wait are the parent's, and are not to wake."""
        if self.line is not None:
            self.line.clear()
