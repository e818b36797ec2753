"""Faults as every kind of bus tells them: reasons, texts and errors; and what may travel.

A failed request has a reason, and an error of the handler's its texts: on the way it
is no object.  `error_from_reason` makes an error of both at the client.  Metadata and
sizes are checked here, the same for every kind of bus.  It knows no bus.
"""

from __future__ import annotations

import enum
import json
import traceback
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ratchet.bus._core.address import Address, format_address
from ratchet.errors import (
    Abandoned,
    BusError,
    Cancelled,
    MessageTooLarge,
    Outcome,
    ProtocolError,
    Rejected,
    RemoteError,
)

MAX_METADATA: Final = 64 * 1024
# Bytes of one text of an error.  Text for people: more of it helps nobody.
MAX_ERROR_TEXT: Final = 32 * 1024


class Reason(enum.IntEnum):
    """Why a request failed.  Over a socket it is the `arg` of an ERROR message."""

    HANDLER_RAISED = 1
    OVERLOADED = 2
    DRAINING = 3
    OUT_OF_TIME = 4
    CANCELLED = 5
    ABANDONED = 6
    NOT_DECODED = 7
    TOO_LARGE = 8


LAST_WORDS: Final = (Reason.CANCELLED, Reason.OUT_OF_TIME, Reason.DRAINING, Reason.OVERLOADED)
"""A server gives these for a request that nobody waits for any more, too: they are no late answers."""

SERVER_DRAINS: Final = "the server is draining"
MADE_BEFORE_FORK: Final = "was made before fork(), by the parent process; the child has to make its own"
SENT_BEFORE_FORK: Final = "the request was sent before fork(), by the parent process"

ErrorTexts = tuple[str, str, str]
"""Type name, message, traceback."""


def error_name(error_type: type[BaseException]) -> str:
    """The bare name of an error's class, whatever its metaclass says."""
    name = type.__dict__["__name__"].__get__(error_type)
    return str.__str__(name)


def error_texts(error: BaseException) -> ErrorTexts:
    """An error as texts.  What cannot be rendered gets a stand-in; only Ctrl-C comes out."""
    name = error_name(type(error))
    try:
        # A subclass of str could still do anything when it is cut.
        message = str.__str__(error.message if isinstance(error, BusError) else str(error))
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        message = f"<the text of this {name} cannot be shown: {error_name(type(failure))}>"
    try:
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    except KeyboardInterrupt:
        raise
    except BaseException as failure:
        trace = f"<the traceback of this {name} cannot be shown: {error_name(type(failure))}>"
    # Of a long traceback, the end says most.
    return name, message[:MAX_ERROR_TEXT], trace[-MAX_ERROR_TEXT:]


def error_from_reason(
    reason: int, texts: ErrorTexts, peer: str = "", outcome: Outcome | None = None
) -> BusError:
    """The error that a client raises where its server, `peer`, has failed a request.

    The reason says whether the request ran, unless the server vouches for another `outcome`.
    """
    error = _error_from_reason(reason, texts, peer)
    if outcome is not None:
        error.outcome = outcome
    return error


def _error_from_reason(reason: int, texts: ErrorTexts, peer: str) -> BusError:
    message = f"{texts[1]} ({peer})" if peer else texts[1]
    match reason:
        case Reason.HANDLER_RAISED | Reason.NOT_DECODED:
            outcome = Outcome.RAN if reason == Reason.HANDLER_RAISED else Outcome.NOT_RUN
            error = RemoteError(*texts, outcome=outcome)
            if peer:
                # Its text is the handler's own.
                error.add_note(f"raised by the server at {peer}")
            return error
        case Reason.OVERLOADED | Reason.DRAINING | Reason.OUT_OF_TIME:
            return Rejected(message)
        case Reason.CANCELLED:
            return Cancelled(message)
        case Reason.ABANDONED:
            return Abandoned(message)
        case Reason.TOO_LARGE:
            return MessageTooLarge(message, outcome=Outcome.NOT_RUN)
        case _:
            return BusError(f"error {reason} of the server: {message}")


def check_size(parts: Sequence[bytes], max_message: int, max_parts: int, peer: Address | None = None) -> None:
    """Refuse a message to `peer` that is over the limits, before a byte of it is sent."""
    if len(parts) == 1 and len(parts[0]) <= max_message:
        return
    size = sum(map(len, parts))
    suffix = "" if peer is None else f" ({format_address(peer)})"
    if size > max_message:
        raise MessageTooLarge(f"a message of {size} bytes is over the limit of {max_message}{suffix}")
    if len(parts) > max_parts:
        raise MessageTooLarge(f"a message of {len(parts)} parts is over the limit of {max_parts}{suffix}")


def encode_metadata(metadata: Mapping[str, str]) -> bytes:
    """The last part of a REQUEST with the flag `METADATA`."""
    if not isinstance(metadata, Mapping) or not all(
        isinstance(text, str) for item in metadata.items() for text in item
    ):
        raise TypeError(f"metadata must be a dict of strings, not {metadata!r}")
    encoded = json.dumps(dict(metadata), separators=(",", ":")).encode()
    if len(encoded) > MAX_METADATA:
        raise ValueError(f"metadata of {len(encoded)} bytes is over the limit of {MAX_METADATA}")
    return encoded


def copy_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata as it would come out of a socket; raises what `encode_metadata` raises."""
    encode_metadata(metadata)
    return dict(metadata)


def decode_metadata(part: bytes) -> dict[str, str]:
    """The inverse of `encode_metadata`; raises `ProtocolError`."""
    if len(part) > MAX_METADATA:
        raise ProtocolError(f"metadata of {len(part)} bytes is over the limit of {MAX_METADATA}")
    metadata = json_object(part, "metadata")
    # The keys of a JSON object are strings.
    if not all(isinstance(text, str) for text in metadata.values()):
        raise ProtocolError("metadata must be a JSON object of strings")
    return metadata


def json_object(part: bytes, what: str) -> dict[str, Any]:
    """The members of a JSON object in UTF-8; `ProtocolError` says `what` was none."""
    try:
        members = json.loads(part.decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"{what} must be JSON in UTF-8") from error
    if not isinstance(members, dict):
        raise ProtocolError(f"{what} must be a JSON object")
    return members
