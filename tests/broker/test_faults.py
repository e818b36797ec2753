"""What becomes of requests over a broker when a part dies or freezes: real processes, real signals."""

from __future__ import annotations

import itertools
import os
import signal
import time

import gevent
import pytest
from pamqp.commands import Queue

from broker.nodes import Node
from broker.services import Declared, Service
from callers import Caller, failure
from helpers import LONG, burn, output_of, wait_until
from ratchet import Abandoned, BusError, BusTimeout, ConnectionLost, Outcome, Rejected, bus
from ratchet.bus import Retry
from ratchet.bus._broker.topology import dead_queue, request_queue

pytestmark = pytest.mark.broker


def test_a_server_that_is_killed_abandons_what_it_ran_and_what_it_had_prefetched(service: Service) -> None:
    server, client = service.process(workers=1), service.client(retry=Retry())
    service.wait_for_processes(client, server)
    sent = [client.send_request(["sleep", 60], timeout=60), client.send_request(["echo"], timeout=60)]
    wait_until(lambda: f"{server.pid} sleep 60" in server.runs, "the handler")
    began = time.monotonic()
    server.kill()
    assert [failure(each.recv_response) for each in sent] == [(Abandoned, Outcome.UNKNOWN)] * 2
    assert time.monotonic() - began < 5


def test_with_redeliver_another_server_answers_for_one_that_is_killed(service: Service) -> None:
    server = service.process(redeliver=2)
    client = service.client(retry=Retry())
    service.wait_for_processes(client, server)
    sent = client.send_request(["die once"], timeout=60)
    wait_until(lambda: server.ended, "the server's death")
    other = service.process(redeliver=2)
    assert sent.recv_response(LONG) == [other.pid, True]


@pytest.mark.parametrize("end", ["drain", "close", "time"])
def test_what_a_killed_server_may_have_run_is_unknown_where_another_one_refuses_it(
    service: Service, end: str
) -> None:
    killed, client = service.process(redeliver=2, workers=1), service.client(retry=Retry())
    service.wait_for_processes(client, killed)
    sent = client.send_request(["sleep", 60], timeout=5 if end == "time" else 60)
    wait_until(lambda: f"{killed.pid} sleep 60" in killed.runs, "the handler")
    killed.kill()
    # No thread takes anything from it.
    other = service.server(redeliver=2)
    wait_until(lambda: other.stats().queued == 1, "the request")
    if end == "drain":
        assert other.drain(LONG)
    elif end == "close":
        other.close()
    error = BusTimeout if end == "time" else Rejected
    assert failure(lambda: sent.recv_response(LONG)) == (error, Outcome.UNKNOWN)


def test_what_a_killed_server_may_have_run_is_unknown_where_its_time_is_over_in_the_queue(
    service: Service,
) -> None:
    killed, client = service.process(redeliver=2, workers=1), service.client(retry=Retry())
    service.wait_for_processes(client, killed)
    sent = client.send_request(["sleep", 60], timeout=5)
    wait_until(lambda: f"{killed.pid} sleep 60" in killed.runs, "the handler")
    killed.kill()
    assert failure(lambda: sent.recv_response(LONG)) == (BusTimeout, Outcome.UNKNOWN)


def test_a_poison_message_kills_as_many_servers_as_it_may_and_is_abandoned(service: Service) -> None:
    servers = [service.process(redeliver=1)]
    client = service.client(retry=Retry())
    service.wait_for_processes(client, *servers)
    sent = client.send_request(["die"], timeout=60)
    wait_until(lambda: servers[0].ended, "the first server's death")
    servers.append(service.process(redeliver=1))
    assert failure(lambda: sent.recv_response(LONG)) == (Abandoned, Outcome.UNKNOWN)
    wait_until(lambda: servers[1].ended, "the second server's death")


def test_of_two_servers_the_other_one_goes_on_when_one_is_killed(service: Service) -> None:
    servers = [service.process(prefetch=1), service.process(prefetch=1)]
    client = service.client(retry=Retry())
    service.wait_for_processes(client, *servers)
    servers[0].kill()
    # It has made as many retries as it may while there was no server.
    client = service.client(retry=Retry())
    for _ in range(20):
        assert client.call(["echo"], timeout=LONG, idempotent=True)[0] == servers[1].pid


def test_a_server_that_is_frozen_runs_nothing_late(service: Service) -> None:
    server, client = service.process(), service.client(retry=Retry())
    service.wait_for_processes(client, server)
    server.signal(signal.SIGSTOP)
    assert failure(lambda: client.call(["echo"], timeout=0.3))[0] is BusTimeout
    before = len(server.runs)
    server.signal(signal.SIGCONT)
    service.wait_for_processes(client, server)
    # That one alone; what it had was over, or cancelled.
    assert len(server.runs) == before + 1


def test_a_broker_that_is_frozen_is_noticed_and_the_hub_goes_on(broker_node: Node, service: Service) -> None:
    server, client = service.server(heartbeat=1), service.client(heartbeat=1)
    sent = client.send_request("first")
    taken, _ = server.recv_request(LONG)
    ticks: list[float] = []

    def tick() -> None:
        while True:
            ticks.append(time.monotonic())
            gevent.sleep(0.01)

    ticking = gevent.spawn(tick)
    broker_node.stop()
    try:
        assert failure(lambda: sent.recv_response(LONG)) == (ConnectionLost, Outcome.UNKNOWN)
        assert failure(lambda: client.call("second", timeout=0.1)) == (BusTimeout, Outcome.NOT_SENT)
    finally:
        broker_node.go_on()
        ticking.kill()
    assert max(after - before for before, after in itertools.pairwise(ticks)) < 0.5
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("third", timeout=LONG) == "third"
    assert not taken.send_response("too late")


@pytest.mark.parametrize(("late", "error"), [("client", ConnectionLost), ("server", Abandoned)])
def test_a_hub_that_is_late_by_more_than_two_heartbeats_loses_its_link_and_goes_on(
    service: Service, late: str, error: type[BusError]
) -> None:
    # The other one's link is not watched.
    server = service.server(heartbeat=1 if late == "server" else 0)
    client = service.client(heartbeat=1 if late == "client" else 0)
    sent = client.send_request("first", timeout=60)
    taken, _ = server.recv_request(LONG)
    burn(5)
    assert failure(lambda: sent.recv_response(LONG)) == (error, Outcome.UNKNOWN)
    gevent.spawn(server.serve, lambda request: request)
    client.wait_connected(LONG)
    server.wait_connected(LONG)
    assert client.call("second", timeout=LONG) == "second"
    taken.send_response("too late")


def test_casts_outlive_the_only_node_and_run_once(broker_node: Node, service: Service) -> None:
    server = service.server()
    server.close()
    client = service.client(retry=Retry(attempts=100, back_off=0.1, most=1))
    for number in range(5):
        client.cast(number, timeout=LONG)
    broker_node.restart()
    client.wait_connected(LONG)
    server = service.server()
    assert sorted(server.recv_request(LONG)[1] for _ in range(5)) == [0, 1, 2, 3, 4]
    with pytest.raises(BusTimeout):
        server.recv_request(timeout=0.2)


def test_a_memory_alarm_holds_requests_up_and_they_were_not_sent(broker_node: Node, service: Service) -> None:
    server, client = service.server(), service.client()
    gevent.spawn(server.serve, lambda request: request)
    assert client.call("before", timeout=LONG) == "before"
    broker_node.ctl("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        # The broker says so after the first message that it does not take.
        assert failure(lambda: client.call("first", timeout=1))[0] is BusTimeout
        with pytest.raises(BusTimeout, match="takes nothing for now") as caught:
            client.call("second", timeout=0.2)
        assert caught.value.outcome is Outcome.NOT_SENT
        waiting = Caller(lambda: client.call("third", timeout=60)).started()
    finally:
        broker_node.ctl("set_vm_memory_high_watermark", "absolute", "1GB")
    assert waiting.result() == "third"


def test_a_hundred_links_leave_nothing_behind(broker_node: Node, service: Service) -> None:
    server = service.server()
    gevent.spawn(server.serve, lambda request: request)

    def exchange() -> None:
        with bus.broker_client(service.url, service.name) as client:
            assert client.call(b"1", timeout=LONG) == b"1"

    exchange()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(100):
        exchange()
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, "the descriptors of links")


_FORKING = """
import os, warnings
warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
from ratchet import BusClosed, bus
from ratchet.bus import codecs

server = bus.broker_server({url!r}, {service!r}, codec=codecs.json, prefetch=1)
client = bus.broker_client({url!r}, {service!r}, codec=codecs.json, retry=bus.Retry(attempts=100))
before = client.send_request("before")
taken, request = server.recv_request({long})
asked = client.send_request("for the child")

def child():
    for call in (client.call, client.send_request, client.cast, before.recv_response):
        try:
            call(1)
        except BusClosed as error:
            assert "fork" in str(error), error
        else:
            raise AssertionError(call)
    assert taken.cancelled
    # The parent's may hold one, and holds that.
    transaction, request = server.recv_request({long})
    assert request == "for the child", request
    assert transaction.send_response("by the child")
    assert server.drain({long}), "the drain"

pid = os.fork()
if not pid:
    try:
        child()
        os._exit(0)
    except BaseException as error:
        os.write(2, repr(error).encode())
    os._exit(1)
print(asked.recv_response({long}))
taken.send_response("by the parent")
print(before.recv_response({long}), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
client.close()
server.close()
"""


def test_a_forked_child_connects_for_itself_and_leaves_the_parent_s_links_alone(service: Service) -> None:
    program = _FORKING.format(url=service.url, service=service.name, long=LONG)
    assert output_of(program) == "by the child\nby the parent 0\n"


@pytest.mark.parametrize("patch", ["", "from gevent import monkey; monkey.patch_all()\n"])
def test_a_program_that_is_patched_or_not_does_the_same(service: Service, patch: str) -> None:
    program = f"""
from ratchet import Ratchet, bus
with Ratchet() as kernel:
    server = bus.broker_server({service.url!r}, "{service.name}-patched")
    client = bus.broker_client({service.url!r}, "{service.name}-patched", retry=bus.Retry(attempts=100))
    kernel.attach_background(server.serve, bytes.upper)
    print(client.call(b"hello", timeout={LONG}))
    print(client.drain({LONG}), server.drain({LONG}))
"""
    assert output_of(patch + program) == "b'HELLO'\nTrue True\n"
    Declared(
        service.url, [Queue.Delete(queue=of(f"{service.name}-patched")) for of in (request_queue, dead_queue)]
    )
