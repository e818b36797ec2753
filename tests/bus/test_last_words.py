"""What a client said before it went, on a connection on which nothing can be sent any more."""

from __future__ import annotations

import gevent
from gevent.event import Event

from ratchet import Ratchet, bus, testing, thread
from ratchet._interrupts import settle_soon
from ratchet.bus._socket import wire


def test_what_was_cast_is_run_although_an_exception_elsewhere_has_all_settled() -> None:
    """Settling closed a connection that read nothing just then, as if that were not to be read."""
    limits = bus.Limits(max_in_flight=2, high_water=1000)
    casts = [b"cast", b"held", bytes(60_000), bytes(20_000), b"last"]
    ran: list[bytes] = []
    gate = Event()

    def handle(body: bytes) -> bytes:
        ran.append(body)
        if body == b"call":
            thread.timer(1)
            # More than the peer takes: it reads nothing, and so it is not read from.
            return bytes(200_000)
        gate.wait()
        return b""

    with testing.virtual_time() as clock, Ratchet() as kernel:
        listener, peer = testing.socket_pair()
        server = bus.new_server(listener, limits=limits)
        kernel.attach_background(server.serve, handle, 4)
        peer.send(wire.encode(wire.REQUEST, 0, 1, 0, [b"call"]))
        for id, body in enumerate(casts, 2):
            peer.send(wire.encode(wire.REQUEST, wire.ONE_WAY, id, 0, [body]))
        clock.advance(2)
        peer.close()
        clock.advance(1)
        settle_soon(gevent.get_hub())
        clock.advance(1)
        gate.set()
        clock.advance(1)
        assert ran == [b"call", *casts]
        assert server.drain(timeout=5)
