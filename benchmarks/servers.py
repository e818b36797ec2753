"""The servers that several questions ask."""

from __future__ import annotations

from benchmarks.measure import program

OURS = program("ours:serve")
OURS_UNIX = program("ours:serve", unix=True)
GEVENT = program("peers.gevent:serve")
GEVENT_UNIX = program("peers.gevent:serve", unix=True)
ASYNCIO = program("peers.asyncio:serve", on_uvloop=False)
UVLOOP = program("peers.asyncio:serve", on_uvloop=True)
