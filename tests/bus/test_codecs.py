"""Codecs: how objects become bytes, and with what a bus calls the functions."""

from __future__ import annotations

import dataclasses
import functools
import operator
import sys
from collections import namedtuple
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from ratchet.bus import codecs
from ratchet.bus.codecs import (
    Codec,
    Encode,
    client_functions,
    decoder,
    encoder,
    required_arguments,
    server_functions,
)

ADDRESS = ("127.0.0.1", 4321)
FUNCTIONS = ["request_to_bus", "request_from_bus", "response_to_bus", "response_from_bus"]
NO_CALLABLES: list[Any] = [7, "json", b"", None, ["a list"]]


def to_bus(value: object) -> bytes:
    return repr(value).encode()


def from_bus(body: bytes) -> bytes:
    return body


# Codec


def test_a_codec_holds_the_four_functions_by_their_names() -> None:
    codec = Codec(to_bus, from_bus, str.encode, bytes.decode)
    assert [getattr(codec, name) for name in FUNCTIONS] == [to_bus, from_bus, str.encode, bytes.decode]
    assert codec == Codec(
        response_from_bus=bytes.decode,
        response_to_bus=str.encode,
        request_from_bus=from_bus,
        request_to_bus=to_bus,
    )


def test_a_codec_does_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        codecs.json.request_to_bus = to_bus  # type: ignore[misc]


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("value", NO_CALLABLES)
def test_a_codec_refuses_what_is_not_callable_and_names_it(name: str, value: Any) -> None:
    functions: dict[str, Any] = {**dict.fromkeys(FUNCTIONS, to_bus), name: value}
    with pytest.raises(TypeError) as raised:
        Codec(**functions)
    assert str(raised.value) == f"{name} must be a callable, not {value!r}"


# The codecs that come with the library


def through(codec: Codec[Any, Any], value: object) -> list[object]:
    """What comes out at the other side, as a request and as a response."""
    client_encode, client_decode = client_functions(None, None, codec)
    server_decode, server_encode = server_functions(None, None, codec)
    request, response = client_encode(value), server_encode(value)
    assert [type(part) for part in (*request, *response)] == [bytes, bytes]
    return [server_decode(request, ADDRESS), client_decode(response, ADDRESS)]


@pytest.mark.parametrize("value", ["", "text", "snowman \u2603 \U0001f600", "a\0b\n"])
def test_text_comes_back_as_it_was(value: str) -> None:
    assert through(codecs.text, value) == [value, value]
    assert codecs.text.request_to_bus(value) == value.encode("utf-8")


@pytest.mark.parametrize("value", [b"bytes", None, 7, ["text"]])
def test_the_text_codec_refuses_what_is_no_text(value: Any) -> None:
    with pytest.raises(TypeError) as raised:
        codecs.text.request_to_bus(value)
    assert repr(value) in str(raised.value)
    with pytest.raises(TypeError):
        codecs.text.response_to_bus(value)


def test_the_text_codec_refuses_bytes_that_are_no_utf_8() -> None:
    with pytest.raises(UnicodeDecodeError):
        codecs.text.request_from_bus(b"\xff")
    with pytest.raises(UnicodeEncodeError):
        codecs.text.request_to_bus("\ud800")


@pytest.mark.parametrize(
    "value", [None, True, False, 0, -1.5, "", "\u2603", [], {}, {"a": [1, None, {"b": ""}]}, 10**30]
)
def test_json_comes_back_as_it_was(value: object) -> None:
    assert through(codecs.json, value) == [value, value]


def test_json_is_compact_utf_8() -> None:
    assert codecs.json.request_to_bus({"a": [1, "\u2603"]}) == '{"a":[1,"\u2603"]}'.encode()


@pytest.mark.parametrize("value", [b"bytes", {1, 2}, object(), {"a": b"b"}])
def test_json_refuses_what_it_cannot_say(value: object) -> None:
    with pytest.raises(TypeError):
        codecs.json.request_to_bus(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [float("-inf")]])
def test_json_refuses_numbers_that_are_none(value: object) -> None:
    with pytest.raises(ValueError):
        codecs.json.response_to_bus(value)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"1 2"])
def test_what_is_no_json_is_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        codecs.json.request_from_bus(body)


@dataclasses.dataclass
class Question:
    text: str
    weight: float = 1.0


@dataclasses.dataclass
class Answer:
    words: list[str]


def test_msgpack_gives_typed_messages() -> None:
    pytest.importorskip("msgspec")
    codec = codecs.msgpack(Question, Answer)
    client_encode, client_decode = client_functions(None, None, codec)
    server_decode, server_encode = server_functions(None, None, codec)
    assert server_decode(client_encode(Question("why", 2.5)), ADDRESS) == Question("why", 2.5)
    assert client_decode(server_encode(Answer(["so", ""])), ADDRESS) == Answer(["so", ""])


@pytest.mark.parametrize("value", [None, 0, b"", b"\0\xff", "text", [1, "a", None], {"a": b"b"}])
def test_msgpack_takes_builtin_types(value: object) -> None:
    pytest.importorskip("msgspec")
    assert through(codecs.msgpack(object, object), value) == [value, value]


def test_msgpack_validates_what_it_receives() -> None:
    msgspec = pytest.importorskip("msgspec")
    codec = codecs.msgpack(Question, int)
    for wrong in ({"text": 7}, {"weight": 1.0}, ["why"], {"text": "why", "weight": "heavy"}):
        with pytest.raises(msgspec.ValidationError):
            codec.request_from_bus(msgspec.msgpack.encode(wrong))
    with pytest.raises(msgspec.ValidationError):
        codec.response_from_bus(msgspec.msgpack.encode("7"))
    with pytest.raises(msgspec.DecodeError):
        codec.request_from_bus(b"\xc1")


def test_without_msgspec_msgpack_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "msgspec", None)
    with pytest.raises(ImportError, match=r"needs msgspec: install gevent-ratchet\[msgpack\]"):
        codecs.msgpack(int, int)


# What a function that sends may return


def test_without_a_function_bytes_are_sent_as_they_are() -> None:
    body = b"body"
    encode: Encode[bytes] = encoder(None, "request_to_bus")
    assert list(encode(body)) == [body]
    assert list(encode(b"")) == [b""]


@pytest.mark.parametrize("value", ["text", None, 0, bytearray(b"x"), memoryview(b"x"), [b"x"], (b"x", [])])
def test_without_a_function_anything_but_bytes_is_a_type_error_that_shows_it(value: object) -> None:
    encode: Encode[object] = encoder(None, "request_to_bus")
    with pytest.raises(TypeError) as raised:
        encode(value)
    assert str(raised.value) == f"a message without a codec must be bytes, not {value!r}"


class Body(bytes):
    """Bytes of a type of its own."""


Result = namedtuple("Result", "body attachments")


@pytest.mark.parametrize(
    ("result", "parts"),
    [
        (b"body", [b"body"]),
        (b"", [b""]),
        ((b"body", []), [b"body"]),
        ((b"body", [b"one", b""]), [b"body", b"one", b""]),
        ((b"body", (b"one",)), [b"body", b"one"]),
        (Body(b"body"), [b"body"]),
        ((Body(b"body"), [Body(b"one")]), [b"body", b"one"]),
        (Result(b"body", [b"one"]), [b"body", b"one"]),
    ],
)
def test_a_function_that_sends_returns_bytes_or_bytes_and_attachments(
    result: Any, parts: list[bytes]
) -> None:
    given = []

    def to_bus(value: object) -> Any:
        given.append(value)
        return result

    assert list(encoder(to_bus, "request_to_bus")("value")) == parts
    assert given == ["value"]


@pytest.mark.parametrize(
    "result",
    [
        None,
        "text",
        7,
        bytearray(b"x"),
        memoryview(b"x"),
        [b"x"],
        (),
        (b"x",),
        (b"x", b"y"),
        (b"x", None),
        (b"x", "y"),
        (b"x", [], []),
        (b"x", {b"y"}),
        (b"x", {b"y": b"z"}),
        (b"x", iter([b"y"])),
    ],
)
def test_any_other_result_is_a_type_error_that_names_the_function_and_shows_it(result: Any) -> None:
    with pytest.raises(TypeError) as raised:
        encoder(lambda value: result, "response_to_bus")("value")
    assert str(raised.value) == (
        f"response_to_bus must return bytes or (bytes, [attachment, ...]), not {result!r}"
    )


@pytest.mark.parametrize(
    ("result", "wrong"),
    [((None, []), None), (("x", [b"y"]), "x"), ((b"x", [b"y", "z"]), "z"), ((b"x", [None]), None)],
)
def test_a_part_that_is_not_bytes_is_a_type_error_that_shows_it(result: Any, wrong: object) -> None:
    with pytest.raises(TypeError) as raised:
        encoder(lambda value: result, "response_to_bus")("value")
    assert str(raised.value) == f"each part that response_to_bus returns must be bytes, not {wrong!r}"


def test_an_error_of_a_function_comes_out_as_it_is() -> None:
    error = LookupError("of the user's own")

    def fail(*arguments: object) -> Any:
        raise error

    with pytest.raises(LookupError) as raised:
        encoder(fail, "request_to_bus")("value")
    assert raised.value is error
    with pytest.raises(LookupError) as raised:
        decoder(fail, "request_from_bus")([b"body"], ADDRESS)
    assert raised.value is error


@pytest.mark.parametrize("value", [value for value in NO_CALLABLES if value is not None])
def test_what_is_not_callable_is_refused_at_once_and_named(value: Any) -> None:
    for wrap in (encoder, decoder):
        with pytest.raises(TypeError) as raised:
            wrap(value, "a_function")
        assert str(raised.value) == f"a_function must be a callable, not {value!r}"


# With what a function that receives is called

PARTS = [b"body", b"one", b""]


def received(function: Callable[..., Any], parts: Sequence[bytes] = PARTS) -> Any:
    return decoder(function, "request_from_bus")(parts, ADDRESS)


@pytest.mark.parametrize("parts", [[b"body"], [b"body", b"one"], (b"body",)])
def test_without_a_function_the_body_is_received_as_it_is(parts: Sequence[bytes]) -> None:
    assert decoder(None, "request_from_bus")(parts, ADDRESS) == b"body"


def test_a_message_of_no_parts_is_an_empty_body_without_attachments() -> None:
    assert decoder(None, "request_from_bus")([], ADDRESS) == b""
    assert received(lambda body: [body], []) == [b""]
    assert received(lambda body, attachments: [body, attachments], []) == [b"", []]


def test_a_function_that_requires_one_argument_is_given_the_body() -> None:
    assert received(lambda body: (body,)) == (b"body",)


def test_a_function_that_requires_two_arguments_is_given_the_attachments_too() -> None:
    assert received(lambda body, attachments: (body, attachments)) == (b"body", [b"one", b""])
    assert received(lambda body, attachments: attachments, [b"body"]) == []


def test_a_function_that_requires_three_arguments_is_given_the_address_too() -> None:
    assert received(lambda body, attachments, address: (body, attachments, address)) == (
        b"body",
        [b"one", b""],
        ADDRESS,
    )


def test_the_attachments_are_a_list_of_the_function_s_own() -> None:
    parts = tuple(PARTS)
    attachments = received(lambda body, attachments: attachments, parts)
    assert type(attachments) is list
    attachments.clear()
    assert type(received(lambda body, attachments, address: attachments, parts)) is list
    assert received(lambda body, attachments: attachments, parts) == [b"one", b""]


def test_more_than_three_required_arguments_are_refused_at_once() -> None:
    def four(body: bytes, attachments: list[bytes], address: object, more: object) -> None:
        raise AssertionError("it is never called")

    with pytest.raises(TypeError, match="request_from_bus must take") as raised:
        decoder(four, "request_from_bus")
    assert repr(four) in str(raised.value)


def with_default(body: bytes, attachments: object = None, address: object = None) -> object:
    return body, attachments, address


def one_of_two_with_default(body: bytes, attachments: object, address: object = None) -> object:
    return body, attachments, address


def with_any_number(*arguments: object, **named: object) -> object:
    return arguments, named


def two_and_any_number(body: bytes, attachments: object, *more: object) -> object:
    return body, attachments, more


def named_only(body: bytes, *, attachments: object = None) -> object:
    return body, attachments


def positional_only(body: bytes, attachments: object, /) -> object:
    return body, attachments


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (with_default, (b"body", None, None)),
        (one_of_two_with_default, (b"body", [b"one", b""], None)),
        (with_any_number, ((b"body",), {})),
        (two_and_any_number, (b"body", [b"one", b""], ())),
        (named_only, (b"body", None)),
        (positional_only, (b"body", [b"one", b""])),
    ],
)
def test_an_optional_argument_is_never_passed(function: Callable[..., object], result: object) -> None:
    assert received(function) == result


class Handler:
    """Methods and calls of every kind."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __call__(self, body: bytes, attachments: list[bytes]) -> object:
        return "called", body, attachments

    def one(self, body: bytes) -> object:
        return "one", body

    @classmethod
    def of_the_class(cls, body: bytes, attachments: list[bytes]) -> object:
        return cls.__name__, body, attachments

    @staticmethod
    def static(body: bytes, attachments: list[bytes], address: object) -> object:
        return "static", body, attachments, address


class Received:
    def __init__(self, body: bytes, attachments: list[bytes]) -> None:
        self.fields = (body, attachments)


def test_objects_methods_and_classes_are_called_with_what_they_require() -> None:
    handler = Handler()
    assert received(handler) == ("called", b"body", [b"one", b""])
    assert received(handler.one) == ("one", b"body")
    assert received(Handler.of_the_class) == ("Handler", b"body", [b"one", b""])
    assert received(handler.static) == ("static", b"body", [b"one", b""], ADDRESS)
    assert received(Received).fields == (b"body", [b"one", b""])
    assert received(Handler).arguments == (b"body",)


def test_a_partial_function_requires_what_is_left() -> None:
    assert received(functools.partial(with_any_number, "given")) == (("given", b"body"), {})
    assert received(functools.partial(positional_only, b"given")) == (b"given", b"body")


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (len, 4),
        (bytes.decode, "body"),
        (memoryview, memoryview(b"body")),
        (bytes, b"body"),
        (bytearray, bytearray(b"body")),
        (operator.itemgetter(0), ord("b")),
        (operator.methodcaller("upper"), b"BODY"),
        (b"-".join, b"b-o-d-y"),
    ],
)
def test_a_builtin_is_given_the_body(function: Callable[..., object], result: object) -> None:
    if function == b"-".join:
        assert received(function, [[b"b", b"o", b"d", b"y"]]) == result  # type: ignore[list-item]
    else:
        assert received(function) == result


def test_a_function_that_does_not_tell_its_arguments_is_given_the_body() -> None:
    class Silent:
        @property
        def __signature__(self) -> object:
            raise ValueError("no signature")

        def __call__(self, body: bytes) -> bytes:
            return body

    assert required_arguments(Silent()) == 1
    assert received(Silent()) == b"body"


# A codec instead of two functions


def test_each_side_of_a_bus_uses_its_two_functions_of_a_codec() -> None:
    codec: Codec[str, str] = Codec(
        lambda value: f"asked {value}".encode(),
        lambda body: f"request {body.decode()}",
        lambda value: f"answered {value}".encode(),
        lambda body: f"response {body.decode()}",
    )
    client_encode, client_decode = client_functions(None, None, codec)
    server_decode, server_encode = server_functions(None, None, codec)
    assert client_encode("x") == [b"asked x"]
    assert server_decode([b"x"], ADDRESS) == "request x"
    assert server_encode("x") == [b"answered x"]
    assert client_decode([b"x"], ADDRESS) == "response x"


def test_each_side_of_a_bus_uses_the_two_functions_that_it_is_given() -> None:
    client_encode, client_decode = client_functions(str.encode, bytes.decode, None)
    server_decode, server_encode = server_functions(bytes.decode, str.encode, None)
    assert client_encode("x") == server_encode("x") == [b"x"]
    assert client_decode([b"x"], ADDRESS) == server_decode([b"x"], ADDRESS) == "x"


def test_without_functions_both_sides_pass_bytes() -> None:
    nothing: Codec[bytes, bytes] | None = None
    client_encode, client_decode = client_functions(None, None, nothing)
    server_decode, server_encode = server_functions(None, None, nothing)
    assert client_encode(b"x") == server_encode(b"x") == [b"x"]
    assert client_decode([b"x"], ADDRESS) == server_decode([b"x"], ADDRESS) == b"x"


@pytest.mark.parametrize("functions", [(to_bus, None), (None, to_bus), (to_bus, to_bus)])
@pytest.mark.parametrize("side", [client_functions, server_functions])
def test_a_codec_excludes_the_two_functions(side: Callable[..., object], functions: tuple[Any, Any]) -> None:
    with pytest.raises(TypeError, match="codec excludes the two positional functions"):
        side(*functions, codecs.json)


@pytest.mark.parametrize("value", ["json", codecs, dict, 0, (to_bus, from_bus, to_bus, from_bus)])
@pytest.mark.parametrize("side", [client_functions, server_functions])
def test_what_is_no_codec_is_refused_and_named(side: Callable[..., object], value: object) -> None:
    with pytest.raises(TypeError) as raised:
        side(None, None, value)
    assert str(raised.value) == f"codec must be a Codec, not {value!r}"


@pytest.mark.parametrize(
    ("side", "names"),
    [
        (client_functions, ["request_to_bus", "response_from_bus"]),
        (server_functions, ["request_from_bus", "response_to_bus"]),
    ],
)
def test_a_function_that_is_refused_is_named(side: Callable[..., object], names: list[str]) -> None:
    with pytest.raises(TypeError, match=f"^{names[0]} must be a callable, not 7$"):
        side(7, None, None)
    with pytest.raises(TypeError, match=f"^{names[1]} must be a callable, not 7$"):
        side(None, 7, None)
