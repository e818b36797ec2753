"""A call from another OS thread than the owner's, or on a hub that is gone: `WrongThread`, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gevent
import pytest

import ratchet
from contract.buses import Bus, on_every_kind
from helpers import in_os_thread
from ratchet import Ratchet
from ratchet import bus as ratchet_bus

CALLS: dict[str, Callable[[Any, Any], object]] = {
    "call": lambda server, client: client.call("question", 1),
    "call_many": lambda server, client: client.call_many(["question"], 1),
    "call_many of none": lambda server, client: client.call_many([]),
    "send_request": lambda server, client: client.send_request("question", 1),
    "cast": lambda server, client: client.cast("question"),
    "client.drain": lambda server, client: client.drain(1),
    "wait_connected": lambda server, client: client.wait_connected(1),
    "client.close": lambda server, client: client.close(),
    "recv_request": lambda server, client: server.recv_request(1),
    "recv_requests": lambda server, client: server.recv_requests(10, 1),
    "serve": lambda server, client: server.serve(lambda request: request),
    "drain": lambda server, client: server.drain(1),
    "close": lambda server, client: server.close(),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())


def wrong_thread() -> type[Exception]:
    errors: Any = ratchet
    error_type: type[Exception] = errors.WrongThread
    return error_type


def test_wrong_thread_is_a_runtime_error_of_the_tree() -> None:
    assert issubclass(wrong_thread(), RuntimeError)
    assert issubclass(wrong_thread(), ratchet.RatchetError)
    assert isinstance(vars(wrong_thread())["code"], str)


@on_every_kind
@each_call
def test_a_call_of_a_bus_from_another_os_thread(bus: Bus, call: Callable[[Any, Any], object]) -> None:
    error = in_os_thread(lambda: call(bus.server, bus.client))
    assert isinstance(error, wrong_thread())
    assert "0x" not in str(error)
    bus.check_works()


@pytest.mark.parametrize("call", ["loop", "loop_once", "stop", "close"])
def test_a_call_of_a_scheduler_from_another_os_thread(call: str) -> None:
    kernel = Ratchet()
    assert isinstance(in_os_thread(getattr(kernel, call)), wrong_thread())
    assert isinstance(in_os_thread(lambda: kernel.attach(print)), wrong_thread())
    kernel.loop()


def test_a_call_on_a_bus_whose_hub_is_gone_says_so() -> None:
    made: list[Any] = []
    # The hub of that OS thread ends with it.
    assert in_os_thread(lambda: made.append(ratchet_bus.new_local()[0])) is None
    with pytest.raises(wrong_thread(), match=r"gone|ended|destroyed") as raised:
        made[0].cast("question")
    assert "another OS thread" not in str(raised.value)


@pytest.mark.parametrize("hub_has_run", [True, False])
def test_a_call_on_a_bus_whose_hub_this_os_thread_has_destroyed(hub_has_run: bool) -> None:
    def destroy_and_call() -> None:
        server, client = ratchet_bus.new_local()
        client.cast("begun")
        if hub_has_run:
            gevent.sleep(0)
        gevent.get_hub().destroy(destroy_loop=True)
        for call in (client.send_request, client.call, client.cast):
            with pytest.raises(wrong_thread(), match="destroyed"):
                call("question")
        with pytest.raises(wrong_thread(), match="destroyed"):
            server.recv_request()
        server, client = ratchet_bus.new_local()
        worker = gevent.spawn(server.serve, str.upper)
        assert client.call("question", timeout=20) == "QUESTION"
        server.close()
        worker.join(20)

    assert in_os_thread(destroy_and_call) is None
