"""The client's side of a bus over sockets: a link to the server, made again when it is lost.

Rules of this room: it decides on which link a request goes, and waits for one;
what becomes of the request there is `link`'s affair.  A request that may have
reached a server is never sent again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import gevent
from gevent.hub import get_hub

from ratchet._wait import WaitQueue, check_hub, check_timeout
from ratchet.bus import wire
from ratchet.bus.address import shown
from ratchet.bus.client_side import ClientSide
from ratchet.bus.codecs import Address, Decode, Encode
from ratchet.bus.deadline import inherited_deadline, request_deadline, time_left
from ratchet.bus.limits import Limits
from ratchet.bus.link import Link, LinkOwner, SocketTransaction
from ratchet.bus.stats import Stats
from ratchet.bus.transport import Transport
from ratchet.errors import BusClosed, BusTimeout, ConnectionLost, Outcome, Rejected

Request = TypeVar("Request")
Response = TypeVar("Response")

Dial = Callable[[], tuple[Transport, Address]]
"""Connects to the server; blocks, and raises `OSError`."""

# Seconds between attempts to connect, doubled up to the last one.
_FIRST_BACK_OFF, _LAST_BACK_OFF = 0.05, 5.0


class ClientBus(ClientSide[Request, Response], LinkOwner):
    """The client's side of a bus over sockets; see `new_client` and `connect`.

    Any number of threads may use it at once.  `with bus:` closes it on leaving.
    It belongs to the OS thread that made it: its calls raise `RuntimeError` in
    another one.
    """

    def __init__(
        self, peer: Address, encode: Encode[Request], decode: Decode[Response], limits: Limits, plain: bool
    ) -> None:
        super().__init__()
        self._peer = peer
        self._encode = encode
        self._decode = decode
        self._limits = limits
        self._plain = plain
        # The link on which requests go; others may still wait for answers.
        self._link: Link | None = None
        self._links: set[Link] = set()
        self._waiters = WaitQueue()
        self._lost: BaseException | None = None
        self._dial: Dial | None = None
        self._dialer: gevent.Greenlet[Any, Any] | None = None
        # This process is a forked child, and the connection its parent's.
        self._inherited = False
        # Seconds to wait before the next attempt to connect.
        self._back_off = 0.0

    def __repr__(self) -> str:
        if self._closed:
            state = "closed"
        elif self._link is not None:
            state = "connected"
        else:
            state = "lost" if self._dial is None else "connecting"
        return f"<ClientBus at {id(self):#x} to {self._peer}: {state}, in_flight={self._in_flight_count}>"

    def send_request(
        self, request: Request, timeout: float | None = None, metadata: Mapping[str, str] | None = None
    ) -> SocketTransaction[Request, Response]:
        if timeout is None:
            return self._send(request, 0, inherited_deadline(), metadata)
        check_timeout(timeout)
        return self._send(request, 0, request_deadline(timeout), metadata)

    def cast(self, request: Request) -> None:
        self._send(request, wire.ONE_WAY, request_deadline(None), None)

    def close(self) -> None:
        """Close the connection at once.

        Every thread that waits to send a request or for a response gets
        `BusClosed`, and the server is told that nobody waits any more.  Does not
        block.  Closing twice is fine.
        """
        check_hub(self._hub, self)
        self._closed = True
        if self._dialer is not None:
            self._dialer.kill(block=False)
        for link in list(self._links):
            link.close()
        self._waiters_look_again()

    def stats(self) -> Stats:
        check_hub(self._hub, self)
        return self._counters.snapshot(
            connections=len(self._links), queued=len(self._waiters), in_flight=self._in_flight_count
        )

    def _after_fork(self) -> None:
        self._inherited = self._closed = True
        self._waiters.clear()
        if self._dialer is not None:
            self._dialer.kill(block=False)
        for link in self._links:
            link.forsake()
        self._links.clear()
        self._link = None

    @property
    def _in_flight_count(self) -> int:
        return sum(map(len, self._links))

    def _send(
        self, request: Request, flags: int, deadline: float | None, metadata: Mapping[str, str] | None
    ) -> SocketTransaction[Request, Response]:
        if get_hub() is not self._hub:
            check_hub(self._hub, self)
        parts = self._encode(request)
        if metadata is not None:
            if self._plain:
                raise ValueError(f"metadata cannot be sent in the plain form: {metadata!r}")
            flags |= wire.METADATA
            parts = [*(parts or [b""]), wire.encode_metadata(metadata)]
        wire.check_size(parts, self._limits.max_message, self._limits.max_parts)
        if self._plain and self._link is not None and not len(self._link):
            # It may have closed behind its last answer.
            self._link.connection.read_now()
        link = self._link
        if link is None or link.connection.crowded:
            link = self._wait_for_link(deadline)
        arg = 0
        if deadline is not None:
            left = time_left(deadline)
            if not left:
                raise BusTimeout(
                    "the time of the request was over before it was sent", outcome=Outcome.NOT_SENT
                )
            arg = math.ceil(min(left * 1000, wire.MAX_ARG))
        if flags & wire.ONE_WAY:
            # Only how long it waited was bounded: it is over when it is sent.
            return link.send(request, flags, 0, parts)
        transaction = link.send(request, flags, arg, parts)
        if deadline is not None:
            transaction._end_at(deadline)
        return transaction

    def _wait_for_link(self, deadline: float | None) -> Link:
        """Wait until there is a link that takes a request; blocks."""
        while True:
            if self._inherited:
                reason = "was made before fork(); the child has to make its own"
                raise BusClosed(f"{self!r} {reason}", outcome=Outcome.NOT_SENT)
            if self._closed:
                raise BusClosed(f"{self!r} is closed", outcome=Outcome.NOT_SENT)
            link = self._link
            if link is None:
                if self._dial is None:
                    raise self._lost_error()
                if self._dialer is None:
                    self._start_dialing()
                if not self._waiters.wait("send_request", self, time_left(deadline)):
                    reason = "" if self._lost is None else f": {self._lost}"
                    raise BusTimeout(
                        f"not connected to {self._peer} in time{reason}", outcome=Outcome.NOT_SENT
                    )
            elif link.connection.crowded:
                if not link.connection.wait_for_room("send_request", time_left(deadline)):
                    raise BusTimeout(f"{self!r} took too little in time", outcome=Outcome.NOT_SENT)
                # It is this thread's turn, even if others still wait.
                if link is self._link:
                    return link
            else:
                return link

    def _lost_error(self) -> ConnectionLost | Rejected:
        if isinstance(self._lost, Rejected):
            return Rejected("the server is draining")
        return ConnectionLost(f"{self!r} has lost its connection: {self._lost}", outcome=Outcome.NOT_SENT)

    def _use(self, transport: Transport, peer: Address) -> None:
        """Send requests over this connection from now on."""
        self._link = link = Link(self, transport, peer)
        self._links.add(link)
        self._waiters_look_again()

    def _waiters_look_again(self) -> None:
        self._hub.loop.run_callback(self._waiters.wake_all)

    def _keep_connected(self, dial: Dial) -> None:
        """Connect now, and again whenever the connection is lost; does not block."""
        self._dial = dial
        self._start_dialing()

    def _start_dialing(self) -> None:
        if self._dial is not None and not self._closed:
            self._dialer = gevent.spawn(self._dial_until_connected, self._dial)

    def _dial_until_connected(self, dial: Dial) -> None:
        while True:
            if self._back_off:
                # Jitter, so that the clients of a server that starts again do
                # not all come at the same instant.
                gevent.sleep(self._back_off * random.uniform(0.5, 1.0))
            self._back_off = min(max(self._back_off * 2, _FIRST_BACK_OFF), _LAST_BACK_OFF)
            try:
                transport, peer = dial()
            except OSError as error:
                self._lost = error
            except ValueError as error:
                # No attempt will do better: the address itself is wrong.
                self._lost, self._dial, self._dialer = error, None, None
                self._waiters_look_again()
                return
            else:
                self._dialer = None
                if self._closed:
                    # In this very turn, too late for a kill.
                    transport.close()
                else:
                    self._use(transport, peer)
                return

    def _on_link_drained(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self._lost = Rejected("the server is draining")
            link.connection.wake_writers()
            self._start_dialing()

    def _on_link_lost(self, link: Link, error: BaseException | None) -> None:
        self._links.discard(link)
        if link.useful:
            self._back_off = 0.0
        if link is self._link:
            self._link = None
            self._lost = error
            # A plain server may close after each answer, and take a connection on
            # which nothing comes for a client in need: it gets one for a request.
            if not self._plain:
                self._start_dialing()


def check_connected(socket: Any) -> Address:
    """The address of a socket's peer; refuses what is no connected stream socket."""
    if not hasattr(socket, "getpeername"):
        raise TypeError(f"new_client needs a connected socket, not {socket!r}")
    try:
        return shown(socket.family, socket.getpeername())
    except OSError as error:
        raise ValueError(f"new_client needs a connected socket; {socket!r} is not: {error}") from error
