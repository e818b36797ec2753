"""gevent's waitables: `gevent.wait` and `gevent.iwait` take the transactions of a client."""

from __future__ import annotations

import gc
import weakref
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import AsyncResult, Event
from greenlet import getcurrent

from contract.buses import Bus, Start, on_every_kind
from helpers import LONG, in_os_thread, turns, wait_until
from ratchet import BusClosed, BusTimeout, Cancelled, WrongThread


def wait(objects: list[Any], timeout: float | None = LONG, count: int | None = None) -> list[Any]:
    ready: list[Any] = gevent.wait(objects, timeout=timeout, count=count)
    return ready


def answer_next(bus: Bus, response: object = "answer") -> None:
    bus.take().send_response(response)


@on_every_kind
def test_all_of_several_are_waited_for(bus: Bus, start: Start) -> None:
    sent = [bus.client.send_request(number) for number in range(3)]
    waiting = start(wait, sent)
    for number in range(3):
        turns()
        assert not waiting.ended
        answer_next(bus, number)
    assert waiting.result() == sent
    assert [transaction.recv_response(0) for transaction in sent] == [0, 1, 2]


@on_every_kind
def test_those_that_have_ended_are_ready_at_once(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    assert not sent.ready()
    answer_next(bus)
    assert sent.recv_response(LONG) == "answer"
    assert sent.ready()
    for _ in range(2):
        assert wait([sent]) == [sent]


def test_the_first_of_several_is_enough(bus: Bus, start: Start) -> None:
    first, second = (bus.client.send_request(number) for number in range(2))
    taken = [bus.take() for _ in range(2)]
    waiting = start(wait, [first, second], count=1)
    waiting.wait_until_blocked()
    taken[1].send_response("answer")
    assert waiting.result() == [second]
    assert not first.ready()
    # It may be waited for again, in each way.
    taken[0].send_response("late")
    assert wait([first, second]) in ([first, second], [second, first])
    assert first.recv_response(LONG) == "late"


@pytest.mark.parametrize("other", ["event", "result", "greenlet"])
def test_others_may_be_waited_for_together_with_it(bus: Bus, start: Start, other: str) -> None:
    sent = bus.client.send_request("question")
    release = Event()
    waitables: dict[str, Any] = {
        "event": Event(),
        "result": AsyncResult(),
        "greenlet": gevent.spawn(release.wait, LONG),
    }
    ends = {
        "event": lambda: waitables["event"].set(),
        "result": lambda: waitables["result"].set(None),
        "greenlet": release.set,
    }
    waiting = start(wait, [sent, waitables[other]], count=1)
    waiting.wait_until_blocked()
    ends[other]()
    assert waiting.result() == [waitables[other]]
    both = start(wait, [sent, waitables[other]])
    turns()
    assert not both.ended
    answer_next(bus)
    assert both.result() in ([waitables[other], sent], [sent, waitables[other]])
    release.set()
    waitables["greenlet"].join(LONG)


def test_iwait_yields_them_as_they_end(bus: Bus, start: Start) -> None:
    sent = [bus.client.send_request(number) for number in range(3)]
    taken = [bus.take() for _ in range(3)]
    seen: list[Any] = []

    def look() -> None:
        for transaction in gevent.iwait(sent, timeout=LONG):
            seen.append(transaction.recv_response(0))

    def seen_so_many(count: int) -> bool:
        return len(seen) == count

    looking = start(look)
    for count, number in enumerate((2, 0, 1)):
        taken[number].send_response(number)
        wait_until(partial(seen_so_many, count + 1), "the next one")
    looking.result()
    assert seen == [2, 0, 1]


@pytest.mark.parametrize("objects", [1, 2])
def test_a_time_out_leaves_the_transactions_as_they_are(bus: Bus, objects: int) -> None:
    sent = [bus.client.send_request(number) for number in range(objects)]
    assert wait(list(sent), timeout=0.01) == []
    assert not any(transaction.done for transaction in sent)
    for number in range(objects):
        answer_next(bus, number)
    assert [transaction.recv_response(LONG) for transaction in sent] == list(range(objects))


def test_each_end_makes_it_ready(bus: Bus, start: Start) -> None:
    cancelled, late = bus.client.send_request("cancelled"), bus.client.send_request("late", timeout=0.05)
    waiting = start(wait, [cancelled, late])
    waiting.wait_until_blocked()
    cancelled.cancel()
    assert set(waiting.result()) == {cancelled, late}
    for transaction, error in ((cancelled, Cancelled), (late, BusTimeout)):
        with pytest.raises(error):
            transaction.recv_response(0)
    closed = bus.client.send_request("closed")
    waiting = start(wait, [closed])
    waiting.wait_until_blocked()
    bus.client.close()
    assert waiting.result() == [closed]
    with pytest.raises(BusClosed):
        closed.recv_response(0)


def test_any_number_of_threads_may_wait_in_any_way(bus: Bus, start: Start) -> None:
    sent = bus.client.send_request("question")
    waiting = [start(wait, [sent]) for _ in range(3)]
    receiving = [start(sent.recv_response, LONG) for _ in range(3)]
    for task in (*waiting, *receiving):
        task.wait_until_blocked()
    waiting[0].kill()
    receiving[0].kill()
    answer_next(bus)
    assert [task.result() for task in waiting[1:]] == [[sent]] * 2
    assert [task.result() for task in receiving[1:]] == ["answer"] * 2


# The protocol behind it.


class Recorder:
    """Notes what it is called with, and in which greenlet."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any]] = []

    def __call__(self, transaction: Any) -> None:
        self.calls.append((transaction, getcurrent()))


@pytest.mark.parametrize("before", [True, False], ids=["linked before", "linked afterwards"])
def test_a_link_is_called_once_and_in_the_hub(bus: Bus, before: bool) -> None:
    sent, recorder = bus.client.send_request("question"), Recorder()
    if before:
        sent.rawlink(recorder)
    answer_next(bus)
    assert sent.recv_response(LONG) == "answer"
    if not before:
        sent.rawlink(recorder)
    wait_until(lambda: recorder.calls, "the call")
    turns()
    assert recorder.calls == [(sent, gevent.get_hub())]


def test_links_are_called_in_their_order(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    seen: list[int] = []
    for number in range(5):
        sent.rawlink(partial(lambda number, _: seen.append(number), number))
    answer_next(bus)
    wait_until(lambda: len(seen) == 5)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("when", ["before", "after the end"])
def test_what_is_unlinked_is_not_called_and_nothing_keeps_it(bus: Bus, when: str) -> None:
    sent, recorder, other = bus.client.send_request("question"), Recorder(), Recorder()
    sent.rawlink(recorder)
    sent.rawlink(other)
    if when == "before":
        sent.unlink(recorder)
    transaction = bus.take()
    transaction.send_response("answer")
    if when != "before":
        wait_until(sent.ready, "the end")
        sent.unlink(recorder)
    wait_until(lambda: other.calls, "the other's call")
    assert len(recorder.calls) <= (when != "before")
    sent.unlink(recorder)
    kept = weakref.ref(recorder)
    del recorder
    gc.collect()
    assert kept() is None


def test_to_unlink_what_is_not_linked_does_nothing(bus: Bus) -> None:
    sent, recorder = bus.client.send_request("question"), Recorder()
    sent.unlink(recorder)
    sent.rawlink(recorder)
    sent.rawlink(recorder)
    sent.unlink(recorder)
    sent.unlink(print)
    answer_next(bus)
    assert sent.recv_response(LONG) == "answer"
    wait_until(lambda: recorder.calls)
    turns()
    assert len(recorder.calls) == 1


def test_a_link_that_raises_spares_no_other(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    errors: list[Any] = []
    hub: Any = gevent.get_hub()
    monkeypatch.setattr(hub, "handle_error", lambda *args: errors.append(args[2]))
    sent, recorder = bus.client.send_request("question"), Recorder()

    def fail(transaction: object) -> None:
        raise KeyError(transaction)

    sent.rawlink(fail)
    sent.rawlink(recorder)
    answer_next(bus)
    wait_until(lambda: recorder.calls)
    turns()
    assert [type(error) for error in errors] == [KeyError]
    assert len(recorder.calls) == 1
    bus.check_works()


def test_a_link_may_link_again(bus: Bus) -> None:
    sent, recorder = bus.client.send_request("question"), Recorder()
    sent.rawlink(lambda transaction: transaction.rawlink(recorder))
    answer_next(bus)
    wait_until(lambda: recorder.calls)


def test_what_cannot_be_called_is_refused(bus: Bus) -> None:
    sent: Any = bus.client.send_request("question")
    with pytest.raises(TypeError, match="callback must be a callable, not 'x'"):
        sent.rawlink("x")


def test_links_belong_to_one_os_thread(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    assert isinstance(in_os_thread(lambda: sent.rawlink(print)), WrongThread)
    assert isinstance(in_os_thread(lambda: sent.unlink(print)), WrongThread)
