"""A broker in this process, which routes what services over a broker need, and keeps nothing.

It knows topic and direct exchanges, and queues of which the messages are given out once: what was taken
by a link that is lost becomes a dead letter.  It has no time-outs, no lengths and no rights.
"""

from __future__ import annotations

import itertools
import re
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent import socket
from gevent.queue import SimpleQueue
from pamqp import base, body, frame, header
from pamqp.commands import Basic, Channel, Confirm, Connection, Exchange, Queue

from broker.scripted import START, TUNE, content, words
from ratchet.bus._broker.credit import Credit, CreditOk

_HEADER = 8  # bytes


@dataclass
class Message:
    """A message that was published."""

    exchange: str
    key: str
    properties: Any
    data: bytes

    def said_by(self, method: base.Frame) -> bytes:
        """The frames of a method that carries it."""
        return content(method, self.properties, self.data)


@dataclass
class Kept:
    """A queue."""

    name: str
    owner: Link | None
    dead_letters: str
    messages: deque[Message] = field(default_factory=deque)
    # Of links and the tags of their consumers; the first one is next.
    consumers: deque[tuple[Link, str, bool]] = field(default_factory=deque)


class SmallBroker:
    """Listens on loopback, for as long as the process lives."""

    def __init__(self) -> None:
        self._queues: dict[str, Kept] = {}
        self._bindings: set[tuple[str, str, str]] = set()
        self._names = itertools.count(1)
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"amqp://127.0.0.1:{self._listener.getsockname()[1]}/"
        gevent.spawn(self._accept)

    def _accept(self) -> None:
        while True:
            connected, _ = self._listener.accept()
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            gevent.spawn(Link(self, connected).serve)

    def declare(self, link: Link, asked: Queue.Declare) -> str:
        name = asked.queue or f"amq.gen-{next(self._names)}"
        arguments = asked.arguments or {}
        if name not in self._queues:
            owner = link if asked.exclusive else None
            self._queues[name] = Kept(name, owner, str(arguments.get("x-dead-letter-exchange", "")))
        return name

    def bind(self, exchange: str, pattern: str, name: str) -> None:
        words = {"*": r"[^.]+", "#": r".*"}
        form = r"\.".join(words.get(word) or re.escape(word) for word in pattern.split("."))
        self._bindings.add((exchange, form.replace(r".*\.", r"(.*\.)?"), name))

    def consume(self, link: Link, name: str, tag: str, no_ack: bool) -> None:
        kept = self._queues[name]
        kept.consumers.append((link, tag, no_ack))
        self.give_out(kept)

    def cancel(self, link: Link, tag: str | None) -> None:
        for kept in self._queues.values():
            kept.consumers = deque(each for each in kept.consumers if each[:2] != (link, tag))

    def publish(self, message: Message) -> bool:
        """Whether a queue took it."""
        if message.exchange:
            names = {
                name
                for exchange, form, name in self._bindings
                if exchange == message.exchange and re.fullmatch(form, message.key)
            }
        else:
            names = {message.key}
        taken = [self._queues[name] for name in names if name in self._queues]
        for kept in taken:
            kept.messages.append(message)
            self.give_out(kept)
        return bool(taken)

    def give_out(self, kept: Kept) -> None:
        """Deliver what consumers have room for."""
        for _ in range(len(kept.consumers)):
            link, tag, no_ack = kept.consumers[0]
            kept.consumers.rotate(-1)
            while kept.messages and link.has_room(no_ack):
                link.deliver(kept, kept.messages.popleft(), tag, no_ack)

    def bury(self, kept: Kept, message: Message, reason: str) -> None:
        """Make a dead letter of a message."""
        headers = {**(message.properties.headers or {}), "x-death": [{"reason": reason, "queue": kept.name}]}
        values = {name: getattr(message.properties, name) for name in Basic.Properties.attributes()}
        properties = Basic.Properties(**{**values, "headers": headers})
        self.publish(Message(kept.dead_letters, message.key, properties, message.data))

    def lose(self, link: Link) -> None:
        """A link is gone, and with it what was its own."""
        for kept in list(self._queues.values()):
            kept.consumers = deque(each for each in kept.consumers if each[0] is not link)
            if kept.owner is link:
                del self._queues[kept.name]
                self._bindings = {each for each in self._bindings if each[2] != kept.name}
        for kept, message in link.unacknowledged.values():
            self.bury(kept, message, "delivery_limit")
        for kept in self._queues.values():
            self.give_out(kept)


class Link:
    """One client of it."""

    def __init__(self, broker: SmallBroker, connected: Any) -> None:
        self._broker = broker
        self._socket = connected
        self._unsent: SimpleQueue[bytes] = SimpleQueue()
        self._last_tag = 0
        self._prefetch = 0
        self._published: int | None = None
        self._last_declared = ""
        # What is being published: the method, the head, and what has come of the body.
        self._method: Any = None
        self._head: Any = None
        self._pieces = b""
        self.unacknowledged: dict[int, tuple[Kept, Message]] = {}

    def serve(self) -> None:
        writer = gevent.spawn(self._write)
        try:
            self._read()
        except OSError:
            pass
        finally:
            writer.kill()
            self._socket.close()
            self._broker.lose(self)

    def _write(self) -> None:
        try:
            while True:
                self._socket.sendall(self._unsent.get())
        except OSError:
            pass

    def _say(self, *values: Any) -> None:
        self._unsent.put(words(*values))

    def _read(self) -> None:
        data = b""
        while len(data) < _HEADER:
            data = self._more(data)
        data = data[_HEADER:]
        self._say(START)
        while True:
            size = 7 + int.from_bytes(data[3:7], "big") + 1 if len(data) >= 7 else 7
            if len(data) < size or size == 7:
                data = self._more(data)
                continue
            value: Any = frame.unmarshal(data[:size])[2]
            data = data[size:]
            self._take(value)
            if isinstance(value, Connection.Close):
                self._more(b"")

    def _more(self, data: bytes) -> bytes:
        more = self._socket.recv(1 << 18)
        if not more:
            raise OSError("the end")
        return data + bytes(more)

    def has_room(self, no_ack: bool) -> bool:
        return no_ack or not self._prefetch or len(self.unacknowledged) < self._prefetch

    def deliver(self, kept: Kept, message: Message, tag: str, no_ack: bool) -> None:
        self._last_tag += 1
        if not no_ack:
            self.unacknowledged[self._last_tag] = kept, message
        self._say(message.said_by(Basic.Deliver(tag, self._last_tag, False, message.exchange, message.key)))

    def _take(self, value: Any) -> None:
        match value:
            case Connection.StartOk():
                self._say(TUNE)
            case Connection.TuneOk():
                pass
            case Connection.Open():
                self._say(Connection.OpenOk())
            case Connection.Close():
                self._say(Connection.CloseOk())
            case Channel.Open():
                self._say(Channel.OpenOk())
            case Exchange.Declare():
                self._say(Exchange.DeclareOk())
            case Queue.Declare():
                self._last_declared = self._broker.declare(self, value)
                self._say(Queue.DeclareOk(self._last_declared, 0, 0))
            case Queue.Bind():
                self._broker.bind(value.exchange, value.routing_key, value.queue or self._last_declared)
                self._say(Queue.BindOk())
            case Basic.Qos():
                self._prefetch = value.prefetch_count
                self._say(Basic.QosOk())
            case Basic.Consume():
                self._say(Basic.ConsumeOk(value.consumer_tag))
                queue = value.queue or self._last_declared
                self._broker.consume(self, queue, value.consumer_tag, value.no_ack)
            case Credit():
                # What is given out is on its way already.
                self._say(CreditOk())
            case Basic.Cancel():
                self._broker.cancel(self, value.consumer_tag)
                self._say(Basic.CancelOk(value.consumer_tag))
            case Basic.Ack():
                self._release(value.delivery_tag)
            case Basic.Reject():
                kept, message = self._release(value.delivery_tag)
                self._broker.bury(kept, message, "rejected")
            case Basic.Publish():
                self._method = value
            case header.ContentHeader():
                self._head, self._pieces = value, b""
                self._publish()
            case body.ContentBody():
                self._pieces += value.value
                self._publish()
            case Confirm.Select():
                self._published = 0
                self._say(Confirm.SelectOk())

    def _release(self, tag: Any) -> tuple[Kept, Message]:
        if tag not in self.unacknowledged:
            self._say(Channel.Close(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}", 60, 80))
            raise OSError("a client that is wrong")
        kept, message = self.unacknowledged.pop(tag)
        self._broker.give_out(kept)
        return kept, message

    def _publish(self) -> None:
        """Route what has come as a whole."""
        if len(self._pieces) < self._head.body_size:
            return
        method = self._method
        message = Message(method.exchange, method.routing_key, self._head.properties, self._pieces)
        if not self._broker.publish(message) and method.mandatory:
            self._say(message.said_by(Basic.Return(312, "NO_ROUTE", message.exchange, message.key)))
        if self._published is not None:
            self._published += 1
            self._say(Basic.Ack(self._published))
