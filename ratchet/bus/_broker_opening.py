"""Opening a bus over a broker: the functions that check what a user gives, and make the sides of it.

Each checks all of its arguments before it opens anything.  What speaks to a broker is imported only
then, because it needs an optional dependency.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from ratchet.bus._broker.url import BrokerUrl, check_service, parse
from ratchet.bus._core.limits import Limits, checked_limits
from ratchet.bus._core.middleware import Middleware, checked_middleware
from ratchet.bus._core.retry import Retry, checked_retry
from ratchet.bus._transport.tls import check_context
from ratchet.bus.codecs import Codec, client_functions, server_functions

if TYPE_CHECKING:
    from ratchet.bus._broker.client import BrokerClient
    from ratchet.bus._broker.server import BrokerServer

Request = TypeVar("Request")
Response = TypeVar("Response")

_DEFAULT_RETRY: Final = Retry()
MOST_PREFETCH: Final = 65_535
"""Requests that a server can hold, as far as a broker counts."""
# As far as a broker counts, too.
_MOST_REDELIVER: Final = 0x7FFFFFFF
_LONGEST_HEARTBEAT: Final = 65_535


@overload
def broker_server(
    url: str,
    service: str,
    *,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    prefetch: int = 128,
    redeliver: int = 0,
    heartbeat: int = 60,
) -> BrokerServer[bytes, bytes]: ...
@overload
def broker_server(
    url: str,
    service: str,
    *,
    codec: Codec[Request, Response],
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    prefetch: int = 128,
    redeliver: int = 0,
    heartbeat: int = 60,
) -> BrokerServer[Request, Response]: ...
def broker_server(
    url: str,
    service: str,
    *,
    codec: Codec[Request, Response] | None = None,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    prefetch: int = 128,
    redeliver: int = 0,
    heartbeat: int = 60,
) -> BrokerServer[Request, Response]:
    """The server's side of a bus over RabbitMQ.

    Does not block: it connects in the background, to one of the nodes, and again whenever that is lost.
    It declares the service's queue, from which any number of servers take their requests.

    Args:
        url: `"amqp://user:password@host:5672,host2:5672/vhost"`, or `amqps://` for TLS.  The nodes
            are tried in turn.
        service: the name of the service: 1 to 64 ASCII letters, digits, `-` and `_`.
        codec: makes objects of requests, and bytes of responses; None for `bytes`.
        limits: the bounds of the bus; None for those of `Limits()`.  `max_queued` is that of the
            service's queue, from which on the broker refuses requests.
        ssl_context: for TLS; it checks the broker's name if it is told to.
        prefetch: how many requests this server holds that are not answered, 1 to 65,535.
        redeliver: how often a request whose server has died is given to another one.  With 0 it runs at
            most once, and the client is told.  With more it may run so many times more, and
            `transaction.redelivered` says so.
        heartbeat: seconds between heartbeats; a connection on which two in a row are missed is closed.
            The broker's own interval counts if it is shorter; 0 on either side turns them off.

    All servers of a service must give the same `max_queued` and `redeliver`: the queue has them.

    What no retry mends, such as a wrong password or a queue with other arguments, is raised as
    `BusError` by the calls that wait for a request.

    Raises `ValueError` or `TypeError` for a wrong argument, and `ImportError` if pamqp, the extra
    `amqp`, is not installed.
    """
    parsed = _checked(url, service, ssl_context, heartbeat)
    decode, encode = server_functions(None, None, codec)
    limits = checked_limits(limits)
    _check_count(prefetch, "prefetch", 1, MOST_PREFETCH)
    _check_count(redeliver, "redeliver", 0, _MOST_REDELIVER)
    try:
        from ratchet.bus._broker.server import BrokerServer
    except ImportError as error:
        raise _missing("broker_server") from error
    return BrokerServer(parsed, service, decode, encode, limits, ssl_context, heartbeat, prefetch, redeliver)


@overload
def broker_client(
    url: str,
    service: str,
    *,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    retry: Retry | None = ...,
    heartbeat: int = 60,
    middleware: Iterable[Middleware] = (),
) -> BrokerClient[bytes, bytes]: ...
@overload
def broker_client(
    url: str,
    service: str,
    *,
    codec: Codec[Request, Response],
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    retry: Retry | None = ...,
    heartbeat: int = 60,
    middleware: Iterable[Middleware] = (),
) -> BrokerClient[Request, Response]: ...
def broker_client(
    url: str,
    service: str,
    *,
    codec: Codec[Request, Response] | None = None,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    retry: Retry | None = _DEFAULT_RETRY,
    heartbeat: int = 60,
    middleware: Iterable[Middleware] = (),
) -> BrokerClient[Request, Response]:
    """The client's side of a bus over RabbitMQ.

    Does not block: it connects in the background, to one of the nodes, and again whenever that is lost.
    Requests that are made meanwhile wait for that within their own time-out.  `cast` returns when a
    majority of the broker's nodes has the request on disk; it then outlives every process.

    Args:
        url: as for `broker_server`.
        service: the name of the service that it asks.
        codec: makes bytes of requests, and objects of responses; None for `bytes`.
        limits: the bounds of the bus; None for those of `Limits()`.  At `max_in_flight` requests
            that are not answered, the next one waits.
        ssl_context: as for `broker_server`.
        retry: how requests that failed are sent again, as for `connect`.
        heartbeat: as for `broker_server`.
        middleware: as for `connect`.

    What no retry mends, such as a wrong password, is raised as `BusError` by the next call.

    Raises `ValueError` or `TypeError` for a wrong argument, and `ImportError` if pamqp, the extra
    `amqp`, is not installed.
    """
    parsed = _checked(url, service, ssl_context, heartbeat)
    encode, decode = client_functions(None, None, codec)
    limits, retry = checked_limits(limits), checked_retry(retry)
    functions = checked_middleware(middleware)
    try:
        from ratchet.bus._broker.client import BrokerClient, BrokerClientWithMiddleware
    except ImportError as error:
        raise _missing("broker_client") from error
    make: Callable[..., BrokerClient[Any, Any]]
    make = partial(BrokerClientWithMiddleware, functions) if functions else BrokerClient
    return make(parsed, service, encode, decode, limits, ssl_context, heartbeat, retry)


def _checked(url: str, service: str, ssl_context: ssl.SSLContext | None, heartbeat: int) -> BrokerUrl:
    """The URL of a broker, whose other arguments are right as well."""
    parsed = parse(url)
    check_service(service)
    if parsed.service not in (None, service):
        raise ValueError(f"the URL names the service {parsed.service!r}, and the call {service!r}")
    check_context(ssl_context, server_side=False)
    if parsed.tls and ssl_context is None:
        raise ValueError("an amqps:// URL needs an ssl_context, such as ssl.create_default_context()")
    if ssl_context is not None and not parsed.tls:
        raise ValueError("an ssl_context needs an amqps:// URL, not amqp://")
    _check_count(heartbeat, "heartbeat", 0, _LONGEST_HEARTBEAT)
    return parsed


def _check_count(number: object, name: str, least: int, most: int) -> None:
    if not isinstance(number, int) or isinstance(number, bool):
        raise TypeError(f"{name} must be a whole number, not {number!r}")
    if not least <= number <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {number!r}")


def _missing(function: str) -> ImportError:
    return ImportError(f"{function} needs pamqp: install gevent-ratchet[amqp]")
