"""What the tests let `ratchet serve` serve, by the name of this module."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ratchet import thread
from ratchet.bus import Codec, ServerTransaction, codecs

NOT_CALLABLE = "text"
_meeting = threading.Barrier(2)


def echo(request: bytes) -> bytes:
    return request


def only_a_request(request: bytes) -> bytes:
    if request != b"a request":
        raise ValueError(request)
    return b""


def fail(request: bytes) -> bytes:
    raise LookupError(f"no such thing:\n{request!r}")


def peer(request: bytes, transaction: ServerTransaction[bytes, bytes]) -> bytes:
    return repr(transaction.from_).encode()


def item_of(request: dict[str, Any]) -> Any:
    return request["item"]


def answer_to_bus(response: Any) -> Any:
    return codecs.json.response_to_bus({"answer": response})


items = Codec[Any, Any](
    request_to_bus=codecs.json.request_to_bus,
    request_from_bus=codecs.json.request_from_bus,
    response_to_bus=answer_to_bus,
    response_from_bus=codecs.json.response_from_bus,
)


def meet(request: bytes) -> bytes:
    """Returns when another request is handled at the same time."""
    _meeting.wait(10)
    return b"met"


def wait_for_file(request: bytes) -> bytes:
    """Says by one file that it has begun, and returns when there is another."""
    Path(request.decode() + ".begun").touch()
    while not Path(request.decode()).exists():
        time.sleep(0.01)
    return b"finished"


def leave_it_to_a_thread(request: bytes) -> bytes:
    """Returns at once, and a thread goes on."""
    thread.attach(wait_for_file, request)
    return b"begun"


def die_in_a_thread(request: bytes) -> bytes:
    thread.attach(fail, request)
    return b"begun"


async def asynchronous(request: bytes) -> bytes:
    return request


def greedy(request: bytes, transaction: object, more: object) -> bytes:
    return request


def modest() -> bytes:
    return b"nothing"


def keen(request: bytes, *, more: object) -> bytes:
    return request


def divide_100(divisor: int) -> int:
    """A few take a while, so that the answers come in another order than the requests."""
    time.sleep(0.05 if divisor % 2 else 0)
    return 100 // divisor


@dataclass
class Letter:
    """A response that JSON does not know."""

    body: bytes
    photos: list[bytes]
    stamps: frozenset[int] = frozenset({3})


def _letter_to_bus(request: list[str]) -> tuple[bytes, list[bytes]]:
    text, *photos = request
    return text.encode(), [photo.encode() for photo in photos]


def _letter_from_bus(body: bytes, photos: list[bytes]) -> Letter:
    if not body:
        raise ValueError("an empty letter")
    return Letter(body, photos)


letters: Codec[Any, Any] = Codec(_letter_to_bus, _letter_from_bus, _letter_to_bus, _letter_from_bus)
records: Codec[Any, Any] = codecs.msgpack(dict[str, int], dict[str, int])


class Shop:
    """A handler may be an attribute of something in the module."""

    @staticmethod
    def price(request: str) -> str:
        return request + ": 3.50"
