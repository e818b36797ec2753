"""What `broker_server` and `broker_client` refuse before they open anything."""

from __future__ import annotations

import ssl
from typing import Any

import pytest

from ratchet import bus


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"service": "a.b"}, ValueError, "1 to 64 ASCII letters, digits, '-' and '_', not 'a.b'"),
        ({"prefetch": "1"}, TypeError, "prefetch must be a whole number, not '1'"),
        ({"prefetch": 0}, ValueError, "prefetch must be from 1 to 65535, not 0"),
        ({"prefetch": 65_536}, ValueError, "prefetch must be from 1 to 65535, not 65536"),
        ({"redeliver": True}, TypeError, "redeliver must be a whole number, not True"),
        ({"redeliver": -1}, ValueError, "redeliver must be from 0 to 2147483647, not -1"),
        ({"redeliver": 2**31}, ValueError, "redeliver must be from 0 to 2147483647, not 2147483648"),
        ({"heartbeat": 70_000}, ValueError, "heartbeat must be from 0 to 65535, not 70000"),
        ({"ssl_context": ssl.create_default_context()}, ValueError, "an ssl_context needs an amqps:// URL"),
        ({"url": "amqps://localhost/"}, ValueError, "an amqps:// URL needs an ssl_context"),
        ({"url": "amqp://localhost/?service=b"}, ValueError, "names the service 'b', and the call 'any'"),
        ({"limits": 1}, TypeError, "limits must be a Limits or None, not 1"),
    ],
)
def test_a_wrong_argument_is_refused_by_name(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    given = {"url": "amqp://localhost/", "service": "any", **options}
    makers: list[Any] = [bus.broker_server]
    if not given.keys() & {"prefetch", "redeliver"}:
        makers.append(bus.broker_client)
    for make in makers:
        with pytest.raises(error) as raised:
            make(**given)
        assert text in str(raised.value)
