"""One side's connection to its broker: a link to one node or another, made again when it is lost.

The nodes are dialed in turn, with pauses that grow; see `dial`.  What no retry mends, such as a wrong
password or a queue that was declared otherwise, ends the dialing, and each later call says so.

The loop keeps a link alive, and a link its user, but neither keeps this: so a side that is dropped
without `close()` is collected.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from gevent.hub import Hub

from ratchet import _clock
from ratchet._log import bus_logger, log_soon
from ratchet.bus._broker.interfaces import LinkFailure
from ratchet.bus._broker.link import Link, LinkUser
from ratchet.bus._broker.url import BrokerUrl
from ratchet.bus._core.address import Address
from ratchet.bus._transport.dial import Dialer, dial
from ratchet.bus._transport.failure import Failure
from ratchet.bus._transport.transport import Transport
from ratchet.errors import BusError, Outcome, reason_of


class User(LinkUser, Protocol):
    """Whoever uses one link.

    Attributes:
        link: the link.
    """

    link: Link

    def leave_to_parent(self) -> None:
        """Forget, in a forked child, what is the parent's."""

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""


AnyUser = TypeVar("AnyUser", bound=User)


class Connection(Generic[AnyUser]):
    """A link at a time, for one side of a bus.

    Args:
        hub: the side's.
        name: the service and its broker, for people.
        url: where the nodes are.
        ssl_context: for TLS; None for none.
        make: makes the user of a link, and its link, over a socket that has just been connected.
        on_change: called, from the hub, when there is a link or none any more.

    Attributes:
        name: see above.
        current: the user of the link, once that is ready.
        all: the users of links that have not ended.
        failure: why there is none.
        fatal: what the broker has said that no retry mends; None if nothing.
        wanted: whether there is to be a link.
    """

    __slots__ = (
        "__weakref__",
        "_dialer",
        "_hub",
        "_make",
        "_on_change",
        "_ready_since",
        "_ssl_context",
        "_turn",
        "_url",
        "all",
        "current",
        "failure",
        "fatal",
        "name",
        "wanted",
    )

    def __init__(
        self,
        hub: Hub,
        name: str,
        url: BrokerUrl,
        ssl_context: ssl.SSLContext | None,
        make: Callable[[Connection[AnyUser], Transport, Address], AnyUser],
        on_change: Callable[[], None],
    ) -> None:
        self._hub = hub
        self._url = url
        self._ssl_context = ssl_context
        self._make = make
        self._on_change = on_change
        self._turn = -1
        self._ready_since = 0.0
        self._dialer = Dialer(self, self._dial)
        self.name = name
        self.current: AnyUser | None = None
        self.all: dict[AnyUser, None] = {}
        self.failure = Failure(name)
        self.fatal: BusError | None = None
        self.wanted = False

    @property
    def state(self) -> str:
        """Whether it is connected, and if not, why, for people."""
        if self.current is not None:
            return "connected"
        return ("connecting" if self.wanted else "lost") + self.failure.suffix

    @property
    def needs_close(self) -> bool:
        """Whether the loop keeps anything of it alive."""
        return self.wanted or bool(self.all)

    def start(self) -> None:
        """Connect, and again whenever the link is lost; does not block."""
        self.wanted = True
        self._dialer.start()

    def start_again(self) -> None:
        """In a forked child: connect for itself."""
        self._dialer = Dialer(self, self._dial)
        self.start()

    def stop(self) -> None:
        """Make no more links; those that are there are used."""
        self.wanted = False
        self._dialer.stop()

    def close(self) -> None:
        """Close all, behind what was sent; also from a hub callback."""
        self.stop()
        self.current = None
        for user in list(self.all):
            user.link.close()

    def leave_to_parent(self) -> None:
        """In a forked child: the links are the parent's."""
        self.stop()
        self.current = None
        for user in self.all:
            user.link.leave_to_parent()
            user.leave_to_parent()
        self.all.clear()

    def settle(self) -> None:
        """Hub callback: make good what an exception has interrupted; see `Living`."""
        for user in list(self.all):
            user.link.settle()
            user.settle()
        self._keep_going()
        self._on_change()

    def hopeless(self) -> BusError | None:
        """The error of a call where no further attempt can help; None if one can."""
        if self.fatal is not None:
            return BusError(f"{self.fatal.message} ({self.name})", outcome=Outcome.NOT_SENT)
        return self.failure.hopeless() if self.failure.final else None

    def _dial(self) -> tuple[Transport, Address]:
        """Connect to the next node; blocks."""
        endpoints = self._url.endpoints
        self._turn = turn = (self._turn + 1) % len(endpoints)
        return dial(endpoints[turn], self._ssl_context)

    def _keep_going(self) -> None:
        if self.wanted and self.fatal is None and not self.all:
            self._dialer.start()

    # See `dial.Client`.

    def use(self, transport: Transport, peer: Address) -> None:
        try:
            user = self._make(self, transport, peer)
        except BaseException:
            transport.close()
            raise
        try:
            self.all[user] = None
            user.link.open()
        except BaseException:
            self.all.pop(user, None)
            user.link.leave_to_parent()
            raise

    def on_dial_failed(self, error: Exception) -> None:
        self._note_failure(error)

    def _note_failure(self, error: BaseException) -> None:
        """Note why there is no link, and log it if it is news."""
        self.failure.note(error)
        if self.failure.note_told(reason_of(error)):
            text = "cannot connect to %s: %s; trying again"
            log_soon(bus_logger, logging.WARNING, text, self.name, reason_of(error))
        if self.failure.final:
            # Those who wait are told; the dialer goes on for those who come later.
            self._on_change()

    # Of the user of a link.

    def on_ready(self, user: AnyUser) -> None:
        """The link may be used."""
        if user not in self.all:
            return
        if not self.wanted:
            user.link.close()
            return
        self.current = user
        self.failure.clear()
        self._ready_since = _clock.monotonic()
        self._on_change()

    def on_lost(self, user: AnyUser, failure: LinkFailure) -> None:
        """The link has ended.  Called again where it was interrupted."""
        if user not in self.all:
            return
        error = failure.error
        if user is self.current:
            self.current = None
            if _clock.monotonic() - self._ready_since > self._dialer.back_off:
                self._dialer.back_off = 0.0
            self.failure.note(error)
            if error is not None:
                log_soon(
                    bus_logger, logging.INFO, "lost the connection to %s: %s", self.name, reason_of(error)
                )
        elif error is not None and not failure.fatal:
            self._note_failure(error.__cause__ or error)
        if failure.fatal and error is not None:
            self.failure.note(error)
            self.fatal = error
            log_soon(bus_logger, logging.ERROR, "cannot use %s: %s", self.name, reason_of(error))
        self.all.pop(user, None)
        self._keep_going()
        self._on_change()
