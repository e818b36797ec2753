"""How long a bus over a broker holds the hub up: as it connects, loses its link, and connects again.

What is measured is the time that this OS thread has computed between two turns of a ticker, which has work
of its own, too.  So a busy machine makes no pause longer.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import gevent
import pytest
from pamqp import frame
from pamqp.commands import Basic, Connection

from broker.fake_node import FakeNode
from broker.nodes import Node
from broker.scripted import content
from broker.services import Service
from certificates import client_context
from helpers import LONG, wait_until
from ratchet import BusError, bus
from ratchet.bus import Retry

# Tracing would take the larger part of the time.
pytestmark = pytest.mark.uncounted

_LONGEST = 0.05
_PERIOD, _WORK = 0.005, 0.001
# A table that fills a frame, with as many values as fit.
_MANY: dict[str, Any] = {f"{number:05}": None for number in range(18_000)}


@contextmanager
def ticking() -> Iterator[list[float]]:
    """Seconds of each pause; a fifth of the time is another's."""
    pauses: list[float] = []

    def tick() -> None:
        while True:
            before = time.thread_time()
            gevent.sleep(_PERIOD)
            now = time.thread_time()
            pauses.append(now - before)
            while time.thread_time() < now + _WORK:
                pass

    # It is nobody's garbage that is looked for: all that the tests before have left behind is on the heap.
    gc.collect()
    gc.disable()
    ticker = gevent.spawn(tick)
    try:
        yield pauses
        gevent.sleep(2 * _PERIOD)
    finally:
        ticker.kill()
        gc.enable()


def exchanged(client: Any, count: int = 100) -> None:
    """Call, many at once, until all have been answered."""
    left = count
    while left:
        left = sum(isinstance(each, BusError) for each in client.call_many([b"x" * 100] * left, timeout=LONG))


def delivery(tag: int, headers: dict[str, Any]) -> bytes:
    """A message for a server."""
    return content(Basic.Deliver("requests", tag, False, "", ""), Basic.Properties(headers=headers), b"")


def longest_pause(greeting: bytes, letters: list[bytes]) -> float:
    """Of a server that gets these from a node, loses its link, and gets the greeting once more."""
    node = FakeNode(greeting)
    with ExitStack() as stack:
        stack.callback(node.close)
        with ticking() as pauses:
            server = stack.enter_context(bus.broker_server(node.url, "any"))
            wait_until(lambda: server.stats().connections, "a connection")
            for letter in letters:
                node.say(letter)
            wait_until(lambda: (server.stats().queued, server.stats().broken) == (2, 2), "all of them")
            node.say(Connection.Close(320, "CONNECTION_FORCED", 0, 0))
            wait_until(lambda: node.links == 2 and server.stats().connections, "another connection")
    return max(pauses)


def test_a_greeting_and_messages_with_large_tables_hold_nobody_up() -> None:
    start = Connection.Start(server_properties={**_MANY, "version": "3.10.8"}, mechanisms="PLAIN")
    greeting = frame.marshal(start, 0)
    assert len(greeting) > 100_000
    # Too many values; as many as are read; and tables within tables.
    nested: dict[str, Any] = {}
    for _ in range(300):
        nested = {"a": nested, "b": [None] * 100}
    letters = [
        delivery(number, headers)
        for number, headers in enumerate([{"a": [None] * 120_000}, {"a": [None] * 44_000}, _MANY, nested], 1)
    ]
    # Where others use the same core, and its caches, the same work may take twice as long.
    assert min(longest_pause(greeting, letters) for _ in range(3)) < _LONGEST


@pytest.mark.broker
@pytest.mark.parametrize("tls", [False, True], ids=["TCP", "TLS"])
def test_to_connect_to_lose_the_link_and_to_connect_again_hold_nobody_up(
    broker_node: Node, service: Service, tls: bool
) -> None:
    port = broker_node.tls_port if tls else broker_node.port
    assert port is not None
    proxy = service.proxy(port)
    url = proxy.url.replace("amqp:", "amqps:") if tls else proxy.url
    context = client_context(gevents=False) if tls else None
    with ticking() as pauses, ExitStack() as stack:
        server = stack.enter_context(bus.broker_server(url, service.name, ssl_context=context))
        client = stack.enter_context(bus.broker_client(url, service.name, ssl_context=context, retry=Retry()))
        server_thread = gevent.spawn(server.serve, bytes.upper)
        wait_until(lambda: server.stats().connections, "a connection")
        client.wait_connected(LONG)
        for _ in range(3):
            exchanged(client)
            sent: list[Any] = []
            while len(sent) < 1000:
                sent += [client.send_request(b"x" * 1000, timeout=LONG) for _ in range(50)]
                gevent.sleep(0.001)
            proxy.cut()
            wait_until(lambda: not client.stats().in_flight, "the end of all requests")
            wait_until(lambda: server.stats().connections, "another connection")
            client.wait_connected(LONG)
        exchanged(client)
        server.close()
        server_thread.join(LONG)
    assert max(pauses) < _LONGEST
