"""Bad input: what is wrong is said at the call that brought it, and harms nothing."""

from __future__ import annotations

import copy
import gc
import pickle
import re
from collections.abc import Callable
from typing import Any

import pytest
from gevent import socket

from contract.buses import Bus, on_every_kind, on_plain_sockets
from helpers import LONG, turns
from ratchet import bus as ratchet_bus
from ratchet.bus import Codec, Limits, codecs

WRONG_TIMEOUTS = [
    pytest.param(10**400, ValueError, id="more than any float"),
    pytest.param("1", TypeError, id="str"),
    pytest.param([], TypeError, id="list"),
    pytest.param(True, TypeError, id="bool"),
    pytest.param(float("nan"), ValueError, id="nan"),
]
TIMED_CALLS: dict[str, Callable[[Bus, Any], object]] = {
    "send_request": lambda bus, timeout: bus.client.send_request("question", timeout=timeout),
    "call": lambda bus, timeout: bus.client.call("question", timeout=timeout),
    "recv_request": lambda bus, timeout: bus.server.recv_request(timeout),
    "drain": lambda bus, timeout: bus.server.drain(timeout),
}


DUPLICATES: dict[str, Callable[[object], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "pickle, protocol 0": lambda transaction: pickle.dumps(transaction, 0),
}


@on_every_kind
@pytest.mark.parametrize(("timeout", "error_type"), WRONG_TIMEOUTS)
@pytest.mark.parametrize("call", TIMED_CALLS.values(), ids=TIMED_CALLS.keys())
def test_a_timeout_that_is_no_number_of_seconds_is_refused_at_the_call(
    bus: Bus, call: Callable[[Bus, Any], object], timeout: object, error_type: type[Exception]
) -> None:
    with pytest.raises(error_type, match="timeout must be a number of seconds or None"):
        call(bus, timeout)
    bus.check_works()


@on_every_kind
@pytest.mark.parametrize(("timeout", "error_type"), WRONG_TIMEOUTS)
def test_recv_response_refuses_a_timeout_that_is_no_number_of_seconds(
    bus: Bus, timeout: Any, error_type: type[Exception]
) -> None:
    sent = bus.client.send_request("question")
    with pytest.raises(error_type, match="timeout must be a number of seconds or None"):
        sent.recv_response(timeout)
    bus.take().send_response("answer")
    assert sent.recv_response(LONG) == "answer"


@pytest.mark.parametrize(
    "metadata", [{"a": 1}, {1: "a"}, {"a": None}, {"a": b"b"}, ["a"], "text", {"a": {"b": "c"}}]
)
def test_metadata_that_is_no_dict_of_strings_is_refused(bus: Bus, metadata: Any) -> None:
    with pytest.raises(TypeError, match="metadata must be a dict of strings"):
        bus.client.send_request("question", metadata=metadata)
    bus.check_works()


def test_metadata_of_more_than_64_kib_is_refused(bus: Bus) -> None:
    with pytest.raises(ValueError, match="over the limit of 65536"):
        bus.client.send_request("question", metadata={"a": "x" * 65536})
    bus.client.send_request("question", metadata={"a": "x" * 65000})
    assert len(bus.take().metadata["a"]) == 65000


@on_plain_sockets
def test_metadata_is_refused_where_it_cannot_be_sent(bus: Bus) -> None:
    with pytest.raises(ValueError, match="plain form"):
        bus.client.send_request("question", metadata={"a": "b"})
    bus.check_works()


@on_every_kind
@pytest.mark.parametrize("workers", [0, -1, "1", 1.5, None, True])
def test_serve_refuses_a_number_of_workers_below_one_or_that_is_no_number(bus: Bus, workers: Any) -> None:
    with pytest.raises((ValueError, TypeError), match="workers must be"):
        bus.server.serve(lambda request: request, workers=workers)
    bus.check_works()


@on_every_kind
@pytest.mark.parametrize("handler", [None, "handler", 1])
def test_serve_refuses_a_handler_that_is_not_callable(bus: Bus, handler: Any) -> None:
    with pytest.raises(TypeError, match="handler must be a callable"):
        bus.server.serve(handler)
    bus.check_works()


@on_every_kind
@pytest.mark.parametrize("error", ["wrong", None, ValueError, 1])
def test_send_error_refuses_what_is_no_exception_and_the_transaction_may_still_be_answered(
    bus: Bus, error: Any
) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    with pytest.raises(TypeError, match="send_error needs an exception"):
        transaction.send_error(error)
    transaction.send_response("answer")
    assert sent.recv_response(LONG) == "answer"


@on_every_kind
@pytest.mark.parametrize("duplicate", DUPLICATES.values(), ids=DUPLICATES.keys())
def test_a_transaction_cannot_be_duplicated_and_the_try_abandons_nothing(
    bus: Bus, duplicate: Callable[[object], object]
) -> None:
    sent = bus.client.send_request("question")
    transaction = bus.take()
    for one in (sent, transaction):
        with pytest.raises(TypeError, match="a transaction cannot be copied or pickled"):
            duplicate(one)
    gc.collect()
    turns()
    assert not sent.done
    assert transaction.send_response("answer") is True
    assert sent.recv_response(LONG) == "answer"
    assert bus.server.stats().failed == 0


def test_a_server_transaction_is_not_made_by_hand() -> None:
    with pytest.raises(TypeError, match=r"comes from recv_request\(\)"):
        ratchet_bus.ServerTransaction()
    # A half-made one goes without a word, and pytest would tell of another.
    gc.collect()


# Making a bus.


@pytest.mark.parametrize(
    ("maxsize", "error_type"),
    [(0, ValueError), (-1, ValueError), ("1", TypeError), (1.0, TypeError), (True, TypeError)],
)
def test_new_local_refuses_a_maxsize_below_one_or_that_is_no_int(
    maxsize: Any, error_type: type[Exception]
) -> None:
    with pytest.raises(error_type, match="maxsize must be"):
        ratchet_bus.new_local(maxsize)


def test_new_server_refuses_a_socket_that_does_not_listen() -> None:
    with socket.socket() as unbound:
        with pytest.raises(ValueError, match="needs a socket that listens"):
            ratchet_bus.new_server(unbound)
        unbound.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="needs a socket that listens"):
            ratchet_bus.new_server(unbound)
    one, two = socket.socketpair()
    with one, two:
        with pytest.raises(ValueError, match="needs a socket that listens"):
            ratchet_bus.new_server(one)


def test_new_server_refuses_a_socket_of_datagrams() -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as datagrams:
        datagrams.bind(("127.0.0.1", 0))
        with pytest.raises(ValueError, match="needs a socket that listens"):
            ratchet_bus.new_server(datagrams)


@pytest.mark.parametrize("thing", [None, "127.0.0.1:0", 3, ("127.0.0.1", 0)])
def test_new_server_and_new_client_refuse_what_is_no_socket(thing: Any) -> None:
    with pytest.raises(TypeError, match="needs a socket that listens"):
        ratchet_bus.new_server(thing)
    with pytest.raises(TypeError, match="needs a connected socket"):
        ratchet_bus.new_client(thing)


def test_new_client_refuses_a_socket_that_is_not_connected() -> None:
    with socket.socket() as unconnected:
        with pytest.raises(ValueError, match="needs a connected socket"):
            ratchet_bus.new_client(unconnected)
        unconnected.bind(("127.0.0.1", 0))
        unconnected.listen()
        with pytest.raises(ValueError, match="needs a connected socket"):
            ratchet_bus.new_client(unconnected)


@pytest.mark.parametrize("make", [ratchet_bus.new_server, ratchet_bus.new_client], ids=["server", "client"])
def test_a_closed_socket_is_refused(make: Callable[..., object]) -> None:
    closed = socket.socket()
    closed.close()
    with pytest.raises((ValueError, OSError)):
        make(closed)


WRONG_ADDRESSES = [
    ("", ValueError),
    ("localhost", ValueError),
    ("localhost:", ValueError),
    ("localhost:http", ValueError),
    ("localhost:-1", ValueError),
    ("localhost:65536", ValueError),
    ("::1:80", ValueError),
    ("unix:", ValueError),
    (("127.0.0.1", 65536), ValueError),
    (("127.0.0.1", "80"), TypeError),
    (("127.0.0.1",), TypeError),
    ((None, 80), TypeError),
    (80, TypeError),
    (None, TypeError),
    (b"localhost:80", TypeError),
]


@pytest.mark.parametrize(("address", "error_type"), WRONG_ADDRESSES)
@pytest.mark.parametrize("make", [ratchet_bus.listen, ratchet_bus.connect], ids=["listen", "connect"])
def test_an_address_that_cannot_be_parsed_is_refused(
    make: Callable[..., object], address: object, error_type: type[Exception]
) -> None:
    with pytest.raises(error_type) as raised:
        make(address)
    assert repr(address) in str(raised.value)


def test_listen_on_an_address_that_is_taken_says_which() -> None:
    with ratchet_bus.listen(("127.0.0.1", 0)) as server:
        with pytest.raises(OSError, match="cannot listen on"):
            ratchet_bus.listen(server.address)


FUNCTION_NAMES = {
    "new_server": ("request_from_bus", "response_to_bus"),
    "new_client": ("request_to_bus", "response_from_bus"),
    "listen": ("request_from_bus", "response_to_bus"),
    "connect": ("request_to_bus", "response_from_bus"),
}


@pytest.fixture
def make(request: pytest.FixtureRequest) -> Any:
    """`new_server`, `new_client`, `listen` or `connect`, on something that would do."""
    name = request.param
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        one, two = socket.socketpair()
        with one, two:
            first = {
                "new_server": listener,
                "new_client": one,
                "listen": ("127.0.0.1", 0),
                "connect": listener.getsockname(),
            }[name]
            yield lambda *functions, **options: getattr(ratchet_bus, name)(first, *functions, **options)


OTHER_CODEC: Codec[bytes, bytes] = Codec(bytes, bytes, bytes, bytes)

each_maker = pytest.mark.parametrize("make", FUNCTION_NAMES, indirect=True)


@pytest.mark.parametrize(("make", "names"), FUNCTION_NAMES.items(), ids=FUNCTION_NAMES, indirect=["make"])
def test_a_codec_function_that_is_not_callable_is_refused(
    make: Callable[..., object], names: tuple[str, str]
) -> None:
    for name in names:
        with pytest.raises(TypeError, match=f"{name} must be a callable"):
            make(**{name: "json"})


@pytest.mark.parametrize(("make", "names"), FUNCTION_NAMES.items(), ids=FUNCTION_NAMES, indirect=["make"])
def test_a_codec_excludes_the_two_functions(make: Callable[..., object], names: tuple[str, str]) -> None:
    for name in names:
        with pytest.raises(TypeError, match="codec excludes the two positional functions"):
            make(codec=codecs.json, **{name: bytes})


@pytest.mark.parametrize(("make", "names"), FUNCTION_NAMES.items(), ids=FUNCTION_NAMES, indirect=["make"])
@pytest.mark.parametrize(
    ("codec", "shown"), [(codecs.text, "codecs.text"), (codecs.json, "codecs.json"), (OTHER_CODEC, "...")]
)
def test_a_codec_in_place_of_a_function_is_refused_and_told_its_keyword(
    make: Callable[..., object], names: tuple[str, str], codec: object, shown: str
) -> None:
    text = re.escape(f"must be a callable, not a codec; write codec={shown}")
    with pytest.raises(TypeError, match=f"^{names[0]} {text}$"):
        make(codec)
    with pytest.raises(TypeError, match=f"^{names[1]} {text}$"):
        make(bytes, codec)


@each_maker
@pytest.mark.parametrize("codec", ["json", 1, codecs, (bytes, bytes), Codec])
def test_a_codec_that_is_none_is_refused(make: Callable[..., object], codec: object) -> None:
    with pytest.raises(TypeError, match="codec must be a Codec"):
        make(codec=codec)


@pytest.mark.parametrize(
    "name", ["request_to_bus", "request_from_bus", "response_to_bus", "response_from_bus"]
)
def test_a_codec_of_what_is_not_callable_is_refused(name: str) -> None:
    functions: dict[str, Any] = dict.fromkeys(vars(codecs.json), bytes)
    with pytest.raises(TypeError, match=f"{name} must be a callable"):
        Codec(**{**functions, name: None})


@pytest.mark.parametrize(("make", "names"), FUNCTION_NAMES.items(), ids=FUNCTION_NAMES, indirect=["make"])
def test_a_function_that_requires_more_than_a_bus_has_to_give_is_refused(
    make: Callable[..., object], names: tuple[str, str]
) -> None:
    (name,) = (name for name in names if name.endswith("from_bus"))
    with pytest.raises(TypeError, match=f"{name} must take the body"):
        make(**{name: lambda body, attachments, address, more: body})


@pytest.mark.parametrize(
    ("name", "error_types"),
    [(name, (ValueError, TypeError)) for name in vars(Limits())],
)
def test_limits_refuse_what_is_no_positive_number(
    name: str, error_types: tuple[type[Exception], ...]
) -> None:
    wrong: list[Any] = [0, -1, "1", None, True, float("nan")]
    for limit in wrong:
        with pytest.raises(error_types, match=name):
            Limits(**{name: limit})
