"""kombu on gevent's patches, in the way of its own guide: pools of connections for what is published.

Quorum queue, confirms, expiration, an acknowledgement after the answer.  Each publication waits for its
confirm, and has a connection for itself meanwhile.
"""

# ruff: noqa: E402

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import os
from collections.abc import Callable
from itertools import count
from typing import Any

import gevent
from gevent.event import AsyncResult
from kombu import Connection, Consumer, Queue
from kombu.pools import producers, set_limit

from benchmarks import rabbitmq
from benchmarks.common import MESSAGE, Figures, Server
from benchmarks.on_gevent import closed_loop

QUEUE = Queue("kombu.echo", durable=True, queue_arguments={"x-queue-type": "quorum"})
PREFETCH = 256
EXPIRATION = 10.0

CONNECTIONS = 16
"""In a pool."""


def connection_to(url: str, confirm: bool) -> Any:
    return Connection(url, transport_options={"confirm_publish": confirm})


def drain(connection: Any) -> None:
    while True:
        connection.drain_events()


def serve(ready: Callable[..., None]) -> None:
    """Echo what comes in the queue."""
    url = rabbitmq.node_url()
    connection = connection_to(url, confirm=False)
    channel = connection.channel()
    replies = connection.Producer(channel)

    def answer(body: bytes, message: Any) -> None:
        asked = message.properties
        replies.publish(body, routing_key=asked["reply_to"], correlation_id=asked["correlation_id"])
        message.ack()

    with Consumer(channel, [QUEUE], callbacks=[answer], prefetch_count=PREFETCH):
        ready(url, os.getpid())
        drain(connection)


def threads(seconds: float, server: Server, threads: int) -> Figures:
    """So many threads, one request of each at a time."""
    set_limit(CONNECTIONS)
    pool = producers[connection_to(server[0], confirm=True)]
    ids = map(str, count())
    waiting: dict[str, AsyncResult[bytes]] = {}
    reading = connection_to(server[0], confirm=False)
    replies = Queue("", exclusive=True)

    def answered(body: bytes, message: Any) -> None:
        waiting.pop(message.properties["correlation_id"]).set(body)

    def exchange() -> None:
        id = next(ids)
        result: AsyncResult[bytes] = AsyncResult()
        waiting[id] = result
        with pool.acquire(block=True) as producer:
            producer.publish(
                MESSAGE,
                routing_key=QUEUE.name,
                correlation_id=id,
                reply_to=consumer.queues[0].name,
                expiration=EXPIRATION,
                mandatory=True,
                delivery_mode=2,
            )
        result.get()

    with Consumer(reading, [replies], callbacks=[answered], no_ack=True) as consumer:
        receiver = gevent.spawn(drain, reading)
        try:
            exchange()
            return closed_loop([exchange] * threads, seconds, server)
        finally:
            receiver.kill()
