"""The calls over a real broker: each row of the contract that one node shows, in one process."""

from __future__ import annotations

import gc
import itertools
import os
import ssl
from collections import Counter
from functools import partial
from typing import Any

import gevent
import pytest
from gevent.event import Event

from broker.nodes import Node
from broker.services import Service
from callers import Caller, failure
from certificates import client_context
from helpers import LONG, wait_until
from ratchet import (
    Abandoned,
    BusClosed,
    BusError,
    BusTimeout,
    ConnectionLost,
    MessageTooLarge,
    Outcome,
    Rejected,
    bus,
)
from ratchet.bus import Limits, Retry
from ratchet.bus._broker.properties import Properties
from ratchet.bus._broker.topology import cast_key

pytestmark = pytest.mark.broker


def test_the_four_calls_carry_a_request_and_its_response(service: Service) -> None:
    server, client = service.server(), service.client()
    sent = client.send_request({"to": "Ada"}, timeout=LONG, metadata={"trace": "1"})
    transaction, request = server.recv_request(LONG)
    assert request == {"to": "Ada"}
    assert transaction.metadata == {"trace": "1"}
    assert transaction.remaining is not None
    assert 0 < transaction.remaining <= LONG
    assert transaction.redelivered is False
    assert transaction.from_.startswith("ratchet.reply.")
    assert transaction.send_response({"dear": "Ada"}) is True
    assert sent.recv_response() == {"dear": "Ada"}
    wait_until(lambda: server.stats().in_flight == 0)
    assert (client.stats().answered, server.stats().answered) == (1, 1)


def test_attachments_go_both_ways(service: Service) -> None:
    codec: bus.Codec[Any, Any] = bus.Codec(
        lambda parts: (parts[0], parts[1:]),
        lambda body, rest: [body, *rest],
        lambda parts: (parts[0], parts[1:]),
        lambda body, rest: [body, *rest],
    )
    server, client = service.server(codec=codec), service.client(codec=codec)
    gevent.spawn(server.serve, lambda parts: parts[::-1])
    assert client.call([b"", b"one", b"", b"two"], timeout=LONG) == [b"two", b"", b"one", b""]


def test_a_large_message_goes_both_ways(service: Service) -> None:
    server, client = service.server(codec=None), service.client(codec=None)
    gevent.spawn(server.serve, lambda request: request)
    request = bytes(range(256)) * 64 * 1024
    assert client.call(request, timeout=LONG) == request


def test_many_calls_at_once_each_get_their_answers(service: Service) -> None:
    server, client = service.server(), service.client()
    gevent.spawn(server.serve, lambda number: -number)
    assert client.call_many(range(3000), timeout=LONG) == [-number for number in range(3000)]


def test_over_tls(broker_node: Node, service: Service) -> None:
    context = client_context()
    server = service.server(broker_node.tls_url, ssl_context=context)
    client = service.client(broker_node.tls_url, ssl_context=context)
    gevent.spawn(server.serve, str.upper)
    assert client.call("hello" * 100_000, timeout=LONG) == "HELLO" * 100_000


def test_while_the_window_is_full_a_request_waits_for_its_time_and_was_not_sent(service: Service) -> None:
    server, client = service.server(), service.client(limits=Limits(max_in_flight=2))
    first = [client.send_request(number) for number in range(2)]
    assert failure(lambda: client.call("third", timeout=0.1)) == (BusTimeout, Outcome.NOT_SENT)
    waiting = Caller(lambda: client.call("fourth", timeout=LONG)).started()
    gevent.spawn(server.serve, lambda request: request)
    assert [each.recv_response(LONG) for each in first] == [0, 1]
    assert waiting.result() == "fourth"


def test_a_link_that_is_lost_ends_what_has_left_as_unknown(broker_node: Node, service: Service) -> None:
    proxy = service.proxy(broker_node.port)
    server, client = service.server(), service.client(proxy.url)
    sent = client.send_request("left")
    transaction, _ = server.recv_request(LONG)
    proxy.cut()
    assert failure(sent.recv_response) == (ConnectionLost, Outcome.UNKNOWN)
    transaction.send_response("too late")
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("again", timeout=LONG) == "again"


def test_a_link_that_is_lost_ends_what_has_not_left_as_not_sent(service: Service, broker_node: Node) -> None:
    proxy = service.proxy(broker_node.port)
    service.server(codec=None, limits=Limits(max_message=64 << 20))
    client = service.client(proxy.url, codec=None, limits=Limits(max_message=64 << 20, high_water=128 << 20))
    proxy.hold()
    sent = [client.send_request(bytes(16 << 20)) for _ in range(3)]
    proxy.cut()
    assert [failure(each.recv_response)[1] for each in sent][1:] == [Outcome.NOT_SENT] * 2


def test_without_such_a_service_a_request_is_rejected_and_not_run(service: Service) -> None:
    service.server()
    with bus.broker_client(service.url, "no-such-service", retry=None) as client:
        assert failure(lambda: client.call(b"", timeout=LONG)) == (Rejected, Outcome.NOT_RUN)
        assert failure(lambda: client.cast(b"", timeout=LONG)) == (Rejected, Outcome.NOT_RUN)


def test_over_a_full_queue_a_request_is_rejected_and_not_run(service: Service) -> None:
    server = service.server(prefetch=1, limits=Limits(max_queued=3))
    client = service.client()
    sent: list[Any] = []
    # It does not count those that are on their way.
    while not client.stats().failed and len(sent) < 1000:
        sent.append(client.send_request(len(sent)))
        gevent.sleep(0.005)
    refused = [each for each in sent if each.done]
    assert failure(refused[0].recv_response) == (Rejected, Outcome.NOT_RUN)
    gevent.spawn(server.serve, lambda request: request)
    gevent.wait(sent, timeout=LONG)
    assert server.stats().answered == len(sent) - client.stats().failed


def test_a_deadline_that_passes_in_the_broker_s_queue_is_not_run(service: Service) -> None:
    server, client = service.server(prefetch=1), service.client()
    first = client.send_request("first")
    taken, _ = server.recv_request(LONG)
    assert failure(lambda: client.call("second", timeout=0.2)) == (BusTimeout, Outcome.NOT_RUN)
    taken.send_response("done")
    assert first.recv_response(LONG) == "done"
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0.2)


def test_a_deadline_behind_a_longer_one_is_unknown_and_never_run(service: Service) -> None:
    server, client = service.server(prefetch=1), service.client()
    first, second = client.send_request("first"), client.send_request("second")
    taken, _ = server.recv_request(LONG)
    assert failure(lambda: client.call("third", timeout=0.2)) == (BusTimeout, Outcome.UNKNOWN)
    taken.send_response("done")
    server.recv_request(LONG)[0].send_response("done")
    assert [first.recv_response(LONG), second.recv_response(LONG)] == ["done", "done"]
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0.2)


def test_a_deadline_that_passes_in_the_server_s_inbox_is_not_run(service: Service) -> None:
    server, client = service.server(), service.client()
    assert failure(lambda: client.call("first", timeout=0.2)) == (BusTimeout, Outcome.NOT_RUN)
    wait_until(lambda: server.stats().queued == 0)
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0.1)


def test_a_deadline_that_passes_while_it_runs_interrupts_it(service: Service) -> None:
    server, client = service.server(), service.client()
    gevent.spawn(server.serve, lambda seconds: gevent.sleep(seconds))
    assert failure(lambda: client.call(LONG, timeout=0.2)) == (BusTimeout, Outcome.UNKNOWN)
    wait_until(lambda: server.stats().in_flight == 0, "the handler's end")


def test_a_server_is_told_that_its_answer_comes_too_late(service: Service) -> None:
    server, client = service.server(), service.client()
    sent = client.send_request("slow", timeout=0.1)
    transaction, _ = server.recv_request(LONG)
    wait_until(lambda: transaction.cancelled, "word of the client's")
    assert transaction.send_response("late") is False
    assert failure(sent.recv_response) == (BusTimeout, Outcome.UNKNOWN)


def test_what_is_cancelled_and_queued_at_a_server_never_runs(service: Service) -> None:
    server, client = service.server(), service.client()
    sent = client.send_request("first")
    wait_until(lambda: server.stats().queued == 1)
    sent.cancel()
    wait_until(lambda: server.stats().queued == 0)
    assert failure(sent.recv_response)[1] is Outcome.UNKNOWN


def test_what_is_cancelled_while_it_runs_is_interrupted(service: Service) -> None:
    server, client = service.server(), service.client()
    gevent.spawn(server.serve, lambda seconds: gevent.sleep(seconds))
    sent = client.send_request(LONG)
    wait_until(lambda: server.stats().in_flight == 1)
    sent.cancel()
    wait_until(lambda: server.stats().in_flight == 0, "the handler's end")
    assert server.stats().cancelled == 1


def test_what_is_cancelled_in_the_broker_s_queue_is_not_run_when_it_comes(service: Service) -> None:
    server, client = service.server(prefetch=1), service.client()
    first, second = client.send_request("first"), client.send_request("second")
    taken, _ = server.recv_request(LONG)
    second.cancel()
    client.call_many(["never run"], timeout=0.2)
    taken.send_response("done")
    assert first.recv_response(LONG) == "done"
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0.2)


def test_a_request_that_is_dropped_is_abandoned(service: Service) -> None:
    server, client = service.server(), service.client()
    sent = client.send_request("first")
    server.recv_request(LONG)
    gc.collect()
    assert failure(sent.recv_response) == (Abandoned, Outcome.UNKNOWN)


def test_a_client_that_is_lost_interrupts_nobody_and_its_answer_is_dropped(
    broker_node: Node, service: Service
) -> None:
    proxy = service.proxy(broker_node.port)
    server, client = service.server(), service.client(proxy.url)
    for number in range(100):
        client.send_request(number)
    taken = [server.recv_request(LONG)[0] for _ in range(100)]
    proxy.cut()
    # Its queue goes soon, and the broker says so of each answer that comes behind that.
    while taken and not server.stats().dropped_late:
        assert taken[-1].cancelled is False
        assert taken.pop().send_response("for nobody") is True
        gevent.sleep(0.01)
    assert server.stats().dropped_late
    for each in taken:
        each.send_response("for nobody")


def test_a_cast_is_confirmed_and_outlives_its_client(service: Service) -> None:
    server = service.server(prefetch=1)
    server.close()
    client = service.client()
    for number in range(3):
        client.cast(number, timeout=LONG)
    client.close()
    server = service.server()
    assert [server.recv_request(LONG)[1] for _ in range(3)] == [0, 1, 2]


def test_a_request_over_the_client_s_limit_is_not_sent(service: Service) -> None:
    service.server()
    client = service.client(limits=Limits(max_message=100))
    assert failure(lambda: client.call("x" * 100)) == (MessageTooLarge, Outcome.NOT_SENT)


def test_a_request_over_the_server_s_limit_is_dropped_and_not_run(service: Service) -> None:
    server, client = service.server(limits=Limits(max_message=100)), service.client()
    assert failure(lambda: client.call("x" * 1_000_000, timeout=LONG)) == (MessageTooLarge, Outcome.NOT_RUN)
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("x", timeout=LONG) == "x"


def test_a_response_over_the_client_s_limit_has_run(service: Service) -> None:
    server, client = service.server(), service.client(limits=Limits(max_message=100))
    gevent.spawn(server.serve, lambda size: "x" * size)
    assert failure(lambda: client.call(1_000_000, timeout=LONG)) == (MessageTooLarge, Outcome.RAN)
    assert client.call(10, timeout=LONG) == "x" * 10


def test_closing_a_server_abandons_what_was_taken_and_refuses_the_rest(service: Service) -> None:
    server, client = service.server(), service.client()
    sent = [client.send_request(number) for number in range(3)]
    transaction, _ = server.recv_request(LONG)
    wait_until(lambda: server.stats().queued == 2)
    server.close()
    assert transaction.cancelled is True
    assert failure(sent[0].recv_response) == (Abandoned, Outcome.UNKNOWN)
    assert [failure(each.recv_response) for each in sent[1:]] == [(Rejected, Outcome.NOT_RUN)] * 2
    stats = server.stats()
    assert (stats.failed, stats.cancelled, stats.in_flight) == (2, 1, 0)


def test_a_server_that_drains_in_vain_says_so_and_its_clients_are_told(service: Service) -> None:
    server, client = service.server(), service.client()
    serving = gevent.spawn(server.serve, lambda seconds: gevent.sleep(seconds))
    sent = client.send_request(LONG)
    wait_until(lambda: server.stats().in_flight == 1)
    assert server.drain(timeout=0.01) is False
    assert failure(sent.recv_response) == (Abandoned, Outcome.UNKNOWN)
    serving.join(LONG)
    assert serving.ready()


def test_an_idle_server_drains_at_once_and_later_requests_wait_for_another_one(service: Service) -> None:
    server, client = service.server(), service.client()
    assert server.drain(LONG) is True
    sent = client.send_request("first")
    other = service.server()
    gevent.spawn(other.serve, lambda request: request)
    assert sent.recv_response(LONG) == "first"


def test_a_drain_finishes_what_was_taken_and_refuses_the_rest(service: Service) -> None:
    server, client = service.server(), service.client()
    first, second = client.send_request("first"), client.send_request("second")
    transaction, _ = server.recv_request(LONG)
    wait_until(lambda: server.stats().queued == 1)
    draining = Caller(lambda: server.drain(LONG)).started()
    assert failure(second.recv_response) == (Rejected, Outcome.NOT_RUN)
    transaction.send_response("done")
    assert first.recv_response(LONG) == "done"
    assert draining.result() is True


def test_a_drain_gives_casts_that_nobody_has_taken_to_others(service: Service) -> None:
    server, client = service.server(), service.client()
    for number in range(3):
        client.cast(number, timeout=LONG)
    wait_until(lambda: server.stats().queued == 3)
    other = service.server(prefetch=10)
    assert server.drain(LONG) is True
    assert [other.recv_request(LONG)[1] for _ in range(3)] == [0, 1, 2]


def test_a_drain_says_what_a_full_queue_does_not_take_back(
    service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    server, client = service.server(prefetch=2, limits=Limits(max_queued=3)), service.client()
    with pytest.raises(Rejected):
        while True:
            client.cast("picture", timeout=LONG)
    wait_until(lambda: server.stats().queued == 2)
    assert server.drain(LONG) is False
    assert server.stats().failed == 2
    assert f"casts not run when {server.name} was closed: 2" in caplog.text


def test_a_cast_that_is_given_back_keeps_its_time(service: Service) -> None:
    server = service.server()
    cast = Properties(expiration="60000", headers={"metadata": {"a": "b"}})
    link = next(iter(server._connection.all)).link
    link.publish("ratchet.requests", cast_key(service.name), cast, b'"picture"')
    wait_until(lambda: server.stats().queued == 1)
    other = service.server()
    assert server.drain(LONG) is True
    transaction, request = other.recv_request(LONG)
    assert (request, transaction.metadata) == ("picture", {"a": "b"})
    assert 50 < transaction.remaining <= 60


def test_drains_under_load_lose_nothing(service: Service) -> None:
    runs: Counter[int] = Counter()
    sent, numbers, ended = [0], itertools.count(), Event()
    client = service.client(retry=Retry())

    def run(number: int) -> None:
        runs[number] += 1
        gevent.sleep(0.005)

    def ask(do: Any) -> None:
        while not ended.is_set():
            do(next(numbers), timeout=LONG)
            sent[0] += 1

    server = service.server()
    gevent.spawn(server.serve, run)
    callers = [Caller(partial(ask, do)).started() for do in [client.cast] * 12 + [client.call] * 4]
    for _ in range(6):
        gevent.sleep(0.3)
        other = service.server()
        gevent.spawn(other.serve, run)
        assert server.drain(LONG) is True
        server = other
    ended.set()
    for caller in callers:
        caller.result()
    wait_until(lambda: len(runs) == sent[0], "the last casts")
    assert set(runs.values()) == {1}


def test_requests_of_a_draining_server_go_to_another_one(service: Service) -> None:
    server, client = service.server(), service.client(retry=Retry())
    sent = client.send_request("first")
    wait_until(lambda: server.stats().queued == 1)
    other = service.server()
    gevent.spawn(other.serve, lambda request: request)
    assert server.drain(LONG) is True
    assert sent.recv_response(LONG) == "first"


def test_a_client_that_drains_waits_for_its_answers(service: Service) -> None:
    server, client = service.server(), service.client()
    sent = client.send_request("first")
    draining = Caller(lambda: client.drain(LONG)).started()
    assert failure(lambda: client.call("second")) == (BusClosed, Outcome.NOT_SENT)
    server.recv_request(LONG)[0].send_response("done")
    assert draining.result() is True
    assert sent.recv_response() == "done"


def test_a_client_that_is_dropped_closes_its_link(service: Service) -> None:
    client: Any = service.client()
    service.forget(client)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.warns(ResourceWarning, match="dropped without close"):
        client = None
    wait_until(lambda: len(os.listdir("/proc/self/fd")) < before, "the end of its link")


def test_a_wrong_password_is_told_at_the_next_call_and_never_shown(broker_node: Node) -> None:
    url = f"amqp://guest:hush@{broker_node.address}/"
    with bus.broker_client(url, "any") as client, bus.broker_server(url, "any") as server:
        for call in (
            lambda: client.call(b"", timeout=LONG),
            lambda: server.wait_connected(LONG),
            lambda: server.recv_request(LONG),
        ):
            with pytest.raises(BusError, match="403") as caught:
                call()
            assert not isinstance(caught.value, BusTimeout)
            assert "hush" not in f"{caught.value!r} {client!r} {server!r}"


def test_another_vhost_is_told_at_the_next_call(broker_node: Node) -> None:
    with bus.broker_client(f"amqp://guest:guest@{broker_node.address}/no-such", "any") as client:
        with pytest.raises(BusError, match="530"):
            client.call(b"", timeout=LONG)


def test_other_arguments_of_a_queue_are_told_at_the_next_call(service: Service) -> None:
    service.server()
    with bus.broker_server(service.url, service.name, redeliver=3) as other:
        with pytest.raises(BusError, match=r"406.*same redeliver and max_queued"):
            other.serve(lambda request: request)


def test_a_queue_that_is_deleted_by_hand_is_declared_again(service: Service) -> None:
    server, client = service.server(), service.client(retry=Retry(attempts=10))
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("first", timeout=LONG) == "first"
    service.delete()
    assert client.call("second", timeout=LONG) == "second"


def test_a_broker_that_is_not_trusted_is_told_at_the_next_call(broker_node: Node) -> None:
    context = ssl.create_default_context()
    with (
        bus.broker_client(broker_node.tls_url, "any", ssl_context=context) as client,
        bus.broker_server(broker_node.tls_url, "any", ssl_context=context) as server,
    ):
        for call in (lambda: client.call(b"", timeout=LONG), lambda: server.wait_connected(LONG)):
            with pytest.raises(ConnectionLost, match="certificate") as caught:
                call()
            assert caught.value.outcome is Outcome.NOT_SENT
