"""Middleware of a server: what it sees of each request that a worker takes, and what it may make of it."""

from __future__ import annotations

import contextvars
import gc
import logging
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent.event import Event
from greenlet import GreenletExit

from contract.buses import Bus, OpenBus, Start, on_each_with_codec, on_every_kind
from helpers import LONG, wait_until
from ratchet import Abandoned, BusTimeout, Cancelled, Outcome, Rejected, RemoteError, thread
from ratchet.bus import Codec, codecs
from ratchet.bus._core.handle import receive
from ratchet.bus._core.handler_chain import HandlerChain

Proceed = Callable[[Any], Any]


def passing(request: Any, transaction: Any, proceed: Proceed) -> Any:
    """Change nothing."""
    return proceed(request)


class Log:
    """Middleware that notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, request: Any, transaction: Any, proceed: Proceed) -> Any:
        try:
            response = proceed(request)
        except BaseException as error:
            self.seen.append((request, type(error)))
            raise
        self.seen.append((request, response))
        return response


@pytest.fixture
def log() -> Log:
    return Log()


# What it may do.


@on_every_kind
def test_it_passes_requests_and_responses_on(bus: Bus, start: Start, log: Log) -> None:
    start(bus.server.serve, lambda request: request + 1, middleware=[passing, log, passing])
    assert [bus.client.call(number, LONG) for number in range(3)] == [1, 2, 3]
    assert log.seen == [(0, 1), (1, 2), (2, 3)]


def test_the_first_one_is_outermost_and_each_may_change_what_passes(bus: Bus, start: Start) -> None:
    def marked(mark: str) -> Any:
        return lambda request, transaction, proceed: f"{mark}{proceed(request + mark)}{mark}"

    start(bus.server.serve, str.upper, middleware=(marked("a"), marked("b")))
    assert bus.client.call("-", LONG) == "ab-ABba"


@pytest.mark.parametrize("with_transaction", [True, False], ids=["two arguments", "one argument"])
def test_the_handler_is_called_as_without_it(bus: Bus, start: Start, with_transaction: bool) -> None:
    transactions: list[Any] = []

    def middleware(request: Any, transaction: Any, proceed: Proceed) -> Any:
        transactions.append(transaction)
        return proceed(request)

    def handler(request: Any, transaction: Any) -> Any:
        transactions.append(transaction)
        return transaction.metadata["tenant"]

    start(bus.server.serve, handler if with_transaction else str.upper, middleware=[middleware])
    response = bus.client.call("a", LONG, {"tenant": "b"})
    assert response == ("b" if with_transaction else "A")
    assert len({id(transaction) for transaction in transactions}) == 1


def test_what_does_not_proceed_answers_itself(bus: Bus, start: Start) -> None:
    ran: list[object] = []

    def authenticate(request: Any, transaction: Any, proceed: Proceed) -> Any:
        match transaction.metadata.get("token"):
            case "good":
                return proceed(request)
            case "none":
                return None
            case "away":
                transaction.send_error(PermissionError("not you"), outcome="NOT_RUN")
                return None
        raise PermissionError("who are you?")

    start(bus.server.serve, ran.append, middleware=[authenticate])
    assert bus.client.call("first", LONG, {"token": "none"}) is None
    with pytest.raises(RemoteError, match="who are you") as raised:
        bus.client.call("second", LONG)
    assert raised.value.outcome == "RAN"
    with pytest.raises(RemoteError, match="not you") as raised:
        bus.client.call("third", LONG, {"token": "away"})
    assert raised.value.outcome == "NOT_RUN"
    assert ran == []
    bus.client.call("fourth", LONG, {"token": "good"})
    assert ran == ["fourth"]


def test_it_may_proceed_more_than_once(bus: Bus, start: Start) -> None:
    tries: list[object] = []

    def handler(request: Any) -> Any:
        tries.append(request)
        if len(tries) < 3:
            raise ConnectionError("once more")
        return "answer"

    def again(request: Any, transaction: Any, proceed: Proceed) -> Any:
        while True:
            try:
                return proceed(request)
            except ConnectionError:
                continue

    start(bus.server.serve, handler, middleware=[again])
    assert bus.client.call("question", LONG) == "answer"
    assert tries == ["question"] * 3


@pytest.mark.parametrize("workers", [1, 3])
def test_what_it_leaves_behind_is_gone_with_the_request(bus: Bus, start: Start, workers: int) -> None:
    user: contextvars.ContextVar[str] = contextvars.ContextVar("user", default="nobody")

    def middleware(request: Any, transaction: Any, proceed: Proceed) -> Any:
        before = (user.get(), getattr(thread.space(), "user", "nobody"))
        if request != "look":
            user.set(request)
            thread.space().user = request
        return [*before, *proceed(request)]

    def handler(request: Any) -> Any:
        return [user.get(), getattr(thread.space(), "user", "nobody")]

    start(bus.server.serve, handler, workers=workers, middleware=[middleware])
    assert bus.client.call("ada", LONG) == ["nobody", "nobody", "ada", "ada"]
    assert bus.client.call("look", LONG) == ["nobody"] * 4


def test_casts_pass_it_as_well(bus: Bus, start: Start, log: Log) -> None:
    start(bus.server.serve, str.upper, middleware=[log])
    bus.client.cast("one way")
    wait_until(lambda: log.seen)
    assert log.seen == [("one way", "ONE WAY")]


def test_several_serve_side_by_side_each_with_its_own(bus: Bus, start: Start, log: Log) -> None:
    other = Log()
    start(bus.server.serve, str.upper, workers=1, middleware=[log])
    start(bus.server.serve, str.upper, workers=1, middleware=[other])
    calls = [start(bus.client.call, "a", LONG) for _ in range(20)]
    assert [call.result() for call in calls] == ["A"] * 20
    assert len(log.seen) + len(other.seen) == 20


# What it sees.


def test_it_sees_the_error_of_a_handler_and_may_raise_another_one(bus: Bus, start: Start, log: Log) -> None:
    def translate(request: Any, transaction: Any, proceed: Proceed) -> Any:
        try:
            return proceed(request)
        except KeyError as error:
            raise LookupError("no such thing") from error

    start(bus.server.serve, {}.__getitem__, middleware=[translate, log])
    with pytest.raises(RemoteError, match="no such thing") as raised:
        bus.client.call("key", LONG)
    assert raised.value.remote_type == "LookupError"
    assert log.seen == [("key", KeyError)]


@pytest.mark.parametrize("way", ["cancelled", "timed out", "closed"])
def test_it_sees_a_client_give_up_as_an_interrupt_of_its_handler(
    bus: Bus, start: Start, log: Log, way: str
) -> None:
    def handler(request: Any) -> Any:
        return Event().wait() if request == "slow" else request

    start(bus.server.serve, handler, workers=1, middleware=[passing, log])
    client = bus.new_client() if way == "closed" and bus.kind != "local" else bus.client
    sent = client.send_request("slow", timeout=0.2 if way == "timed out" else None)
    bus.wait_for_in_flight(1)
    if way == "closed" and bus.kind != "local":
        client.close()
    elif way != "timed out":
        sent.cancel()
    wait_until(lambda: log.seen, "the interrupt")
    ((request, error),) = log.seen
    assert request == "slow"
    assert issubclass(error, BaseException)
    assert not issubclass(error, Exception)
    if way == "timed out":
        with pytest.raises(BusTimeout):
            sent.recv_response(LONG)
    # The worker goes on.
    assert bus.client.call("quick", LONG) == "quick"


def test_to_swallow_the_interrupt_answers_nobody(bus: Bus, start: Start) -> None:
    def swallow(request: Any, transaction: Any, proceed: Proceed) -> Any:
        try:
            return proceed(request)
        except BaseException:
            return "too late"

    def handler(request: Any) -> Any:
        return Event().wait() if request == "slow" else request

    start(bus.server.serve, handler, workers=1, middleware=[swallow])
    sent = bus.client.send_request("slow")
    bus.wait_for_in_flight(1)
    sent.cancel()
    with pytest.raises(Cancelled):
        sent.recv_response(LONG)
    assert bus.client.call("quick", LONG) == "quick"
    assert bus.server.stats().answered == 1


def test_a_deadline_holds_in_it_and_behind_it(bus: Bus, start: Start) -> None:
    left: list[float | None] = []

    def middleware(request: Any, transaction: Any, proceed: Proceed) -> Any:
        left.append(transaction.remaining)
        return proceed(request)

    start(bus.server.serve, lambda request, transaction: transaction.remaining, middleware=[middleware])
    behind = bus.client.call("question", LONG)
    assert left[0] is not None
    assert 0 < behind <= left[0] <= LONG


@pytest.mark.virtual_time
def test_a_request_that_it_sends_has_no_more_time_than_its_own(bus: Bus, start: Start) -> None:
    outcomes: list[object] = []

    def middleware(request: Any, transaction: Any, proceed: Proceed) -> Any:
        if request == "outer":
            try:
                outcomes.append(bus.client.call("inner"))
            except BusTimeout as error:
                outcomes.append(error)
        return proceed(request)

    def handler(request: Any) -> Any:
        return Event().wait() if request == "inner" else request

    start(bus.server.serve, handler, workers=2, middleware=[middleware])
    with pytest.raises(BusTimeout):
        bus.client.call("outer", timeout=0.5)
    wait_until(lambda: bus.is_quiet, "the end of both")


def broken(*_: object) -> Any:
    raise ValueError("cannot be read")


DECODE_FAILS: Codec[Any, Any] = Codec(
    codecs.json.request_to_bus, broken, codecs.json.response_to_bus, codecs.json.response_from_bus
)


@on_each_with_codec
def test_it_sees_a_request_whose_codec_failed(
    open_bus: OpenBus, start: Start, log: Log, caplog: pytest.LogCaptureFixture
) -> None:
    bus = open_bus(codec=DECODE_FAILS)
    ran: list[object] = []
    start(bus.server.serve, ran.append, middleware=[passing, log])
    with pytest.raises(RemoteError, match="cannot be read") as raised:
        bus.client.call("question", LONG)
    assert raised.value.outcome is Outcome.NOT_RUN
    assert raised.value.remote_type == "ValueError"
    assert log.seen == [(None, ValueError)]
    assert ran == []
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert bus.server.stats().failed == 1


@on_each_with_codec
def test_it_may_answer_a_request_whose_codec_failed(open_bus: OpenBus, start: Start) -> None:
    bus = open_bus(codec=DECODE_FAILS)
    requests: list[object] = []

    def forgive(request: Any, transaction: Any, proceed: Proceed) -> Any:
        requests.append(transaction.request)
        try:
            return proceed(request)
        except ValueError:
            return "never mind"

    start(bus.server.serve, str.upper, middleware=[forgive])
    assert bus.client.call("question", LONG) == "never mind"
    assert requests == [None]


@on_each_with_codec
def test_another_error_over_a_request_whose_codec_failed_says_as_well_that_it_did_not_run(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(codec=DECODE_FAILS)

    def translate(request: Any, transaction: Any, proceed: Proceed) -> Any:
        try:
            return proceed(request)
        except ValueError as error:
            raise LookupError("what?") from error

    start(bus.server.serve, str.upper, middleware=[translate])
    with pytest.raises(RemoteError, match="what") as raised:
        bus.client.call("question", LONG)
    assert raised.value.outcome == "NOT_RUN"


@on_each_with_codec
def test_a_refusal_that_is_interrupted_does_not_say_that_the_handler_ran(
    open_bus: OpenBus, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MemoryError

    bus = open_bus(codec=DECODE_FAILS)
    start(bus.server.serve, str.upper, middleware=[passing])
    monkeypatch.setattr("ratchet.bus._core.handler_chain.refuse_undecoded", refuse)
    with pytest.raises(Abandoned) as raised:
        bus.client.call("question", LONG)
    assert raised.value.outcome == "UNKNOWN"


@on_each_with_codec
def test_a_request_whose_codec_failed_is_abandoned_at_once_where_nobody_sees_that(
    open_bus: OpenBus,
) -> None:
    bus = open_bus(codec=DECODE_FAILS)
    sent = bus.client.send_request("question")
    inbox = bus.server._intake.inbox
    gc.disable()
    try:
        assert receive(inbox, inbox.first(LONG), tells_failure=True) is not None
        with pytest.raises(Abandoned) as raised:
            sent.recv_response(LONG)
    finally:
        gc.enable()
    assert raised.value.outcome == "UNKNOWN"


@on_each_with_codec
def test_a_response_that_it_sends_itself_shows_it_what_the_codec_raises(
    open_bus: OpenBus, start: Start
) -> None:
    bus = open_bus(
        codec=Codec(
            codecs.json.request_to_bus,
            codecs.json.request_from_bus,
            broken,
            codecs.json.response_from_bus,
        )
    )
    seen: list[BaseException] = []

    def send(request: Any, transaction: Any, proceed: Proceed) -> None:
        try:
            transaction.send_response(proceed(request))
        except ValueError as error:
            seen.append(error)
            raise

    start(bus.server.serve, str.upper, middleware=[send])
    with pytest.raises(RemoteError, match="cannot be read"):
        bus.client.call("question", LONG)
    assert len(seen) == 1


def test_it_does_not_see_what_is_refused_before_a_worker_takes_it(bus: Bus, start: Start, log: Log) -> None:
    release = Event()

    def handler(request: Any) -> Any:
        release.wait()
        return request

    start(bus.server.serve, handler, workers=1, middleware=[log])
    first = bus.client.send_request("first")
    bus.wait_for_in_flight(1)
    second = bus.client.send_request("second")
    bus.wait_for_queued(1)
    draining = start(bus.server.drain, LONG)
    with pytest.raises(Rejected):
        second.recv_response(LONG)
    release.set()
    assert first.recv_response(LONG) == "first"
    draining.result()
    assert log.seen == [("first", "first")]
    assert bus.server.stats().refused_draining == 1


def test_a_timeout_of_the_handler_passes_through_it(bus: Bus, start: Start, log: Log) -> None:
    def handler(request: Any) -> Any:
        with gevent.Timeout(0.001):
            Event().wait()

    start(bus.server.serve, handler, workers=1, middleware=[log])
    with pytest.raises(RemoteError, match="Timeout"):
        bus.client.call("question", LONG)
    assert log.seen == [("question", gevent.Timeout)]


@pytest.mark.parametrize("error", ["MemoryError", "RecursionError"])
@pytest.mark.parametrize("name", ["_proceed", "_handle"])
def test_what_strikes_in_place_of_a_call_does_not_say_that_the_request_ran(
    bus: Bus, start: Start, monkeypatch: pytest.MonkeyPatch, name: str, error: str
) -> None:
    # As if it were a line of the module itself.
    struck: dict[str, Any] = {"__name__": HandlerChain.__module__}
    exec(f"def strike(*_): raise {error}", struck)
    ran: list[object] = []
    start(bus.server.serve, ran.append, middleware=[passing])
    with monkeypatch.context() as patched:
        patched.setattr(HandlerChain, name, struck["strike"])
        with pytest.raises(Abandoned) as raised:
            bus.client.call("question", LONG)
    assert raised.value.outcome == "UNKNOWN"
    bus.client.call("question", LONG)
    assert ran == ["question"]


@pytest.mark.parametrize("error", [MemoryError, RecursionError])
def test_the_same_of_middleware_or_the_handler_says_that_it_ran(
    bus: Bus, start: Start, error: type[Exception]
) -> None:
    def handler(request: Any) -> None:
        raise error

    def middleware(request: Any, transaction: Any, proceed: Proceed) -> Any:
        if request == "early":
            raise error
        return proceed(request)

    start(bus.server.serve, handler, middleware=[passing, middleware])
    for request in ("early", "late"):
        with pytest.raises(RemoteError) as raised:
            bus.client.call(request, LONG)
        assert raised.value.remote_type == error.__name__


def kill_oneself(request: object) -> None:
    this: Any = thread.current()
    thread.kill(this)


def test_a_worker_that_is_killed_in_it_abandons_the_request(bus: Bus, start: Start, log: Log) -> None:
    start(bus.server.serve, kill_oneself, workers=1, middleware=[log])
    with pytest.raises(Abandoned):
        bus.client.call("question", LONG)
    assert log.seen == [("question", GreenletExit)]


# What is refused.


async def coroutine(request: object, transaction: object, proceed: object) -> None:
    """Nobody would run it."""


WRONG: list[Any] = [
    pytest.param(None, "middleware must be a sequence of functions, not None", id="None"),
    pytest.param(passing, "middleware must be a sequence of functions, not <function passing", id="bare"),
    pytest.param("log", "middleware must be a sequence of functions, not 'log'", id="str"),
    pytest.param(["log"], "each of middleware must be a callable, not 'log'", id="not callable"),
    pytest.param([passing, len], "must take the request, the transaction and proceed; .*len", id="one"),
    pytest.param([lambda a, b, c, d: None], "must take the request, the transaction and", id="four"),
    pytest.param([lambda a, b, c, *, d: None], "must take the request, the transaction and", id="keyword"),
    pytest.param([coroutine], "must be a plain function, not the coroutine function", id="coroutine"),
]


@pytest.mark.parametrize(("middleware", "text"), WRONG)
def test_wrong_middleware_is_refused_at_serve(bus: Bus, middleware: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        bus.server.serve(str.upper, middleware=middleware)
    bus.check_works()


@pytest.mark.parametrize("middleware", [[], (), iter(())])
def test_no_middleware_is_as_good_as_none(bus: Bus, start: Start, middleware: Any) -> None:
    start(bus.server.serve, str.upper, middleware=middleware)
    assert bus.client.call("a", LONG) == "A"
