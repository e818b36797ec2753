"""The server's side of a bus over sockets: accepting clients.

It accepts connections and owns them.  Taking and answering requests belongs to every bus's
server side; `server_connection` knows what a client's messages mean.

In a forked child it is dead, with the parent's connections, until the child takes a
request from it: then it listens again, beside the parent.
"""

from __future__ import annotations

import os
import uuid
from contextlib import suppress
from functools import cache
from typing import Any, Final, TypeVar

from ratchet import _clock
from ratchet._loop import Watcher, loop_of
from ratchet._wait import check_hub
from ratchet.bus._core.address import Address, format_address
from ratchet.bus._core.faults import Reason
from ratchet.bus._core.incoming import IncomingRequest
from ratchet.bus._core.limits import Limits
from ratchet.bus._core.server import ServerSide
from ratchet.bus._core.side import CLOSED, INHERITED, OPEN
from ratchet.bus._core.stats import Stats
from ratchet.bus._socket import wire
from ratchet.bus._socket.accept import Exhausted, Listener, NotListening
from ratchet.bus._socket.admission import Admission
from ratchet.bus._socket.interfaces import StreamState
from ratchet.bus._socket.server_connection import ServerConnection
from ratchet.bus._transport.linger import linger
from ratchet.bus._transport.transport import Transport
from ratchet.bus.codecs import Decode, Encode, body_of, parts_of
from ratchet.errors import BusClosed, Outcome

Request = TypeVar("Request")
Response = TypeVar("Response")

_READ = 1  # libev's event bit
# How many clients are accepted before others get their turn, while more come in each turn.  At
# first it is one: to look in vain whether there is another takes a system call for each client.
_MOST_ACCEPTS: Final = 100
# How often so many of them are accepted before a drain, so that it does begin.
_LAST_ACCEPTS: Final = 50
# Seconds without accepting when the system is out of something; doubled up to the last.
_FIRST_BACK_OFF, _LAST_BACK_OFF = 0.01, 1.0

_TOO_MANY_TEXT: Final = "the server has too many connections"
# What the server tells a client that is one too many: why, and that it runs nothing.
_TOO_MANY: Final = wire.encode_error(
    wire.NO_ID, Reason.OVERLOADED, ("Rejected", _TOO_MANY_TEXT, "")
) + wire.encode(wire.GOAWAY, 0, wire.NO_ID, 0, ())


class ServerBus(ServerSide[Request, Response]):
    """The server's side of a bus, on a socket that listens; see `new_server` and `listen`.

    `with bus:` closes it on leaving.  It belongs to the OS thread that made it: its
    calls raise `WrongThread` in another one.
    """

    def __init__(
        self,
        listener: Listener,
        decode: Decode[Request],
        encode: Encode[Response],
        limits: Limits,
    ) -> None:
        # Bytes as they are need no function that is called for them.
        super().__init__(
            None if decode is body_of else decode,
            None if encode is parts_of else encode,
            max_queued=limits.max_queued,
        )
        self._limits = limits
        self._admission = Admission(self._intake, limits)
        self._intake.inbox.on_low = self._admission.let_in
        self._listener = listener
        self._back_off = _FIRST_BACK_OFF
        # How many are accepted at once, and in which turn of the loop some last were.
        self._accepts, self._accepted_in = 1, -1
        self._acceptor: Watcher | None = None
        self._retry = _clock.timer(self._hub, 0.0)
        try:
            self._start_accepting()
        except BaseException:
            # Nobody has it who could close it, and the loop would keep it alive.
            self._stop_accepting()
            raise

    @property
    def name(self) -> str:
        return format_address(self._listener.address)

    def __repr__(self) -> str:
        return (
            f"<ServerBus at {id(self):#x} on {self.name}: {self._intake.life.name.lower()},"
            f" connections={len(self._admission.connections)}, queued={len(self._intake.inbox)},"
            f" in_flight={len(self._intake.requests.in_flight)}>"
        )

    @property
    def address(self) -> Address:
        """Where it listens, in a form that `connect` takes: `(host, port)` or `"unix:/path"`."""
        return self._listener.address

    def close(self) -> None:
        """Close the listening socket and every connection at once.

        A thread that waits in `recv_request` gets `BusClosed`, and one that
        handles a request in `serve` or `with transaction:` is interrupted.  A
        client that waits for a response gets `ConnectionLost`.  Does not block.
        Closing twice is fine.
        """
        check_hub(self._hub, self)
        if self._intake.life is not CLOSED:
            super().close()

    def _leaves_work(self) -> bool:
        return super()._leaves_work() or any(
            connection.stream.output.undelivered for connection in self._admission.connections
        )

    def _close(self) -> int:
        """See `ServerSide`."""
        self._intake.life = CLOSED
        self._stop_accepting()
        for connection in list(self._admission.connections):
            connection.stream.abort()
        casts = self._intake.drop_casts() + self._admission.lost_casts
        self._admission.lost_casts = 0
        left = self._intake.inbox.close()
        # What no connection waits for: one-way requests.
        for request in (*left, *self._intake.requests.in_flight):
            request.cancel()
        self._intake.inbox.remove(left)
        self._intake.let_go()
        self._admission.budget.close()
        self._intake.requests.wake_drain()
        return casts

    def stats(self) -> Stats:
        parked = sum(len(connection.gate.parked) for connection in list(self._admission.connections))
        return self._intake.stats(len(self._admission.connections), parked)

    def _settle(self) -> None:
        if self._intake.life is CLOSED:
            self._close()
        for connection in list(self._admission.connections):
            connection.settle()
        super()._settle()
        # Casts outlive the connection on which they came.
        requests: dict[ServerConnection, dict[IncomingRequest, None]] = {}
        for connection in self._admission.connections:
            requests[connection] = dict.fromkeys(connection.requests)
        for request in (*self._intake.inbox, *self._intake.requests.in_flight):
            if isinstance(request.route, ServerConnection):
                requests.setdefault(request.route, {})[request] = None
        for connection, unfinished in requests.items():
            connection.settle_share(unfinished)
        self._admission.budget.settle()
        self._admission.budget.count_again(connection.share for connection in requests)
        for connection in list(self._admission.connections):
            connection.look_again()
        acceptor, inbox = self._acceptor, self._intake.inbox
        if acceptor is not None and not (inbox.closed or self._retry.active or acceptor.active):
            acceptor.start(self._on_acceptable)

    def _after_fork(self) -> None:
        super()._after_fork()
        for connection in self._admission.connections:
            connection.stream.leave_to_parent()
        self._admission.connections.clear()
        self._admission.leaving.clear()
        self._admission.budget.leave_to_parent()
        if self._acceptor is not None:
            self._acceptor.close()
            self._retry.close()
            self._acceptor = None
            # Dead, until `_revive`.
            self._intake.inbox.closed = True
            self._intake.life = INHERITED

    def _revive(self) -> None:
        if self._intake.life is INHERITED:
            if not self._listener.listens:
                raise BusClosed(
                    f"{self.name} was closed by the process that opened it", outcome=Outcome.NOT_RUN
                )
            self._listener.share()
            self._start_accepting()
            self._intake.inbox.closed = False
            self._intake.life = OPEN

    def _finished(self) -> bool:
        if self._intake.requests.in_flight:
            return False
        for connection in list(self._admission.connections):
            if connection.stream.state is StreamState.OPEN:
                # Casts that came too late to be run are counted before it is said how the drain went.
                connection.stream.input.read_all()
        if len(self._intake.inbox):
            return False
        # All answers are written; a connection that is gone has sent its own.
        for connection in list(self._admission.connections):
            connection.stream.close()
        return not self._admission.connections

    def _refuse_new(self) -> None:
        if self._acceptor is not None:
            # Who has asked already is to hear that it will not be run.
            self._retry.close()
            for _ in range(_LAST_ACCEPTS):
                if not self._accept_some(_MOST_ACCEPTS):
                    break
            self._stop_accepting()
        for connection in list(self._admission.connections):
            connection.stream.input.read_all()
            connection.go_away()
            connection.gate.refuse_draining()

    def _start_accepting(self) -> None:
        limits = self._limits
        self._admission.hello = wire.encode_hello(
            wire.Hello(
                max_message=limits.max_message,
                max_parts=limits.max_parts,
                max_in_flight=limits.max_in_flight,
                server=process_name(os.getpid()),
            )
        )
        self._acceptor = loop_of(self._hub).io(self._listener.fileno(), _READ)
        self._acceptor.start(self._on_acceptable)

    def _stop_accepting(self) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
            self._retry.close()
            self._acceptor = None
        self._listener.close()

    def _on_acceptable(self) -> None:
        """Hub callback: accept clients; twice as many if the last turn has left some."""
        turn = loop_of(self._hub).iteration
        went_on, self._accepted_in = turn == self._accepted_in + 1, turn
        self._accepts = min(2 * self._accepts, _MOST_ACCEPTS) if went_on else 1
        self._accept_some(self._accepts)

    def _accept_some(self, most: int) -> bool:
        """Accept so many clients at most.  Whether there may be more."""
        for _ in range(most):
            try:
                self._accept()
            except BlockingIOError:
                return False
            except Exhausted:
                self._accept_later()
                return False
            except NotListening:
                assert self._acceptor is not None
                self._acceptor.stop()
                return False
            except OSError:
                # A client that went away before it was accepted is no trouble.
                continue
        return True

    def _accept(self) -> None:
        """Accept one client; raises as `Listener.accept` does."""
        transport: Transport | None = None
        connection: ServerConnection | None = None
        try:
            transport, peer = self._listener.accept()
            self._back_off = _FIRST_BACK_OFF
            if len(self._admission.connections) >= self._limits.max_connections:
                self._turn_away(transport)
                return
            connection = ServerConnection(self._admission, transport, peer)
            self._admission.connections[connection] = None
            connection.stream.open()
        except BaseException:
            if connection is not None:
                self._admission.connections.pop(connection, None)
                connection.stream.abandon()
            elif transport is not None:
                transport.close()
            raise

    def _turn_away(self, transport: Transport) -> None:
        """Tell a client that there are too many already, and close; does not block."""
        with suppress(OSError):
            # Over TLS, nothing can be said before the handshake.
            if transport.ready:
                transport.send(_TOO_MANY)
                linger(self._hub, transport, None)
        transport.close()
        self._intake.requests.counters.refused_connections += 1
        self._intake.load.note_refusal(_TOO_MANY_TEXT)

    def _accept_later(self) -> None:
        assert self._acceptor is not None
        self._retry = _clock.timer(self._hub, self._back_off)
        self._retry.start(self._acceptor.start, self._on_acceptable)
        self._acceptor.stop()
        self._back_off = min(self._back_off * 2, _LAST_BACK_OFF)


def admission_of(server: ServerBus[Any, Any]) -> Admission:
    """What the connections of a server share."""
    return server._admission


@cache
def process_name(process: int) -> str:
    """What names this process to its clients, as long as it lives."""
    # Not drawn from `chance`: no seed may give two processes the same name.
    return uuid.uuid4().hex
