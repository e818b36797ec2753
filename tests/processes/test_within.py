"""The programs of a supervisor and of a worker, within the test's own process."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
import pytest
from gevent import socket

from helpers import LONG, in_os_thread, wait_until
from processes.supervised import HERE
from ratchet import WrongThread, bus
from ratchet.bus import codecs
from ratchet.bus._core.address import address_of
from ratchet.bus._processes import beside_program, worker
from ratchet.bus._processes.channel import Channel, channel_pair
from ratchet.bus._processes.serving import settings_of


@pytest.fixture(autouse=True)
def tasks_are_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(HERE), *sys.path])


def settings(handler: str, **options: Any) -> dict[str, Any]:
    given = {"codec": "json", "limits": None, "drain_timeout": LONG, "patch": False, **options}
    return settings_of(handler, 4, **given).to_json()


def test_a_supervisor_within_this_process(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ratchet.processes")
    seen: list[Any] = []

    def use(supervisor: bus.Supervisor) -> None:
        with bus.connect(supervisor.address, codec=codecs.json) as client:
            first = client.call(None, timeout=LONG)
            supervisor.replace_workers()
            wait_until(lambda: client.call(None, timeout=LONG) != first, "another worker")
            os.kill(client.call(None, timeout=LONG), 9)
            wait_until(lambda: "was killed by signal 9" in caplog.text, "its end")
            wait_until(lambda: caplog.text.count("is ready") == 3, "a third one")
            seen.append(client.call(None, timeout=LONG))
            seen.append(supervisor.stats().connections)
        assert "ready, connections=" in repr(supervisor)
        supervisor.stop()

    assert bus.serve_processes("127.0.0.1:0", "tasks:pid", 1, codec="json", on_ready=use) is True
    assert seen[0] != os.getpid()
    assert seen[1] == 1
    assert "has ended" in caplog.text


def test_what_on_ready_raises_ends_it_and_comes_out() -> None:
    def fail(supervisor: bus.Supervisor) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        bus.serve_processes("127.0.0.1:0", "tasks:pid", 1, on_ready=fail)


def test_what_ends_the_program_is_not_taken_for_the_end_of_the_listener(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def leave(supervisor: bus.Supervisor) -> None:
        sys.exit(3)

    with pytest.raises(SystemExit):
        bus.serve_processes("127.0.0.1:0", "tasks:pid", 1, codec="json", on_ready=leave)
    assert "has shut" not in caplog.text


def test_a_supervisor_is_for_one_os_thread() -> None:
    refused: list[Any] = []

    def use(supervisor: bus.Supervisor) -> None:
        for call in (supervisor.stats, supervisor.replace_workers, supervisor.dump, supervisor.stop):
            refused.append(in_os_thread(call))
        supervisor.stop()

    assert bus.serve_processes("127.0.0.1:0", "tasks:pid", 1, codec="json", on_ready=use) is True
    assert [type(error) for error in refused] == [WrongThread] * 4
    assert "this Supervisor belongs to another OS thread" in str(refused[0])


def test_a_supervisor_that_is_interrupted_leaves_nobody_behind() -> None:
    pids: list[int] = []

    def note(supervisor: bus.Supervisor) -> None:
        with bus.connect(supervisor.address, codec=codecs.json) as client:
            pids.append(client.call(None, timeout=LONG))

    serving = gevent.spawn(bus.serve_processes, "127.0.0.1:0", "tasks:pid", 1, codec="json", on_ready=note)
    wait_until(lambda: pids, "the worker")
    serving.kill(timeout=LONG)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


class OwnWorker:
    """A worker's program in a greenlet, and the ends of its channels that are the supervisor's."""

    def __init__(self, running: gevent.Greenlet[..., int], connections: Channel, control: Channel) -> None:
        self.running = running
        self.connections = connections
        self.control = control

    def expect(self, kind: str, **members: object) -> dict[str, Any]:
        """The next message of that kind with these members."""
        with gevent.Timeout(LONG, AssertionError(f"waited in vain for {kind}")):
            while True:
                message = self.control.receive()
                assert message is not None
                if message["kind"] == kind and members.items() <= message.items():
                    return message


@contextmanager
def own_worker(**settings: Any) -> Iterator[OwnWorker]:
    with channel_pair() as (connections, its_connections), channel_pair() as (control, its_control):
        descriptors = os.dup(its_connections), os.dup(its_control)
    control.send({"settings": settings, "family": int(socket.AF_INET), "address": ("127.0.0.1", 7)})
    running = gevent.spawn(worker.main, "1", *map(str, descriptors))
    yield OwnWorker(running, connections, control)
    connections.close()
    control.close()
    running.join(LONG)
    assert running.ready()


def test_a_worker_serves_reports_and_drains() -> None:
    with own_worker(**settings("tasks:whose")) as own, socket.create_server(("127.0.0.1", 0)) as listener:
        own.expect("ready")
        connected = socket.create_connection(listener.getsockname())
        accepted, peer = listener.accept()
        assert own.connections.send_socket(accepted.fileno(), address_of(socket.AF_INET, peer))
        accepted.close()
        own.expect("counts", received=1, open=1, leaving=0, asked=0)
        with bus.new_client(connected, codec=codecs.json) as client:
            assert client.call(None, timeout=LONG) == [os.getpid(), list(connected.getsockname())]
            own.control.send({"kind": "stats"})
            assert bus.Stats(*own.expect("stats")["stats"]).answered == 1
            own.control.send({"kind": "shed", "count": 1})
            # This client knows no other server, and so goes.
            own.expect("counts", received=1, open=0, leaving=0, asked=1)
        own.control.send({"kind": "drain"})
        assert own.expect("ended")["status"] == 0
        assert own.running.get(timeout=LONG) == 0


def test_a_worker_without_a_supervisor_drains() -> None:
    with own_worker(**settings("tasks:pid")) as own:
        own.expect("ready")
        own.control.close()
        assert own.running.get(timeout=LONG) == 0


def test_a_worker_that_is_to_end_at_once_and_has_nothing_to_do() -> None:
    with own_worker(**settings("tasks:pid")) as own:
        own.expect("ready")
        own.control.send({"kind": "close"})
        own.expect("ended", status=0)
        assert own.running.get(timeout=LONG) == 0


def test_a_worker_that_cannot_serve_says_why() -> None:
    with own_worker(**settings("tasks:nothing")) as own:
        assert own.expect("failed")["text"] == "the module tasks has no nothing; check MODULE:HANDLER"
        assert own.running.get(timeout=LONG) == 2


@pytest.mark.parametrize(("handler", "answer"), [("tasks:pid", "ready"), ("tasks:nothing", "failed")])
def test_the_program_of_a_supervisor_beside_another_one(handler: str, answer: str, folder: str) -> None:
    with channel_pair() as (channel, its_end):
        descriptor = os.dup(its_end)
    channel.send({"settings": settings(handler), "processes": 1, "address": f"unix:{folder}/socket"})
    running = gevent.spawn(beside_program.main, str(descriptor))
    with gevent.Timeout(LONG):
        message = channel.receive()
        assert message is not None
        assert message["kind"] == answer
        if answer == "ready":
            channel.send({"kind": "stop"})
        assert running.get() == 0
    channel.close()
