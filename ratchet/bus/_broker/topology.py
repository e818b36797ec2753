"""The exchanges and queues of a service: their names, their arguments, and the methods that declare them.

A client publishes a request to `REQUESTS` under a key that names the service and itself.  It lies in
the service's queue until a server takes it.  What the broker drops goes to `DEAD` under the same
key, by which it finds the reply queue of its client; a cast has no client, and goes to a queue
of its own, for people to look at.  Where requests are redelivered, it comes there by way of
`DEAD_REDELIVER`: so the client knows that a server may have had it.  Answers are published to the
reply queue itself.  `CONTROL` takes cancels to all servers of a service.

Each list of methods is to be sent in its order; the broker answers each.  Nothing here is sent.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from pamqp import base
from pamqp.commands import Basic, Exchange, Queue
from pamqp.common import FieldTable

Methods: TypeAlias = list[base.Frame]

REQUESTS: Final = "ratchet.requests"
DEAD: Final = "ratchet.dead"
DEAD_REDELIVER: Final = "ratchet.dead.redeliver"
CONTROL: Final = "ratchet.control"
# The exchange that leads to the queue which a key names; the broker always has it.
DEFAULT_EXCHANGE: Final = ""

# The tags of consumers, by which deliveries are told apart.
REQUESTS_TAG: Final = "requests"
CONTROL_TAG: Final = "control"
REPLIES_TAG: Final = "replies"

# In place of a client's name: nobody waits for an answer.
_CAST: Final = "cast"
# In a method about a queue: the one that this channel has declared last.
_LAST_DECLARED: Final = ""


def request_queue(service: str) -> str:
    """The queue from which servers take the requests."""
    return f"ratchet.{service}"


def dead_queue(service: str) -> str:
    """The queue of the casts that nobody ran."""
    return f"ratchet.dead.{service}"


def reply_queue(client: str) -> str:
    """The queue of a client's answers.

    A client takes a new name for each connection: the broker may still hold the queue of an earlier one.
    """
    return f"ratchet.reply.{client}"


def request_key(service: str, client: str) -> str:
    """The key of a request, which leads its dead letter to the client."""
    return f"{service}.{client}"


def cast_key(service: str) -> str:
    """The key of a cast."""
    return f"{service}.{_CAST}"


def exchanges() -> Methods:
    """Declare the exchanges, which all services share."""
    return [
        Exchange.Declare(exchange=REQUESTS, exchange_type="topic", durable=True),
        Exchange.Declare(exchange=DEAD, exchange_type="topic", durable=True),
        Exchange.Declare(exchange=CONTROL, exchange_type="direct", durable=True),
    ]


def request_arguments(max_queued: int, redeliver: int) -> FieldTable:
    """The arguments of a service's queue; all who declare it must say the same.

    Args:
        max_queued: how many requests it holds before the broker refuses more.
        redeliver: how often a request whose server died is given to another one.
    """
    return {
        "x-queue-type": "quorum",
        # Some brokers take 20 for granted, others no limit.
        "x-delivery-limit": redeliver,
        "x-dead-letter-exchange": DEAD_REDELIVER if redeliver else DEAD,
        "x-max-length": max_queued,
        "x-overflow": "reject-publish",
    }


def service_queues(service: str, max_queued: int, redeliver: int) -> Methods:
    """Declare the queues of a service, and have its requests and dead casts come there."""
    requests, dead = request_queue(service), dead_queue(service)
    arguments = request_arguments(max_queued, redeliver)
    again: Methods = [
        Exchange.Declare(exchange=DEAD_REDELIVER, exchange_type="topic", durable=True),
        Exchange.Bind(destination=DEAD, source=DEAD_REDELIVER, routing_key="#"),
    ]
    return [
        *(again if redeliver else ()),
        Queue.Declare(queue=requests, durable=True, arguments=arguments),
        Queue.Bind(queue=requests, exchange=REQUESTS, routing_key=f"{service}.*"),
        Queue.Declare(queue=dead, durable=True, arguments={"x-queue-type": "quorum"}),
        Queue.Bind(queue=dead, exchange=DEAD, routing_key=cast_key(service)),
    ]


def take_cancels(service: str) -> Methods:
    """Declare a server's queue of cancels, which the broker names, and consume it."""
    return [
        Queue.Declare(queue="", exclusive=True, auto_delete=True),
        Queue.Bind(queue=_LAST_DECLARED, exchange=CONTROL, routing_key=service),
        Basic.Consume(queue=_LAST_DECLARED, consumer_tag=CONTROL_TAG, no_ack=True),
    ]


def take_requests(service: str, prefetch: int) -> Methods:
    """Consume the requests of a service, so many at a time that are not acknowledged."""
    return [
        Basic.Qos(prefetch_count=prefetch),
        Basic.Consume(queue=request_queue(service), consumer_tag=REQUESTS_TAG),
    ]


def take_replies(client: str) -> Methods:
    """Declare a client's queue of answers, have its dead letters come there too, and consume it."""
    replies = reply_queue(client)
    return [
        Queue.Declare(queue=replies, exclusive=True, auto_delete=True),
        Queue.Bind(queue=replies, exchange=DEAD, routing_key=f"#.{client}"),
        Basic.Consume(queue=replies, consumer_tag=REPLIES_TAG, no_ack=True),
    ]
