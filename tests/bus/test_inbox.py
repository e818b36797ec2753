"""The queue of requests that wait for a thread: who gets what, and that nothing is lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.hub import get_hub

from helpers import LONG, active_watchers, turns, wait_until
from ratchet._wait import waiting_on
from ratchet.bus._core.fair_queue import Flow, Queued
from ratchet.bus._core.inbox import Inbox
from ratchet.bus._core.load import Load
from ratchet.errors import BusClosed, BusError, BusTimeout, Outcome


class Bus:
    """What the inbox knows of a bus."""

    name = "the bus"

    def __repr__(self) -> str:
        return self.name


THE_BUS = Bus()


class Origin:
    """Where everything comes from."""

    def __init__(self) -> None:
        self.flow: Flow = Flow()


class Item(Queued):
    """What is in the inbox."""

    def __init__(self, route: Origin, value: Any) -> None:
        super().__init__(route.flow, None, 0.0)
        self.value = value


class Values:
    """An inbox with values of any kind."""

    def __init__(self, maxsize: int | None = None) -> None:
        self._origin = Origin()
        self._inbox: Inbox = Inbox(THE_BUS, Load(THE_BUS, get_hub()), maxsize)
        self.wait_for_room = self._inbox.wait_for_room

    def __len__(self) -> int:
        return len(self._inbox)

    def __iter__(self) -> Iterator[Any]:
        return iter([item.value for item in self._inbox])

    @property
    def full(self) -> bool:
        return self._inbox.full

    @property
    def closed(self) -> bool:
        return self._inbox.closed

    def put(self, value: object) -> None:
        self._inbox.put(Item(self._origin, value))

    def take(self, timeout: float | None) -> Any:
        """Wait for a value and take it, as a thread does that has claimed it."""
        item = self._inbox.first(timeout)
        self._inbox.drop(item, claimed=True)
        return item.value

    def remove(self, value: object) -> None:
        self._inbox.remove([item for item in self._inbox if item.value == value])

    def shut(self) -> list[Any]:
        """Close, and let nobody take what is left."""
        left = self._inbox.close()
        self._inbox.remove(left)
        return [item.value for item in left]


class Threads:
    """Threads at one inbox, and what came of each, in the order in which it came."""

    def __init__(self, maxsize: int | None = None) -> None:
        self.inbox = Values(maxsize)
        self.log: list[tuple[str, str]] = []
        self.started: list[gevent.Greenlet[..., None]] = []

    def run(
        self, name: str, call: Callable[..., str | None], timeout: float | None
    ) -> gevent.Greenlet[..., None]:
        """Start a thread and let it come to its wait."""

        def body() -> None:
            try:
                self.log.append((name, call(timeout) or "sent"))
            except (BusError, gevent.Timeout) as error:
                self.log.append((name, type(error).__name__))
            except gevent.GreenletExit:
                self.log.append((name, "killed"))

        thread: gevent.Greenlet[..., None] = gevent.spawn(body)
        self.started.append(thread)
        wait_until(lambda: thread.ready() or waiting_on(thread))
        return thread

    def receiver(self, name: str, timeout: float | None = None) -> gevent.Greenlet[..., None]:
        return self.run(name, self.inbox.take, timeout)

    def sender(self, name: str, timeout: float | None = None) -> gevent.Greenlet[..., None]:
        """A thread that puts its own name, waiting for room if it has to."""

        def send(timeout: float | None) -> None:
            if self.inbox.full:
                self.inbox.wait_for_room(timeout)
            self.inbox.put(name)

        return self.run(name, send, timeout)

    def expect(self, *log: tuple[str, str]) -> None:
        """This came to pass, and some turns later nothing more."""
        wait_until(lambda: len(self.log) >= len(log), f"{log}, got {self.log}")
        turns()
        assert self.log == list(log)
        self.log.clear()


@pytest.fixture
def at() -> Iterator[Threads]:
    threads = Threads()
    yield threads
    gevent.killall(threads.started, timeout=LONG)


@pytest.fixture
def bounded() -> Iterator[Threads]:
    threads = Threads(maxsize=2)
    yield threads
    gevent.killall(threads.started, timeout=LONG)


def soon(call: Callable[..., object], *arguments: object) -> None:
    """Call from the hub, on the next turn."""
    get_hub().loop.run_callback(call, *arguments)


# First in, first out; first come, first served


def test_items_are_taken_in_the_order_in_which_they_came(at: Threads) -> None:
    for item in "abc":
        at.inbox.put(item)
    assert len(at.inbox) == 3
    assert [at.inbox.take(None) for _ in range(3)] == ["a", "b", "c"]
    assert len(at.inbox) == 0


def test_a_look_at_the_items_is_a_snapshot_and_takes_none(at: Threads) -> None:
    for item in "abc":
        at.inbox.put(item)
    look = iter(at.inbox)
    assert at.inbox.take(None) == "a"
    assert list(look) == ["a", "b", "c"]
    assert list(at.inbox) == ["b", "c"]


def test_an_item_that_is_there_is_taken_without_a_switch(at: Threads) -> None:
    others: list[str] = []
    soon(others.append, "ran")
    at.inbox.put("a")
    assert at.inbox.take(0) == "a"
    assert others == []
    turns()
    assert others == ["ran"]


@pytest.mark.parametrize("item", [None, 0, False, "", b""])
def test_false_values_are_ordinary_items(item: object) -> None:
    inbox = Values()
    inbox.put(item)
    assert inbox.take(None) is item
    receiving = gevent.spawn(inbox.take, None)
    wait_until(lambda: waiting_on(receiving))
    inbox.put(item)
    assert receiving.get(timeout=LONG) is item


def test_waiting_threads_are_served_in_the_order_in_which_they_came(at: Threads) -> None:
    for name in "123":
        at.receiver(name)
    for item in "abc":
        at.inbox.put(item)
    at.expect(("1", "a"), ("2", "b"), ("3", "c"))


def test_an_item_that_is_put_from_the_hub_wakes_a_thread(at: Threads) -> None:
    at.receiver("1")
    soon(at.inbox.put, "a")
    at.expect(("1", "a"))


def test_one_item_wakes_one_thread(at: Threads) -> None:
    for name in "12":
        at.receiver(name)
    at.inbox.put("a")
    at.expect(("1", "a"))
    at.inbox.put("b")
    at.expect(("2", "b"))


def test_a_thread_that_comes_while_others_wait_does_not_barge_in(at: Threads) -> None:
    at.receiver("1")
    at.inbox.put("a")
    # The wake of "1" is under way; the item is there to be seen, and is not ours.
    assert len(at.inbox) == 1
    at.receiver("2")
    at.expect(("1", "a"))
    at.inbox.put("b")
    at.expect(("2", "b"))


def test_a_thread_that_takes_item_after_item_does_not_keep_others_from_theirs(at: Threads) -> None:
    order = []

    def take_all(name: str) -> None:
        while at.inbox.take(None) != "end":
            order.append(name)

    threads = [gevent.spawn(take_all, name) for name in "12"]
    turns()
    for _ in range(6):
        at.inbox.put("item")
        turns(2)
    at.inbox.put("end")
    at.inbox.put("end")
    gevent.joinall(threads, timeout=LONG)
    assert order == list("121212")


def test_threads_that_feed_each_other_do_not_hold_the_hub(at: Threads) -> None:
    """Each take is followed by a put at once; a timer must still get its turn."""
    running = True

    def take_and_put() -> None:
        while running:
            at.inbox.put(at.inbox.take(None))

    threads = [gevent.spawn(take_and_put) for _ in range(3)]
    turns()
    at.inbox.put("a")
    try:
        with gevent.Timeout(LONG):
            gevent.sleep(0.01)
    finally:
        running = False
        gevent.killall(threads)
    assert list(at.inbox) == ["a"]


def test_a_thread_that_waits_says_on_what(at: Threads) -> None:
    assert waiting_on(at.receiver("1")) == "recv_request on the bus"


# Time-outs


def test_no_item_in_time_is_a_bus_timeout(at: Threads) -> None:
    with pytest.raises(BusTimeout, match=r"no request came to the bus within 0\.01 s") as raised:
        at.inbox.take(0.01)
    assert raised.value.outcome is Outcome.NOT_RUN


@pytest.mark.parametrize("timeout", [0, 0.0, -1])
def test_a_time_that_is_over_already_takes_what_is_there_and_waits_for_nothing(
    at: Threads, timeout: float
) -> None:
    with pytest.raises(BusTimeout):
        at.inbox.take(timeout)
    at.inbox.put("a")
    assert at.inbox.take(timeout) == "a"


def test_a_thread_that_times_out_leaves_the_line(at: Threads) -> None:
    before = active_watchers()
    at.receiver("1", timeout=0.01)
    at.receiver("2")
    at.expect(("1", "BusTimeout"))
    at.inbox.put("a")
    at.expect(("2", "a"))
    assert active_watchers() <= before


def test_a_thread_may_wait_again_after_a_time_out(at: Threads) -> None:
    with pytest.raises(BusTimeout):
        at.inbox.take(0)
    soon(at.inbox.put, "a")
    assert at.inbox.take(LONG) == "a"


# Kills and alarms, in either order of events


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout(60)])
def test_a_thread_that_is_ended_leaves_the_line_and_disturbs_no_other(at: Threads, error: Any) -> None:
    before = active_watchers()
    first = at.receiver("1", timeout=60)
    at.receiver("2")
    first.kill(error, timeout=LONG)
    assert at.log == [("1", "killed" if error is gevent.GreenletExit else "Timeout")]
    at.log.clear()
    at.inbox.put("a")
    at.expect(("2", "a"))
    assert active_watchers() <= before


def test_an_item_that_comes_before_the_kill_of_its_receiver_is_not_lost(at: Threads) -> None:
    first, _ = at.receiver("1"), at.receiver("2")
    at.inbox.put("a")
    first.kill(block=False)
    # Its own wake came first, so it has the item, and is killed where it blocks next.
    at.expect(("1", "a"))
    at.inbox.put("b")
    at.expect(("2", "b"))


def test_an_item_that_comes_after_the_kill_of_its_receiver_goes_to_the_next(at: Threads) -> None:
    first, _ = at.receiver("1"), at.receiver("2")
    first.kill(block=False)
    at.inbox.put("a")
    at.expect(("1", "killed"), ("2", "a"))


def test_an_item_whose_wake_finds_nobody_stays_at_the_head(at: Threads) -> None:
    first = at.receiver("1")
    first.kill(block=False)
    at.inbox.put("a")
    at.inbox.put("b")
    at.expect(("1", "killed"))
    assert list(at.inbox) == ["a", "b"]
    assert at.inbox.take(0) == "a"


def test_an_item_survives_an_alarm_that_rings_in_the_same_turn(at: Threads) -> None:
    """Whichever comes first, the item is taken once or still there."""
    for delay in (0, 0.0001, 0.001, 0.002):
        taken: list[str] = []
        putting = gevent.spawn_later(delay, at.inbox.put, "a")
        try:
            with gevent.Timeout(0.001):
                taken.append(at.inbox.take(None))
        except gevent.Timeout:
            pass
        putting.join(LONG)
        assert taken + list(at.inbox) == ["a"]
        if not taken:
            assert at.inbox.take(0) == "a"


@pytest.mark.virtual_time
def test_a_receiver_that_kills_the_next_one_takes_nothing_from_it(at: Threads) -> None:
    def take_and_kill() -> None:
        at.log.append(("killer", at.inbox.take(None)))
        victim.kill(block=False)

    killer = gevent.spawn(take_and_kill)
    wait_until(lambda: waiting_on(killer))
    victim = at.receiver("victim")
    at.receiver("other")
    at.inbox.put("a")
    at.inbox.put("b")
    # Both were woken in one turn: the second had its item before the kill came.
    at.expect(("killer", "a"), ("victim", "b"))


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("maxsize", [None, 1, 3])
def test_nothing_is_lost_or_doubled_or_reordered_by_random_kills(seed: int, maxsize: int | None) -> None:
    chance = random.Random(seed)
    before = active_watchers()
    inbox = Values(maxsize)
    put: list[int] = []
    taken: list[int] = []

    def receive(count: int, timeout: float | None) -> None:
        for _ in range(count):
            try:
                # What was taken is noted with no switch in between.
                taken.append(inbox.take(timeout))
            except BusTimeout:
                return
            if chance.random() < 0.3:
                gevent.sleep(0)

    def send(count: int, timeout: float | None) -> None:
        for _ in range(count):
            if inbox.full:
                try:
                    inbox.wait_for_room(timeout)
                except BusTimeout:
                    return
            assert maxsize is None or len(inbox) < maxsize
            put.append(len(put))
            inbox.put(put[-1])

    threads: list[gevent.Greenlet[..., None]] = []
    for _ in range(400):
        match chance.randrange(6):
            case 0 | 1:
                threads.append(gevent.spawn(receive, chance.randint(1, 5), chance.choice([None, 0, 0.001])))
            case 2 | 3:
                threads.append(gevent.spawn(send, chance.randint(1, 5), chance.choice([None, 0, 0.001])))
            case 4 if threads:
                threads.pop(chance.randrange(len(threads))).kill(block=chance.random() < 0.5)
            case _:
                turns(chance.randint(1, 2))
        assert maxsize is None or len(inbox) <= maxsize
    gevent.killall(threads, timeout=LONG)
    turns()
    assert taken + list(inbox) == put
    assert taken
    # Nobody is left in either line: an item passes through at once.
    left = [inbox.take(0) for _ in range(len(inbox))]
    assert taken + left == put
    assert not inbox.full
    inbox.put(-1)
    assert inbox.take(0) == -1
    wait_until(lambda: active_watchers() <= before)


# A bounded inbox


def test_an_unbounded_inbox_is_never_full(at: Threads) -> None:
    for number in range(10_000):
        at.inbox.put(str(number))
    assert not at.inbox.full


def test_senders_wait_for_room_and_put_in_the_order_in_which_they_came(bounded: Threads) -> None:
    for name in "abcd":
        bounded.sender(name)
    bounded.expect(("a", "sent"), ("b", "sent"))
    assert bounded.inbox.full
    assert bounded.inbox.take(None) == "a"
    bounded.expect(("c", "sent"))
    assert bounded.inbox.take(None) == "b"
    bounded.expect(("d", "sent"))
    assert list(bounded.inbox) == ["c", "d"]


def test_there_are_never_more_items_than_the_bound(bounded: Threads) -> None:
    for name in "abcdefgh":
        bounded.sender(name)
    received: list[str] = []
    while len(received) < 8:
        wait_until(lambda: len(bounded.inbox) > 0)
        assert len(bounded.inbox) <= 2
        received.append(bounded.inbox.take(LONG))
    assert received == list("abcdefgh")


def test_a_sender_that_comes_while_others_wait_does_not_barge_in(bounded: Threads) -> None:
    for name in "abc":
        bounded.sender(name)
    bounded.inbox.take(None)
    # There is room, but it is promised to "c".
    assert len(bounded.inbox) == 1
    assert bounded.inbox.full
    bounded.sender("d")
    bounded.expect(("a", "sent"), ("b", "sent"), ("c", "sent"))
    bounded.inbox.take(None)
    bounded.expect(("d", "sent"))


def test_an_inbox_has_room_again_when_nobody_waits_for_it(bounded: Threads) -> None:
    for name in "ab":
        bounded.sender(name)
    assert bounded.inbox.full
    bounded.inbox.take(None)
    assert not bounded.inbox.full


def test_items_pass_from_waiting_senders_to_waiting_receivers(bounded: Threads) -> None:
    for name in "abcde":
        bounded.sender(name)
    received = [bounded.inbox.take(LONG) for _ in range(2)]
    for name in "123":
        bounded.receiver(name)
    wait_until(lambda: len(bounded.log) == 8)
    assert received == ["a", "b"]
    assert [entry for entry in bounded.log if entry[1] != "sent"] == [("1", "c"), ("2", "d"), ("3", "e")]


def test_no_room_in_time_is_a_bus_timeout_and_nothing_was_sent(bounded: Threads) -> None:
    for name in "ab":
        bounded.sender(name)
    with pytest.raises(BusTimeout, match=r"no room in the bus within 0\.01 s") as raised:
        bounded.inbox.wait_for_room(0.01)
    assert raised.value.outcome is Outcome.NOT_SENT
    assert bounded.inbox.take(None) == "a"
    # It left the line: the room is free.
    turns()
    assert not bounded.inbox.full


@pytest.mark.parametrize("error", [gevent.GreenletExit, gevent.Timeout(60)])
def test_a_sender_that_is_ended_leaves_the_line_to_the_next(bounded: Threads, error: Any) -> None:
    senders = {name: bounded.sender(name) for name in "abcd"}
    bounded.expect(("a", "sent"), ("b", "sent"))
    assert waiting_on(senders["c"]) == "send_request on the bus"
    senders["c"].kill(error, timeout=LONG)
    bounded.expect(("c", "killed" if error is gevent.GreenletExit else "Timeout"))
    bounded.inbox.take(None)
    bounded.expect(("d", "sent"))
    assert list(bounded.inbox) == ["b", "d"]


def test_room_that_comes_just_before_the_kill_of_a_sender_is_used(bounded: Threads) -> None:
    senders = {name: bounded.sender(name) for name in "abcd"}
    bounded.log.clear()
    bounded.inbox.take(None)
    senders["c"].kill(block=False)
    bounded.expect(("c", "sent"))
    assert list(bounded.inbox) == ["b", "c"]


def test_room_that_comes_just_after_the_kill_of_a_sender_goes_to_the_next(bounded: Threads) -> None:
    senders = {name: bounded.sender(name) for name in "abcd"}
    bounded.log.clear()
    senders["c"].kill(block=False)
    bounded.inbox.take(None)
    bounded.expect(("c", "killed"), ("d", "sent"))
    assert list(bounded.inbox) == ["b", "d"]


def test_a_sender_that_gives_up_when_woken_leaves_the_room_to_the_next(bounded: Threads) -> None:
    for name in "ab":
        bounded.sender(name)
    # Woken, it finds that its request is not wanted any more.
    bounded.run("quitter", bounded.inbox.wait_for_room, None)
    bounded.sender("c")
    bounded.log.clear()
    bounded.inbox.take(None)
    bounded.expect(("quitter", "sent"), ("c", "sent"))
    assert list(bounded.inbox) == ["b", "c"]


# Taking items back


def test_an_item_that_is_taken_back_is_never_delivered(at: Threads) -> None:
    for item in "abc":
        at.inbox.put(item)
    at.inbox.remove("b")
    assert [at.inbox.take(None) for _ in range(2)] == ["a", "c"]
    with pytest.raises(BusTimeout):
        at.inbox.take(0)


def test_an_item_that_is_taken_back_before_its_receiver_runs_wakes_nobody(at: Threads) -> None:
    at.receiver("1")
    at.inbox.put("a")
    at.inbox.remove("a")
    turns()
    assert at.log == []
    at.inbox.put("b")
    at.expect(("1", "b"))


def test_an_item_that_is_taken_back_makes_room(bounded: Threads) -> None:
    for name in "abc":
        bounded.sender(name)
    bounded.expect(("a", "sent"), ("b", "sent"))
    bounded.inbox.remove("b")
    bounded.expect(("c", "sent"))
    assert list(bounded.inbox) == ["a", "c"]


def test_what_is_not_there_cannot_be_taken_back_and_is_no_error(at: Threads) -> None:
    at.inbox.put("a")
    at.inbox.remove("b")
    assert list(at.inbox) == ["a"]


# Closing


def test_close_wakes_everyone_who_waits_for_an_item(at: Threads) -> None:
    before = active_watchers()
    for name in "123":
        at.receiver(name, timeout=60)
    assert at.inbox.shut() == []
    at.expect(("1", "BusClosed"), ("2", "BusClosed"), ("3", "BusClosed"))
    assert active_watchers() <= before


def test_close_wakes_everyone_who_waits_for_room_and_returns_what_was_left(bounded: Threads) -> None:
    for name in "abcd":
        bounded.sender(name, timeout=60)
    bounded.expect(("a", "sent"), ("b", "sent"))
    assert bounded.inbox.shut() == ["a", "b"]
    bounded.expect(("c", "BusClosed"), ("d", "BusClosed"))
    assert len(bounded.inbox) == 0


def test_the_errors_of_a_closed_inbox_say_that_nothing_ran(bounded: Threads) -> None:
    for name in "ab":
        bounded.sender(name)
    soon(bounded.inbox.shut)
    with pytest.raises(BusClosed, match="the bus is closed") as sending:
        bounded.inbox.wait_for_room(LONG)
    with pytest.raises(BusClosed, match="the bus is closed") as receiving:
        bounded.inbox.take(LONG)
    assert sending.value.outcome is Outcome.NOT_SENT
    assert receiving.value.outcome is Outcome.NOT_RUN


def test_a_closed_inbox_lets_nobody_wait(at: Threads) -> None:
    at.inbox.shut()
    for timeout in (None, 0, 60):
        with pytest.raises(BusClosed):
            at.inbox.take(timeout)


def test_a_thread_that_comes_back_at_once_after_a_close_is_turned_away_too(at: Threads) -> None:
    errors = []

    def insist() -> None:
        for _ in range(3):
            try:
                at.inbox.take(None)
            except BusClosed as error:
                errors.append(error)

    threads = [gevent.spawn(insist) for _ in range(2)]
    wait_until(lambda: all(map(waiting_on, threads)))
    at.inbox.shut()
    gevent.joinall(threads, timeout=LONG)
    assert len(errors) == 6


def test_an_item_that_came_just_before_the_close_is_returned_and_delivered_to_nobody(at: Threads) -> None:
    at.receiver("1")
    at.inbox.put("a")
    assert at.inbox.shut() == ["a"]
    at.expect(("1", "BusClosed"))


def test_closing_twice_is_fine(at: Threads) -> None:
    at.inbox.put("a")
    assert at.inbox.shut() == ["a"]
    assert at.inbox.shut() == []


def test_a_thread_that_is_killed_as_the_inbox_closes_ends_once(at: Threads) -> None:
    first, second = at.receiver("1"), at.receiver("2")
    first.kill(block=False)
    at.inbox.shut()
    second.kill(block=False)
    at.expect(("1", "killed"), ("2", "BusClosed"))
