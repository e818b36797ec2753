"""Wrong and odd uses: each gets a clear end, and nobody else notices."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gevent
import pytest

from contract.buses import Bus, OpenBus, Start, on_every_kind, on_sockets
from helpers import LONG, in_os_thread, wait_until
from ratchet import Abandoned, ConnectionLost, Ratchet, Rejected, RemoteError
from ratchet import bus as ratchet_bus
from ratchet.bus import ClientTransaction, ServerTransaction
from ratchet.bus._socket import wire


@pytest.mark.parametrize("count", [1, 2, 3])
def test_drain_refuses_everybody_also_when_a_plain_client_has_requests_queued(count: int) -> None:
    with ratchet_bus.listen("127.0.0.1:0") as server:
        plain = ratchet_bus.connect(server.address, plain=True)
        extended = ratchet_bus.connect(server.address, retry=None)
        with plain, extended:
            refused = [plain.send_request(b"question") for _ in range(count)]
            wait_until(lambda: server.stats().queued == count)
            last = extended.send_request(b"question")
            wait_until(lambda: server.stats().queued == count + 1)
            assert server.drain(LONG) is True
            for sent in refused:
                with pytest.raises(ConnectionLost):
                    sent.recv_response(LONG)
            with pytest.raises(Rejected):
                last.recv_response(LONG)


def test_a_block_within_a_block_of_the_same_transaction_leaves_no_deadline_behind(
    bus: Bus, start: Start
) -> None:
    other, other_client = ratchet_bus.new_local()
    start(other.serve, lambda request, transaction: str(transaction.remaining))

    def handler(request: object, transaction: Any) -> object:
        if request == "first":
            with transaction:
                transaction.send_response("answer")
            return None
        return other_client.call(request)

    start(bus.server.serve, handler, 1)
    assert bus.client.call("first", timeout=LONG) == "answer"
    assert bus.client.call("second") == "None"


def test_two_threads_may_be_in_a_block_of_one_transaction(bus: Bus) -> None:
    sent = bus.client.send_request("question", timeout=LONG)
    transaction = bus.take()
    inside = gevent.event.Event()

    def answer() -> None:
        with transaction:
            inside.wait()
            transaction.send_response("answer")

    other = gevent.spawn(answer)
    gevent.sleep(0)
    with transaction:
        inside.set()
        other.join(LONG)
    assert sent.recv_response(LONG) == "answer"


@pytest.mark.virtual_time
@on_sockets
def test_a_deadline_ends_with_its_request_and_not_with_the_next_of_the_same_id(
    bus: Bus, start: Start
) -> None:
    raw = bus.raw_client()
    go_on = gevent.event.Event()

    def handler(request: object, transaction: Any) -> object:
        if request == "first":
            transaction.send_response("answer")
        go_on.wait()
        return "another answer"

    start(bus.server.serve, handler, 2)
    raw.request(7, b'"first"', arg=30)
    assert raw.receive_message()[4] == [b'"answer"']
    raw.request(7, b'"second"')
    bus.wait_for_in_flight(1)
    gevent.sleep(0.05)
    go_on.set()
    assert raw.receive_message() == (wire.RESPONSE, 0, 7, 0, [b'"another answer"'])


@pytest.mark.parametrize("keep", [lambda item: [item], lambda item: {1: item}, lambda item: {item}])
def test_a_dead_thread_keeps_no_transaction_in_a_container(bus: Bus, keep: Any) -> None:
    def fail(kept: object) -> None:
        raise ValueError("no answer")

    def take() -> None:
        fail(keep(bus.take()))

    kernel = Ratchet(errh=lambda error, thread: None)
    sent = bus.client.send_request("question")
    thread = kernel.attach(take)
    with pytest.raises(Abandoned):
        sent.recv_response(LONG)
    assert thread.ready()
    kernel.loop()


class EvilText(str):
    def __getitem__(self, index: object) -> str:
        raise RuntimeError


class EvilName(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError


class ErrorWithEvilText(Exception):
    def __str__(self) -> str:
        return EvilText("the text")


class ErrorWithEvilName(Exception, metaclass=EvilName):
    pass


class ErrorWithEvilAttributes(Exception):
    def __getattribute__(self, name: str) -> object:
        raise RuntimeError


@pytest.mark.parametrize(
    "error_type",
    [ErrorWithEvilText, ErrorWithEvilName, ErrorWithEvilAttributes],
    ids=["text", "name", "attributes"],
)
def test_an_error_that_resists_is_a_remote_error_all_the_same(
    bus: Bus, start: Start, error_type: type[Exception]
) -> None:
    def handler(request: object) -> object:
        raise error_type

    start(bus.server.serve, handler)
    for _ in range(2):
        with pytest.raises(RemoteError):
            bus.client.call("question", timeout=LONG)


def test_a_thread_that_dies_of_an_error_that_resists_is_reported() -> None:
    class ErrorWithEvilCause(Exception):
        @property
        def __cause__(self) -> None:  # type: ignore[override]
            raise RuntimeError

    def die() -> None:
        raise ErrorWithEvilCause

    died: list[type[BaseException]] = []
    kernel = Ratchet(errh=lambda error, thread: died.append(type(error)))
    kernel.attach(die)
    kernel.loop()
    assert died == [ErrorWithEvilCause]


def test_a_context_for_the_other_side_is_refused() -> None:
    for_client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with pytest.raises(ValueError, match="server's side"):
        ratchet_bus.listen("127.0.0.1:0", ssl_context=for_client)
    for_server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(ValueError, match="client's side"):
        ratchet_bus.connect("127.0.0.1:1", ssl_context=for_server)


@on_every_kind
def test_stats_may_be_asked_for_by_any_os_thread(open_bus: OpenBus) -> None:
    bus = open_bus()
    seen: list[object] = []
    for side in (bus.server, bus.client):
        assert in_os_thread(lambda side=side: seen.append(side.stats())) is None  # type: ignore[misc]
    assert seen == [bus.server.stats(), bus.client.stats()]


def test_a_scheduler_s_block_may_be_left_by_another_greenlet() -> None:
    kernel = Ratchet()
    kernel.__enter__()
    ended: list[int] = []
    kernel.attach(ended.append, 1)
    leaving = gevent.spawn(kernel.__exit__, None, None, None)
    leaving.get(timeout=LONG)
    assert ended == [1]
    assert kernel.num_threads == 0


@on_every_kind
def test_what_one_meets_in_a_debugger_says_what_state_it_is_in(bus: Bus) -> None:
    sent = bus.client.send_request("question", timeout=LONG)
    bus.wait_for_queued()
    server: Any = bus.server
    (pending,) = server._intake.inbox
    assert repr(pending).startswith(f"<{type(pending).__name__} at 0x")
    assert "items=1, receivers=0" in repr(server._intake.inbox)
    transaction = bus.take()
    assert repr(transaction).endswith(": taken>")
    for session in getattr(server, "_admission.connections", ()):
        assert "unanswered=1, parked=0" in repr(session)
    for link in getattr(bus.client, "_links", ()):
        assert "unanswered=1" in repr(link)
    transaction.send_response("answer")
    assert sent.recv_response() == "answer"
    assert repr(sent).endswith(": answered>")
    waiting = Ratchet().attach(bus.server.recv_request)
    wait_until(lambda: waiting.waiting_on is not None)
    assert f": recv_request-{waiting.minimal_ident}, waiting: recv_request on " in repr(waiting)
    waiting.kill()
    assert repr(waiting).endswith(", ended>")


# In the hub, where a signal handler may run.


def raised_in_the_hub(call: Callable[[], object]) -> BaseException | None:
    """Call something in a hub callback, and return what it raised."""
    outcomes: list[BaseException | None] = []

    def run() -> None:
        try:
            call()
            outcomes.append(None)
        except Exception as error:
            outcomes.append(error)

    gevent.get_hub().loop.run_callback(run)
    wait_until(lambda: outcomes)
    return outcomes[0]


def test_a_drain_is_refused_in_the_hub_and_has_changed_nothing(bus: Bus, start: Start) -> None:
    start(bus.server.serve, lambda request: request)
    for side in (bus.server, bus.client):
        error = raised_in_the_hub(side.drain)
        assert isinstance(error, RuntimeError)
        assert "drain() would have to wait in gevent's hub" in str(error)
    assert bus.client.call("question", LONG) == "question"


def test_a_request_is_sent_in_the_hub_unless_it_would_have_to_wait(tmp_path: Path, start: Start) -> None:
    local = ratchet_bus.new_local(maxsize=1)[0]
    with local, ratchet_bus.connect(f"unix:{tmp_path}/nowhere") as nowhere:
        assert raised_in_the_hub(partial(local.cast, "first")) is None
        for call in (local.cast, nowhere.cast, nowhere.send_request):
            error = raised_in_the_hub(partial(call, b"second"))
            assert isinstance(error, RuntimeError)
            assert "send_request() would have to wait in gevent's hub" in str(error)
        assert local.stats().queued == 1


def test_a_socket_that_is_closed_behind_the_bus_lets_nothing_into_another_file(tmp_path: Path) -> None:
    with ratchet_bus.listen(f"unix:{tmp_path / 'server'}") as server:
        serving = gevent.spawn(server.serve, bytes.upper)
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(tmp_path / "server"))
        with ratchet_bus.new_client(connected) as client:
            assert client.call(b"tea", timeout=LONG) == b"TEA"
            number = connected.fileno()
            connected.close()
            with open(tmp_path / "other", "w+b", buffering=0) as other:
                assert other.fileno() == number
                with pytest.raises(ConnectionLost):
                    client.call(b"tea", timeout=LONG)
                assert other.read() == b""
        serving.kill()


def test_a_transaction_that_no_bus_has_made_is_of_no_use_and_does_no_harm() -> None:
    class Made(ServerTransaction[Any, Any]):
        def __init__(self) -> None:
            """As a user's test may do, who wants one without a bus."""

    with pytest.raises(AttributeError):
        Made().send_response("answer")
    sent: ClientTransaction[Any, Any] = ClientTransaction.__new__(ClientTransaction)
    for use in (sent.recv_response, partial(sent.recv_response, LONG), sent.cancel):
        with pytest.raises(AttributeError):
            use()
