"""Codecs, which turn objects into bytes and back, and the way a bus calls them.

Codecs run in the thread that made the call, never in the hub, so they may block.
Nothing here ever unpickles.

A function that sends (`request_to_bus`, `response_to_bus`) takes an object and
returns `bytes`, or `(bytes, [attachment, ...])`.  A function that receives
(`request_from_bus`, `response_from_bus`) takes the first part and returns an
object; one that *requires* two positional arguments is also given the list of
attachments, one that requires three also the peer's address.
"""

from __future__ import annotations

import inspect
import json as _json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ratchet._log import safe_repr

__all__ = ["Codec", "PeerAddress", "json", "msgpack", "text"]


def __dir__() -> list[str]:
    return __all__


Request = TypeVar("Request")
Response = TypeVar("Response")
Object = TypeVar("Object")

PeerAddress = tuple[str, int] | str | None
"""A peer as users write it: `(host, port)`, or `"unix:/path"`; a local bus has none."""

ToBus = Callable[[Object], "bytes | tuple[bytes, Sequence[bytes]]"]
FromBus = Callable[..., Object]
Encode = Callable[[Object], Sequence[bytes]]
"""A `ToBus` as a bus calls it: an object to checked parts."""
Decode = Callable[[Sequence[bytes], PeerAddress], Object]
"""A `FromBus` as a bus calls it: parts and the peer's address to an object."""


@dataclass(frozen=True)
class Codec(Generic[Request, Response]):
    """All four functions in one, so that both sides of a bus are given the same object.

    What they take and return is said in `ratchet.bus.codecs`.

    Args:
        request_to_bus: the client's: a request to bytes.
        request_from_bus: the server's: bytes to a request.
        response_to_bus: the server's: a response to bytes.
        response_from_bus: the client's: bytes to a response.

    Raises `TypeError` for one that cannot be called.

    .. code-block:: python

        from ratchet import Ratchet, bus

        def letter_to_bus(letter):
            text, photos = letter
            return text.encode(), photos

        def letter_from_bus(body, attachments):
            return body.decode(), attachments

        codec = bus.Codec(letter_to_bus, letter_from_bus, str.encode, bytes.decode)
        with Ratchet() as kernel, bus.listen("127.0.0.1:0", codec=codec) as server:
            kernel.attach_background(server.serve, repr)
            with bus.connect(server.address, codec=codec) as client:
                print(client.call(("see the photo", [b"a photo"]), timeout=5))

    .. code-block:: text

        ('see the photo', [b'a photo'])
    """

    request_to_bus: ToBus[Request]
    request_from_bus: FromBus[Request]
    response_to_bus: ToBus[Response]
    response_from_bus: FromBus[Response]

    def __post_init__(self) -> None:
        for name, function in vars(self).items():
            check_callable(function, name)


def check_callable(function: object, name: str) -> None:
    """Refuse what cannot be called, in the call that passed it."""
    if not callable(function):
        raise TypeError(f"{name} must be a callable, not {function!r}")


_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def parameters_of(function: Callable[..., object]) -> list[inspect.Parameter]:
    """The parameters of a function; a single one for a built-in that does not tell."""
    try:
        return list(inspect.signature(function).parameters.values())
    except ValueError:
        return [inspect.Parameter("value", inspect.Parameter.POSITIONAL_ONLY)]


def required_arguments(function: Callable[..., object]) -> int:
    """Count the positional arguments that a function cannot be called without."""
    return sum(
        parameter.kind in _POSITIONAL and parameter.default is inspect.Parameter.empty
        for parameter in parameters_of(function)
    )


def required_keywords(function: Callable[..., object]) -> list[str]:
    """The names of the keyword arguments that a function cannot be called without."""
    return [
        parameter.name
        for parameter in parameters_of(function)
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default is inspect.Parameter.empty
    ]


def takes_an_argument(function: Callable[..., object]) -> bool:
    """Whether a function can be called with one positional argument, required or not."""
    return any(
        parameter.kind in _POSITIONAL or parameter.kind is inspect.Parameter.VAR_POSITIONAL
        for parameter in parameters_of(function)
    )


def _check_function(function: object, name: str) -> None:
    if isinstance(function, Codec):
        raise TypeError(f"{name} must be a callable, not a codec; write codec={_name_of(function)}")
    check_callable(function, name)


def _name_of(codec: object) -> str:
    known = {"text": text, "json": json}
    return next((f"codecs.{name}" for name, value in known.items() if value is codec), "...")


def encoder(to_bus: ToBus[Object] | None, name: str) -> Encode[Object]:
    """Wrap a function that sends, so that it returns checked parts; None is for bytes as they are."""
    if to_bus is None:
        return parts_of  # type: ignore[return-value]
    _check_function(to_bus, name)

    def encode(value: Object) -> Sequence[bytes]:
        result = to_bus(value)
        if isinstance(result, bytes):
            return parts_of(result)
        if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], (list, tuple)):
            raise TypeError(
                f"{name} must return bytes or (bytes, [attachment, ...]), not {safe_repr(result)}"
            )
        return [checked_bytes(part, f"each part that {name} returns") for part in (result[0], *result[1])]

    return encode


def decoder(from_bus: FromBus[Object] | None, name: str) -> Decode[Object]:
    """Wrap a function that receives, so that it is called with as much as it requires."""
    if from_bus is None:
        return body_of  # type: ignore[return-value]
    _check_function(from_bus, name)
    required = required_arguments(from_bus)
    if required == 2:
        return lambda parts, address: from_bus(body_of(parts), list(parts[1:]))
    if required == 3:
        return lambda parts, address: from_bus(body_of(parts), list(parts[1:]), address)
    if required > 3:
        raise TypeError(f"{name} must take the body, the attachments and the address at most: {from_bus!r}")
    return lambda parts, address: from_bus(body_of(parts))


def server_functions(
    request_from_bus: FromBus[Request] | None,
    response_to_bus: ToBus[Response] | None,
    codec: Codec[Request, Response] | None,
) -> tuple[Decode[Request], Encode[Response]]:
    """Make the functions that the server's side of a bus calls, from what its maker was given."""
    if codec is not None:
        _check_codec(codec, request_from_bus, response_to_bus)
        request_from_bus, response_to_bus = codec.request_from_bus, codec.response_to_bus
    return decoder(request_from_bus, "request_from_bus"), encoder(response_to_bus, "response_to_bus")


def client_functions(
    request_to_bus: ToBus[Request] | None,
    response_from_bus: FromBus[Response] | None,
    codec: Codec[Request, Response] | None,
) -> tuple[Encode[Request], Decode[Response]]:
    """Make the functions that the client's side of a bus calls, from what its maker was given."""
    if codec is not None:
        _check_codec(codec, request_to_bus, response_from_bus)
        request_to_bus, response_from_bus = codec.request_to_bus, codec.response_from_bus
    return encoder(request_to_bus, "request_to_bus"), decoder(response_from_bus, "response_from_bus")


def _check_codec(codec: object, *functions: object) -> None:
    if not isinstance(codec, Codec):
        raise TypeError(f"codec must be a Codec, not {codec!r}")
    if any(function is not None for function in functions):
        raise TypeError("codec excludes the two positional functions; give one or the other")


def checked_bytes(value: object, what: str) -> bytes:
    """Refuse what is not `bytes`; of a subclass, what is in it, whatever its own methods say."""
    if not isinstance(value, bytes):
        raise TypeError(f"{what} must be bytes, not {safe_repr(value)}")
    return value if type(value) is bytes else memoryview(value).tobytes()


def parts_of(body: bytes) -> Sequence[bytes]:
    """The parts of a message without attachments.  As an `Encode`, bytes as they are."""
    return [body if type(body) is bytes else checked_bytes(body, "a message without a codec")]


def body_of(parts: Sequence[bytes], address: PeerAddress = None) -> bytes:
    """The first part; a message of no parts is an empty body.  As a `Decode`, bytes as they are."""
    return parts[0] if parts else b""


def _dump_json(value: object) -> bytes:
    return _json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()


def _dump_text(value: str) -> bytes:
    if not isinstance(value, str):
        raise TypeError(f"the text codec takes a str, not {value!r}")
    return value.encode()


def _load_text(body: bytes) -> str:
    return body.decode()


text: Codec[str, str] = Codec(_dump_text, _load_text, _dump_text, _load_text)
"""Strings, as UTF-8."""

json: Codec[Any, Any] = Codec(_dump_json, _json.loads, _dump_json, _json.loads)
"""Anything that JSON can express: None, numbers, strings, lists, dicts of them.

What it cannot say, NaN included, raises `TypeError` or `ValueError` at the call.
"""


def msgpack(request_type: type[Request], response_type: type[Response]) -> Codec[Request, Response]:
    """Typed messages, as MessagePack, made by msgspec.

    A message of another type is refused by the side that receives it: the client
    gets `RemoteError` for a request, and `msgspec.ValidationError` for a response.

    Args:
        request_type: any type that msgspec knows: a builtin, a dataclass, a
            `msgspec.Struct`.
        response_type: the same.

    Raises `ImportError` if msgspec, the extra `msgpack`, is not installed.

    .. code-block:: python

        from typing import NamedTuple

        from ratchet import Ratchet, bus
        from ratchet.bus import codecs

        class Point(NamedTuple):
            x: float
            y: float

        codec = codecs.msgpack(Point, str)
        with Ratchet() as kernel, bus.listen("127.0.0.1:0", codec=codec) as server:
            kernel.attach_background(server.serve, repr)
            with bus.connect(server.address, codec=codec) as client:
                print(client.call(Point(3, 4), timeout=5))

    .. code-block:: text

        Point(x=3.0, y=4.0)
    """
    try:
        import msgspec
    except ImportError as error:
        raise ImportError("codecs.msgpack needs msgspec: install gevent-ratchet[msgpack]") from error
    encode = msgspec.msgpack.Encoder().encode
    return Codec(
        encode,
        msgspec.msgpack.Decoder(request_type).decode,
        encode,
        msgspec.msgpack.Decoder(response_type).decode,
    )
