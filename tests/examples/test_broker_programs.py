"""`broker_server.py`, `broker_client.py` and the demo: a server is killed, and another one serves on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from pamqp.commands import Queue

from broker.nodes import PATIENCE, Node
from broker.processes import processes_of
from broker.services import Declared
from examples.programs import EXAMPLES, Program, running
from helpers import LONG
from ratchet.bus._broker.topology import dead_queue, request_queue

pytestmark = pytest.mark.slow

SERVICE = "thumbnails"  # as in broker_server.py


def server_of(program: Program) -> None:
    """Wait until a server serves."""
    assert program.line().startswith(f"serving {SERVICE} at amqp://127.0.0.1:")


def wait_for_answer(client: Program, server: Program) -> None:
    """Wait until a client prints that a server has answered."""
    while f"rendered by process {server.pid}" not in client.line():
        pass


@pytest.mark.broker
def test_a_client_goes_on_when_one_of_two_servers_is_killed(broker_node: Node) -> None:
    with (
        running("broker_server.py", broker_node.url) as first,
        running("broker_server.py", broker_node.url) as second,
        running("broker_client.py", broker_node.url) as client,
    ):
        server_of(first)
        server_of(second)
        wait_for_answer(client, first)
        wait_for_answer(client, second)
        # It has requests nearly all the time: there are four threads that ask.
        first.send(signal.SIGKILL)
        assert first.end()[0] == -signal.SIGKILL
        while not re.fullmatch(r"picture \d+: Abandoned, UNKNOWN: the server .* is gone .*", client.line()):
            pass
        for _ in range(8):
            wait_for_answer(client, second)
        client.send(signal.SIGINT)
        assert client.end()[::2] == (0, "")
        second.send(signal.SIGTERM)
        assert second.end()[::2] == (0, "")
    Declared(broker_node.url, [Queue.Delete(queue=of(SERVICE)) for of in (request_queue, dead_queue)])


@pytest.mark.broker
def test_the_demo_shows_it_and_leaves_nothing_behind() -> None:
    # Not pytest's directory: Erlang does not like long paths.
    with TemporaryDirectory(prefix="rmq") as folder:
        demo = subprocess.Popen(
            [sys.executable, EXAMPLES / "broker_demo.py"],
            env={**os.environ, "TMPDIR": folder, "PYTHONWARNINGS": "error"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with demo:
            try:
                shown, _ = demo.communicate(timeout=PATIENCE + LONG)
                left = processes_of(Path(folder), "TMPDIR")
            finally:
                for process in processes_of(Path(folder), "TMPDIR"):
                    os.kill(process, signal.SIGKILL)
        assert demo.returncode == 0, shown
        assert left == [], shown
        assert os.listdir(folder) == []
    assert re.search(r"^client   \| picture \d+: Abandoned, UNKNOWN: ", shown, re.M), shown
    killed = shown.index("== server 1 was killed")
    assert "server 1 |" in shown[:killed]
    assert "server 1 |" not in shown[killed:]
    assert shown[killed:].count("rendered by process") >= 3


def test_the_demo_says_how_to_install_a_broker_that_is_missing(tmp_path: Path) -> None:
    program = f"""
        import runpy, shutil, sys
        shutil.which = lambda name, path=None: None
        runpy.run_path({str(EXAMPLES / "broker_demo.py")!r}, run_name="__main__")
    """
    demo = subprocess.run(
        [sys.executable, "-c", "\n".join(line.strip() for line in program.splitlines())],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )
    assert (demo.returncode, demo.stdout) == (1, "")
    assert "apt-get install rabbitmq-server" in demo.stderr
    assert "brew install rabbitmq" in demo.stderr
