"""What the simulation has found in the library, each in a few lines."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import gevent
import pytest
from gevent.event import Event

from helpers import raising_once
from ratchet import Abandoned, BusClosed, BusError, Ratchet, bus, testing, thread
from ratchet.bus import codecs
from ratchet.bus._core.handle import abandon_held
from ratchet.bus._core.incoming_requests import IncomingRequests
from ratchet.bus._core.serving import Team
from ratchet.bus._socket import wire
from ratchet.bus._socket.gate import Gate
from ratchet.bus._socket.server_connection import ServerConnection
from ratchet.testing._stateful_watchers import Io

MOST_STEPS = 20_000
"""Callbacks of the loop, after which something runs in circles."""


@pytest.mark.parametrize("ahead", [0, 2])
def test_a_plain_request_whose_answer_would_be_kept_waits_in_peace(ahead: int) -> None:
    """It was let in, found that it would have to wait, and was let in again, as fast as the processor can."""
    limits = bus.Limits(max_queued=1 if ahead == 0 else 10_000, high_water=1)

    def handle(body: bytes) -> bytes:
        thread.timer(10 if body == b"slow" else 0)
        return body

    with testing.virtual_time() as clock, testing.network(), Ratchet() as kernel:
        clock.loop.max_steps = MOST_STEPS
        server = bus.listen("server:80", limits=limits)
        kernel.attach_background(server.serve, handle, 3)
        with bus.connect("server:80", plain=True) as client:
            bodies = [b"%d" % number for number in range(5)]
            bodies.insert(ahead, b"slow")
            transactions = [client.send_request(body) for body in bodies]
            assert [transaction.recv_response() for transaction in transactions] == bodies
        assert 10 <= clock.now < 11
        server.close()


def test_a_drain_reads_also_behind_more_refusals_than_its_clients_take_at_once() -> None:
    """The refusals of one turn reached the high-water mark, and what was behind them was not read."""
    limits = bus.Limits(max_queued=1, high_water=300)
    ran: list[bytes] = []

    def note(body: bytes) -> bytes:
        ran.append(body)
        return body

    with testing.virtual_time() as clock, testing.network(), Ratchet() as kernel:
        server = bus.listen("server:80", limits=limits)
        with bus.connect("server:80") as client:
            requests = [client.send_request(b"%d" % number) for number in range(20)]
            client.cast(b"cast")
            clock.advance(1)
            kernel.attach_background(server.serve, note)
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


def test_a_cast_is_read_that_has_come_when_an_answer_finds_its_client_gone() -> None:
    """Reading was to go on in the next turn, and so was the end of the connection, which came first."""
    limits = bus.Limits(max_in_flight=2, high_water=1000)
    ran: list[bytes] = []
    gate = Event()

    def handle(body: bytes) -> bytes:
        ran.append(body)
        if body != b"first":
            gate.wait()
        return body

    def send(peer: Any, id: int, flags: int, body: bytes) -> None:
        peer.send(wire.encode(wire.REQUEST, flags, id, 0, [body]))

    with testing.virtual_time() as clock, Ratchet() as kernel:
        listener, peer = testing.socket_pair()
        server = bus.new_server(listener, limits=limits)
        kernel.attach_background(server.serve, handle, 3)
        send(peer, 1, 0, b"first")
        clock.advance(1)
        send(peer, 2, wire.ONE_WAY, b"cast")
        send(peer, 3, 0, b"call")
        # There is no room for it, and nothing more is read.
        send(peer, 4, 0, b"held")
        clock.advance(1)
        # More than is read at once.
        send(peer, 5, wire.ONE_WAY, bytes(60_000))
        send(peer, 6, wire.ONE_WAY, bytes(20_000))
        send(peer, 7, wire.ONE_WAY, b"last")
        # With an answer that it has not read.
        peer.close()
        clock.advance(1)
        gate.set()
        clock.advance(1)
        assert b"last" in ran
        server.close()


@pytest.mark.pure
def test_a_request_whose_abandoning_is_interrupted_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stayed with the dead thread as long as somebody kept that, and a drain waited for it."""
    with testing.virtual_time(), testing.network(), Ratchet() as kernel:
        server = bus.listen("server:80")
        with bus.connect("server:80") as client:
            asked = client.send_request(b"tea")

            def take() -> None:
                taken = server.recv_request()
                thread.timer(60)
                del taken

            taker = kernel.attach(take)
            thread.timer(1)
            monkeypatch.setattr(ServerConnection, "fail", raising_once(ServerConnection.fail))
            thread.kill(taker)
            with pytest.raises(Abandoned):
                asked.recv_response(timeout=5)
            assert taker.dead
        assert server.drain(timeout=5)


@pytest.mark.pure
def test_serve_ends_although_the_end_of_its_worker_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody told it that the worker had ended, so it went on to wait for that."""
    monkeypatch.setattr(Team, "note_end", raising_once(Team.note_end))
    with testing.virtual_time(), testing.network():
        kernel = Ratchet()
        server = bus.listen("server:80")
        serving = kernel.attach(server.serve, bytes.upper, 1)
        kernel.attach(server.close)
        with pytest.raises(MemoryError):
            kernel.loop()
        kernel.loop()
        assert serving.ready()


@pytest.mark.pure
def test_a_held_request_whose_letting_in_is_interrupted_goes_its_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread had decoded it when it was to be dropped, and its size was asked of what it had become."""
    limits = bus.Limits(max_in_flight=1)

    def handle(number: int) -> int:
        thread.timer(1)
        return number

    with testing.virtual_time():
        kernel = Ratchet()
        listener, peer = testing.socket_pair()
        server = bus.new_server(listener, codec=codecs.json, limits=limits)
        kernel.attach_background(server.serve, handle, 2)
        for id in range(3):
            peer.send(wire.encode(wire.REQUEST, 0, id, 0, [b"%d" % id]))

        def strike_when_the_second_is_let_in() -> None:
            thread.timer(0.5)
            monkeypatch.setattr(Gate, "drop", raising_once(Gate.drop))
            thread.timer(10)

        kernel.attach(strike_when_the_second_is_let_in)
        with pytest.raises(MemoryError):
            kernel.loop()
        kernel.loop()
        assert server.stats()[1:5] == (0, 0, 3, 0)
        peer.close()
        server.close()


def test_a_request_is_abandoned_although_somebody_keeps_the_error_of_an_earlier_codec() -> None:
    """The error's frames led to that of `recv_request`, and that had the next request, too."""
    errors: list[BaseException] = []

    def decode(body: bytes) -> bytes:
        if body == b"unreadable":
            try:
                raise ValueError(body)
            except ValueError as error:
                errors.append(error)
                raise
        return body

    def take() -> None:
        with suppress(BusClosed):
            while True:
                server.recv_request()

    with testing.virtual_time(), testing.network(), Ratchet() as kernel:
        server = bus.listen("server:80", decode, bytes)
        kernel.attach_background(take)
        with bus.connect("server:80") as client:
            asked = [client.send_request(body) for body in (b"unreadable", b"dropped")]
            with pytest.raises(Abandoned):
                asked[1].recv_response(timeout=5)
        assert errors
        server.close()


@pytest.mark.pure
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("method", ["drop", "leave_to_hub"])
def test_a_request_whose_dropping_is_interrupted_is_abandoned(
    monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """It was in nobody's hands, and nobody was told; what is raised in `__del__` is only printed."""
    monkeypatch.setattr(IncomingRequests, method, raising_once(getattr(IncomingRequests, method)))
    with testing.virtual_time(), testing.network(), Ratchet() as kernel:
        server = bus.listen("server:80")
        with bus.connect("server:80") as client:
            asked = client.send_request(b"tea")
            kernel.attach(server.recv_request)
            with pytest.raises(Abandoned):
                asked.recv_response(timeout=5)
        assert server.drain(timeout=5)


@pytest.mark.pure
def test_a_plain_answer_whose_end_is_interrupted_keeps_no_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody came by again, and what was held back until there was a place was never let in."""
    limits = bus.Limits(max_in_flight=1)
    monkeypatch.setattr(ServerConnection, "_finish", raising_once(ServerConnection._finish))
    with testing.virtual_time(), testing.network(), Ratchet() as kernel:
        server = bus.listen("server:80", limits=limits)
        kernel.attach_background(server.serve, bytes.upper, 2)
        with bus.connect("server:80", plain=True) as client:
            asked = [client.send_request(b"tea") for _ in range(3)]
            assert [each.recv_response(timeout=5) for each in asked] == [b"TEA"] * 3
        server.close()


@pytest.mark.parametrize(
    ("latency", "buffer", "stall_timeout"),
    # In the second case the server takes longer over its last words than a peer may stall.
    [(0.01, 50, 30.0), (0.1, 400, 2.0)],
)
def test_two_sides_that_close_do_not_wait_for_each_other_to_read(
    latency: float, buffer: int, stall_timeout: float
) -> None:
    """The server had its last words to send, the client a cast, and neither read, until one stalled."""
    faults = testing.Faults(latency=latency, send_buffer=buffer, receive_buffer=buffer)
    limits = bus.Limits(stall_timeout=stall_timeout)

    def handle(body: bytes) -> bytes:
        thread.timer(1)
        return bytes(20_000)

    with testing.virtual_time() as clock, testing.network(faults=faults), Ratchet() as kernel:
        server = bus.listen("server:80", limits=limits)
        kernel.attach_background(server.serve, handle)
        client = bus.connect("server:80", limits=limits)
        asked = client.send_request(b"tea")
        clock.advance(0.5)
        client.cast(bytes(20_000))
        draining = kernel.attach(server.drain)
        clock.advance(1)
        # With this, the client has nothing open any more, and closes too.
        asked.cancel()
        assert draining.get()
        assert not client.drain()
        assert clock.now < bus.Limits().stall_timeout
        assert server.stats().broken == client.stats().broken == 0


def test_a_greenlet_whose_end_is_interrupted_leaves_no_request_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was forgotten before what it held was abandoned, and nobody looked at it again."""
    monkeypatch.setattr("ratchet.bus._core.intake.abandon_held", raising_once(abandon_held))
    ended: list[BaseException] = []

    def ask() -> None:
        server = bus.listen("server:80")

        def take() -> None:
            taken = server.recv_request()
            thread.timer(60)
            del taken

        with server, bus.connect("server:80") as client:
            taker = gevent.spawn(take)
            asked = client.send_request(b"tea")
            thread.timer(1)
            taker.kill(block=False)
            try:
                asked.recv_response(timeout=5)
            except BusError as error:
                ended.append(error)
            assert taker.dead

    with testing.virtual_time(), testing.network():
        kernel = Ratchet()
        kernel.attach(ask)
        with pytest.raises(MemoryError):
            kernel.loop()
        kernel.loop()
    assert [type(error) for error in ended] == [Abandoned]
