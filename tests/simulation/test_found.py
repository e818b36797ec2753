"""What the simulation has found in the library, each in a few lines."""

from __future__ import annotations

from typing import Any

import pytest

from ratchet import Ratchet, bus, testing, thread
from ratchet.bus._socket import wire
from ratchet.testing._kinds import Io

MOST_STEPS = 20_000
"""Callbacks of the loop, after which something runs in circles."""


def test_a_plain_request_whose_answer_would_be_kept_waits_in_peace() -> None:
    """It was let in, found that it would have to wait, and was let in again, as fast as the processor can."""
    limits = bus.Limits(max_queued=1, high_water=1)

    def handle(body: bytes) -> bytes:
        thread.timer(10 if body == b"slow" else 0)
        return body

    with testing.virtual_time() as clock, testing.network(), Ratchet() as kernel:
        clock.loop.max_steps = MOST_STEPS
        server = bus.listen("server:80", limits=limits)
        kernel.attach_background(server.serve, handle, 3)
        with bus.connect("server:80", plain=True) as client:
            bodies = [b"slow", *(b"%d" % number for number in range(5))]
            transactions = [client.send_request(body) for body in bodies]
            assert [transaction.recv_response() for transaction in transactions] == bodies
        assert 10 <= clock.now < 11
        server.close()


def test_a_drain_reads_also_behind_more_refusals_than_its_clients_take_at_once() -> None:
    """The refusals of one turn reached the high-water mark, and what was behind them was not read."""
    limits = bus.Limits(max_queued=1, high_water=300)
    ran: list[bytes] = []
    with testing.virtual_time() as clock, testing.network(), Ratchet() as kernel:
        server = bus.listen("server:80", limits=limits)
        with bus.connect("server:80") as client:
            requests = [client.send_request(b"%d" % number) for number in range(20)]
            client.cast(b"cast")
            clock.advance(1)
            kernel.attach_background(server.serve, ran.append)
            assert server.drain(timeout=5)
        assert b"cast" in ran
        assert all(request.done for request in requests)


def test_an_answer_that_waits_to_be_read_lets_go_when_its_client_has_gone() -> None:
    """It waited for ever where so much was held that nothing more was read, which would have shown it."""
    limits = bus.Limits(max_in_flight=2, high_water=1000)

    def handle(body: bytes) -> bytes:
        thread.timer(float(body))
        return bytes(200_000)

    with testing.virtual_time() as clock, Ratchet() as kernel:
        listener, peer = testing.socket_pair()
        server = bus.new_server(listener, limits=limits)
        kernel.attach_background(server.serve, handle, 2)
        # It asks, and reads nothing: the second answer waits, and the third for that one.
        for seconds in (b"0", b"0.5", b"0", b"0", b"0"):
            peer.send(wire.encode(wire.PLAIN, 0, 0, 0, [seconds]))
        clock.advance(1)
        peer.close()
        clock.advance(1)
        assert server.stats()[:3] == (0, 0, 0)
        assert server.drain(timeout=5)


def test_a_server_whose_opening_is_interrupted_does_not_listen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop kept it alive, and with it the address."""
    start = Io.start

    def strike(watcher: Io, *args: Any, **options: Any) -> None:
        start(watcher, *args, **options)
        raise KeyboardInterrupt

    with testing.virtual_time(), testing.network():
        with monkeypatch.context() as patch:
            patch.setattr(Io, "start", strike)
            with pytest.raises(KeyboardInterrupt):
                bus.listen("server:80")
        bus.listen("server:80").close()
