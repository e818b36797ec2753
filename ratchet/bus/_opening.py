"""Opening a bus over sockets: the functions that check what a user gives, and make the sides of it.

Each checks all of its arguments before it opens anything.  What the sides do then is
not decided here.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, TypeVar, overload

from ratchet.bus._broker.url import is_broker_url
from ratchet.bus._core.address import Address, format_address, parse
from ratchet.bus._core.limits import Limits, check_above_zero, checked_limits
from ratchet.bus._core.middleware import Middleware, checked_middleware
from ratchet.bus._core.retry import Retry, checked_retry
from ratchet.bus._socket.client import ClientBus, ClientBusWithMiddleware, check_connected
from ratchet.bus._socket.discovery import (
    Addresses,
    Discovery,
    check_source,
    name_by,
    name_of,
    targets_of,
)
from ratchet.bus._socket.listen import check_listens
from ratchet.bus._socket.network import listener, listener_on
from ratchet.bus._socket.server import ServerBus
from ratchet.bus._socket.servers import Servers
from ratchet.bus._transport.tls import check_context, transport_of
from ratchet.bus._transport.transport import Socket
from ratchet.bus.codecs import Codec, FromBus, ToBus, client_functions, server_functions

Request = TypeVar("Request")
Response = TypeVar("Response")

_DEFAULT_RETRY: Final = Retry()


def _refuse_broker(address: object, function: str, other: str) -> None:
    """Refuse a broker's URL, and do not show it: it has a password."""
    if is_broker_url(address):
        raise ValueError(f"{function} does not take a broker's URL; write bus.{other}(url, service)")


def _maker(middleware: Iterable[Middleware]) -> Callable[..., ClientBus[Any, Any]]:
    """Whatever makes a client with this middleware; it is called as `ClientBus` is."""
    functions = checked_middleware(middleware)
    return partial(ClientBusWithMiddleware, functions) if functions else ClientBus


@overload
def new_server(
    socket: Socket, *, limits: Limits | None = None, ssl_context: ssl.SSLContext | None = None
) -> ServerBus[bytes, bytes]: ...
@overload
def new_server(
    socket: Socket,
    *,
    codec: Codec[Request, Response],
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> ServerBus[Request, Response]: ...
@overload
def new_server(
    socket: Socket,
    request_from_bus: FromBus[Request] | None = None,
    response_to_bus: ToBus[Response] | None = None,
    *,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> ServerBus[Request, Response]: ...
def new_server(
    socket: Socket,
    request_from_bus: FromBus[Request] | None = None,
    response_to_bus: ToBus[Response] | None = None,
    *,
    codec: Codec[Request, Response] | None = None,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> ServerBus[Request, Response]:
    """The server's side of a bus, on a socket that already listens.  Does not block.

    Args:
        socket: a TCP or a Unix socket; the bus owns it from now on.
        request_from_bus: the first part of a request to an object; see `codecs`.
        response_to_bus: an object to a response's bytes.
        codec: both in one, in place of the two functions.  With neither,
            requests and responses are `bytes`.
        limits: the bounds of the bus; None for those of `Limits()`.
        ssl_context: turns on TLS, and says who is let in.

    Raises `ValueError` or `TypeError` for a socket that does not listen, for
    a wrong codec, and for a TLS context of the client's side.

    .. code-block:: python

        import socket

        from ratchet import Ratchet, bus

        server = bus.new_server(socket.create_server(("127.0.0.1", 0)), bytes.decode, str.encode)
        connected = socket.create_connection(server.address)
        with Ratchet() as kernel, server, bus.new_client(connected, str.encode, bytes.decode) as client:
            kernel.attach_background(server.serve, str.title)
            print(client.call("ada lovelace", timeout=5))

    .. code-block:: text

        Ada Lovelace
    """
    check_listens(socket)
    decode, encode = server_functions(request_from_bus, response_to_bus, codec)
    check_context(ssl_context, server_side=True)
    limits = checked_limits(limits)
    return ServerBus(listener_on(socket, ssl_context), decode, encode, limits)


@overload
def new_client(
    socket: Socket,
    *,
    plain: bool = False,
    limits: Limits | None = None,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[bytes, bytes]: ...
@overload
def new_client(
    socket: Socket,
    *,
    codec: Codec[Request, Response],
    plain: bool = False,
    limits: Limits | None = None,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[Request, Response]: ...
@overload
def new_client(
    socket: Socket,
    request_to_bus: ToBus[Request] | None = None,
    response_from_bus: FromBus[Response] | None = None,
    *,
    plain: bool = False,
    limits: Limits | None = None,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[Request, Response]: ...
def new_client(
    socket: Socket,
    request_to_bus: ToBus[Request] | None = None,
    response_from_bus: FromBus[Response] | None = None,
    *,
    codec: Codec[Request, Response] | None = None,
    plain: bool = False,
    limits: Limits | None = None,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[Request, Response]:
    """The client's side of a bus, on a socket that is already connected.  Does not block.

    It has this one connection.  When that is lost, further requests fail with
    `ConnectionLost`, or with `Rejected` if the server drained.  `new_server` has
    an example.

    Args:
        socket: TCP or Unix, with or without TLS (whose handshake is done); the
            bus owns it from now on.
        request_to_bus: an object to a request's bytes; see `codecs`.
        response_from_bus: the first part of a response to an object.
        codec: both in one, in place of the two functions.  With neither,
            requests and responses are `bytes`.
        plain: speak the Ratchet library's own form, which servers in Lua
            understand.  It has no errors, metadata or deadlines.
        limits: the bounds of the bus; None for those of `Limits()`.
        middleware: as for `connect`.

    Raises `ValueError` or `TypeError` for a socket that is not connected, and
    for a wrong codec or middleware.
    """
    peer = check_connected(socket)
    encode, decode = client_functions(request_to_bus, response_from_bus, codec)
    limits = checked_limits(limits)
    make = _maker(middleware)
    transport = transport_of(socket)
    return make(
        format_address(peer),
        encode,
        decode,
        limits,
        plain,
        None,
        lambda servers: servers.use(transport, peer),
    )


@overload
def listen(
    address: Address, *, limits: Limits | None = None, ssl_context: ssl.SSLContext | None = None
) -> ServerBus[bytes, bytes]: ...
@overload
def listen(
    address: Address,
    *,
    codec: Codec[Request, Response],
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> ServerBus[Request, Response]: ...
@overload
def listen(
    address: Address,
    request_from_bus: FromBus[Request] | None = None,
    response_to_bus: ToBus[Response] | None = None,
    *,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> ServerBus[Request, Response]: ...
def listen(
    address: Address,
    request_from_bus: FromBus[Request] | None = None,
    response_to_bus: ToBus[Response] | None = None,
    *,
    codec: Codec[Request, Response] | None = None,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> ServerBus[Request, Response]:
    """The server's side of a bus, on an address.  Blocks while a host name is looked up.

    Args:
        address: `("host", port)`, `"host:port"` or `"unix:/path"`.  Port 0 takes
            a free one; `bus.address` tells which.  The file of a Unix socket is
            made here, in place of one whose server is gone, and removed on closing.
        request_from_bus: as for `new_server`.
        response_to_bus: as for `new_server`.
        codec: as for `new_server`.
        limits: as for `new_server`.
        ssl_context: as for `new_server`.

    Raises `ValueError` or `TypeError` for a wrong address, `OSError` if it
    cannot listen there, and what `new_server` raises.

    .. code-block:: python

        from ratchet import Ratchet, bus
        from ratchet.bus import codecs

        with Ratchet() as kernel, bus.listen("127.0.0.1:0", codec=codecs.json) as server:
            kernel.attach_background(server.serve, sum)
            with bus.connect(server.address, codec=codecs.json) as client:
                print(client.call([1, 2, 3], timeout=5))

    .. code-block:: text

        6
    """
    _refuse_broker(address, "listen", "broker_server")
    endpoint = parse(address)
    decode, encode = server_functions(request_from_bus, response_to_bus, codec)
    check_context(ssl_context, server_side=True)
    limits = checked_limits(limits)
    return ServerBus(listener(endpoint, ssl_context), decode, encode, limits)


@overload
def connect(
    address: Addresses,
    *,
    plain: bool = False,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connections: int = 1,
    retry: Retry | None = ...,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[bytes, bytes]: ...
@overload
def connect(
    address: Addresses,
    *,
    codec: Codec[Request, Response],
    plain: bool = False,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connections: int = 1,
    retry: Retry | None = ...,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[Request, Response]: ...
@overload
def connect(
    address: Addresses,
    request_to_bus: ToBus[Request] | None = None,
    response_from_bus: FromBus[Response] | None = None,
    *,
    plain: bool = False,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connections: int = 1,
    retry: Retry | None = ...,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[Request, Response]: ...
def connect(
    address: Addresses,
    request_to_bus: ToBus[Request] | None = None,
    response_from_bus: FromBus[Response] | None = None,
    *,
    codec: Codec[Request, Response] | None = None,
    plain: bool = False,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    connections: int = 1,
    retry: Retry | None = _DEFAULT_RETRY,
    middleware: Iterable[Middleware] = (),
) -> ClientBus[Request, Response]:
    """The client's side of a bus, on an address or several; `listen` has an example.

    Does not block: it connects in the background (to a Unix socket at once, if the
    server is there), and again whenever a connection is lost (in the plain form,
    when there is a request for it), with pauses that grow to 5 s.  Requests that are
    made meanwhile wait for a connection within their own time-out.  It goes on until
    `close()`.

    With several connections, each request goes to the one with the fewest requests in
    flight, of those whose servers are there; a server that fails requests gets few of
    them for some seconds.

    Args:
        address: `("host", port)`, `"host:port"` or `"unix:/path"`; a list of these, of
            servers that stand in for each other; or a function that returns such a list.
            The function is called in a thread of its own, and may block: at first, when a
            server goes away (but once a second at most), and every 30 s.  While it raises or
            returns an empty list, the servers stay as they are, and it is called again, at first
            after 2 s.
        request_to_bus: as for `new_client`.
        response_from_bus: as for `new_client`.
        codec: as for `new_client`.
        plain: as for `new_client`.
        limits: as for `new_client`.
        ssl_context: turns on TLS; it checks the server's name if it is told to.
        connections: how many to each address, above 0: one address may stand for several
            processes, as with `serve_processes`.
        retry: how requests that failed are sent again; None for never.  A request that may
            have run is sent again only if it was sent with `idempotent=True`.
        middleware: a sequence of functions around each `call`, `send_request`, `cast` and
            `call_many`, the first one outermost.  Each is called as `function(request, None, proceed)`, and
            returns what `proceed(request)` returns, or something else, or raises.

    Raises `ValueError` or `TypeError` for a wrong address, codec, number, `retry` or middleware, for a
    TLS context of the server's side, and for one that is to check the name of a
    Unix socket.

    .. code-block:: python

        from ratchet import Ratchet, bus

        with Ratchet() as kernel, bus.listen("127.0.0.1:0") as one, bus.listen("127.0.0.1:0") as other:
            kernel.attach_background(one.serve, lambda request: b"one")
            kernel.attach_background(other.serve, lambda request: b"other")
            with bus.connect([one.address, other.address]) as client:
                while client.stats().connections < 2:
                    client.call(b"who?", timeout=5)
                print(sorted(set(client.call_many([b"who?"] * 20, timeout=5))))

    .. code-block:: text

        [b'one', b'other']
    """
    check_context(ssl_context, server_side=False)
    check_above_zero(connections, "connections")
    for each in address if isinstance(address, list) else [address]:
        _refuse_broker(each, "connect", "broker_client")
    source = address if callable(address) else None
    if source is not None:
        check_source(source)
    places = [] if source is not None else targets_of(address, ssl_context)
    encode, decode = client_functions(request_to_bus, response_from_bus, codec)
    limits, retry = checked_limits(limits), checked_retry(retry)
    name = name_of(places) if source is None else name_by(source)
    make = _maker(middleware)

    def begin(servers: Servers) -> None:
        if source is not None:
            Discovery(servers, source, ssl_context, connections).start()
        elif len(places) == connections == 1:
            servers.keep_only(places[0])
        else:
            servers.keep(places, connections)

    return make(name, encode, decode, limits, plain, retry, begin)
