"""The addresses of a client's servers, as a user gives them: a list, or a function that returns one.

A `Discovery` calls the function in a greenlet of its own: at first, whenever a server goes away, and
from time to time.  It holds its client weakly, as a dialer does.
"""

from __future__ import annotations

import logging
import ssl
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeAlias

import gevent
from gevent.hub import Hub

from ratchet._log import bus_logger, log_error, safe_repr
from ratchet._loop import AnyGreenlet
from ratchet._wait import new_wait, suspend
from ratchet.bus._core.address import Address, UnixEndpoint, format_address, parse
from ratchet.bus._core.middleware import refuse_coroutine
from ratchet.bus._core.side import Life
from ratchet.bus._socket.network import dialer, dialing_waits
from ratchet.bus._socket.servers import Servers
from ratchet.bus._transport.dial import Target
from ratchet.bus.codecs import required_arguments, required_keywords

# To a type checker, which takes lists as invariant, a `list[str]` is not a `list[Address]`.
ListOfAddresses: TypeAlias = "list[Address] | list[str] | list[tuple[str, int]]"
Addresses: TypeAlias = "Address | ListOfAddresses | Callable[[], ListOfAddresses]"
"""The servers of a client: an address, a list of addresses, or a function that returns a list."""

# Seconds after which the function is called in any case, and at least between two calls: the shorter
# time also comes before a call is made good that has failed, doubled with each further one.
_PERIOD: Final = 30.0
_SHORTEST: Final = 1.0
# Addresses that a text names.
_MOST_NAMED: Final = 3


def targets_of(addresses: object, ssl_context: ssl.SSLContext | None) -> list[Target]:
    """The servers that a user names; raises `TypeError` or `ValueError` for anything but addresses."""
    if not isinstance(addresses, list):
        return [_target_of(addresses, ssl_context)]
    if not addresses:
        raise ValueError("connect needs at least one address, not an empty list")
    targets = {target.address: target for target in (_target_of(each, ssl_context) for each in addresses)}
    return list(targets.values())


def _target_of(address: Any, ssl_context: ssl.SSLContext | None) -> Target:
    endpoint = parse(address)
    if isinstance(endpoint, UnixEndpoint) and ssl_context is not None and ssl_context.check_hostname:
        raise ValueError(
            f"{address!r} has no host name that {ssl_context!r} could check; turn check_hostname off"
        )
    return Target(endpoint.address, dialer(endpoint, ssl_context), dialing_waits(endpoint, ssl_context))


def check_source(source: Callable[..., object]) -> None:
    """Refuse, in the call that passed it, a function that cannot be asked where the servers are."""
    refuse_coroutine(source, "address")
    if required_arguments(source) or required_keywords(source):
        raise TypeError(f"address must be callable without arguments, and {source!r} is not")


def name_of(targets: list[Target]) -> str:
    """The servers of a client, for people."""
    named = [format_address(target.address) for target in targets[:_MOST_NAMED]]
    others = len(targets) - len(named)
    return ", ".join(named) + (f" and {others} others" if others else "")


def name_by(source: Callable[..., object]) -> str:
    """The servers of a client that a function names, for people."""
    return f"the servers of {safe_repr(source)}"


class Discovery:
    """Asks a function where the servers of a client are.

    Args:
        servers: the client's.
        source: the function.
        ssl_context: that of TLS, for each server.
        connections: how many connections to each.
    """

    def __init__(
        self,
        servers: Servers,
        source: Callable[[], object],
        ssl_context: ssl.SSLContext | None,
        connections: int,
    ) -> None:
        self._servers = weakref.ref(servers)
        self._waiters = servers.waiters
        self._source = source
        self._ssl_context = ssl_context
        self._connections = connections

    def start(self) -> None:
        """Ask in the background from now on, until the client is closed; does not block."""
        asking = gevent.Greenlet(self._run)
        asking.rawlink(self._on_end)
        asking.start()

    def _on_end(self, asking: AnyGreenlet) -> None:
        """Hub callback: start again if an exception struck, so that the client hears of new servers."""
        if asking.exception is not None and self._goes_on:
            self.start()

    @property
    def _goes_on(self) -> bool:
        servers = self._servers()
        return servers is not None and servers.life is Life.OPEN

    def _run(self) -> None:
        """Ask, and wait until it is time to ask again: the greenlet."""
        back_off = _SHORTEST
        while self._goes_on:
            self._waiters.server_gone = False
            if self._ask():
                pause, back_off = _PERIOD, _SHORTEST
            else:
                pause, back_off = back_off, min(2 * back_off, _PERIOD)
            if not self._goes_on:
                return
            # Others may go away with a server, and a call of the function may cost something.
            suspend(new_wait(), "connect", self._source, _SHORTEST)
            if not self._waiters.server_gone and self._goes_on:
                self._waiters.asking.wait("connect", self._source, pause)

    def _ask(self) -> bool:
        """Ask once; False if that has failed."""
        try:
            answer = self._source()
            if not isinstance(answer, list):
                raise TypeError(f"{safe_repr(self._source)} must return a list of addresses, not {answer!r}")
            targets = targets_of(answer, self._ssl_context)
        except BaseException as error:
            # A time-out of the function's own ends its call, and not the asking.
            if issubclass(type(error), Hub.SYSTEM_ERROR):
                raise
            self._tell(error)
            return False
        servers = self._servers()
        if servers is not None and servers.life is Life.OPEN:
            servers.asking.clear()
            servers.asking.note(None)
            servers.keep(targets, self._connections)
        return True

    def _tell(self, error: BaseException) -> None:
        """Note why the servers are not known, and log it unless the same was logged last."""
        servers = self._servers()
        if servers is None:
            return
        reason = safe_repr(error)
        # Not the error itself: it may be of a kind that cannot be shown, and keeps the function's frames.
        servers.asking.note(RuntimeError(reason))
        if servers.asking.note_told(reason):
            log_error(
                bus_logger,
                logging.WARNING,
                "cannot ask %s where the servers are",
                safe_repr(self._source),
                error=error,
            )
