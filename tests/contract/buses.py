"""The kinds of bus under test, and how each is opened.

A new kind is a name in one of the tuples below, and what `listening`, `connected`,
`Bus.new_client` and, if others can speak to it in bytes, `Bus.raw_client` do for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket

from broker.services import Service
from certificates import client_context, server_context
from helpers import LONG, wait_until
from ratchet import BusError
from ratchet import bus as ratchet_bus
from ratchet._wait import waiting_on
from ratchet.bus import ClientBus, Codec, Limits, LocalBus, ServerBus, codecs
from ratchet.bus._broker.client import BrokerClient
from ratchet.bus._broker.server import BrokerServer
from raw_peer import RawPeer

Server = LocalBus[Any, Any] | ServerBus[Any, Any] | BrokerServer[Any, Any]
Client = LocalBus[Any, Any] | ClientBus[Any, Any] | BrokerClient[Any, Any]
AnyCodec = Codec[Any, Any]

# The plain form cannot tell errors, metadata, deadlines and cancels.
# TLS is mutual, and TCP below.
EXTENDED_SOCKETS = ("tcp", "unix", "tls")
PLAIN_SOCKETS = ("tcp-plain", "unix-plain")
TELLING = ("local", *EXTENDED_SOCKETS)
# A local bus whose messages are encoded, as over a socket.
WITH_CODEC = ("local-codec", *EXTENDED_SOCKETS)


def each(*kinds: str) -> list[Any]:
    """The kinds as parameters; what Unix sockets reach is counted as covered over TCP, and not again."""
    return [pytest.param(kind, marks=_marks_of(kind)) for kind in kinds]


def _marks_of(kind: str) -> Any:
    if kind == "broker":
        return pytest.mark.broker
    return pytest.mark.uncounted if kind.startswith("unix") else ()


on_every_kind = pytest.mark.parametrize("kind", each(*TELLING, *PLAIN_SOCKETS, "broker"))
on_local = pytest.mark.parametrize("kind", ["local"])
on_each_with_codec = pytest.mark.parametrize("kind", each(*WITH_CODEC, "broker"))
on_sockets = pytest.mark.parametrize("kind", each(*EXTENDED_SOCKETS))
on_plain_sockets = pytest.mark.parametrize("kind", each(*PLAIN_SOCKETS))
on_sockets_of_each_form = pytest.mark.parametrize("kind", each(*EXTENDED_SOCKETS, *PLAIN_SOCKETS))


def is_plain(kind: str) -> bool:
    return kind.endswith("-plain")


def client_tls(kind: str) -> Any:
    """The TLS context of a client; None if the kind has none."""
    return client_context() if kind == "tls" else None


def server_tls(kind: str) -> Any:
    """The TLS context of a server; None if the kind has none."""
    return server_context() if kind == "tls" else None


def listening(kind: str, directory: Path) -> Any:
    """A socket that listens."""
    if not kind.startswith("unix"):
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
    else:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(directory / f"bus-{len(list(directory.iterdir()))}"))
    listener.listen()
    return listener


def connected(address: Any, tls: Any = None) -> Any:
    """A socket that is connected to what a server's `address` says; over TLS if given a context."""
    if isinstance(address, tuple):
        connected = socket.create_connection(address)
    else:
        connected = socket.socket(socket.AF_UNIX)
    try:
        if not isinstance(address, tuple):
            connected.connect(address.removeprefix("unix:"))
        return connected if tls is None else tls.wrap_socket(connected, server_hostname=address[0])
    except OSError:
        connected.close()
        raise


class Bus:
    """Both sides of an open bus, whatever its kind."""

    def __init__(
        self,
        kind: str,
        server: Server,
        client_options: dict[str, Any],
        stack: ExitStack,
        service: Service | None = None,
    ) -> None:
        self.kind = kind
        self.service = service
        self.plain = is_plain(kind)
        self.server = server
        self._client_options = client_options
        self._stack = stack
        self.client = self.new_client()

    def new_client(self) -> Client:
        """One more client; on a local bus, the same object again."""
        if isinstance(self.server, LocalBus):
            return self.server
        if isinstance(self.server, BrokerServer):
            return self.over_broker(**self._client_options)
        client: ClientBus[Any, Any] = ratchet_bus.new_client(
            self.connected(), plain=self.plain, **self._client_options
        )
        return self._stack.enter_context(client)

    def over_broker(self, **options: Any) -> BrokerClient[Any, Any]:
        """A client of the service."""
        assert self.service is not None
        client: BrokerClient[Any, Any] = self.service.client(**options)
        return client

    def connected(self) -> Any:
        """A socket that is connected to the server, with TLS if the bus has it."""
        return connected(self.server.address, client_tls(self.kind))

    def raw_client(self) -> RawPeer:
        """A client that speaks bytes."""
        return self._stack.enter_context(RawPeer(self.connected()))

    def wait_for_queued(self, count: int = 1) -> None:
        """Wait until so many requests wait on the server for a thread."""
        wait_until(lambda: self.server.stats().queued == count, f"{count} queued requests")

    def wait_for_in_flight(self, count: int) -> None:
        """Wait until the server has so many requests that are taken and not answered."""
        wait_until(lambda: self.server.stats().in_flight == count, f"{count} requests in flight")

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is queued or in flight on either side."""
        return all(
            (side.stats().queued, side.stats().in_flight) == (0, 0) for side in (self.server, self.client)
        )

    def take(self) -> Any:
        """Take the next request; the transaction alone."""
        return self.server.recv_request(LONG)[0]

    def check_works(self) -> None:
        """A fresh request is answered; nothing else may wait in `recv_request`."""
        sent = self.client.send_request("still there?")
        transaction, request = self.server.recv_request(LONG)
        assert request == "still there?"
        assert transaction.send_response("yes") is True
        assert sent.recv_response(LONG) == "yes"


@contextmanager
def open_bus(
    kind: str,
    directory: Path,
    *,
    codec: AnyCodec | None = codecs.json,
    maxsize: int | None = None,
    limits: Limits | None = None,
    server_limits: Limits | None = None,
    middleware: Sequence[Callable[[Any, Any, Any], Any]] = (),
    broker: str = "",
) -> Iterator[Bus]:
    """Both sides of a bus; each option goes to the kinds that know it.

    `broker` is the URL of a node.
    """
    with ExitStack() as stack:
        if kind == "broker":
            service = Service(broker, stack)
            taking = service.server(codec=codec, limits=server_limits or limits)
            options = {"codec": codec, "limits": limits, "middleware": middleware}
            yield Bus(kind, taking, options, stack, service)
            return
        if kind.startswith("local"):
            encoded = codec if kind == "local-codec" else None
            local: LocalBus[Any, Any] = stack.enter_context(
                ratchet_bus.new_local(maxsize, codec=encoded, middleware=middleware)[0]
            )
            yield Bus(kind, local, {}, stack)
            return
        given: dict[str, Any] = {} if codec is None else {"codec": codec}
        server: ServerBus[Any, Any] = stack.enter_context(
            ratchet_bus.new_server(
                listening(kind, directory),
                **given,
                limits=server_limits or limits,
                ssl_context=server_tls(kind),
            )
        )
        yield Bus(kind, server, {**given, "limits": limits, "middleware": middleware}, stack)


def outcomes(results: list[Any]) -> list[Any]:
    """The results of a `call_many`: each response as it is, and type and outcome of each error."""
    return [(type(each), each.outcome) if isinstance(each, BusError) else each for each in results]


OpenBus = Callable[..., Bus]


@contextmanager
def client_of_raw_server(
    kind: str, directory: Path, *, codec: AnyCodec | None = codecs.json, limits: Limits | None = None
) -> Iterator[tuple[ClientBus[Any, Any], RawPeer]]:
    """The client of a bus, and the peer that it is connected to, which speaks bytes."""
    given: dict[str, Any] = {} if codec is None else {"codec": codec}
    with ExitStack() as stack:
        listener = stack.enter_context(listening(kind, directory))
        name = listener.getsockname()
        accepting = gevent.spawn(_accept, listener, server_context(gevents=True) if kind == "tls" else None)
        client: ClientBus[Any, Any] = ratchet_bus.new_client(
            connected(name if isinstance(name, tuple) else f"unix:{name}", client_tls(kind)),
            plain=is_plain(kind),
            limits=limits,
            **given,
        )
        stack.enter_context(client)
        yield client, stack.enter_context(RawPeer(accepting.get(timeout=LONG)))


def _accept(listener: Any, tls: Any) -> Any:
    accepted = listener.accept()[0]
    return accepted if tls is None else tls.wrap_socket(accepted, server_side=True)


OpenClient = Callable[..., tuple[ClientBus[Any, Any], RawPeer]]


class Task:
    """A call in a thread of its own, whose outcome the test asks for."""

    def __init__(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._func = func
        self._value: Any = None
        self._error: BaseException | None = None
        self.thread = gevent.spawn(self._run, *args, **kwargs)

    def _run(self, *args: Any, **kwargs: Any) -> None:
        try:
            self._value = self._func(*args, **kwargs)
        except (Exception, gevent.Timeout) as error:
            self._error = error

    @property
    def ended(self) -> bool:
        return self.thread.ready()

    def wait_until_blocked(self) -> None:
        """Wait until the thread waits for something."""
        wait_until(lambda: waiting_on(self.thread) is not None or self.ended, "a thread that blocks")
        assert not self.ended, f"it ended with {self._value!r}, {self._error!r}"

    def result(self) -> Any:
        """What it returned or raised; waits for its end."""
        self.thread.join(LONG)
        assert self.ended, "the thread does not end"
        if self._error is not None:
            raise self._error
        return self._value

    def kill(self) -> None:
        self.thread.kill(timeout=LONG)
        assert self.ended, "the thread cannot be killed"


Start = Callable[..., Task]
