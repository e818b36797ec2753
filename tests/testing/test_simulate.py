"""Programs of several processes, on one virtual network."""

from __future__ import annotations

import gc
import hashlib
import logging
import random
import sys
import weakref
from collections.abc import Callable
from typing import Any

import gevent
import pytest

from helpers import in_os_thread, output_of
from ratchet import BusError, DeadlockError, WrongThread, bus, testing, thread
from ratchet._chance import chance
from ratchet.testing import Faults, Livelock, World, simulate


def shop() -> None:
    """A server that answers in capitals."""
    with bus.listen("shop:80") as server:
        server.serve(bytes.upper)


def test_it_runs_main_once_for_each_seed() -> None:
    seeds: list[int] = []
    simulate(lambda world: seeds.append(world.seed), seeds=[3, 1, 4])
    simulate(lambda world: seeds.append(world.seed), seeds=2)
    assert seeds == [3, 1, 4, 0, 1]


def test_processes_talk_over_the_network() -> None:
    def customer() -> bytes:
        with bus.connect("shop:80") as client:
            return client.call(b"tea", timeout=60)

    def main(world: World) -> None:
        world.process("shop", shop)
        customers = [world.process("customer", customer) for _ in range(3)]
        assert [each.wait() for each in customers] == [b"TEA"] * 3
        assert 0 < world.clock.now < 60

    simulate(main, seeds=20)


def test_a_process_has_threads_of_its_own() -> None:
    def process(done: list[str]) -> None:
        def child() -> None:
            thread.timer(5)
            done.append("child")

        thread.attach(child)
        done.append("first")

    def main(world: World) -> None:
        done: list[str] = []
        world.process("p", process, done).wait()
        assert done == ["first", "child"]

    simulate(main, seeds=3)


@pytest.mark.uncounted
def test_a_server_that_is_killed_loses_its_connections_and_its_address() -> None:
    def main(world: World) -> None:
        first = world.process("shop", shop)
        with bus.connect("shop:80") as client:
            assert client.call(b"tea", timeout=60) == b"TEA"
            first.kill()
            assert not first.alive
            assert first.wait() is None
            world.clock.advance(1)
            assert client.stats().connections == 0
            world.process("shop", shop)
            assert client.call(b"tea", timeout=60) == b"TEA"

    simulate(main, seeds=20)


def test_not_one_byte_leaves_a_process_that_was_killed() -> None:
    def stubborn(sent: list[str]) -> None:
        client = bus.connect("shop:80")
        client.wait_connected(timeout=60)
        try:
            client.call(b"slow", timeout=60)
        finally:
            for _ in range(3):
                client.cast(b"from beyond")
            client.close()
            sent.append("cast")
            bus.connect("shop:80").wait_connected(timeout=60)
            sent.append("connected")

    def main(world: World) -> None:
        came: list[bytes] = []
        sent: list[str] = []

        def handle(request: bytes) -> bytes:
            came.append(request)
            thread.timer(30)
            return request

        def keeper() -> None:
            with bus.listen("shop:80") as server:
                server.serve(handle)

        world.process("shop", keeper)
        victim = world.process("victim", stubborn, sent)
        world.clock.advance(5)
        victim.kill()
        world.clock.advance(60)
        assert came == [b"slow"]
        assert sent == ["cast"]

    simulate(main, seeds=20)


def test_what_was_sent_before_the_kill_still_arrives() -> None:
    def caster(ready: Any) -> None:
        client = bus.connect("shop:80")
        client.wait_connected(timeout=60)
        client.cast(b"tea")
        ready.set()
        thread.pause()

    def main(world: World) -> None:
        came: list[bytes] = []

        def handle(request: bytes) -> bytes:
            came.append(request)
            return b""

        def keeper() -> None:
            with bus.listen("shop:80") as server:
                server.serve(handle)

        ready = gevent.event.Event()
        world.process("shop", keeper)
        victim = world.process("caster", caster, ready)
        ready.wait()
        victim.kill()
        world.clock.advance(10)
        assert came == [b"tea"]

    simulate(main, seeds=10, faults=Faults(latency=0.5))


def test_a_process_may_kill_itself() -> None:
    def main(world: World) -> None:
        def suicidal() -> None:
            processes[0].kill()
            raise AssertionError("it lives")

        processes = []
        processes.append(world.process("p", suicidal))
        assert processes[0].wait() is None

    simulate(main, seeds=3)


def test_a_failure_names_its_seed_and_the_seed_replays_it() -> None:
    def main(world: World) -> None:
        world.process("shop", shop)
        with bus.connect("shop:80") as client:
            client.call(b"tea", timeout=60)
        if not world.random.randrange(10):
            raise AssertionError(f"at {world.clock.now}")

    with pytest.raises(AssertionError) as first:
        simulate(main, seeds=1000)
    (note,) = first.value.__notes__
    seed = int(note.split()[1].rstrip(";"))
    assert note == f"seed {seed}; simulate(main, seeds=[{seed}]) replays it"
    with pytest.raises(AssertionError) as again:
        simulate(main, seeds=[seed])
    assert str(again.value) == str(first.value)
    assert again.value.__notes__ == [note]


def fail() -> None:
    thread.timer(1)
    raise KeyError("lost")


def test_the_error_of_a_process_that_nobody_waits_for_fails_the_run() -> None:
    def main(world: World) -> None:
        world.process("loser", fail)
        world.clock.advance(2)

    with pytest.raises(KeyError, match="lost") as failed:
        simulate(main, seeds=1)
    assert failed.value.__notes__ == [
        "the process 'loser' died of KeyError('lost')",
        "seed 0; simulate(main, seeds=[0]) replays it",
    ]


def test_the_error_of_a_process_is_for_whoever_waits() -> None:
    def main(world: World) -> None:
        loser = world.process("loser", fail)
        with pytest.raises(TimeoutError):
            loser.wait(timeout=0.5)
        with pytest.raises(KeyError):
            loser.wait()
        assert loser.wait() is None

    simulate(main, seeds=3)


def test_the_error_of_main_comes_out_and_that_of_a_process_is_noted() -> None:
    def main(world: World) -> None:
        world.process("loser", fail)
        world.clock.advance(2)
        raise AssertionError("mine")

    with pytest.raises(AssertionError, match="mine") as failed:
        simulate(main, seeds=1)
    assert failed.value.__notes__[0] == "the process 'loser' died of KeyError('lost')"


def test_a_program_in_which_nothing_can_ever_happen_is_a_deadlock() -> None:
    def main(world: World) -> None:
        world.process("sleeper", thread.pause).wait()

    with pytest.raises(DeadlockError) as failed:
        simulate(main, seeds=1)
    assert "seed 0" in failed.value.__notes__[-1]


def test_a_program_that_waits_for_a_server_that_never_answers_is_a_deadlock() -> None:
    def listener() -> None:
        with bus.listen("shop:80"):
            thread.pause()

    def main(world: World) -> None:
        world.process("shop", listener)
        with bus.connect("shop:80") as client:
            client.send_request(b"tea").recv_response()

    with pytest.raises(DeadlockError):
        simulate(main, seeds=1)


def test_a_program_that_never_ends_fails_too() -> None:
    def main(world: World) -> None:
        while True:
            gevent.sleep(0)

    with pytest.raises(Livelock) as failed:
        simulate(main, seeds=1, max_steps=10_000)
    assert "seed 0" in failed.value.__notes__[-1]


def test_a_process_that_cannot_be_killed_is_named() -> None:
    def undying() -> None:
        while True:
            try:
                gevent.sleep(0)
            except gevent.GreenletExit:
                pass

    def main(world: World) -> None:
        world.process("undying", undying)
        gevent.sleep(0)

    with pytest.raises(Livelock, match=r"cannot be killed:(.|\n)*undying") as caught:
        simulate(main, 1, max_steps=10_000)
    assert caught.value.__notes__ == ["seed 0; simulate(main, seeds=[0]) replays it"]


def test_a_partition_of_a_process_by_name() -> None:
    def customer(asked: list[float], world: World) -> None:
        with bus.connect("shop:80") as client:
            while True:
                client.call(b"tea", timeout=120)
                asked.append(world.clock.now)
                thread.timer(1)

    def main(world: World) -> None:
        world.process("shop", shop)
        cut_off: list[float] = []
        well: list[float] = []
        world.process("cut off", customer, cut_off, world)
        world.process("well", customer, well, world)
        world.clock.advance(10)
        world.network.partition("cut off")
        world.clock.advance(20)
        counts = len(cut_off), len(well)
        world.network.heal()
        world.clock.advance(20)
        assert counts[0] < 12
        assert counts[1] > 20
        assert len(cut_off) > counts[0]

    simulate(main, seeds=5)


def test_a_greenlet_of_gevents_is_of_the_process_that_spawned_it() -> None:
    ended = []

    def spawner() -> None:
        gevent.spawn(gevent.spawn, keep_connected)
        thread.pause()

    def keep_connected() -> None:
        with bus.connect("shop:80") as client:
            client.wait_connected(timeout=60)
            try:
                gevent.sleep(3600)
            finally:
                ended.append(client.stats().connections)

    def main(world: World) -> None:
        process = world.process("spawner", spawner)
        with bus.listen("shop:80") as server:
            world.clock.advance(5)
            assert server.stats().connections == 1
            process.kill()
            world.clock.advance(5)
            assert server.stats().connections == 0

    simulate(main, seeds=5)
    assert ended == [1] * 5


def test_a_process_outlives_the_one_that_has_started_it() -> None:
    def parent(world: World, started: list[testing.Process[None]]) -> None:
        started.append(world.process("child", shop))
        thread.pause()

    def main(world: World) -> None:
        started: list[testing.Process[None]] = []
        process = world.process("parent", parent, world, started)
        world.clock.advance(1)
        process.kill()
        world.clock.advance(1)
        assert started[0].alive
        with bus.connect("shop:80") as client:
            assert client.call(b"tea", timeout=60) == b"TEA"

    simulate(main, seeds=5)


def test_every_process_that_died_is_named() -> None:
    def main(world: World) -> None:
        for _ in range(2):
            world.process("loser", fail)
        world.clock.advance(2)

    with pytest.raises(KeyError) as failed:
        simulate(main, seeds=1)
    assert failed.value.__notes__[:2] == ["the process 'loser' died of KeyError('lost')"] * 2


def test_faults_may_be_drawn_for_each_seed() -> None:
    found = []

    def draw(random: random.Random) -> Faults:
        return Faults(latency=random.random())

    simulate(lambda world: found.append(world.network.faults.latency), seeds=3, faults=draw)
    assert len(set(found)) == 3


def test_chance_and_garbage_are_put_back() -> None:
    random.seed(7)
    chance.seed(7)
    expected = random.Random(7).random()
    assert gc.isenabled()

    def main(world: World) -> None:
        assert not gc.isenabled()
        drawn.append((random.random(), chance.random()))

    drawn: list[tuple[float, float]] = []
    simulate(main, seeds=[1, 2, 1])
    assert drawn[0] == drawn[2] != drawn[1]
    assert gc.isenabled()
    assert random.random() == chance.random() == expected
    chance.seed()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((None, 1), TypeError, "main must be callable"),
        ((print, "12"), TypeError, "seeds must be whole numbers, or how many, not '12'"),
        ((print, None), TypeError, "seeds must be whole numbers, or how many"),
        ((print, True), TypeError, "seeds must be whole numbers, or how many"),
        ((print, [1.5]), TypeError, "a seed must be a whole number, not 1.5"),
        ((print, -1), ValueError, "seeds must not be less than 0, and are -1"),
        ((print, 1, 0.5), TypeError, "faults must be Faults"),
        ((print, 1, lambda random: 0.5), TypeError, "faults must return Faults, and .* returned 0.5"),
    ],
)
def test_wrong_arguments_are_refused(arguments: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        simulate(*arguments)


@pytest.mark.parametrize(
    ("max_steps", "error"), [("10", TypeError), (None, TypeError), (True, TypeError), (0, ValueError)]
)
def test_a_number_of_steps_is_above_0(max_steps: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=f"max_steps must be .*, not {max_steps!r}"):
        simulate(print, 1, max_steps=max_steps)


def test_one_os_thread_simulates_at_a_time() -> None:
    def main(world: World) -> None:
        simulate(lambda within: ran.append(within.seed), seeds=2)
        assert in_os_thread(simulate_too) is None

    def simulate_too() -> None:
        with pytest.raises(RuntimeError, match=r"simulate\(\) runs in another OS thread"):
            simulate(lambda world: ran.append(-1), seeds=1)

    ran: list[int] = []
    factory = logging.getLogRecordFactory()
    simulate(main, seeds=1)
    assert ran == [0, 1]
    assert logging.getLogRecordFactory() is factory


def test_a_world_is_of_one_hub_and_one_run() -> None:
    worlds: list[World] = []

    def use(world: World) -> None:
        with pytest.raises(WrongThread, match="this World belongs to"):
            world.process("late", print)

    def main(world: World) -> None:
        def use_process() -> None:
            for call in (process.kill, process.wait):
                with pytest.raises(WrongThread, match="pauser belongs to another OS thread"):
                    call()
            use(world)

        worlds.append(world)
        process = world.process("pauser", thread.pause)
        assert in_os_thread(use_process) is None
        assert process.alive

    simulate(main, seeds=1)
    use(worlds[0])


def test_a_kill_that_was_interrupted_may_be_done_again() -> None:
    def linger() -> None:
        try:
            thread.pause()
        finally:
            thread.timer(100)
            ended.append("in its own time")

    def main(world: World) -> None:
        process = world.process("lingerer", linger)
        world.clock.advance(1)
        with pytest.raises(gevent.Timeout), gevent.Timeout(1):
            process.kill()
        process.kill()
        process.wait(timeout=0)
        assert world.clock.now < 3

    ended: list[str] = []
    simulate(main, seeds=1)
    assert ended == []


def test_a_process_needs_a_name_and_a_function() -> None:
    def main(world: World) -> None:
        with pytest.raises(ValueError, match="a text without a colon, not 'shop:80'"):
            world.process("shop:80", shop)
        with pytest.raises(TypeError, match="func must be callable, not None"):
            world.process("shop", None)  # type: ignore[arg-type]

    simulate(main, seeds=1)


def harsh(random: random.Random) -> Faults:
    """A bad line, each time another one."""
    return Faults(
        latency=(0.0001, 0.01),
        delayed=random.choice([0, 0.1]),
        split=random.choice([0, 0.3]),
        partial=random.choice([0, 0.2]),
        refused=random.choice([0, 0.3]),
        cut=random.choice([0, 0.2]),
        reset=random.choice([0, 0.2]),
        send_buffer=random.choice([300, 65536]),
    )


def busy(world: World) -> None:
    """A program in which much happens: kills, partitions, lost connections, time-outs."""

    def customer(number: int) -> int:
        answered = 0
        with bus.connect("shop:80") as client:
            for n in range(6):
                request = b"%d.%d" % (number, n) + b"x" * world.random.choice([0, 100, 5000])
                try:
                    assert client.call(request, timeout=world.random.choice([1, 60])) == request.upper()
                    answered += 1
                except BusError:
                    thread.timer(world.random.random())
        return answered

    keeper = world.process("shop", shop)
    customers = [world.process(f"customer {number}", customer, number) for number in range(3)]
    world.clock.advance(world.random.random())
    if world.random.random() < 0.5:
        keeper.kill()
        world.process("shop", shop)
    if world.random.random() < 0.3:
        world.network.partition("shop")
        world.clock.advance(40 * world.random.random())
        world.network.heal()
    assert sum(each.wait() or 0 for each in customers) >= 0


def trace(seeds: int) -> str:
    """All that happens in so many runs, as one number."""
    digest = hashlib.blake2b(digest_size=16)

    def main(world: World) -> None:
        loop = world.clock.loop

        def note(callback: Callable[..., object]) -> None:
            name = getattr(callback, "__qualname__", type(callback).__name__)
            digest.update(f"{loop.elapsed} {name}\n".encode())

        loop.on_step = note
        busy(world)
        loop.on_step = None

    simulate(main, seeds, harsh)
    return digest.hexdigest()


SEEDS = 15


@pytest.mark.uncounted
def test_a_seed_gives_the_same_run_in_every_process(monkeypatch: pytest.MonkeyPatch) -> None:
    source = f"""
        import sys
        sys.path[:0] = {sys.path!r}
        from testing.test_simulate import SEEDS, trace
        print(trace(SEEDS))
    """
    traces = set()
    for hash_seed in "12":
        monkeypatch.setenv("PYTHONHASHSEED", hash_seed)
        traces.add(output_of(source).strip())
    assert traces == {trace(SEEDS)}


@pytest.mark.uncounted
def test_the_level_of_the_log_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ratchet").setLevel(logging.CRITICAL)
    try:
        silent = trace(SEEDS)
    finally:
        logging.getLogger("ratchet").setLevel(logging.NOTSET)
    with caplog.at_level(logging.DEBUG):
        assert trace(SEEDS) == silent
    assert "kind 0" in caplog.text
    assert "lost the connection" in caplog.text


def test_the_log_is_as_ever_afterwards() -> None:
    factory = logging.getLogRecordFactory()
    simulate(lambda world: None, seeds=1)
    assert logging.getLogRecordFactory() is factory


def test_nothing_of_a_run_stays_in_memory() -> None:
    hubs = []

    def main(world: World) -> None:
        hubs.append(weakref.ref(gevent.get_hub()))
        busy(world)

    simulate(main, seeds=2, faults=harsh)
    gc.collect()
    assert [hub() for hub in hubs] == [None, None]


def test_clocks_and_hubs_are_back_afterwards() -> None:
    hub = gevent.get_hub()
    simulate(busy, seeds=1)
    assert gevent.get_hub() is hub
    with pytest.raises(RuntimeError):
        testing.socket_pair()
