"""Objects by name, MODULE:NAME, for processes that are started anew.

What is wrong with a name or with its module is told in one line that says what to do, and with
the traceback of the module's own code.
"""

from __future__ import annotations

import importlib
import os
import ssl
import sys
import traceback
from collections.abc import Callable, Sequence
from operator import attrgetter
from types import ModuleType
from typing import Any, Final

from ratchet.bus import codecs
from ratchet.bus._core.middleware import refuse_coroutine
from ratchet.bus._core.serving import wants_transaction
from ratchet.bus._transport.tls import check_context
from ratchet.bus.codecs import Codec

Handler = Callable[..., Any]

CODECS: Final[dict[str, Codec[Any, Any]]] = {"text": codecs.text, "json": codecs.json}
"""Those of `ratchet.bus.codecs` that are codecs, and not functions that make one."""

# Characters of each text that is told to another process: two such texts, with twelve bytes for a
# character at worst, are one message.
_MOST_TEXT: Final = 5_000


class LoadError(ImportError):
    """Something cannot be imported by its name, or is not what it should be.

    Attributes:
        trace: the traceback of the module's own code, for people; empty if that was not reached.
    """

    def __init__(self, text: str, trace: str = "") -> None:
        super().__init__(text)
        self.trace = trace
        if trace:
            self.add_note(trace)

    def to_message(self) -> dict[str, str]:
        """As it is told to another process."""
        # So that it fits into one message.
        return {"kind": "failed", "text": str(self)[-_MOST_TEXT:], "trace": self.trace[-_MOST_TEXT:]}


def is_name(text: str) -> bool:
    """Whether a text has the form MODULE:NAME."""
    module, _, attribute = text.partition(":")
    return all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def check_name(name: object, what: str) -> str:
    """Refuse what cannot be a name, in the call that passed it; raises `TypeError` or `ValueError`."""
    if not isinstance(name, str):
        raise TypeError(
            f'{what} must be a name, "module:name", not {name!r}: each process imports it for itself'
        )
    if not is_name(name):
        raise ValueError(f'{what} must be a name such as "shop.prices:{what}", not {name!r}')
    if name.startswith("__main__:"):
        raise ValueError(
            f"{what} must be in a module that other processes can import, not {name!r}:"
            " there, __main__ is another program"
        )
    return name


def check_codec_name(name: object) -> str:
    """Refuse what cannot be the name of a codec; raises `TypeError` or `ValueError`."""
    if isinstance(name, Codec):
        known = ", ".join(map(repr, CODECS))
        raise TypeError(f'codec must be {known} or a name, "module:name", not {name!r}')
    return name if isinstance(name, str) and name in CODECS else check_name(name, "codec")


def load_handler(name: str) -> Handler:
    """Import the handler of a server, and refuse what `serve` would refuse.  Raises `LoadError`."""
    handler: Handler = load(name, "MODULE:HANDLER")
    if not callable(handler):
        raise LoadError(f"{name} cannot be called; name a function")
    try:
        refuse_coroutine(handler, name)
    except TypeError as error:
        raise LoadError(f"{name} is an async function; write a plain one, which may block") from error
    try:
        wants_transaction(handler)
    except TypeError as error:
        raise LoadError(
            f"{name} must take the request, or the request and the transaction; give the rest defaults"
        ) from error
    return handler


def load_codec(name: str | None) -> Codec[Any, Any] | None:
    """The codec of that name; None for none.  Raises `LoadError`."""
    return None if name is None else named_codec(name)


def named_codec(name: str) -> Codec[Any, Any]:
    """The codec of that name.  Raises `LoadError`."""
    codec = CODECS[name] if name in CODECS else load(name)
    if not isinstance(codec, Codec):
        raise LoadError(f"{name} is not a codec; name a ratchet.bus.Codec")
    return codec


def load_context(name: str | None, arguments: Sequence[object] = ()) -> ssl.SSLContext | None:
    """The TLS context of that name, or what the function of that name makes; None for none.

    Raises `LoadError`.
    """
    if name is None:
        return None
    made = load(name)
    if callable(made):
        try:
            made = made(*arguments)
        except Exception as error:
            raise LoadError(f"{name} failed: {_text_of(error)}", _trace(error)) from error
    try:
        check_context(made, server_side=True)
    except (TypeError, ValueError) as error:
        raise LoadError(f"{name} cannot be used: {error}") from error
    context: ssl.SSLContext | None = made
    return context


def load(name: str, form: str = "MODULE:NAME") -> Any:
    """Import what a name stands for; blocks.  Raises `LoadError`.

    Args:
        name: MODULE:NAME.
        form: how the user was told to write it, for texts.
    """
    module, _, attribute = name.partition(":")
    imported = _imported(module)
    try:
        return attrgetter(attribute)(imported)
    except AttributeError as error:
        raise LoadError(f"the module {module} has no {attribute}; check {form}") from error
    except Exception as error:
        # Of a `__getattr__` of the module's own.
        text = f"cannot take {attribute} from {module}: {_text_of(error)}; fix what the traceback shows"
        raise LoadError(text, _trace(error)) from error


def _imported(name: str) -> ModuleType:
    """Import a module of the user's, also from the current folder."""
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing is not None and f"{name}.".startswith(f"{missing}."):
            raise LoadError(f"there is no module {missing}, here or installed; check its name") from error
        text = f"cannot import {name}: {_text_of(error)}; fix what the traceback shows"
        raise LoadError(text, _trace(error)) from error


def _text_of(error: BaseException) -> str:
    """An error in one line, or its type alone if it cannot be shown."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:
        return type(error).__name__


def _trace(error: BaseException) -> str:
    """The traceback of an error, from the user's own code on."""
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_globals.get("__name__")):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def _is_machinery(module: str | None) -> bool:
    """Whether a frame of this module stands before the user's own in a failed import."""
    return module is not None and module.partition(".")[0] in ("ratchet", "importlib")
