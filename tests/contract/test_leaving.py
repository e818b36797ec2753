"""`with transaction:` and who leaves it: the thread that entered it or any other, in any context."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

import gevent
import pytest

from contract.buses import Bus, Start, on_every_kind
from helpers import LONG, in_os_thread, turns, wait_until
from ratchet import Abandoned, BusError, RemoteError

Body = Callable[[Any], object]


def in_another_greenlet(transaction: Any, body: Body) -> None:
    with ExitStack() as stack:
        stack.enter_context(transaction)
        moved = stack.pop_all()

    def finish() -> None:
        with moved:
            body(transaction)

    gevent.spawn(finish).get(timeout=LONG)


def in_another_context(transaction: Any, body: Body) -> None:
    stack = ExitStack()
    copy_context().run(stack.enter_context, transaction)

    def finish() -> None:
        with stack:
            body(transaction)

    copy_context().run(finish)


def by_a_generator_that_another_greenlet_ends(transaction: Any, body: Body) -> None:
    def within() -> Iterator[None]:
        with transaction:
            yield
            body(transaction)

    generator = within()
    next(generator)
    gevent.spawn(next, generator, None).get(timeout=LONG)


def by_a_generator_that_ends_after_its_thread(transaction: Any, body: Body) -> None:
    def within() -> Iterator[None]:
        with transaction:
            yield
            body(transaction)

    generator = within()
    gevent.spawn(next, generator).get(timeout=LONG)
    next(generator, None)


WAYS = [
    in_another_greenlet,
    in_another_context,
    by_a_generator_that_another_greenlet_ends,
    by_a_generator_that_ends_after_its_thread,
]
in_each_way = pytest.mark.parametrize("leave", WAYS)


@on_every_kind
@in_each_way
def test_a_block_left_by_another_one_keeps_the_answer(bus: Bus, leave: Callable[..., None]) -> None:
    sent = bus.client.send_request("question")
    leave(bus.take(), lambda transaction: transaction.send_response("answer"))
    assert sent.recv_response(LONG) == "answer"
    bus.check_works()


@in_each_way
def test_a_block_left_by_another_one_without_an_answer_abandons(bus: Bus, leave: Callable[..., None]) -> None:
    sent = bus.client.send_request("question")
    leave(bus.take(), lambda transaction: None)
    with pytest.raises(Abandoned):
        sent.recv_response(LONG)
    bus.check_works()


@in_each_way
def test_a_block_left_by_another_one_by_an_error_answers_with_it(
    bus: Bus, leave: Callable[..., None]
) -> None:
    def fail(transaction: Any) -> None:
        raise ZeroDivisionError("of the block")

    sent = bus.client.send_request("question")
    leave(bus.take(), fail)
    with pytest.raises(RemoteError, match="of the block") as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "ZeroDivisionError"
    bus.check_works()


CLOSERS = ["another greenlet", "the collector", "another context", "another OS thread"]


@pytest.mark.parametrize("closer", CLOSERS)
def test_a_generator_that_is_closed_abandons_and_raises_nothing(bus: Bus, closer: str) -> None:
    def within(transaction: Any) -> Iterator[None]:
        with transaction:
            yield

    sent = bus.client.send_request("question")
    generators: list[Any] = [within(bus.take())]
    next(generators[0])
    if closer == "another greenlet":
        gevent.spawn(generators[0].close).get(timeout=LONG)
    elif closer == "another context":
        copy_context().run(generators[0].close)
    elif closer == "another OS thread":
        # As the collector does that happens to run there.
        assert in_os_thread(generators[0].close) is None
    generators.clear()
    gc.collect()
    with pytest.raises(Abandoned):
        sent.recv_response(LONG)
    bus.check_works()


@pytest.mark.virtual_time
@in_each_way
def test_whoever_has_left_a_block_by_another_is_not_interrupted(
    bus: Bus, start: Start, leave: Callable[..., None]
) -> None:
    """The client gives up when the block was left; the thread that entered it works on in peace."""
    slept: list[str] = []

    def take() -> None:
        leave(bus.take(), lambda transaction: None)
        sent[0].cancel()
        gevent.sleep(0.01)
        slept.append("in peace")

    sent = [bus.client.send_request("question")]
    taking = start(take)
    assert taking.result() is None
    assert slept == ["in peace"]
    with pytest.raises(BusError):
        sent[0].recv_response(LONG)
    bus.check_works()


@pytest.mark.virtual_time
def test_a_client_that_gives_up_interrupts_no_thread_that_has_passed_its_block_on(
    bus: Bus, start: Start
) -> None:
    slept: list[str] = []
    stacks: list[ExitStack] = []

    def take() -> None:
        with ExitStack() as stack:
            stack.enter_context(bus.take())
            stacks.append(stack.pop_all())
        thread_of_finish.append(start(finish))
        gevent.sleep(0.05)
        slept.append("in peace")

    def finish() -> None:
        stacks.pop().close()

    thread_of_finish: list[Any] = []
    sent = bus.client.send_request("question")
    taking = start(take)
    wait_until(lambda: thread_of_finish, "the block to be passed on")
    assert thread_of_finish[0].result() is None
    sent.cancel()
    assert taking.result() is None
    assert slept == ["in peace"]


@in_each_way
def test_the_deadline_of_a_block_left_by_another_is_inherited_by_nobody(
    bus: Bus, leave: Callable[..., None]
) -> None:
    sent = bus.client.send_request("question", timeout=0.2)
    leave(bus.take(), lambda transaction: transaction.send_response("answer"))
    assert sent.recv_response(LONG) == "answer"
    inner = bus.client.send_request("without a time-out")
    assert bus.take().remaining is None
    inner.cancel()


def test_blocks_of_several_transactions_may_be_left_in_any_order(bus: Bus) -> None:
    sent = [bus.client.send_request(number, timeout=LONG) for number in range(3)]
    taken = [bus.take() for _ in sent]
    for transaction in taken:
        transaction.__enter__()
    for transaction in taken:
        transaction.send_response("answer")
        transaction.__exit__(None, None, None)
    assert [each.recv_response(LONG) for each in sent] == ["answer"] * 3
    turns()
    bus.client.send_request("without a time-out")
    assert bus.take().remaining is None
