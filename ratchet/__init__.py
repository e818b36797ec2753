"""Greenlet-based concurrency on gevent's hub: a scheduler, threads, and a message bus.

This room only names what the others have.
"""

from ratchet import _fork as _fork  # which a child process needs from the start
from ratchet import bus, errors, thread
from ratchet.errors import *  # noqa: F403
from ratchet.kernel import Ratchet, Thread

__all__ = ["Ratchet", "Thread", "bus", "errors", "thread", *errors.__all__]
