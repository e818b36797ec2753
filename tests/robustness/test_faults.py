"""A bad line between client and server: every request ends, once, and its outcome is the truth."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
import pytest
from gevent.pool import Pool

from helpers import LONG, wait_until
from ratchet import BusError, BusTimeout, ConnectionLost, Outcome
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientBus, Limits
from ratchet.bus._transport.dial import dial
from robustness.faulty_proxy import FAULTS, FaultyProxy
from robustness.leaks import open_descriptors

# 7 faults * 6 chunks * 24 schedules = 1,008 schedules.
CHUNKS = 6
SCHEDULES = 24
AT_ONCE = 12
"""How many schedules of a chunk run at the same time, so that they wait together."""

ANSWERED = "answered"
LEFT = "left by its thread"
NOT_ASKED = "sent one way"
Ending = str
LAST = b"the last request"


@dataclass
class Story:
    """What the clients were told of each request, and what the server did with it."""

    ran: Counter[bytes] = field(default_factory=Counter)
    endings: dict[bytes, Ending] = field(default_factory=dict)
    seeds: dict[bytes, str] = field(default_factory=dict)

    def new_request(self, seed: str, size: int) -> bytes:
        """A request whose first eight bytes are its id."""
        name = b"%08d" % len(self.seeds)
        self.seeds[name] = seed
        return name.ljust(8 + size, b".")

    def handle(self, request: bytes) -> bytes:
        if request == LAST:
            return request
        name = request[:8]
        self.ran[name] += 1
        # The same for the same id, and different for others.
        fate = random.Random(name)
        if fate.random() < 0.3:
            gevent.sleep(fate.choice((0, 0, 0.005, 0.03)))
        if fate.random() < 0.1:
            raise ValueError("a handler that fails")
        return name + b"!" * fate.choice((0, 10, 3000))

    def check(self, name: bytes) -> None:
        ending, times = self.endings.get(name), self.ran[name]
        where = f"request {name!r} of schedule {self.seeds[name]!r} ended in {ending!r} and ran {times} times"
        assert ending is not None, where
        assert times <= 1, where
        if ending in (Outcome.NOT_SENT, Outcome.NOT_RUN):
            assert times == 0, where
        if ending in (Outcome.RAN, ANSWERED):
            assert times == 1, where


class Schedule:
    """A few threads that ask over one bad line."""

    def __init__(self, story: Story, server: Any, fault: str, seed: str) -> None:
        self._story = story
        self._seed = seed
        self._random = random.Random(seed)
        self._proxy = FaultyProxy(server.address, fault, random.Random(self._random.random()))

    def run(self) -> None:
        limits = Limits(high_water=2048)
        plain = self._random.random() < 0.2
        client: ClientBus[bytes, bytes]
        if self._random.random() < 0.5:
            client = ratchet_bus.connect(self._proxy.address, limits=limits, plain=plain)
        else:
            connected = gevent.socket.create_connection(self._proxy.address)
            client = ratchet_bus.new_client(connected, limits=limits, plain=plain)
        try:
            threads = [
                gevent.spawn(self._ask_all, client, random.Random(self._random.random()))
                for _ in range(self._random.randrange(1, 5))
            ]
            gevent.joinall(threads, timeout=LONG)
            for thread in threads:
                assert thread.ready(), f"a thread of schedule {self._seed!r} hangs"
                thread.get()
        finally:
            client.close()
            self._proxy.close()
        assert client.stats().in_flight == client.stats().queued == 0

    def _ask_all(self, client: ClientBus[bytes, bytes], chance: random.Random) -> None:
        for _ in range(chance.randrange(1, 5)):
            size = chance.choice((0, 0, 100, 5000))
            request = self._story.new_request(self._seed, size)
            try:
                ending = self._ask(client, request, chance)
            except BusError as error:
                ending = error.outcome
            self._story.endings[request[:8]] = ending

    def _ask(self, client: ClientBus[bytes, bytes], request: bytes, chance: random.Random) -> Ending:
        timeout = chance.choice((0.005, 0.05, 0.2))
        way = chance.random()
        if way < 0.5:
            return self._checked(request, client.call(request, timeout))
        if way < 0.6:
            if self._in_time(0.2, client.cast, request) is None:
                return NOT_ASKED
            return LEFT
        if way < 0.7:
            left_after = chance.choice((0.001, 0.01, 0.05))
            response = self._in_time(left_after, client.call, request, timeout)
            return LEFT if response == LEFT else self._checked(request, response)
        if way < 0.8:
            asking: Any = gevent.spawn(self._call, client, request, timeout)
            for _ in range(chance.randrange(20)):
                gevent.sleep(0)
            asking.kill()
            ending = asking.get()
            return LEFT if isinstance(ending, gevent.GreenletExit) else str(ending)
        transaction = client.send_request(request, timeout)
        if way < 0.9:
            for _ in range(chance.randrange(20)):
                gevent.sleep(0)
            transaction.cancel()
        else:
            try:
                transaction.recv_response(0.001)
            except BusTimeout:
                assert transaction.done or client.stats().in_flight
        response = transaction.recv_response()
        assert transaction.done
        return self._checked(request, response)

    def _in_time(self, seconds: float, func: Callable[..., Any], *args: Any) -> Any:
        """What `func` returns, or `LEFT` if the caller's own time-out ends it."""
        own = gevent.Timeout.start_new(seconds)
        try:
            return func(*args)
        except gevent.Timeout as timeout:
            if timeout is not own:
                raise
            return LEFT
        finally:
            own.close()

    def _call(self, client: ClientBus[bytes, bytes], request: bytes, timeout: float) -> Ending:
        try:
            return self._checked(request, client.call(request, timeout))
        except BusError as error:
            return error.outcome

    def _checked(self, request: bytes, response: bytes) -> Ending:
        assert response[:8] == request[:8], f"schedule {self._seed!r}: the answer of another request"
        return ANSWERED


@pytest.mark.slow
@pytest.mark.uncounted
@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_over_a_bad_line_ends_and_its_outcome_is_true(fault: str, chunk: int) -> None:
    descriptors = open_descriptors()
    story = Story()
    limits = Limits(high_water=4096, max_queued=20, max_in_flight=6)
    server: Any = ratchet_bus.listen("127.0.0.1:0", limits=limits)
    with server:
        serving = gevent.spawn(server.serve, story.handle, workers=6)
        pool = Pool(AT_ONCE)
        schedules = [
            pool.spawn(Schedule(story, server, fault, f"{fault}-{chunk}-{number}").run)
            for number in range(SCHEDULES)
        ]
        gevent.joinall(schedules, raise_error=True)
        wait_until(lambda: server.stats().connections == 0, "the server to see that all have gone")
        with ratchet_bus.connect(server.address) as client:
            # Behind all that waits in the queue.
            assert client.call(LAST) == LAST
        assert server.drain(LONG) is True
        serving.join(LONG)
        assert serving.ready()
    for name in story.seeds:
        story.check(name)
    assert story.ran, "no request came through at all"
    assert (server.stats().queued, server.stats().in_flight) == (0, 0)
    wait_until(lambda: open_descriptors() <= descriptors, "every socket to be closed")


def test_a_bus_that_is_closed_just_when_it_has_connected_keeps_no_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server: Any = ratchet_bus.listen("127.0.0.1:0")
    with server:
        clients: list[ClientBus[bytes, bytes]] = []

        def dial_and_close(*args: Any) -> Any:
            dialed = dial(*args)
            # As another thread may do that runs in the same turn.
            clients[0].close()
            return dialed

        monkeypatch.setattr("ratchet.bus._socket.network.dial", dial_and_close)
        descriptors = open_descriptors()
        clients.append(ratchet_bus.connect(server.address))
        with pytest.raises(BusError) as raised:
            clients[0].call(b"question", LONG)
        assert raised.value.outcome == Outcome.NOT_SENT
        assert clients[0].stats().connections == 0
        wait_until(lambda: open_descriptors() <= descriptors, "the socket to be closed")


def test_a_server_whose_whole_queue_runs_out_of_time_reads_again() -> None:
    server: Any = ratchet_bus.listen("127.0.0.1:0", limits=Limits(max_queued=4))
    with server:
        with ratchet_bus.connect(server.address) as client:
            sent = [client.send_request(b"late", timeout=0.3) for _ in range(4)]
            wait_until(lambda: server.stats().queued == 4, "a full queue")
            for transaction in sent:
                with pytest.raises((BusTimeout, ConnectionLost)):
                    transaction.recv_response(LONG)
            serving = gevent.spawn(server.serve, lambda request: request)
            assert client.call(b"in time", LONG) == b"in time"
            assert server.drain(LONG) is True
            serving.join(LONG)


def test_a_server_reads_again_when_the_thread_that_took_the_last_request_is_killed_in_its_codec() -> None:
    def decode(body: bytes) -> bytes:
        if body == b"slow":
            gevent.sleep(LONG)
        return body

    server: Any = ratchet_bus.listen("127.0.0.1:0", decode, limits=Limits(max_queued=1))
    with server, ratchet_bus.connect(server.address) as client:
        transaction = client.send_request(b"slow")
        wait_until(lambda: server.stats().queued == 1, "a full queue")
        taker = gevent.spawn(server.recv_request)
        wait_until(lambda: server.stats().queued == 0, "a thread that has taken the request")
        taker.kill()
        with pytest.raises(BusError):
            transaction.recv_response(LONG)
        serving = gevent.spawn(server.serve, lambda request: request)
        assert client.call(b"quick", LONG) == b"quick"
        assert server.drain(LONG) is True
        serving.join(LONG)
