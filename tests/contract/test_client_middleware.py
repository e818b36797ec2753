"""Middleware of a client: what it sees of each call, and what it may make of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from gevent.event import Event

from contract.buses import Bus, OpenBus, Start, client_tls, on_each_with_codec, on_every_kind, on_sockets
from helpers import LONG, wait_until
from ratchet import (
    BusClosed,
    BusError,
    BusTimeout,
    Cancelled,
    ConnectionLost,
    MessageTooLarge,
    Rejected,
    RemoteError,
)
from ratchet import bus as ratchet_bus
from ratchet.bus import Codec, Limits, codecs
from ratchet.bus._broker.client import BrokerClient

CALLS: dict[str, Callable[[Any], Any]] = {
    "call": lambda client: client.call("a", LONG),
    "send_request": lambda client: client.send_request("a", LONG).recv_response(LONG),
    "call_many": lambda client: client.call_many(["a", "b"], LONG),
    "cast": lambda client: client.cast("a", LONG),
}
each_call = pytest.mark.parametrize("method", CALLS)


def passing(request: Any, transaction: Any, proceed: Any) -> Any:
    """Change nothing."""
    return proceed(request)


class Log:
    """Middleware that notes what it sees."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.transactions: list[Any] = []

    def __call__(self, request: Any, transaction: Any, proceed: Any) -> Any:
        self.transactions.append(transaction)
        try:
            response = proceed(request)
        except BaseException as error:
            self.seen.append((proceed.method, request, error))
            raise
        self.seen.append((proceed.method, request, response))
        return response

    def error(self) -> Any:
        """The only error that it has seen."""
        (error,) = [value for _, _, value in self.seen if isinstance(value, BaseException)]
        return error


@pytest.fixture
def log() -> Log:
    return Log()


# What it sees.


@on_every_kind
def test_it_passes_calls_and_responses_on(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[passing, log, passing])
    start(bus.server.serve, str.upper)
    assert bus.client.call("a") == "A"
    assert log.seen == [("call", "a", "A")]
    assert log.transactions == [None]


def test_it_is_called_once_for_each_kind_of_call(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])
    start(bus.server.serve, str.upper)
    assert [call(bus.client) for call in CALLS.values()] == ["A", "A", ["A", "B"], None]
    sent = log.seen[1][2]
    assert log.seen == [
        ("call", "a", "A"),
        ("send_request", "a", sent),
        ("call_many", ["a", "b"], ["A", "B"]),
        ("cast", "a", None),
    ]
    assert sent.recv_response(LONG) == "A"
    wait_until(lambda: bus.server.stats().answered == 5)


def test_it_sees_a_time_out(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])
    start(bus.server.serve, lambda request: Event().wait())
    with pytest.raises(BusTimeout) as raised:
        bus.client.call("a", timeout=0.05)
    assert log.error() is raised.value


def test_it_sees_a_refusal(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])
    call = start(bus.client.call, "a", LONG)
    bus.wait_for_queued(1)
    assert bus.server.drain(LONG) is True
    with pytest.raises(Rejected):
        call.result()
    assert type(log.error()) is Rejected
    assert log.error().outcome == "NOT_RUN"


def test_it_sees_the_error_of_a_handler(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])
    start(bus.server.serve, {}.__getitem__)
    with pytest.raises(RemoteError):
        bus.client.call("a", LONG)
    assert log.error().remote_type == "KeyError"


@each_call
def test_it_sees_a_bus_that_is_closed(open_bus: OpenBus, log: Log, method: str) -> None:
    bus = open_bus(middleware=[log])
    bus.client.close()
    if method == "call_many":
        (first, second) = CALLS[method](bus.client)
        assert (type(first), type(second)) == (BusClosed, BusClosed)
        assert log.seen == [("call_many", ["a", "b"], [first, second])]
        return
    with pytest.raises(BusClosed):
        CALLS[method](bus.client)
    assert log.error().outcome == "NOT_SENT"


def broken(*_: object) -> Any:
    raise ValueError("a codec that fails")


@on_each_with_codec
@pytest.mark.parametrize("side", ["request", "response"])
def test_it_sees_what_a_codec_of_the_client_raises(
    open_bus: OpenBus, start: Start, log: Log, side: str
) -> None:
    json = codecs.json
    bus = open_bus(
        codec=Codec(
            broken if side == "request" else json.request_to_bus,
            json.request_from_bus,
            json.response_to_bus,
            broken if side == "response" else json.response_from_bus,
        ),
        middleware=[log],
    )
    start(bus.server.serve, str.upper)
    with pytest.raises(ValueError, match="a codec that fails"):
        bus.client.call("a", LONG)
    assert type(log.error()) is ValueError


@on_each_with_codec
def test_it_sees_what_the_codecs_of_the_server_raise(open_bus: OpenBus, start: Start, log: Log) -> None:
    json = codecs.json
    bus = open_bus(
        codec=Codec(json.request_to_bus, broken, json.response_to_bus, json.response_from_bus),
        middleware=[log],
    )
    start(bus.server.serve, str.upper)
    with pytest.raises(RemoteError):
        bus.client.call("a", LONG)
    assert (log.error().remote_type, log.error().outcome) == ("ValueError", "NOT_RUN")


@on_sockets
def test_it_sees_a_message_that_is_too_large(open_bus: OpenBus, log: Log) -> None:
    bus = open_bus(limits=Limits(max_message=100), middleware=[log])
    with pytest.raises(MessageTooLarge):
        bus.client.call("a" * 200, LONG)
    assert log.error().outcome == "NOT_SENT"


@on_sockets
def test_it_sees_a_connection_that_is_lost(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])
    call = start(bus.client.call, "a", LONG)
    bus.take()
    bus.server.close()
    with pytest.raises(ConnectionLost):
        call.result()
    assert log.error().outcome == "UNKNOWN"


# What it may do.


def test_the_first_one_is_outermost_and_each_may_change_what_passes(open_bus: OpenBus, start: Start) -> None:
    def marked(mark: str) -> Any:
        return lambda request, transaction, proceed: f"{mark}{proceed(request + mark)}{mark}"

    bus = open_bus(middleware=[marked("a"), marked("b")])
    start(bus.server.serve, str.upper)
    assert bus.client.call("-", LONG) == "ab-ABba"


def test_what_does_not_proceed_sends_nothing(open_bus: OpenBus, start: Start) -> None:
    kept = {"a": "kept"}

    def cached(request: Any, transaction: Any, proceed: Any) -> Any:
        if proceed.method != "call":
            return proceed(request)
        if request not in kept:
            kept[request] = proceed(request)
        return kept[request]

    bus = open_bus(middleware=[cached])
    start(bus.server.serve, str.upper)
    assert [bus.client.call(request, LONG) for request in "abab"] == ["kept", "B", "kept", "B"]
    assert bus.server.stats().answered == 1


def test_it_may_try_again(open_bus: OpenBus, start: Start) -> None:
    failures = [RuntimeError("once"), RuntimeError("twice")]

    def handler(request: Any) -> Any:
        if failures:
            raise failures.pop()
        return request

    def again(request: Any, transaction: Any, proceed: Any) -> Any:
        while True:
            try:
                return proceed(request)
            except RemoteError:
                continue

    bus = open_bus(middleware=[again])
    start(bus.server.serve, handler)
    assert bus.client.call("a", LONG) == "a"
    assert bus.server.stats().failed == 2


def test_it_may_raise_another_error(open_bus: OpenBus, start: Start) -> None:
    def translate(request: Any, transaction: Any, proceed: Any) -> Any:
        try:
            return proceed(request)
        except BusError as error:
            raise LookupError("no answer") from error

    bus = open_bus(middleware=[translate])
    start(bus.server.serve, {}.__getitem__)
    with pytest.raises(LookupError):
        bus.client.call("a", LONG)


WITH_METADATA: dict[str, Callable[[Any, Any], Any]] = {
    "call": lambda client, metadata: client.call("a", LONG, metadata),
    "send_request": lambda client, metadata: client.send_request("a", LONG, metadata).recv_response(LONG),
    "call_many": lambda client, metadata: client.call_many(["a"], LONG, metadata),
    "cast": lambda client, metadata: client.cast("a", LONG, metadata),
}


@pytest.mark.parametrize("method", WITH_METADATA)
@pytest.mark.parametrize(
    ("given", "received"),
    [
        (None, {"token": "t"}),
        ({}, {"token": "t"}),
        ({"tenant": "x"}, {"tenant": "x", "token": "t"}),
        ({"token": "mine"}, {"token": "t"}),
    ],
)
def test_metadata_that_it_gives_is_added_to_the_callers(
    open_bus: OpenBus, start: Start, method: str, given: Any, received: dict[str, str]
) -> None:
    def sign(request: Any, transaction: Any, proceed: Any) -> Any:
        return proceed(request, metadata={"token": "t"})

    bus = open_bus(middleware=[sign, passing])
    seen: list[dict[str, str]] = []
    start(bus.server.serve, lambda request, transaction: seen.append(dict(transaction.metadata)))
    before = dict(given or {})
    WITH_METADATA[method](bus.client, given)
    wait_until(lambda: seen)
    assert seen == [received]
    # The caller's own dict is as it was.
    assert dict(given or {}) == before


@each_call
def test_it_knows_the_arguments_of_the_call_and_may_change_them(
    open_bus: OpenBus, start: Start, method: str
) -> None:
    options: list[Any] = []
    # A broker takes longer than that to confirm a cast.
    seconds = LONG / 2 if method == "cast" else 0.05

    def hurry(request: Any, transaction: Any, proceed: Any) -> Any:
        options.append(proceed.options)
        return proceed(request, timeout=seconds)

    def look(request: Any, transaction: Any, proceed: Any) -> Any:
        options.append(proceed.options)
        return proceed(request)

    bus = open_bus(middleware=[hurry, look])
    start(bus.server.serve, lambda request: Event().wait())
    if method == "cast":
        bus.client.cast("a", LONG)
    elif method == "call_many":
        assert [type(error) for error in CALLS[method](bus.client)] == [BusTimeout, BusTimeout]
    else:
        with pytest.raises(BusTimeout):
            CALLS[method](bus.client)
    assert options == [{"timeout": LONG, "metadata": None}, {"timeout": seconds, "metadata": None}]


@each_call
def test_an_argument_that_the_call_does_not_know_is_refused(open_bus: OpenBus, method: str) -> None:
    def wrong(request: Any, transaction: Any, proceed: Any) -> Any:
        return proceed(request, colour="red")

    bus = open_bus(middleware=[wrong])
    with pytest.raises(TypeError, match="colour"):
        CALLS[method](bus.client)
    assert bus.is_quiet


# What becomes of a call that is interrupted.


def test_a_thread_that_is_killed_in_a_call_cancels_it(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[passing, log])
    call = start(bus.client.call, "a")
    transaction = bus.take()
    call.kill()
    wait_until(lambda: transaction.cancelled, "word of that")
    assert not isinstance(log.error(), Exception)


def test_a_request_that_its_caller_does_not_get_is_cancelled(open_bus: OpenBus) -> None:
    def fail(request: Any, transaction: Any, proceed: Any) -> Any:
        proceed(request)
        raise LookupError("too bad")

    bus = open_bus(middleware=[passing, fail])
    with pytest.raises(LookupError):
        bus.client.send_request("a")
    wait_until(lambda: bus.is_quiet, "the end of the request")
    assert bus.client.stats().cancelled == 1


def test_cancelling_a_transaction_works_behind_it(open_bus: OpenBus, log: Log) -> None:
    bus = open_bus(middleware=[log])
    sent = bus.client.send_request("a")
    transaction = bus.take()
    sent.cancel()
    with pytest.raises(Cancelled):
        sent.recv_response(LONG)
    wait_until(lambda: transaction.cancelled, "word of that")


def test_a_handlers_deadline_holds_behind_it(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])

    def handler(request: Any, transaction: Any) -> Any:
        return transaction.remaining if request == "inner" else bus.client.call("inner")

    start(bus.server.serve, handler)
    assert 0 < bus.client.call("outer", LONG) <= LONG
    assert [request for _, request, _ in log.seen] == ["inner", "outer"]


# What it changes of the bus, which is nothing else.


def test_everything_else_is_as_without_it(open_bus: OpenBus, start: Start, log: Log) -> None:
    bus = open_bus(middleware=[log])
    bus.client.wait_connected(LONG)
    assert isinstance(bus.client, (ratchet_bus.ClientBus, ratchet_bus.LocalBus, BrokerClient))
    assert repr(bus.client).startswith(("<ClientBus at", "<LocalBus at", "<BrokerClient at"))
    bus.check_works()
    if not isinstance(bus.client, ratchet_bus.LocalBus):
        assert bus.client.drain(LONG) is True


@on_sockets
def test_connect_takes_it(bus: Bus, start: Start, log: Log) -> None:
    start(bus.server.serve, str.upper)
    with ratchet_bus.connect(
        bus.server.address,  # type: ignore[arg-type]
        codec=codecs.json,
        ssl_context=client_tls(bus.kind),
        middleware=[log],
    ) as client:
        assert client.call("a", LONG) == "A"
    assert log.seen == [("call", "a", "A")]


WRONG: list[Any] = [
    pytest.param(None, "middleware must be a sequence of functions, not None", id="None"),
    pytest.param(passing, "middleware must be a sequence of functions, not <function passing", id="bare"),
    pytest.param([1], "each of middleware must be a callable, not 1", id="not callable"),
    pytest.param([lambda request, proceed: None], "must take the request, the transaction and", id="two"),
]


@pytest.mark.parametrize(("middleware", "text"), WRONG)
def test_wrong_middleware_is_refused_at_the_call_that_opens(bus: Bus, middleware: Any, text: str) -> None:
    if bus.kind == "local":
        with pytest.raises(TypeError, match=text):
            ratchet_bus.new_local(middleware=middleware)
        return
    if bus.kind == "broker":
        with pytest.raises(TypeError, match=text):
            ratchet_bus.broker_client("amqp://localhost/", "any", middleware=middleware)
        return
    with bus.connected() as socket, pytest.raises(TypeError, match=text):
        ratchet_bus.new_client(socket, middleware=middleware)


@pytest.mark.parametrize(("middleware", "text"), WRONG)
def test_connect_refuses_wrong_middleware(middleware: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        ratchet_bus.connect("127.0.0.1:1", middleware=middleware)
