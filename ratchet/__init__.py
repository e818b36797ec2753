"""Greenlet-based concurrency on gevent's hub: a scheduler, threads, and a message bus.

This module only names what the others have.
"""

from ratchet import _build as _build  # first: it says from which files the others come
from ratchet import _fork as _fork  # which a child process needs from the start
from ratchet import bus, errors, thread
from ratchet._build import BuildInfo, build_info
from ratchet._version import __version__ as __version__
from ratchet.errors import *  # noqa: F403
from ratchet.kernel import Ratchet, Thread, run

__all__ = [
    "BuildInfo",
    "Ratchet",
    "Thread",
    "build_info",
    "bus",
    "errors",
    "run",
    "thread",
    *errors.__all__,
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
