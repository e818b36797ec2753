"""What this side says when a broker greets it: who it is, how it logs in, and what it agrees to."""

from __future__ import annotations

import re
from typing import Final

from pamqp.commands import Connection
from pamqp.common import FieldTable

from ratchet._version import __version__
from ratchet.bus._broker.frames import MAX_FRAME, MIN_FRAME
from ratchet.bus._broker.url import BrokerUrl
from ratchet.errors import ProtocolError

_CAPABILITIES: Final[FieldTable] = {
    "authentication_failure_close": True,
    "basic.nack": True,
    "connection.blocked": True,
    "consumer_cancel_notify": True,
    "publisher_confirms": True,
}
# The one channel of a link.
_CHANNELS: Final = 1


def check_start(start: Connection.Start) -> str:
    """Why nobody can log in; empty if that is possible.  Raises `ProtocolError` for another protocol."""
    major, minor = start.version_major, start.version_minor
    if (major, minor) != (0, 9):
        raise ProtocolError(f"the broker speaks AMQP {major}.{minor}, not 0.9")
    offered = str(start.mechanisms).split()
    if "PLAIN" in offered:
        return ""
    return f"the broker accepts no login by name and password, only {', '.join(offered)}"


def version(start: Connection.Start) -> tuple[int, ...]:
    """The broker's version, of "4.0.0-rc.1" the numbers before the dash; empty if it does not say."""
    text = (start.server_properties or {}).get("version")
    match = re.match(r"\d{1,9}(\.\d{1,9})*", text, re.ASCII) if isinstance(text, str) else None
    return tuple(map(int, match[0].split("."))) if match else ()


def start_ok(url: BrokerUrl) -> Connection.StartOk:
    """The login."""
    properties: FieldTable = {"product": "ratchet", "version": __version__, "capabilities": _CAPABILITIES}
    return Connection.StartOk(properties, "PLAIN", f"\0{url.user}\0{url.password}", "en_US")


def tune_ok(tune: Connection.Tune, heartbeat: int) -> Connection.TuneOk:
    """What both sides agree to, the smaller of each; raises `ProtocolError` for frames that are too small."""
    # 0 is the broker's word for no limit.
    frame_max = min(tune.frame_max or MAX_FRAME, MAX_FRAME)
    if frame_max < MIN_FRAME:
        raise ProtocolError(f"the broker takes frames of {frame_max} bytes, less than every peer has to")
    return Connection.TuneOk(_CHANNELS, frame_max, min(heartbeat, tune.heartbeat or 0))
