"""Which modules are compiled, and from which files.

`setup.py` runs this file by itself, so it imports nothing of ours.
"""

from __future__ import annotations

import os
import sys
from glob import glob
from typing import Final

MODULES: Final = (
    "ratchet._pause",
    "ratchet._run_queue",
    "ratchet._scheduler",
    "ratchet._sleep",
    "ratchet._thread",
    "ratchet._wait",
    "ratchet.bus._core.client",
    "ratchet.bus._core.deadline",
    "ratchet.bus._core.decoding",
    "ratchet.bus._core.fair_queue",
    "ratchet.bus._core.handle",
    "ratchet.bus._core.inbox",
    "ratchet.bus._core.incoming",
    "ratchet.bus._core.incoming_requests",
    "ratchet.bus._core.intake",
    "ratchet.bus._core.linked",
    "ratchet.bus._core.load",
    "ratchet.bus._core.many",
    "ratchet.bus._core.numbered",
    "ratchet.bus._core.outgoing",
    "ratchet.bus._core.public_class",
    "ratchet.bus._core.recipient",
    "ratchet.bus._core.server",
    "ratchet.bus._core.serving",
    "ratchet.bus._core.side",
    "ratchet.bus._core.stats",
    "ratchet.bus._core.watch",
    "ratchet.bus._local",
    "ratchet.bus._local_routes",
    "ratchet.bus._socket.admission",
    "ratchet.bus._socket.budget",
    "ratchet.bus._socket.casts",
    "ratchet.bus._socket.client",
    "ratchet.bus._socket.client_connection",
    "ratchet.bus._socket.connections",
    "ratchet.bus._socket.gate",
    "ratchet.bus._socket.input",
    "ratchet.bus._socket.interfaces",
    "ratchet.bus._socket.large",
    "ratchet.bus._socket.many",
    "ratchet.bus._socket.outbox",
    "ratchet.bus._socket.output",
    "ratchet.bus._socket.plain",
    "ratchet.bus._socket.protocol",
    "ratchet.bus._socket.sender",
    "ratchet.bus._socket.server_connection",
    "ratchet.bus._socket.servers",
    "ratchet.bus._socket.slots",
    "ratchet.bus._socket.stall",
    "ratchet.bus._socket.stream",
    "ratchet.bus._socket.wire",
    "ratchet.bus._socket.writers",
    "ratchet.bus._transport.tls",
    "ratchet.bus._transport.transport",
    "ratchet.kernel",
    "ratchet.thread",
)
"""The modules that Cython compiles.  They run all compiled, or none: they call each other in C."""

ROOT: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder that the package is in."""

STAMP: Final = os.path.join(ROOT, "build", f"compiled-{sys.implementation.cache_tag}")
"""The file that says how, and by its time when, the modules of a checkout were compiled."""


def pure_is_asked_for() -> bool:
    """Whether `RATCHET_PURE_PYTHON` asks for the sources; it does so in a build and at run time."""
    return os.environ.get("RATCHET_PURE_PYTHON", "0") not in ("", "0")


def file_of(name: str, suffix: str) -> str:
    """The file of one of our modules."""
    return os.path.join(ROOT, *name.split(".")) + suffix


def sources() -> list[str]:
    """The files that say what is compiled: this one, the sources, and all declarations."""
    return [__file__, *(file_of(name, ".py") for name in MODULES), *declarations()]


def declarations() -> list[str]:
    """Every `.pxd`, also of what is not compiled itself: each is part of the modules that import from it."""
    return glob(os.path.join(ROOT, "ratchet", "**", "*.pxd"), recursive=True)
