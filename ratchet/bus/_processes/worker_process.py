"""A worker as its supervisor sees it: the process, what it has, and how it ends.

One thread of the supervisor receives what the worker says, another one kills it if it hangs while
it starts, and a third one waits for the end of the process.  Whatever becomes of a worker, in the
end `ended` is set and its descriptors are closed.  Which worker gets what is not decided here.
"""

from __future__ import annotations

import enum
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from gevent.event import AsyncResult, Event
from gevent.subprocess import Popen

from ratchet import _clock
from ratchet.bus._core.address import Address
from ratchet.bus._core.stats import NOTHING, Stats
from ratchet.bus._processes import systemd
from ratchet.bus._processes.channel import Channel, ChannelClosed, Message, channel_pair
from ratchet.kernel import Ratchet

# Seconds that a worker has to start, after which it is taken to hang.  All of them may import large
# modules at once, on busy processors; but a service manager also waits for the first ones, and gives
# up after 90 s (systemd).
_START_TIMEOUT: Final = 60.0
# Seconds until a worker that does not read is told again.
_SAY_AGAIN: Final = 0.05
# Clients that a worker was given and has not taken, beyond which others are given to other workers:
# the channel takes hundreds, and one that computes, or is stuck, does not look.
_MOST_UNTAKEN: Final = 16
# Seconds to receive what a worker said before it ended.
_LAST_WORDS: Final = 1.0


class WorkerState(enum.Enum):
    """How far a worker has got."""

    STARTING = 1
    """It imports the handler."""
    READY = 2
    """It gets connections."""
    DRAINING = 3
    """It gets no more, and finishes what it has taken."""
    ENDED = 4
    """Its process has ended."""


STARTING, READY, DRAINING, ENDED = WorkerState


class WorkerProcess:
    """One worker process.  Making it starts the process; see `start_worker`.

    Attributes:
        number: that of its place, from 1 on.
        process: the process itself.
        state: how far it has got.
        since: when it was started.
        started: done when it is ready, True, or has ended before that, False.
        ended: set when it has ended.
        told_to_end: whether it was told to end.
        failure: why it could not begin to serve, and a traceback, if it has said so.
        late: the seconds that it had to start, if it was killed because they were over; else None.
        stats: its counters, as it sent them last.
    """

    def __init__(
        self, number: int, process: Popen[bytes], connections: Channel, control: Channel, on_change: OnChange
    ) -> None:
        self.number = number
        self.process = process
        self.state = STARTING
        self.since = _clock.monotonic()
        self.started: AsyncResult[bool] = AsyncResult()
        self.ended = Event()
        self.told_to_end = False
        self.failure: tuple[str, str] | None = None
        self.late: float | None = None
        self.stats = NOTHING
        self._connections = connections
        self._control = control
        self._on_change = on_change
        self._stats_told = Event()
        self._said_status: int | None = None
        # Sockets that were handed over, and how many clients it was told in all to send away.
        self._sent = self._asked = 0
        # What it has said of these, and of what is open.
        self._received = self._open = self._leaving = self._asked_known = 0

    def __repr__(self) -> str:
        return f"<{self} at {id(self):#x}: {self.state.name.lower()}, connections={self.load}>"

    def __str__(self) -> str:
        return f"worker {self.number} (pid {self.process.pid})"

    @property
    def has_served(self) -> bool:
        """Whether it has begun to serve, though it may have ended since."""
        return bool(self.started.value)

    @property
    def load(self) -> int:
        """How many connections it has or is about to have, without those that are moving."""
        return self._sent - self._received + self._open - self.moving

    @property
    def moving(self) -> int:
        """How many of its clients were told to go elsewhere, or are about to be, and are still there."""
        return self._leaving + self._asked - self._asked_known

    @property
    def is_behind(self) -> bool:
        """Whether it does not take the clients that it is given."""
        return self._sent - self._received >= _MOST_UNTAKEN

    def hand_over(self, descriptor: int, peer: Address) -> bool:
        """Give it a connection; False if it cannot take it.  Does not block."""
        try:
            sent = self.state is READY and self._connections.send_socket(descriptor, peer)
        except ChannelClosed:
            # It is dying, as its process will tell.
            return False
        self._sent += sent
        return sent

    def shed(self, count: int) -> None:
        """Tell it to send so many clients away; does not block."""
        if self._tell({"kind": "shed", "count": count}):
            self._asked += count

    def ask_for_stats(self, timeout: float) -> Stats:
        """Its counters now, or those it sent last if it does not answer in `timeout` seconds.  Blocks."""
        self._stats_told.clear()
        if not self.ended.is_set() and self._tell({"kind": "stats"}):
            self._stats_told.wait(timeout)
        return self.stats

    def drain(self, timeout: float) -> None:
        """Have it end when it has finished what it has; blocks until it has ended.

        It is killed after `timeout` seconds.
        """
        self._end("drain", timeout)

    def close(self, timeout: float) -> None:
        """Have it end at once; as `drain`."""
        self._end("close", timeout)

    def _end(self, kind: str, timeout: float) -> None:
        if self.state is not ENDED:
            self.state = DRAINING
            self.told_to_end = True
        deadline = _clock.monotonic() + timeout
        while not self._tell({"kind": kind}) and _clock.monotonic() < deadline:
            if self.ended.wait(_SAY_AGAIN):
                return
        if not self.ended.wait(max(0.0, deadline - _clock.monotonic())):
            self.kill()
            self.ended.wait()

    def kill(self) -> None:
        """End the process at once, whatever it does; does not block."""
        if not self.ended.is_set():
            self.process.kill()

    def dump(self) -> None:
        """Have it write to stderr what its threads do."""
        # Before it is ready, the signal would end it.
        if not self.ended.is_set() and self.started.ready():
            self.process.send_signal(signal.SIGUSR1)

    @property
    def status(self) -> int:
        """The exit status of the process, negative for the signal that has ended it.

        A worker that has sent its status has that one, whatever ended the process then.
        """
        code = self.process.returncode if self._said_status is None else self._said_status
        return 0 if code is None else int(code)

    @property
    def how_it_ended(self) -> str:
        """What has become of one that was not to end so, for texts."""
        status = self.status
        if self.late is not None:
            return f"was killed, because it was not ready within {self.late:g} s"
        if status < 0:
            return f"was killed by signal {-status}"
        if self.told_to_end and self.has_served and status == 1:
            return "has ended, and work was cut off"
        return f"has ended by itself, with status {status}"

    def _tell(self, message: Message) -> bool:
        """Send a message; False if it is behind.  A worker that is dying needs no telling."""
        try:
            return self._control.send(message)
        except ChannelClosed:
            return True

    def hear(self) -> None:
        """A thread: take what it says, until it says no more."""
        while message := self._control.receive():
            match message["kind"]:
                case "ready" if self.state is STARTING:
                    self.state = READY
                    self.started.set(True)
                case "failed":
                    self.failure = message["text"], message["trace"]
                case "counts":
                    self._received, self._open = message["received"], message["open"]
                    self._leaving, self._asked_known = message["leaving"], message["asked"]
                case "stats" | "ended":
                    self.stats = Stats(*message["stats"])
                    self._said_status = message.get("status")
                    self._stats_told.set()
            self._on_change(self, message["kind"])

    def bound_start(self) -> None:
        """A thread: kill it if it is not ready in time; its module may never return from the import."""
        timeout = _START_TIMEOUT
        self.started.wait(timeout)
        if not self.started.ready():
            self.late = timeout
            self.kill()

    def watch(self, kernel: Ratchet) -> None:
        """A thread: wait for the end of the process, and close what it leaves behind."""
        hearing = kernel.attach_background(self.hear)
        try:
            kernel.attach_background(self.bound_start)
            self.process.wait()
            # What it has said last may still be there; a child of its own may keep the channel open.
            hearing.join(_LAST_WORDS)
        finally:
            hearing.kill()
            self._connections.close()
            self._control.close()
            self.state = ENDED
            self._open = self._leaving = 0
            self._sent = self._received = self._asked = self._asked_known = 0
            if not self.started.ready():
                self.started.set(False)
            self._stats_told.set()
            self.ended.set()
        self._on_change(self, "died")


OnChange = Callable[[WorkerProcess, str], object]
"""Called with a worker that has said something, and the kind of that; `died` in the end."""


def start_worker(kernel: Ratchet, number: int, first: Message, on_change: OnChange) -> WorkerProcess:
    """Start a worker process, anew and not by forking this one, and tell it what to do.

    Blocks while the system starts the process.  Raises `OSError`.

    Args:
        kernel: whose threads watch it.
        number: that of its place.
        first: the first message, with its settings.
        on_change: see `OnChange`.
    """
    with ExitStack() as undo:
        connections, its_connections = undo.enter_context(channel_pair())
        control, its_control = undo.enter_context(channel_pair())
        # It is read when the process has got that far.
        control.send_first(first)
        process = Popen(
            [*python(), "ratchet.bus._processes.worker", *map(str, (number, its_connections, its_control))],
            stdin=subprocess.DEVNULL,
            pass_fds=[its_connections, its_control],
            # Ctrl-C is for the supervisor.
            start_new_session=True,
            env=environment(),
        )
        worker = WorkerProcess(number, process, connections, control, on_change)
        kernel.attach_background(worker.watch, kernel)
        return worker


def python() -> list[str]:
    """The command that runs a module in a Python like this one."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    return [sys.executable, *flags, "-m"]


def environment() -> dict[str, str]:
    """The environment of a new process: all variables but those that systemd has set for this one."""
    return {name: value for name, value in os.environ.items() if name not in systemd.VARIABLES}
