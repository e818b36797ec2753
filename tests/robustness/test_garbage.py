"""Three thousand pieces of garbage, while a good client is answered all the while."""

from __future__ import annotations

import logging
import random
from typing import Any

import gevent
import pytest
from gevent import socket

from helpers import LONG, wait_until
from ratchet import bus as ratchet_bus
from ratchet.bus import Limits
from ratchet.bus._socket import wire
from robustness.leaks import open_descriptors, resident_memory

pytestmark = pytest.mark.uncounted

PIECES = 3_000
THREADS = 50
# Measured: less than 4 MiB.
MAX_GROWTH = 32 * 1024 * 1024


def valid(chance: random.Random) -> bytes:
    """A message of any kind, which is what it should be."""
    body = chance.randbytes(chance.randrange(40))
    id = chance.randrange(1, 1 << 32)
    kind = chance.choice((wire.PLAIN, wire.REQUEST, wire.REQUEST, wire.CANCEL, wire.PING, wire.RESPONSE))
    if kind in (wire.CANCEL, wire.PING):
        return wire.encode(kind, 0, id, 0, ())
    if kind == wire.REQUEST and chance.random() < 0.3:
        return wire.encode(kind, wire.METADATA, id, 0, [body, b'{"tenant":"one"}'])
    return wire.encode(kind, 0, id, chance.choice((0, 1, 60_000)), [body] * chance.randrange(4))


def garbage(chance: random.Random) -> bytes:
    if chance.random() < 0.3:
        return chance.randbytes(chance.randrange(1, 200))
    data = bytearray(b"".join(valid(chance) for _ in range(chance.randrange(1, 4))))
    for _ in range(chance.randrange(1, 4)):
        position = chance.randrange(len(data))
        change = chance.random()
        if change < 0.5:
            data[position] = chance.randrange(256)
        elif change < 0.7:
            del data[position:]
        elif change < 0.85:
            data[position:position] = chance.randbytes(chance.randrange(1, 5))
        else:
            del data[position : position + chance.randrange(1, 5)]
        if not data:
            return b"\x00"
    return bytes(data)


def throw(address: Any, pieces: list[bytes]) -> None:
    """Each on a connection of its own."""
    for piece in pieces:
        with socket.socket() as thrower:
            thrower.connect(address)
            try:
                thrower.sendall(piece)
                thrower.shutdown(socket.SHUT_WR)
                while thrower.recv(4096):
                    pass
            except OSError:
                # The server has closed it: so it should.
                pass


def test_garbage_from_many_harms_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "ratchet")
    chance = random.Random("garbage")
    pieces = [garbage(chance) for _ in range(PIECES)]
    descriptors = open_descriptors()
    server: Any = ratchet_bus.listen("127.0.0.1:0", limits=Limits(stall_timeout=LONG))
    with server:
        serving = gevent.spawn(server.serve, lambda request: request, workers=8)
        with ratchet_bus.connect(server.address) as good:
            assert good.call(b"before", LONG) == b"before"
            throw(server.address, pieces[:500])
            memory = resident_memory()
            throwers = [
                gevent.spawn(throw, server.address, pieces[500 + first :: THREADS])
                for first in range(THREADS)
            ]
            answered = 0
            while not all(thrower.ready() for thrower in throwers):
                name = b"%d" % answered
                assert good.call(name, LONG) == name
                answered += 1
                gevent.sleep(0)
            for thrower in throwers:
                thrower.get()
            assert answered > 10
            wait_until(lambda: server.stats().connections == 1, "the bad connections to be gone")
            assert good.call(b"after", LONG) == b"after"
            stats = server.stats()
            # A mutated message may still be a good one; many are not.
            assert stats.broken > PIECES // 10
            assert (stats.queued, stats.in_flight) == (0, 0)
            assert resident_memory() - memory < MAX_GROWTH
        assert server.drain(LONG) is True
        serving.join(LONG)
        assert serving.ready()
    wait_until(lambda: open_descriptors() <= descriptors, "every socket to be closed")
