"""A thread that is killed, or whose time is over, at every single point at which a call waits.

Each call is run once undisturbed, and its thread's switches into the hub are
counted.  Then it is run again for every switch, once for each error that may
come and for several moments after the switch, and the error comes just there.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gevent
import greenlet
import pytest
from gevent import GreenletExit

from contract.buses import TELLING, Bus, open_bus
from helpers import LONG, active_watchers, narrow, wait_until
from ratchet import BusError, NotPaused, Ratchet, thread
from ratchet import bus as ratchet_bus
from ratchet._wait import waiting_on
from ratchet.bus import Limits, codecs
from ratchet.bus._core.side import OPEN
from raw_peer import RawPeer
from robustness.leaks import live_greenlets, open_descriptors

pytestmark = [pytest.mark.uncounted, pytest.mark.slow]

BIG = "x" * 600_000
"""More than what the kernel takes on a narrow connection whose reader does not read."""

MOMENTS = [("callbacks", count) for count in range(4)] + [("turns", count) for count in range(1, 5)]
"""When the error comes: so many callbacks, or turns of the loop, after the switch."""


class Victim:
    """A call in a thread of its own, into which an error is thrown at its switch number `at`."""

    def __init__(
        self,
        call: Callable[[], object],
        error: BaseException | None = None,
        at: int = 0,
        moment: tuple[str, int] = MOMENTS[0],
    ) -> None:
        self._call = call
        self._error = error
        self._at = at
        self._moment = moment
        self._resumed = 0
        self._timers: list[Any] = []
        self.switches = 0
        self.struck = False
        self.raised: BaseException | None = None
        self.thread = gevent.Greenlet(self._run)

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:
            self.raised = error

    def start(self) -> None:
        self.thread.start()

    def trace(self, event: str, args: Any) -> None:
        """What `greenlet.settrace` calls at each switch."""
        origin, target = args
        if origin is self.thread and not self.thread.dead:
            self.switches += 1
        elif target is self.thread:
            self._resumed += 1
            # Ahead of what the thread itself is going to queue.
            if self._error is not None and self._resumed == self._at:
                self._come_closer(self._moment[1])

    def _come_closer(self, left: int) -> None:
        loop: Any = gevent.get_hub().loop
        if left and self._moment[0] == "turns":
            timer = loop.timer(0.0)
            self._timers.append(timer)
            timer.start(self._come_closer, left - 1)
        elif left:
            loop.run_callback(self._come_closer, left - 1)
        else:
            loop.run_callback(self._strike)

    def _strike(self) -> None:
        """Hub callback."""
        for timer in self._timers:
            timer.close()
        still_there = self.switches == self._resumed == self._at
        if still_there and not self.thread.ready():
            assert self._error is not None
            self.struck = True
            self.thread.throw(self._error)

    def join(self) -> None:
        self.thread.join(LONG)
        assert self.thread.ready(), "the thread hangs"
        assert self.raised is (self._error if self.struck else None)


@contextmanager
def traced(victim: Victim) -> Iterator[None]:
    before = greenlet.gettrace()
    greenlet.settrace(victim.trace)
    try:
        yield
    finally:
        greenlet.settrace(before)


class Scene:
    """A call that blocks, what makes it go on, and what must hold afterwards."""

    def call(self) -> object:
        """What the victim does."""
        raise NotImplementedError

    def partner(self) -> None:
        """What another thread does meanwhile, so that the call returns."""
        raise NotImplementedError

    def check(self, victim: Victim) -> None:
        """Look whether everything still works, and bring it to rest."""
        raise NotImplementedError


Setting = Callable[[], Any]


def play(open_scene: Setting, **strike: Any) -> Victim:
    """Run one scene, and look what is left of it."""
    watchers, descriptors = active_watchers(), open_descriptors()
    with open_scene() as scene:
        victim = Victim(scene.call, **strike)
        with traced(victim):
            victim.start()
            partner = gevent.spawn(scene.partner)
            wait_until(lambda: partner.ready() or waiting_on(partner), "the partner to get on")
            if victim.struck or "error" not in strike:
                victim.join()
            else:
                wait_until(lambda: victim.thread.ready() or victim.struck, "the call to end")
                victim.join()
        scene.check(victim)
        partner.join(LONG)
        assert partner.ready(), "the partner hangs"
        partner.get()
    wait_until(lambda: active_watchers() <= watchers, "every watcher to be gone", 5)
    wait_until(lambda: open_descriptors() <= descriptors, "every descriptor to be closed", 5)
    return victim


def play_everywhere(open_scene: Setting) -> None:
    before = len(live_greenlets())
    undisturbed = play(open_scene)
    assert undisturbed.switches >= 1
    for at in range(1, undisturbed.switches + 1):
        struck = 0
        for make_error in (GreenletExit, lambda: gevent.Timeout(None)):
            for moment in MOMENTS:
                struck += play(open_scene, error=make_error(), at=at, moment=moment).struck
        # At a later switch, what wakes the thread may be queued ahead of any error.
        assert struck >= 2 or at > 1, f"nothing came at switch {at}"
    wait_until(lambda: len(live_greenlets()) <= before, "every greenlet to be gone", 5)


# The bus.


class BusScene(Scene):
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.prepare()

    def prepare(self) -> None:
        """What comes before the call."""

    def check(self, victim: Victim) -> None:
        self.settle(victim)
        bus = self.bus
        bus.check_works()
        for side in {bus.server, bus.client}:
            stats = side.stats()
            assert (stats.queued, stats.in_flight) == (0, 0), f"{side!r}: {stats}"
        assert "receivers=0, senders=0" in repr(bus.server._intake.inbox)

    def settle(self, victim: Victim) -> None:
        """Answer what is left."""
        self.answer_all(lambda: self.bus.server.stats().queued == 0)

    def answer_all(self, done: Callable[[], object]) -> None:
        def answered() -> object:
            if self.bus.server.stats().queued:
                self.bus.take().send_response("answer")
            return done()

        wait_until(answered, "all to be answered")


class RecvRequest(BusScene):
    timeout: float | None = None

    def call(self) -> object:
        return self.bus.server.recv_request(self.timeout)

    def partner(self) -> None:
        self.sent = self.bus.client.send_request("question")

    def settle(self, victim: Victim) -> None:
        # It was taken and dropped, or it is still there for another thread.
        if victim.struck:
            self.bus.take().send_response("answer")
            assert self.sent.recv_response(LONG) == "answer"
        else:
            with pytest.raises(BusError):
                self.sent.recv_response(LONG)


class RecvRequestInTime(RecvRequest):
    timeout = LONG


class RecvRequests(RecvRequest):
    def call(self) -> object:
        return self.bus.server.recv_requests(10, self.timeout)


class RecvRequestsInTime(RecvRequests):
    timeout = LONG


class Iterate(RecvRequest):
    def call(self) -> object:
        return next(iter(self.bus.server))


class Call(BusScene):
    timeout: float | None = None

    def call(self) -> object:
        return self.bus.client.call("question", self.timeout)

    def partner(self) -> None:
        self.bus.take().send_response("answer")
        self._answered = True

    _answered = False

    def settle(self, victim: Victim) -> None:
        # For the partner, if the victim's request is gone.
        own = self.bus.client.send_request("question")
        wait_until(lambda: self._answered, "the partner to take a request")
        self.answer_all(lambda: own.done)


class CallInTime(Call):
    timeout = LONG


class CallMany(BusScene):
    timeout: float | None = None

    def call(self) -> object:
        results = self.bus.client.call_many(["question"] * 3, self.timeout)
        assert results == ["answer"] * 3
        return results

    def partner(self) -> None:
        for _ in range(3):
            self.bus.take().send_response("answer")
            gevent.sleep(0)
            self.answered += 1

    answered = 0

    def settle(self, victim: Victim) -> None:
        # For the partner, if the victim's requests are gone.
        own = [self.bus.client.send_request("question") for _ in range(3)]
        wait_until(lambda: self.answered == 3, "the partner to take three requests")
        self.answer_all(lambda: all(each.done for each in own))


class CallManyInTime(CallMany):
    timeout = LONG


class RecvResponse(BusScene):
    timeout: float | None = None

    def prepare(self) -> None:
        self.sent = self.bus.client.send_request("question", LONG)

    def call(self) -> object:
        return self.sent.recv_response(self.timeout)

    def partner(self) -> None:
        self.bus.take().send_response("answer")

    def settle(self, victim: Victim) -> None:
        assert self.sent.recv_response(LONG) == "answer"


class RecvResponseInTime(RecvResponse):
    timeout = LONG


class SendRequestWithoutRoom(BusScene):
    timeout: float | None = None

    def prepare(self) -> None:
        client = self.bus.client
        if isinstance(client, ratchet_bus.ClientBus):
            assert client._servers.places[0].current is not None
            narrow(client._servers.places[0].current.stream)
        self.sent = [client.send_request(BIG)]
        if isinstance(client, ratchet_bus.ClientBus):
            while (
                client._servers.places[0].current is not None
                and not client._servers.places[0].current.stream.output.writers.above_high_water
            ):
                self.sent.append(client.send_request(BIG))

    def call(self) -> object:
        sent = self.bus.client.send_request("one more", self.timeout)
        self.sent.append(sent)
        return sent

    def partner(self) -> None:
        self.answer_all(lambda: all(sent.done for sent in self.sent))

    def settle(self, victim: Victim) -> None:
        # The partner may have ended before the last one was sent.
        self.answer_all(lambda: all(sent.done for sent in self.sent))
        assert {sent.recv_response(LONG) for sent in self.sent} == {"answer"}


class CallManyWithoutRoom(SendRequestWithoutRoom):
    def call(self) -> object:
        try:
            results = self.bus.client.call_many(["one more", "and another"], self.timeout)
            assert results == ["answer"] * 2
            return results
        finally:
            self.over = True

    over = False

    def partner(self) -> None:
        self.answer_all(lambda: self.over)

    def settle(self, victim: Victim) -> None:
        super().settle(victim)
        # What the victim gave up may still be on its way, ahead of this.
        own = self.bus.client.send_request("question")
        self.answer_all(lambda: own.done)


class CallManyWithoutRoomInTime(CallManyWithoutRoom):
    timeout = LONG


class SendRequestWithoutRoomInTime(SendRequestWithoutRoom):
    timeout = LONG


class Serve(BusScene):
    def call(self) -> None:
        try:
            self.bus.server.serve(lambda request: "answer", workers=2)
        finally:
            self._over = True

    def partner(self) -> None:
        while not self._over:
            try:
                self.bus.client.call("question", timeout=0.05)
            except BusError:
                # Nobody serves any more, or the machine is busy.
                gevent.sleep(0)
            else:
                self.bus.server.drain(LONG)
                break
        self._partner_ended = True

    _over = False
    _partner_ended = False

    def settle(self, victim: Victim) -> None:
        # What the partner gave up while the machine was busy may still be on its way, ahead of this.
        own = self.bus.client.send_request("question")
        self.answer_all(lambda: own.done)

    def check(self, victim: Victim) -> None:
        wait_until(lambda: self._partner_ended, "the partner")
        if self.bus.server._intake.life is OPEN:
            super().check(victim)
        assert not self.bus.server._intake.inbox.has_receivers
        assert not self.bus.server._intake.requests.drain_waiters


class Drain(BusScene):
    def prepare(self) -> None:
        self.sent = self.bus.client.send_request("question")
        self.taken = self.bus.take()

    def call(self) -> None:
        assert self.bus.server.drain(self.timeout) is True

    timeout: float | None = None

    def partner(self) -> None:
        gevent.sleep(0)
        self.taken.send_response("answer")

    def check(self, victim: Victim) -> None:
        assert self.sent.recv_response(LONG) == "answer"
        assert self.bus.server.drain(LONG) is True
        assert not self.bus.server._intake.requests.drain_waiters


class DrainInTime(Drain):
    timeout = LONG


ON_EVERY_BUS = [
    RecvRequest,
    RecvRequestInTime,
    RecvRequests,
    RecvRequestsInTime,
    Iterate,
    Call,
    CallInTime,
    CallMany,
    CallManyInTime,
    RecvResponse,
    RecvResponseInTime,
    SendRequestWithoutRoom,
    SendRequestWithoutRoomInTime,
    CallManyWithoutRoom,
    CallManyWithoutRoomInTime,
    Serve,
    Drain,
    DrainInTime,
]


@contextmanager
def narrow_bus(kind: str, directory: Path) -> Iterator[Bus]:
    """A bus that is soon full; over a socket, the kernel takes little, and the server one request."""
    if kind == "local":
        with open_bus(kind, directory, maxsize=1) as bus:
            yield bus
        return
    limits, server_limits = Limits(high_water=1024), Limits(max_in_flight=1)
    with open_bus(kind, directory, limits=limits, server_limits=server_limits) as bus:
        yield bus


@pytest.mark.parametrize("kind", TELLING)
@pytest.mark.parametrize("scene", ON_EVERY_BUS)
def test_an_error_anywhere_in_a_call_of_a_bus_leaves_nothing_behind(
    scene: type[BusScene], kind: str, tmp_path: Path
) -> None:
    @contextmanager
    def open_scene() -> Iterator[Scene]:
        opened = narrow_bus if issubclass(scene, SendRequestWithoutRoom) else open_bus
        with opened(kind, tmp_path) as bus:
            yield scene(bus)

    play_everywhere(open_scene)


class SendResponseWithoutRoom(Scene):
    """The client does not read, so a second response waits behind the first."""

    def __init__(self, bus: Bus, peer: RawPeer) -> None:
        self._bus = bus
        self._peer = peer
        peer.request(1)
        bus.wait_for_queued()
        first = bus.take()
        # Taken before nobody reads; later it would be kept from the threads.
        self._second = self._next(2)
        server: Any = bus.server
        for session in server._admission.connections:
            narrow(session.stream)
        first.send_response(BIG)

    def _next(self, id: int) -> Any:
        self._peer.request(id)
        return self._bus.take()

    def call(self) -> None:
        assert self._second.send_response("answer") is True

    def partner(self) -> None:
        self._kinds = [self._peer.receive_message()[0] for _ in range(2)]

    def check(self, victim: Victim) -> None:
        wait_until(lambda: hasattr(self, "_kinds"), "both answers")
        assert self._kinds == [1, 2 if victim.struck else 1]
        self._next(3).send_response("yes")
        assert self._peer.receive_message()[4] == [b'"yes"']
        stats = self._bus.server.stats()
        assert (stats.queued, stats.in_flight) == (0, 0)


@pytest.mark.parametrize("kind", [kind for kind in TELLING if kind != "local"])
def test_an_error_in_send_response_at_the_high_water_mark_leaves_nothing_behind(
    kind: str, tmp_path: Path
) -> None:
    @contextmanager
    def open_scene() -> Iterator[Scene]:
        limits = Limits(high_water=1024)
        with open_bus(kind, tmp_path, limits=limits) as bus:
            yield SendResponseWithoutRoom(bus, bus.raw_client())

    play_everywhere(open_scene)


@dataclass
class Disconnected(Scene):
    """The server listens only when the request waits already."""

    socket: Any
    client: Any
    timeout: float | None
    server: Any = None

    def call(self) -> None:
        assert self.client.call("question", self.timeout) == "answer"

    def partner(self) -> None:
        self.socket.listen()
        self.server = ratchet_bus.new_server(self.socket, codec=codecs.json)
        for transaction, _ in self.server:
            transaction.send_response("answer")

    def check(self, victim: Victim) -> None:
        assert self.client.call("still there?", LONG) == "answer"
        stats = self.client.stats()
        assert (stats.queued, stats.in_flight) == (0, 0)
        assert not self.client._servers.waiters.senders
        self.server.close()


@pytest.mark.parametrize("timeout", [None, LONG])
def test_an_error_in_send_request_while_not_connected_leaves_nothing_behind(
    timeout: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ratchet.bus._transport.dial._FIRST_BACK_OFF", 0.005)

    @contextmanager
    def open_scene() -> Iterator[Scene]:
        bound = gevent.socket.socket()
        bound.bind(("127.0.0.1", 0))
        with bound, ratchet_bus.connect(bound.getsockname(), codec=codecs.json) as client:
            yield Disconnected(bound, client, timeout)

    play_everywhere(open_scene)


# ratchet.thread and the scheduler.


class ThreadScene(Scene):
    def close(self) -> None:
        """What comes after the scene."""

    def partner(self) -> None:
        """Nothing has to be done, or it is overwritten."""

    def check(self, victim: Victim) -> None:
        again = gevent.spawn(self.call)
        wait_until(lambda: again.ready() or waiting_on(again), "the call to wait again")
        self.partner()
        again.join(LONG)
        assert again.ready(), "the call does not work any more"
        again.get()


class Timer(ThreadScene):
    seconds = 0.002

    def call(self) -> None:
        thread.timer(self.seconds)


class TimerOfNoTime(Timer):
    seconds = 0.0


class Pause(ThreadScene):
    def call(self) -> None:
        self.paused = gevent.getcurrent()
        assert thread.pause() == "on"

    def partner(self) -> None:
        try:
            thread.unpause(self.paused, "on")
        except NotPaused:
            pass


class WaitAll(ThreadScene):
    timeout: float | None = None

    def __init__(self) -> None:
        self.kernel = Ratchet()
        self.watched: list[Any] = []

    def call(self) -> None:
        self.watched = [self.kernel.attach(thread.pause) for _ in range(3)]
        assert thread.wait_all(self.watched, self.timeout) is True

    def partner(self) -> None:
        for watched in self.watched:
            watched.kill()

    def close(self) -> None:
        self.kernel.close()


class WaitAllInTime(WaitAll):
    timeout = LONG


class BlockOn(ThreadScene):
    timeout: float | None = None

    def __init__(self) -> None:
        self.near, self.far = socket.socketpair()

    def call(self) -> None:
        assert thread.block_on([self.near], timeout=self.timeout) is self.near
        self.near.recv(1)

    def partner(self) -> None:
        self.far.send(b"x")

    def check(self, victim: Victim) -> None:
        if victim.struck:
            self.call()
        super().check(victim)

    def close(self) -> None:
        self.near.close()
        self.far.close()


class BlockOnInTime(BlockOn):
    timeout = LONG


class Sigwait(ThreadScene):
    timeout: float | None = None

    def __init__(self) -> None:
        self.seen: list[int] = []
        self.before = signal.signal(signal.SIGUSR1, lambda number, frame: self.seen.append(number))

    def call(self) -> None:
        assert thread.sigwait("USR1", self.timeout) is True

    def partner(self) -> None:
        os.kill(os.getpid(), signal.SIGUSR1)

    def check(self, victim: Victim) -> None:
        # A waiter that is gone leaves the signal to Python's handler.
        seen = len(self.seen)
        self.partner()
        wait_until(lambda: len(self.seen) > seen, "Python's own handler")
        super().check(victim)

    def close(self) -> None:
        signal.signal(signal.SIGUSR1, self.before)


class SigwaitInTime(Sigwait):
    timeout = LONG


class Loop(ThreadScene):
    def __init__(self) -> None:
        self.kernel = Ratchet()
        self.ended = 0

    def _live(self) -> None:
        thread.pause()
        thread.timer(0.0)
        self.ended += 1

    def call(self) -> None:
        self.attached = self.kernel.attach(self._live)
        self.kernel.loop()
        assert self.kernel.num_threads == 0

    def partner(self) -> None:
        wait_until(lambda: self.attached.waiting_on == "pause" or self.attached.ready())
        try:
            thread.unpause(self.attached)
        except NotPaused:
            pass

    def check(self, victim: Victim) -> None:
        self.kernel.loop()
        assert self.ended == 1
        super().check(victim)
        assert self.ended == 2

    def close(self) -> None:
        self.kernel.close()


class LoopOnce(Loop):
    def call(self) -> None:
        self.attached = self.kernel.attach(self._live)
        while self.kernel.loop_once():
            pass


THREADS = [
    Timer,
    TimerOfNoTime,
    Pause,
    WaitAll,
    WaitAllInTime,
    BlockOn,
    BlockOnInTime,
    Sigwait,
    SigwaitInTime,
    Loop,
    LoopOnce,
]


@pytest.mark.parametrize("scene", THREADS)
def test_an_error_anywhere_in_a_call_of_a_thread_leaves_nothing_behind(scene: type[ThreadScene]) -> None:
    @contextmanager
    def open_scene() -> Iterator[Scene]:
        opened = scene()
        try:
            yield opened
        finally:
            opened.close()

    play_everywhere(open_scene)
