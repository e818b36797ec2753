"""The URL of a broker, taken apart.

    amqp://user:password@host1:5672,host2:5672/vhost?service=name

User, password, vhost and service are percent-encoded; all but the hosts may be left out.  `amqps://`
is the same with TLS.  No text that is made here has the password, be it where it does not belong:
so an error says which part is wrong, and shows no more than the name of a host.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote

from ratchet.bus._core.address import TcpEndpoint, format_address

# With and without TLS.
_PORTS: Final = {"amqp": 5672, "amqps": 5671}
_EXPECTED: Final = 'expected "amqp://user:password@host:5672,host2:5672/vhost"'
_HOST: Final = re.compile(r"(\[[^\[\]]+\]|[^\[\]:]+)(?::([0-9]{1,5}))?")
# What precedes the port, so that an error can name it: a port that is none may be a password.
_BEFORE_PORT: Final = re.compile(r"\[[^\]]*\]|[^:]*")
# With a port and nothing else, it is a host that is called so.
_MEANT: Final = re.compile("amqps?:(?![0-9]+$)")
_BAD_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
# Characters, and bytes of the string that names it in AMQP.
_LONGEST_VHOST, _LONGEST_STRING = 127, 255
# A word of a key and of a queue's name: a dot would end the one, and make one of two names of the other.
_SERVICE: Final = re.compile("[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUrl:
    """A broker, and how to log in there.

    Attributes:
        endpoints: where its nodes are, in the order in which they are tried.
        user: who logs in.
        password: of that user; `repr` does not show it.
        vhost: the part of the broker that is used.
        tls: whether the nodes speak TLS.
        service: the service, if the URL names one.
    """

    endpoints: tuple[TcpEndpoint, ...]
    user: str = "guest"
    password: str = field(default="guest", repr=False)
    vhost: str = "/"
    tls: bool = False
    service: str | None = None

    def __str__(self) -> str:
        """The nodes, for texts."""
        scheme = "amqps" if self.tls else "amqp"
        return f"{scheme}://{','.join(format_address(endpoint.address) for endpoint in self.endpoints)}"


def is_broker_url(address: object) -> bool:
    """Whether an address is meant for a broker."""
    return isinstance(address, str) and _MEANT.match(address) is not None


def parse(url: object) -> BrokerUrl:
    """Take a URL apart; `TypeError` or `ValueError` if it is not one."""
    if not isinstance(url, str):
        raise TypeError(f"the URL of a broker must be a string, not {type(url).__name__}; {_EXPECTED}")
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in _PORTS:
        raise ValueError(f"the URL of a broker must begin with amqp:// or amqps://; {_EXPECTED}")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if "@" in path or "@" in query:
        raise ValueError(
            "the URL of a broker has an '@' behind its hosts; in user and password, write '/' as %2F"
            " and '?' as %3F, and elsewhere '@' as %40"
        )
    if "/" in path:
        raise ValueError("the URL of a broker has more than one '/' behind its hosts; write it as %2F")
    login, at, hosts = authority.rpartition("@")
    user, colon, password = login.partition(":")
    return BrokerUrl(
        endpoints=tuple(_endpoint(host, _PORTS[scheme]) for host in hosts.split(",")),
        user=_decoded(user, "user") if at else "guest",
        password=_decoded(password, "password") if colon else "" if at else "guest",
        vhost=_vhost(path),
        tls=scheme == "amqps",
        service=_service(query),
    )


def check_service(service: object) -> str:
    """The name of a service; refuses what is none by `TypeError` or `ValueError`."""
    if not isinstance(service, str):
        raise TypeError(f"the name of a service must be a string, not {service!r}")
    if not _SERVICE.fullmatch(service):
        raise ValueError(
            f"the name of a service must be 1 to 64 ASCII letters, digits, '-' and '_', not {service!r}"
        )
    return service


def _endpoint(text: str, default_port: int) -> TcpEndpoint:
    match = _HOST.fullmatch(text)
    if match is None:
        before = _BEFORE_PORT.match(text)
        name = before[0] if before else ""
        if not name:
            raise ValueError(f"the URL of a broker names no host; {_EXPECTED}")
        raise ValueError(f"the port of the broker's host {name!r} must be a number up to 65535; {_EXPECTED}")
    host, port = match[1], int(match[2] or default_port)
    if not 0 < port <= 65535:
        raise ValueError(f"the port of the broker's host {host!r} must be between 1 and 65535, not {port}")
    return TcpEndpoint(host.strip("[]"), port)


def _vhost(path: str) -> str:
    vhost = _decoded(path, "vhost") or "/"
    if len(vhost) > _LONGEST_VHOST or len(vhost.encode()) > _LONGEST_STRING:
        raise ValueError(
            f"the vhost of a broker's URL must have at most {_LONGEST_VHOST} characters,"
            f" and {_LONGEST_STRING} bytes"
        )
    return vhost


def _service(query: str) -> str | None:
    if not query:
        return None
    _decoded(query, "query")
    parameters = parse_qsl(query, keep_blank_values=True)
    if len(parameters) != 1 or parameters[0][0] != "service":
        raise ValueError("the query of a broker's URL must be ?service=name, and nothing else")
    return check_service(parameters[0][1])


def _decoded(text: str, part: str) -> str:
    """A part of the URL without its percent-encoding."""
    try:
        decoded = None if _BAD_PERCENT.search(text) else unquote(text, errors="strict")
        # As it is sent; half a surrogate cannot be.
        (decoded or "").encode()
    except UnicodeError:
        # Its text would show what cannot be decoded, or encoded.
        decoded = None
    if decoded is None:
        raise ValueError(f"the {part} of a broker's URL must be percent-encoded UTF-8")
    if "\0" in decoded:
        raise ValueError(f"the {part} of a broker's URL must not contain a NUL")
    return decoded
