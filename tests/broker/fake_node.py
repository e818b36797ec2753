"""A node that answers every method and takes every message, on a real socket, without RabbitMQ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from pamqp import base, commands, frame
from pamqp.commands import Basic, Channel, Confirm, Connection, Queue

from broker.scripted import START, TUNE, words
from helpers import LONG, wait_until
from ratchet import bus
from ratchet.bus._broker.credit import Credit, CreditOk

_HEADER = 8  # bytes


class FakeNode:
    """Listens on loopback, or at another address of this machine.

    Attributes:
        heard: what its clients have said, as pamqp reads it.
        greeting: what it says first; None for nothing.
        answer: called with each frame before the node answers; false if it is not to.
    """

    def __init__(self, greeting: base.Frame | bytes | None = START, host: str = "127.0.0.1") -> None:
        self.heard: list[Any] = []
        self.greeting = greeting
        self.answer: Callable[[Any], bool] = lambda value: True
        self._confirms = False
        self._published = 0
        self._sockets: list[Any] = []
        self._listener = socket.socket()
        self._listener.bind((host, 0))
        self._listener.listen()
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self.url = f"amqp://{self.address}/"
        self._threads: list[Any] = [gevent.spawn(self._accept)]

    def close(self) -> None:
        """End it, and all of its links."""
        gevent.killall(self._threads)
        for each in (*self._sockets, self._listener):
            each.close()

    @property
    def links(self) -> int:
        """How many clients have come."""
        return len(self._sockets)

    def pause(self) -> None:
        """Read nothing more."""
        gevent.killall(self._threads)

    def names(self) -> list[str]:
        """The names of the methods that it has heard."""
        return [value.name for value in self.heard if isinstance(value, base.Frame)]

    def say(self, *values: Any) -> None:
        """Say methods, or bytes, to the client that came last."""
        self._sockets[-1].sendall(words(*values))

    def wait_for(self, name: str, count: int = 1) -> None:
        """Wait until it has heard so many methods of this name."""
        wait_until(lambda: self.names().count(name) >= count, f"{count} of {name}")

    def _accept(self) -> None:
        while True:
            link, _ = self._listener.accept()
            # Nothing is held up for 40 ms, in which virtual time would go on.
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets.append(link)
            self._threads.append(gevent.spawn(self._serve, link))

    def _serve(self, link: Any) -> None:
        data = b""
        while len(data) < _HEADER:
            data += link.recv(65536)
        data = data[_HEADER:]
        self._confirms, self._published = False, 0
        if self.greeting is not None:
            link.sendall(words(self.greeting))
        while True:
            try:
                size, _, value = frame.unmarshal(data)
            except Exception:
                more = link.recv(65536)
                if not more:
                    return
                data += more
                continue
            data = data[size:]
            self.heard.append(value)
            if self.answer(value):
                link.sendall(b"".join(words(each) for each in self._answers(value)))

    def _answers(self, value: Any) -> list[base.Frame]:
        match value:
            case Connection.StartOk():
                return [TUNE]
            case Connection.Open():
                return [Connection.OpenOk()]
            case Connection.Close():
                return [Connection.CloseOk()]
            case Channel.Open():
                return [Channel.OpenOk()]
            case Queue.Declare():
                return [Queue.DeclareOk(value.queue or "amq.gen-1", 0, 0)]
            case Basic.Consume():
                return [Basic.ConsumeOk(value.consumer_tag)]
            case Credit():
                return [CreditOk()]
            case Basic.Cancel():
                return [Basic.CancelOk(value.consumer_tag)]
            case Basic.Publish() if self._confirms:
                self._published += 1
                return [Basic.Ack(self._published)]
            case Confirm.Select():
                self._confirms = True
        if isinstance(value, base.Frame) and value.synchronous:
            group, _, method = value.valid_responses[0].partition(".")
            return [getattr(getattr(commands, group), method)()]
        return []


def started(clients: list[Any], greeting: Any = START) -> FakeNode:
    """A node that begins with this; nothing for None.  It is closed with the clients."""
    node = FakeNode(greeting)
    clients.append(node)
    return node


def connected(node: FakeNode, clients: list[Any], **options: Any) -> Any:
    """A client that is connected to it; it does not retry."""
    client = bus.broker_client(node.url, "any", **{"retry": None, **options})
    clients.append(client)
    client.wait_connected(LONG)
    return client
