"""pika, by its own loop and callbacks, doing by hand what a bus over a broker does.

Quorum queue, confirms, expiration, an error for what no queue takes, an acknowledgement after the answer.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from pika import BasicProperties, SelectConnection, URLParameters

from benchmarks import rabbitmq
from benchmarks.common import MESSAGE, Figures, Meter, Server

QUEUE = "pika.echo"
QUORUM = {"x-queue-type": "quorum"}
PREFETCH = 256
EXPIRATION = "10000"


def serve(ready: Callable[..., None]) -> None:
    """Echo what comes in the queue."""
    url = rabbitmq.node_url()

    def opened(channel: Any) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.queue_declare(QUEUE, durable=True, arguments=QUORUM, callback=lambda _: declared(channel))

    def declared(channel: Any) -> None:
        channel.basic_consume(QUEUE, answer, callback=lambda _: ready(url, os.getpid()))

    def answer(channel: Any, method: Any, properties: Any, body: bytes) -> None:
        reply = BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, reply)
        channel.basic_ack(method.delivery_tag)

    connection = SelectConnection(
        URLParameters(url), on_open_callback=lambda connection: connection.channel(on_open_callback=opened)
    )
    connection.ioloop.start()


class Client:
    """Keeps so many requests in flight for some seconds."""

    def __init__(self, seconds: float, server: Server, requests: int) -> None:
        self._seconds = seconds
        self._server = server
        self._requests = requests
        self._next = 0
        self._open: set[str] = set()
        self._unconfirmed: set[int] = set()
        self._sending = True
        self._done = 0
        self._connection = SelectConnection(
            URLParameters(server[0]),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._opened),
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )

    def run(self) -> Figures:
        self._connection.ioloop.start()
        return self.figures

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.confirm_delivery(self._confirmed)
        channel.queue_declare("", exclusive=True, callback=self._declared)

    def _declared(self, method: Any) -> None:
        self._reply_to = method.method.queue
        self._channel.basic_consume(self._reply_to, self._answered, auto_ack=True, callback=self._begin)

    def _begin(self, _: Any) -> None:
        self._meter = Meter(self._server)
        self._connection.ioloop.call_later(self._seconds, self._end)
        for _ in range(self._requests):
            self._send()

    def _send(self) -> None:
        self._next += 1
        id = str(self._next)
        self._open.add(id)
        self._unconfirmed.add(self._next)
        properties = BasicProperties(
            correlation_id=id, reply_to=self._reply_to, expiration=EXPIRATION, delivery_mode=2
        )
        self._channel.basic_publish("", QUEUE, MESSAGE, properties, mandatory=True)

    def _confirmed(self, frame: Any) -> None:
        tag = frame.method.delivery_tag
        if frame.method.multiple:
            self._unconfirmed = {each for each in self._unconfirmed if each > tag}
        else:
            self._unconfirmed.discard(tag)

    def _answered(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._open.remove(properties.correlation_id)
        self._done += 1
        if self._sending:
            self._send()
        elif not self._open:
            self.figures = self._meter.figures(self._done)
            self._connection.close()

    def _end(self) -> None:
        self._sending = False


def in_flight(seconds: float, server: Server, requests: int) -> Figures:
    """One client with so many requests in flight."""
    return Client(seconds, server, requests).run()
