"""Greenlet-based concurrency on gevent's hub: a scheduler, threads, and a message bus.

This room only names what the others have.
"""

from ratchet.errors import *  # noqa: F403
from ratchet.kernel import Ratchet, Thread
from ratchet import errors

__all__ = [*errors.__all__, "Ratchet", "Thread"]
