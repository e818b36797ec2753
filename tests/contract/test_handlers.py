"""Handlers: which are refused, what they may do to their own server, and what becomes of odd errors."""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import gevent
import pytest
from gevent.event import Event

from contract.buses import (
    Bus,
    OpenBus,
    Start,
    client_tls,
    on_each_with_codec,
    on_every_kind,
    on_sockets,
)
from helpers import LONG, run_program, wait_until
from ratchet import Abandoned, AlreadyAnswered, BusError, BusTimeout, Cancelled, MessageTooLarge, RemoteError
from ratchet import bus as ratchet_bus
from ratchet.bus import Codec, Limits

# Handlers that cannot be called as `handler(request)` or `handler(request, transaction)`.


async def coroutine(request: object) -> object:
    return request


async def asynchronous_generator(request: object) -> Any:
    yield request


class Asynchronous:
    async def __call__(self, request: object) -> object:
        return request

    async def method(self, request: object) -> object:
        return request


def keyword_only(request: object, *, name: str) -> object:
    return request


REFUSED: dict[str, Callable[..., object]] = {
    "a coroutine function": coroutine,
    "an asynchronous generator": asynchronous_generator,
    "an object whose call is a coroutine": Asynchronous(),
    "a method that is a coroutine": Asynchronous().method,
    "a partial of a coroutine function": functools.partial(coroutine),
    "a partial of an object whose call is a coroutine": functools.partial(Asynchronous()),
    "a static method that is a coroutine": staticmethod(coroutine),
    "no argument": lambda: None,
    "three required arguments": lambda request, transaction, more: None,
    "a required keyword": keyword_only,
    "a class that takes nothing": object,
}


@on_every_kind
@pytest.mark.parametrize("handler", REFUSED.values(), ids=REFUSED.keys())
def test_a_handler_that_cannot_be_called_is_refused_at_the_call(bus: Bus, handler: Any) -> None:
    with pytest.raises(TypeError, match="handler"):
        bus.server.serve(handler)
    bus.check_works()


ACCEPTED: dict[str, Callable[..., object]] = {
    "any arguments": lambda *arguments: arguments[0],
    "any keywords": lambda request, **keywords: request,
    "a keyword with a default": lambda request, *, name="": request,
    "a partial that gives the keyword": functools.partial(keyword_only, name="x"),
    "a built-in function": str,
}


@on_every_kind
@pytest.mark.parametrize("handler", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_a_handler_that_can_be_called_with_the_request_is_accepted(
    bus: Bus, start: Start, handler: Any
) -> None:
    start(bus.server.serve, handler)
    assert bus.client.call("question", LONG) == "question"


# A handler and its own server.


@on_every_kind
@pytest.mark.parametrize("workers", [1, 3])
def test_a_handler_may_drain_its_own_server(bus: Bus, start: Start, workers: int) -> None:
    drained: list[bool] = []
    serving = start(bus.server.serve, lambda request: drained.append(bus.server.drain()), workers)
    sent = bus.client.send_request("stop")
    assert serving.result() is None
    assert drained == [True]
    try:
        sent.recv_response(LONG)
    except BusError:
        # The bus is closed before its handler returns.
        pass
    assert sent.done


@pytest.mark.parametrize("workers", [1, 3])
def test_a_handler_that_drains_its_own_server_sees_what_was_cast_run_first(
    bus: Bus, start: Start, workers: int
) -> None:
    ran: list[object] = []
    drained: list[bool] = []

    def handler(request: object) -> None:
        ran.append(request)
        if request == "stop":
            drained.append(bus.server.drain(LONG / 2))

    bus.client.cast("stop")
    for number in range(5):
        bus.client.cast(number)
    bus.wait_for_queued(6)
    serving = start(bus.server.serve, handler, workers)
    assert serving.result() is None
    assert drained == [True]
    assert ran == ["stop", *range(5)]


def test_the_worker_in_place_of_a_handler_that_drains_is_killed_with_serve(bus: Bus, start: Start) -> None:
    ended: list[str] = []

    def handler(request: str) -> None:
        try:
            if request == "stop":
                bus.server.drain()
            Event().wait()
        finally:
            ended.append(request)

    bus.client.cast("stop")
    bus.client.cast("slow")
    bus.wait_for_queued(2)
    serving = start(bus.server.serve, handler, workers=1)
    bus.wait_for_in_flight(2)
    serving.kill()
    assert sorted(ended) == ["slow", "stop"]


@on_every_kind
def test_two_handlers_may_drain_their_server_at_once(bus: Bus, start: Start) -> None:
    both = Event()
    begun: list[int] = []
    drained: list[bool] = []

    def handler(request: int) -> None:
        begun.append(request)
        if len(begun) == 2:
            both.set()
        both.wait()
        drained.append(bus.server.drain(LONG / 2))

    serving = start(bus.server.serve, handler)
    for number in range(2):
        bus.client.cast(number)
    assert serving.result() is None
    assert drained == [True, True]


@on_every_kind
def test_a_handler_that_drains_waits_for_the_others(bus: Bus, start: Start) -> None:
    go_on = Event()
    ended: list[str] = []

    def handler(request: str) -> str:
        if request == "stop":
            bus.server.drain()
        else:
            go_on.wait()
        ended.append(request)
        return request

    serving = start(bus.server.serve, handler)
    slow = bus.client.send_request("slow")
    bus.wait_for_in_flight(1)
    # Over the plain form, an answer waits for those before it.
    bus.new_client().cast("stop")
    bus.wait_for_in_flight(2)
    gevent.sleep(0.01)
    assert ended == []
    go_on.set()
    assert slow.recv_response(LONG) == "slow"
    assert serving.result() is None
    assert ended == ["slow", "stop"]


@on_every_kind
@pytest.mark.parametrize("leave", [sys.exit, lambda: sys.exit("a text"), lambda: sys.exit(3)])
def test_a_handler_that_exits_ends_its_request_alone(
    bus: Bus, start: Start, leave: Callable[[], NoReturn], caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: str) -> str:
        if request == "exit":
            leave()
        return request

    serving = start(bus.server.serve, handler, workers=1)
    with caplog.at_level(logging.WARNING, "ratchet"):
        with pytest.raises(BusError) as raised:
            bus.client.call("exit", LONG)
        wait_until(lambda: caplog.records, "a line in the log")
    if not bus.plain:
        assert isinstance(raised.value, RemoteError)
        assert raised.value.remote_type == "SystemExit"
    assert len(caplog.records) == 1
    assert bus.new_client().call("question", LONG) == "question"
    assert not serving.ended


def test_an_exit_within_a_with_block_of_one_s_own_ends_the_request_alone(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    with bus.take():
        sys.exit(3)
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == "SystemExit"
    bus.check_works()


def test_a_keyboard_interrupt_of_a_handler_ends_the_program() -> None:
    program = run_program(
        """
        from ratchet import Ratchet, bus
        server, client = bus.new_local()
        def handle(request):
            raise KeyboardInterrupt
        with Ratchet() as kernel:
            kernel.attach_background(server.serve, handle)
            kernel.attach(client.call, 1)
        """
    )
    assert program.returncode != 0
    assert program.stderr.rstrip().endswith("KeyboardInterrupt")


# Error paths that fail.


class NoTruthValue(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("the truth value of this error is a secret")


class NoLength(Exception):
    def __len__(self) -> int:
        raise RuntimeError("so is its length")


class NoAttributes(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(f"and so is its {name}")


class NotEqual(Exception):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("it compares with nothing")

    __hash__ = None  # type: ignore[assignment]


def escapes(func: Callable[[], object]) -> str | None:
    """The type of what comes out; not the error itself, which pytest might not be able to show."""
    try:
        func()
    except BaseException as error:
        return type(error).__name__
    return None


ODD_ERRORS = [NoTruthValue, NoLength, NoAttributes, NotEqual]


@on_every_kind
@pytest.mark.parametrize("error_type", ODD_ERRORS)
def test_an_error_that_fails_itself_costs_no_worker(
    bus: Bus, start: Start, error_type: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def handler(request: str) -> str:
        if request == "fail":
            raise error_type("of the handler")
        return request

    serving = start(bus.server.serve, handler, workers=1)
    with caplog.at_level(logging.WARNING, "ratchet"):
        for _ in range(2):
            with pytest.raises(BusError) as raised:
                bus.new_client().call("fail", LONG)
            if not bus.plain:
                assert isinstance(raised.value, RemoteError)
                assert raised.value.remote_type == error_type.__name__
        assert bus.new_client().call("question", LONG) == "question"
        wait_until(lambda: len(caplog.records) >= 2, "a line in the log for each")
    # A thread that had died of it would have been said to.
    assert [record.name for record in caplog.records] == ["ratchet.bus"] * 2
    assert not serving.ended


@pytest.mark.parametrize("error_type", ODD_ERRORS)
@pytest.mark.parametrize("give", ["send_error", "with"])
def test_an_error_that_fails_itself_is_answered_by_hand_too(
    bus: Bus, error_type: type[Exception], give: str
) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()

    def fail() -> None:
        if give == "send_error":
            assert transaction.send_error(error_type("of the handler")) is True
        else:
            with transaction:
                raise error_type("of the handler")

    assert escapes(fail) is None
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert raised.value.remote_type == error_type.__name__
    bus.check_works()


def test_frames_that_others_still_use_are_left_alone(bus: Bus, start: Start) -> None:
    """A handler's thread dies; what it had passed to others works on."""

    def numbers() -> Any:
        yield from range(3)

    kept: list[Any] = []

    def take() -> None:
        generator = numbers()
        kept.append(generator)
        next(generator)
        transaction = bus.take()
        assert transaction
        raise gevent.GreenletExit

    sent = bus.client.send_request("question")
    gevent.spawn(take).join(LONG)
    with pytest.raises(BusError):
        sent.recv_response(LONG)
    assert list(kept[0]) == [1, 2]


# Codecs that block.


@pytest.mark.virtual_time
@on_each_with_codec
@pytest.mark.parametrize("where", ["decode", "encode"])
@pytest.mark.parametrize("give_up", ["cancel", "time-out"])
def test_a_codec_of_the_server_that_blocks_is_interrupted_when_the_client_gives_up(
    open_bus: OpenBus, start: Start, where: str, give_up: str
) -> None:
    begun, interrupted = Event(), Event()
    bus = open_bus(codec=codec_that_blocks(where, begun, interrupted))
    start(bus.server.serve, lambda request: request, workers=1)
    sent = bus.client.send_request(b"block", timeout=0.2 if give_up == "time-out" else None)
    assert begun.wait(LONG)
    if give_up == "cancel":
        sent.cancel()
    with pytest.raises((BusTimeout, Cancelled)):
        sent.recv_response(LONG)
    assert interrupted.wait(LONG)
    # The one worker is free again.
    assert bus.client.call(b"question", LONG) == b"question"


@on_each_with_codec
@pytest.mark.parametrize("where", ["decode", "encode"])
def test_serve_ends_after_close_although_a_codec_blocks(open_bus: OpenBus, start: Start, where: str) -> None:
    begun, interrupted = Event(), Event()
    bus = open_bus(codec=codec_that_blocks(where, begun, interrupted))
    serving = start(bus.server.serve, lambda request: request, workers=1)
    bus.client.send_request(b"block")
    assert begun.wait(LONG)
    bus.server.close()
    assert serving.result() is None
    assert interrupted.wait(LONG)


def codec_that_blocks(where: str, begun: Event, interrupted: Event) -> Codec[bytes, bytes]:
    """One whose server's side blocks for the message `block`."""

    def block(body: bytes) -> bytes:
        if body == b"block":
            begun.set()
            try:
                gevent.sleep(2 * LONG)
            finally:
                interrupted.set()
        return body

    def pass_on(body: bytes) -> bytes:
        return body

    if where == "decode":
        return Codec(pass_on, block, pass_on, pass_on)
    return Codec(pass_on, pass_on, block, pass_on)


class Odd(BaseException):
    """What only a signal handler, or a library that knows no better, raises."""


@on_sockets
@pytest.mark.parametrize("error_type", [ValueError, MemoryError, gevent.Timeout, SystemExit, Odd])
@pytest.mark.parametrize("how", ["by hand", "in a with block", "serve"])
def test_an_answer_that_cannot_be_encoded_is_told_to_the_client_whatever_the_error_is(
    open_bus: OpenBus, start: Start, error_type: type[BaseException], how: str
) -> None:
    def encode(response: bytes) -> bytes:
        if response == b"fail":
            raise error_type
        return response

    bus = open_bus(codec=Codec(bytes, bytes, encode, bytes))
    sent = bus.client.send_request(b"fail", timeout=LONG)

    def answer() -> None:
        if how == "by hand":
            transaction = bus.take()
            transaction.send_response(b"fail")
        else:
            with bus.take() as transaction:
                transaction.send_response(b"fail")

    if how == "serve":
        start(bus.server.serve, lambda request: request, workers=1)
    else:
        escapes(answer)
    with pytest.raises((RemoteError, Abandoned)):
        sent.recv_response(LONG / 2)
    if how != "serve":
        start(bus.server.serve, lambda request: request)
    assert bus.client.call(b"question", LONG) == b"question"
    assert bus.server.stats().in_flight == 0


# What the error of a call says.


def name_in_texts(bus: Bus) -> str:
    """The part of a server's address that no other text has."""
    address: Any = bus.server.address
    return str(address[1]) if isinstance(address, tuple) else address


@pytest.mark.virtual_time
@on_sockets
def test_the_text_of_an_error_names_the_peer_and_the_seconds(kind: str, open_bus: OpenBus) -> None:
    bus = open_bus()
    address: Any = bus.server.address
    with ratchet_bus.connect(address, codec=ratchet_bus.codecs.json, ssl_context=client_tls(kind)) as client:
        with pytest.raises(BusTimeout) as raised:
            client.call("question", timeout=0.25)
        text = str(raised.value)
        assert "0.25" in text
        assert name_in_texts(bus) in text


@on_sockets
def test_the_text_of_each_error_of_a_client_names_its_server(bus: Bus) -> None:
    name = name_in_texts(bus)
    with pytest.raises(MessageTooLarge) as too_large:
        bus.client.call("x" * (Limits().max_message + 1))
    errors, _ = errors_of(bus)
    assert [error for error in (too_large.value, *errors) if name not in str(error)] == []


@on_sockets
def test_what_a_handler_raised_keeps_its_text_and_a_note_names_the_server(bus: Bus) -> None:
    sent = bus.client.send_request("question")
    bus.take().send_error(KeyError("shelf"))
    with pytest.raises(RemoteError) as raised:
        sent.recv_response(LONG)
    assert str(raised.value) == "KeyError: 'shelf'"
    (note,) = raised.value.__notes__
    assert name_in_texts(bus) in note


def test_a_second_answer_is_refused_with_a_text_that_names_the_client(bus: Bus) -> None:
    bus.client.send_request("question")
    transaction = bus.take()
    transaction.send_response("answer")
    with pytest.raises(AlreadyAnswered) as raised:
        transaction.send_response("once more")
    peer = transaction.from_
    assert (str(peer[1]) if isinstance(peer, tuple) else peer or "the request") in str(raised.value)


def errors_of(bus: Bus) -> tuple[list[BusError], list[BusError]]:
    """The errors that a user sees most, of the client's calls and of the server's."""
    of_client: list[BusError] = []
    of_server: list[BusError] = []

    def note(errors: list[BusError], func: Callable[..., object], *args: Any) -> None:
        with pytest.raises(BusError) as raised:
            func(*args)
        errors.append(raised.value)

    note(of_client, bus.client.call, "question", 0.01)
    note(of_client, bus.client.call, "question", 0)
    waited = bus.client.send_request("question")
    note(of_client, waited.recv_response, 0.01)
    waited.cancel()
    note(of_client, waited.recv_response)
    # What was given up may come late; behind the answer to this there is nothing more of it.
    serving = gevent.spawn(bus.server.serve, lambda request: request)
    bus.client.call("question", LONG)
    serving.kill()
    note(of_server, bus.server.recv_request, 0.01)
    abandoned = bus.client.send_request("question")
    bus.take()
    note(of_client, abandoned.recv_response, LONG)
    left = bus.new_client().send_request("question")
    bus.wait_for_queued()
    bus.server.close()
    note(of_client, left.recv_response, LONG)
    note(of_server, bus.server.recv_request)
    bus.client.close()
    note(of_client, bus.client.call, "question")
    return of_client, of_server


def test_no_text_of_an_error_shows_an_address_in_memory(bus: Bus) -> None:
    of_client, of_server = errors_of(bus)
    texts = [str(error) for error in (*of_client, *of_server)]
    assert [text for text in texts if " at 0x" in text] == []
    assert all(texts)
