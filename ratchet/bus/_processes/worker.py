"""A worker process: it imports the handler, and serves the clients that its supervisor hands over.

    python -m ratchet.bus._processes.worker NUMBER CONNECTIONS CONTROL

CONNECTIONS and CONTROL are the descriptors of two channels.  The sockets of clients come on
CONNECTIONS.  On CONTROL come first the settings, and then commands:

    {"kind": "drain"}             finish what was taken, and end
    {"kind": "close"}             end at once
    {"kind": "shed", "count": n}  send so many clients away: others have fewer
    {"kind": "stats"}             send the counters of the bus

and back go `ready` or `failed`, `counts` whenever a connection comes or goes, `stats`, `leave`
when a signal asks it to end, and `ended`.  It ends only when the supervisor tells it to, which
then hands nothing over any more.  Only when the supervisor has died does it drain by itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from typing import Any, Final

from gevent import monkey
from gevent.hub import get_hub

from ratchet import _clock
from ratchet._log import log_error
from ratchet._loop import loop_of
from ratchet.bus._processes.channel import Channel, ChannelClosed, Message, received_address
from ratchet.bus._processes.ending import Ending, log_death
from ratchet.bus._processes.listener import ChannelListener
from ratchet.bus._processes.names import LoadError, load_codec, load_context, load_handler
from ratchet.bus._processes.settings import settings_from
from ratchet.bus._processes.signals import on_signals
from ratchet.bus._socket.server import ServerBus, admission_of
from ratchet.bus._socket.shedding import shed
from ratchet.bus.codecs import server_functions
from ratchet.kernel import Ratchet

# Seconds until what the supervisor had no room for is said again.
_SAY_AGAIN: Final = 0.1
_CUT_OFF: Final = 1
_FAILED: Final = 2

_logger: Final = logging.getLogger("ratchet.serve")


def main(number: str, connections: str, control: str) -> int:
    """Run a worker to its end, and return the exit status: 1 if work was cut off."""
    with closing(Channel(int(connections))) as clients, closing(Channel(int(control))) as supervisor:
        first = supervisor.receive()
        return 0 if first is None else _work(number, clients, supervisor, first)


def _work(number: str, clients: Channel, supervisor: Channel, first: Message) -> int:
    settings = settings_from(first["settings"])
    if settings.patch:
        monkey.patch_all()
    sys.path[:] = settings.path
    try:
        handler = load_handler(settings.handler)
        codec = load_codec(settings.codec)
        context = load_context(settings.ssl_context, settings.ssl_arguments)
    except LoadError as error:
        supervisor.send(error.to_message())
        return _FAILED
    # After the import, which may have set logging up in its own way.
    name = f"worker {number} (pid {os.getpid()})"
    logging.basicConfig(format=f"%(asctime)s %(levelname)s {name} %(name)s: %(message)s")
    decode, encode = server_functions(None, None, codec)
    with Ratchet(errh=log_death) as kernel:
        reporter = Reporter(supervisor)
        address = received_address(first["address"])
        listener = ChannelListener(clients, first["family"], address, context, reporter.changed)
        server: ServerBus[Any, Any] = ServerBus(listener, decode, encode, settings.limits)
        reporter.watch(server, listener)
        ending = Ending(kernel, server, settings.drain_timeout)
        worker = Worker(kernel, server, supervisor, reporter, ending)
        with on_signals(worker.signals(name)):
            kernel.attach_background(worker.obey)
            reporter.say({"kind": "ready"})
            server.serve(handler, settings.workers)
            return worker.finish()


class Reporter:
    """Keeps the supervisor informed of how many connections there are; never blocks.

    Each report says how things are, not what has changed: one that the supervisor had no room for
    is made good by the next.

    Attributes:
        asked: how many clients in all it was told to send away.
    """

    def __init__(self, supervisor: Channel) -> None:
        self._supervisor = supervisor
        self._hub = get_hub()
        self._timer = _clock.timer(self._hub, 0.0, ref=False)
        self._pending = False
        self.asked = 0

    def watch(self, server: ServerBus[Any, Any], listener: ChannelListener) -> None:
        """Report on these from now on."""
        self._admission, self._listener = admission_of(server), listener
        self._admission.on_connection_lost = self.changed

    def changed(self) -> None:
        """A connection has come or gone: report in the next turn, for all that do by then."""
        if not self._pending:
            loop_of(self._hub).run_callback(self._report)
            self._pending = True

    def _report(self) -> None:
        """Hub callback: say how many there are, now or as soon as the supervisor reads again."""
        self._pending = False
        counts = {
            "kind": "counts",
            "received": self._listener.received,
            "open": len(self._admission.connections),
            "leaving": len(self._admission.leaving),
            "asked": self.asked,
        }
        if not self.say(counts):
            self._timer.close()
            self._timer = _clock.timer(self._hub, _SAY_AGAIN, ref=False)
            self._timer.start(self.changed)

    def say(self, message: Message) -> bool:
        """Send a message; False if the supervisor is behind.  Its death is noticed in `Worker.obey`."""
        try:
            return self._supervisor.send(message)
        except ChannelClosed:
            return True


class Worker:
    """A worker that serves, and how it ends."""

    def __init__(
        self,
        kernel: Ratchet,
        server: ServerBus[Any, Any],
        supervisor: Channel,
        reporter: Reporter,
        ending: Ending,
    ) -> None:
        self._kernel = kernel
        self._server = server
        self._supervisor = supervisor
        self._reporter = reporter
        self._ending = ending

    def signals(self, name: str) -> dict[signal.Signals, Callable[[], object]]:
        """The functions that signals call.

        SIGTERM and SIGINT: ask to be let go; SIGUSR1: write what every thread does to stderr.
        SIGHUP: nothing, because replacing it is the supervisor's business.
        """

        def leave() -> None:
            self._reporter.say({"kind": "leave"})

        def dump() -> None:
            self._kernel.attach_background(_write, f"{name}: {self._server!r}\n{self._kernel.dump()}\n")

        return {
            signal.SIGTERM: leave,
            signal.SIGINT: leave,
            signal.SIGUSR1: dump,
            signal.SIGHUP: lambda: None,
        }

    def obey(self) -> None:
        """A thread: do what the supervisor says, as long as there is one."""
        try:
            while message := self._supervisor.receive():
                self._obey(message)
        except Exception as error:
            # What cannot be told to end must not go on.
            log_error(_logger, logging.ERROR, "cannot hear the supervisor any more; ending", error=error)
        self._ending.drain()

    def _obey(self, message: Message) -> None:
        match message["kind"]:
            case "drain":
                self._ending.drain()
            case "close":
                self._ending.close()
            case "shed":
                shed(admission_of(self._server), message["count"])
                self._reporter.asked += message["count"]
                self._reporter.changed()
            case "stats":
                self._reporter.say({"kind": "stats", "stats": self._server.stats()})

    def finish(self) -> int:
        """Wait for what is left once the server has stopped serving, and return the exit status; blocks."""
        status = 0 if self._ending.finish() else _CUT_OFF
        self._reporter.say({"kind": "ended", "stats": self._server.stats(), "status": status})
        return status


def _write(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(text)
        sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
