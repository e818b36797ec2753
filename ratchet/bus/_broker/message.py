"""Requests, answers, errors and cancels as messages of AMQP: the one place that knows their properties.

-   The body is the first part, and behind it the attachments.
-   `correlation_id` is the number of a request, which its answer bears too; `reply_to`, the queue of the
    answer.  A request without that is a cast.
-   `expiration` is how many milliseconds were left when a request was sent, in decimal.
-   `type` is "error" for the error in which a request ends, whose body is a JSON object.
-   The headers are `metadata`, a table of strings; `deadline`, when the time of a request is over, in
    milliseconds since 1970; and `parts`, the lengths of the attachments.

A cancel has the `correlation_id` and `reply_to` of its request, and nothing else.  What the broker
drops it sends to the client, with a header that says why: a dead letter.

What cannot be sent is refused by `TypeError` or `ValueError`; what came and is wrong, by
`ProtocolError`.  No clock and no codec is asked here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from ratchet.bus._broker.properties import Properties
from ratchet.bus._core.faults import (
    MAX_ERROR_TEXT,
    MAX_METADATA,
    ErrorTexts,
    Reason,
    encode_metadata,
    json_object,
)
from ratchet.errors import Outcome, ProtocolError

_ERROR: Final = "error"
_PERSISTENT: Final = 2
MAX_EXPIRATION: Final = 0xFFFFFFFF
"""Milliseconds of the longest `expiration` that a broker takes, which is 49 days."""
# Bytes of a name in a table; pamqp would cut longer ones.
_MAX_NAME: Final = 128
# How the broker writes that an answer is to go to a channel, and no queue.  It takes no dead letters, and
# whoever answers to one that is made up loses the link: the broker cannot read it.
_NO_QUEUE: Final = "amq.rabbitmq.reply-to"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request, or a cast, which has no `reply_to`.

    Attributes:
        parts: the body, and the attachments.
        correlation_id: its number at its client; may be empty in a cast.
        reply_to: the queue of the answer; empty for a cast.
        expiration: milliseconds that were left when it was sent, up to `MAX_EXPIRATION`; None for no
            deadline.
        deadline: when its time is over by the client's clock, in milliseconds since 1970.
        metadata: strings that go with it.
    """

    parts: Sequence[bytes]
    correlation_id: str = ""
    reply_to: str = ""
    expiration: int | None = None
    deadline: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)

    def remaining(self, now: float) -> float | None:
        """Seconds that are left at `now`, in seconds since 1970; None for no deadline.

        Never more than when it was sent, however wrong the clocks are.
        """
        left = [self.expiration] if self.expiration is not None else []
        if self.deadline is not None:
            left.append(self.deadline - round(now * 1000))
        return max(min(left), 0) / 1000 if left else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The answer to a request."""

    correlation_id: str
    parts: Sequence[bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The error in which a request ends; see `error_from_reason`."""

    correlation_id: str
    reason: int
    texts: ErrorTexts
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """A note that nobody waits for the answer to a request any more."""

    correlation_id: str
    reply_to: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A request that the broker has dropped.

    Attributes:
        correlation_id: its number.
        reason: why; `expired`, `rejected` or `delivery_limit`, by the arguments of the queue.
        delivered: whether a server ever had it; None if the broker does not say.
    """

    correlation_id: str
    reason: str
    delivered: bool | None


def request(message: Request) -> tuple[Properties, bytes]:
    """The properties and the body of a request or cast."""
    headers = _part_lengths(message.parts)
    if message.metadata:
        headers["metadata"] = _metadata(message.metadata)
    if message.deadline is not None:
        headers["deadline"] = message.deadline
    properties = Properties(
        headers=headers or None,
        delivery_mode=_PERSISTENT,
        correlation_id=message.correlation_id,
        reply_to=message.reply_to,
        expiration="" if message.expiration is None else str(message.expiration),
    )
    return properties, _joined(message.parts)


def answer(message: Answer) -> tuple[Properties, bytes]:
    """The properties and the body of an answer."""
    headers = _part_lengths(message.parts) or None
    return Properties(headers=headers, correlation_id=message.correlation_id), _joined(message.parts)


def failure(message: Failure) -> tuple[Properties, bytes]:
    """The properties and the body of an error; its texts are cut to what any receiver takes."""
    name, text, trace = message.texts
    members = {
        "reason": int(message.reason),
        "type": name[:MAX_ERROR_TEXT],
        "message": text[:MAX_ERROR_TEXT],
        "traceback": trace[-MAX_ERROR_TEXT:],
        "outcome": message.outcome,
    }
    body = json.dumps({name: value for name, value in members.items() if value is not None})
    return Properties(correlation_id=message.correlation_id, type=_ERROR), body.encode()


def cancel(message: Cancel) -> tuple[Properties, bytes]:
    """The properties and the body of a cancel."""
    return Properties(correlation_id=message.correlation_id, reply_to=message.reply_to), b""


def read_request(properties: Properties, body: bytes, max_parts: int) -> Request:
    """A request or cast that has come."""
    headers = properties.headers or {}
    if properties.reply_to and not properties.correlation_id:
        raise ProtocolError("a request that wants an answer must have a correlation_id")
    if properties.reply_to.startswith(_NO_QUEUE):
        raise ProtocolError(f"the reply_to must be the name of a queue, not {properties.reply_to[:40]!r}")
    return Request(
        parts=_read_parts(headers, body, max_parts),
        correlation_id=properties.correlation_id,
        reply_to=properties.reply_to,
        expiration=_read_expiration(properties.expiration),
        deadline=_read_deadline(headers),
        metadata=_read_metadata(headers),
    )


def read_reply(properties: Properties, body: bytes, max_parts: int) -> Answer | Failure | DeadLetter:
    """What has come for a client."""
    headers = properties.headers or {}
    correlation_id = properties.correlation_id
    if not correlation_id:
        raise ProtocolError("an answer must have a correlation_id")
    if "x-death" in headers:
        return _read_dead_letter(correlation_id, headers)
    if properties.type == _ERROR:
        return _read_failure(correlation_id, body)
    return Answer(correlation_id=correlation_id, parts=_read_parts(headers, body, max_parts))


def read_cancel(properties: Properties) -> Cancel:
    """A cancel that has come."""
    if not properties.correlation_id or not properties.reply_to:
        raise ProtocolError("a cancel must have a correlation_id and a reply_to")
    return Cancel(correlation_id=properties.correlation_id, reply_to=properties.reply_to)


def _joined(parts: Sequence[bytes]) -> bytes:
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _part_lengths(parts: Sequence[bytes]) -> dict[str, Any]:
    return {"parts": [len(part) for part in parts[1:]]} if len(parts) > 1 else {}


def _read_parts(headers: Mapping[str, Any], body: bytes, max_parts: int) -> list[bytes]:
    lengths = headers.get("parts")
    if lengths is None:
        return [body]
    if not isinstance(lengths, list) or not all(type(length) is int and length >= 0 for length in lengths):
        raise ProtocolError("the header 'parts' must be a list of lengths")
    if len(lengths) >= max_parts:
        raise ProtocolError(f"a message of {len(lengths) + 1} parts is over the limit of {max_parts}")
    start = len(body) - sum(lengths)
    if start < 0:
        raise ProtocolError(f"the attachments must fit into the body, which has {len(body)} bytes")
    parts = [body[:start]]
    for length in lengths:
        parts.append(body[start : start + length])
        start += length
    return parts


def _metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Metadata as a table; the same are refused as over a socket, and names that no table can hold."""
    encode_metadata(metadata)
    for name in metadata:
        if len(name.encode()) > _MAX_NAME:
            raise ValueError(f"a name in metadata must have at most {_MAX_NAME} bytes, not {name!r}")
    return dict(metadata)


def _read_metadata(headers: Mapping[str, Any]) -> dict[str, str]:
    metadata = headers.get("metadata")
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ProtocolError("the header 'metadata' must be a table of strings")
    size = sum(len(name) + len(text) for name, text in metadata.items())
    if size > MAX_METADATA:
        raise ProtocolError(f"metadata of {size} characters is over the limit of {MAX_METADATA}")
    return metadata


def _read_expiration(expiration: str) -> int | None:
    if not expiration:
        return None
    # As the broker reads it; an endless number would take long.
    if not expiration.isascii() or not expiration.isdigit() or len(expiration) > 10:
        raise ProtocolError(f"the expiration must be a number of milliseconds, not {expiration[:40]!r}")
    return int(expiration)


def _read_deadline(headers: Mapping[str, Any]) -> int | None:
    deadline = headers.get("deadline")
    if deadline is not None and type(deadline) is not int:
        raise ProtocolError(f"the header 'deadline' must be whole milliseconds, not {deadline!r:.40}")
    return deadline


def _read_failure(correlation_id: str, body: bytes) -> Failure:
    members = json_object(body, "an error")
    reason, outcome = members.get("reason", int(Reason.HANDLER_RAISED)), members.get("outcome")
    texts = tuple(members.get(name, "") for name in ("type", "message", "traceback"))
    if type(reason) is not int:
        raise ProtocolError(f"the reason of an error must be a number, not {reason!r:.40}")
    if not all(isinstance(text, str) for text in texts):
        raise ProtocolError("type, message and traceback of an error must be strings")
    if outcome is not None and outcome not in list(Outcome):
        raise ProtocolError(f"the outcome of an error must be one of the known, not {outcome!r:.40}")
    return Failure(
        correlation_id=correlation_id,
        reason=reason,
        texts=(texts[0], texts[1], texts[2]),
        outcome=None if outcome is None else Outcome(outcome),
    )


def _read_dead_letter(correlation_id: str, headers: Mapping[str, Any]) -> DeadLetter:
    deaths = headers["x-death"]
    # The latest comes first.
    latest = deaths[0] if isinstance(deaths, list) and deaths else None
    reason = latest.get("reason") if isinstance(latest, dict) else None
    if not isinstance(reason, str):
        raise ProtocolError("a dead letter must say its reason")
    return DeadLetter(correlation_id=correlation_id, reason=reason, delivered=_was_delivered(headers))


def _was_delivered(headers: Mapping[str, Any]) -> bool | None:
    # How often a server got it, which brokers before 4.3 do not keep in a dead letter, and how often it
    # came back from one.
    acquired, returned = headers.get("x-acquired-count"), headers.get("x-delivery-count")
    if any(type(count) is int and count > 0 for count in (acquired, returned)):
        return True
    return False if type(acquired) is int else None
