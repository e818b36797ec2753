"""The forms in which `call` takes requests and writes responses: bytes, text, JSON, or JSON through a codec.

The client of the command line (`client`) moves parts as they are.  A form turns what the user
gave into the parts of a request, and the parts of a response into what the user sees.  So a
response that cannot be shown in its form is not lost: `call` writes it as it came.
"""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from ratchet.bus import Codec, codecs
from ratchet.bus._processes import names
from ratchet.bus.codecs import PeerAddress, decoder, encoder, required_arguments
from ratchet.cli.common import Failure, cannot_load
from ratchet.errors import Outcome

__all__ = ["CODEC_NAMES", "Form", "FormError", "Response", "form_of", "one_line", "parse_json"]

CODEC_NAMES: Final = ("json", "msgpack", "text")


class Response(NamedTuple):
    """A response as it came, and who sent it."""

    body: bytes
    attachments: list[bytes]
    address: PeerAddress


class FormError(Exception):
    """A request or a response does not fit its form.

    Attributes:
        code: `"bad_request"` or `"bad_response"`.
        outcome: whether the request ran, as that of a `BusError`.
        message: what is wrong with it.
    """

    def __init__(self, outcome: Outcome, message: str) -> None:
        super().__init__(message)
        self.code = "bad_request" if outcome is Outcome.NOT_SENT else "bad_response"
        self.outcome = outcome
        self.message = message


@dataclasses.dataclass(frozen=True)
class Form:
    """How a request is read, and a response is shown.

    Attributes:
        option: the option that asked for it.
        encode: what the user gave, to the parts of a request; raises `FormError`.
        show: a response, to what the user sees; raises `FormError`.
        takes_attachments: whether `show` has a use for those of a response.
    """

    option: str
    encode: Callable[[bytes], Sequence[bytes]]
    show: Callable[[Response], bytes]
    takes_attachments: bool = False


def form_of(codec: str | None, *, checked: bool, lines: bool) -> Form:
    """The form that the options of `call` ask for; blocks while a codec is imported.

    Args:
        codec: one of `CODEC_NAMES`, or MODULE:NAME; None for none.
        checked: whether requests and responses are JSON also without a codec.
        lines: whether each is JSON on one line.

    Raises `Failure`.
    """
    dump = one_line if lines else laid_out
    if codec is not None and (lines or codec != "text"):
        return _through(load_codec(codec), dump)
    if checked or lines:
        return _json("--ndjson" if lines else "--json", dump)
    return Form("", lambda data: [data], lambda response: response.body) if codec is None else _text()


def _json(option: str, dump: Callable[[object], bytes]) -> Form:
    """JSON which is checked, and sent as it was typed."""

    def encode(data: bytes) -> Sequence[bytes]:
        _parse_request(data)
        return [data]

    def show(response: Response) -> bytes:
        return _show(dump, lambda: parse_json(response.body))

    return Form(option, encode, show)


def _text() -> Form:
    def encode(data: bytes) -> Sequence[bytes]:
        try:
            data.decode()
        except UnicodeDecodeError as error:
            raise FormError(Outcome.NOT_SENT, f"the request is not text in UTF-8 ({error})") from error
        return [data]

    def show(response: Response) -> bytes:
        try:
            response.body.decode()
        except UnicodeDecodeError as error:
            raise FormError(Outcome.RAN, f"the response is not text in UTF-8 ({error})") from error
        return response.body

    return Form("--codec", encode, show)


def _through(codec: Codec[Any, Any], dump: Callable[[object], bytes]) -> Form:
    """JSON on the command line, and on the bus what a codec makes of it."""
    to_bus = encoder(codec.request_to_bus, "request_to_bus")
    from_bus = decoder(codec.response_from_bus, "response_from_bus")

    def encode(data: bytes) -> Sequence[bytes]:
        request = _parse_request(data)
        try:
            return to_bus(request)
        except Exception as error:
            raise FormError(
                Outcome.NOT_SENT, f"the codec cannot encode the request ({_described(error)})"
            ) from error

    def show(response: Response) -> bytes:
        try:
            value = from_bus([response.body, *response.attachments], response.address)
        except Exception as error:
            raise FormError(
                Outcome.RAN, f"the codec cannot decode the response ({_described(error)})"
            ) from error
        return _show(dump, lambda: value)

    return Form("--codec", encode, show, required_arguments(codec.response_from_bus) > 1)


def _parse_request(data: bytes) -> object:
    try:
        return parse_json(data)
    except ValueError as error:
        raise FormError(Outcome.NOT_SENT, f"the request is not JSON ({error})") from error


def _show(dump: Callable[[object], bytes], load: Callable[[], object]) -> bytes:
    try:
        return dump(load())
    except (ValueError, TypeError) as error:
        raise FormError(Outcome.RAN, f"the response is not JSON ({error})") from error


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def load_codec(name: str) -> Codec[Any, Any]:
    """Make or import the codec of such a name; blocks.  Raises `Failure`."""
    if name == "msgpack":
        try:
            return codecs.msgpack(object, object)
        except ImportError as error:
            raise Failure(str(error)) from error
    try:
        return names.named_codec(name)
    except names.LoadError as error:
        raise cannot_load(error) from error


def parse_json(data: bytes) -> object:
    """Decode JSON; raises `ValueError` for anything else, such as NaN or endless nesting."""
    try:
        value: object = json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return value


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not a JSON number")


def laid_out(value: object) -> bytes:
    """JSON over several lines; raises `ValueError` or `TypeError` for what cannot be JSON."""
    return _dumped(value, indent=2)


def one_line(value: object) -> bytes:
    """JSON on one line; raises `ValueError` or `TypeError` for what cannot be JSON."""
    return _dumped(value, separators=(",", ":"))


def _dumped(value: object, **layout: Any) -> bytes:
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain, **layout)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    # Half of a surrogate pair is not UTF-8, but may be written as its escape.
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: object) -> object:
    """Stand in for an object that JSON does not know: the `default` of `json.dumps`."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    # A `msgspec.Struct`.
    names = getattr(value, "__struct_fields__", None)
    if names is not None:
        return {name: getattr(value, name) for name in names}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return base64.b64encode(value).decode()
    if isinstance(value, (set, frozenset)):
        return list(value)
    return str(value)
