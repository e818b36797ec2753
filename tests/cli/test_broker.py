"""The command line over a real broker: a service in a process of its own, and every command that asks it."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from pamqp.commands import Queue

from broker.nodes import Node
from broker.services import Declared
from certificates import authority
from cli.conftest import Ratchet
from cli.programs import one_line, read_until, run, started
from helpers import LONG
from ratchet.bus._broker import topology

pytestmark = pytest.mark.broker


@pytest.fixture
def name(broker_node: Node) -> Iterator[str]:
    """A service of the test's own, whose queues are gone at its end."""
    name = f"cli-{uuid4().hex[:12]}"
    yield name
    queues = [
        queue(each)
        for each in (name, f"{name}-stats")
        for queue in (topology.request_queue, topology.dead_queue)
    ]
    Declared(broker_node.url, [Queue.Delete(queue=each) for each in queues])


def url_of(node: Node, service: str) -> str:
    return f"{node.url}?service={service}"


@contextmanager
def serving(handler: str, url: str, *options: object) -> Iterator[subprocess.Popen[str]]:
    """`ratchet serve`, once it takes requests."""
    with started("serve", handler, url, "--workers", 4, *options) as server:
        assert server.stderr is not None
        said = read_until(server.stderr, "serving cli-")
        assert "guest:guest" not in said
        yield server


def test_requests_and_the_end_of_their_server(
    ratchet: Ratchet, broker_node: Node, name: str, tmp_path: Path
) -> None:
    (tmp_path / "requests").write_bytes(b"1\n[2]\n" * 50)
    url = url_of(broker_node, name)
    missing = ratchet("call", url, "request")
    assert missing.returncode == 4
    assert one_line(missing).startswith("there is no such service: 312 NO_ROUTE (")
    with serving("handlers:echo", url) as server:
        # Bytes, on stdin, and through a codec.
        program = ratchet("call", url, "grüße")
        assert (program.returncode, program.stdout, program.stderr) == (0, "grüße".encode(), b"")
        assert run("call", url, input=bytes(range(256))).stdout == bytes(range(256))
        assert ratchet("call", url, '{"a": [1, null]}', "--codec", "json", "--retry", 3).stdout == (
            b'{\n  "a": [\n    1,\n    null\n  ]\n}\n'
        )
        # A stream.
        program = ratchet("call", url, "--ndjson", "@requests", cwd=tmp_path)
        assert (program.returncode, program.stdout) == (0, b"1\n[2]\n" * 50)
        server.send_signal(signal.SIGTERM)
        assert server.wait(LONG) == 0
    # Its queue is still there, and keeps requests for the next one.
    late = ratchet("call", url, "request", "--timeout", 0.5)
    assert late.returncode in (4, 5)
    assert one_line(late).startswith(f"{name} at amqp://{broker_node.address} did not answer within 0.5 s; ")


def test_what_a_handler_raises(ratchet: Ratchet, broker_node: Node, name: str) -> None:
    url = url_of(broker_node, name)
    with serving("handlers:fail", url):
        program = ratchet("call", url, "request")
    assert program.returncode == 6
    assert b"the handler raised LookupError: no such thing: b'request'; the request ran" in program.stderr


def test_waiting_for_a_server(broker_node: Node, name: str) -> None:
    url = url_of(broker_node, name)
    with started("call", url, "request", "--wait") as call, serving("handlers:echo", url):
        assert call.communicate(timeout=LONG) == ("request", "")
        assert call.returncode == 0


def test_waiting_in_vain_for_a_server(ratchet: Ratchet, broker_node: Node, name: str) -> None:
    program = ratchet("call", url_of(broker_node, name), "request", "--wait", 0.5)
    assert program.returncode == 3
    assert one_line(program) == (
        f"no server took requests of {name} at amqp://{broker_node.address} within 0.5 s;"
        " check that one starts, or wait longer with --wait"
    )


def test_ping_tells_how_many_servers_there_are(ratchet: Ratchet, broker_node: Node, name: str) -> None:
    url = url_of(broker_node, name)
    none = ratchet("ping", url, "-c", 2, "-i", 0.01)
    assert none.returncode == 1
    shown = f"{name} at amqp://{broker_node.address}"
    assert none.stdout.decode().splitlines()[:2] == [
        f"no pong: seq={number} no server takes requests of {shown}" for number in (1, 2)
    ]
    with serving("handlers:fail", url), serving("handlers:fail", url):
        program = ratchet("ping", url, "-c", 3, "-i", 0.01)
        figures = json.loads(ratchet("ping", url, "-c", 2, "-i", 0.01, "--json").stdout)
    assert (program.returncode, program.stderr) == (0, b"")
    pong = rf"pong from {broker_node.address}: seq=\d time=\d+\.\d{{3}} ms servers=2 queued=0"
    lines = program.stdout.decode().splitlines()
    assert all(re.fullmatch(pong, line) for line in lines[:3])
    assert lines[4] == f"--- {shown} ping statistics ---"
    assert lines[5].startswith("3 sent, 3 received, 0% lost")
    assert (figures["address"], figures["received"]) == (shown, 2)


def test_bench_and_the_counters(ratchet: Ratchet, broker_node: Node, name: str) -> None:
    url, stats = url_of(broker_node, name), url_of(broker_node, f"{name}-stats")
    with serving("handlers:echo", url, "--stats", stats) as server:
        assert server.stderr is not None
        program = ratchet("bench", url, "--seconds", 0.5, "--connections", 2, "--in-flight", 4, "--json")
        assert program.returncode == 0
        figures = json.loads(program.stdout)
        assert (figures["address"], figures["connections"]) == (f"{name} at amqp://{broker_node.address}", 2)
        assert figures["answered"] > 0
        assert figures["failed"] == 0
        counters = json.loads(ratchet("stats", stats, "--json").stdout)
    assert counters["connections"] == 1
    assert counters["answered"] >= figures["answered"]


@pytest.mark.parametrize("command", ["call", "ping", "bench", "stats", "serve"])
def test_a_wrong_password_is_said_and_not_shown(broker_node: Node, name: str, command: str) -> None:
    url = f"amqp://guest:hush@{broker_node.address}/?service={name}"
    program = run(command, *(["builtins:repr"] if command == "serve" else []), url)
    assert program.returncode == (3 if command == "call" else 1)
    assert program.stdout == b""
    said = program.stderr.decode().splitlines()[-1]
    assert said.startswith("ratchet: the broker closed the link: 403 ACCESS_REFUSED")
    assert f"({name} at amqp://{broker_node.address})" in said
    assert "hush" not in program.stderr.decode()


def test_a_vhost_that_is_not_there(ratchet: Ratchet, broker_node: Node, name: str) -> None:
    program = ratchet("call", f"{broker_node.url}nowhere?service={name}", "request")
    assert program.returncode == 3
    assert "NOT_ALLOWED - vhost nowhere not found" in one_line(program)


def test_tls(ratchet: Ratchet, broker_node: Node, name: str, tmp_path: Path) -> None:
    authority().cert_pem.write_to_path(str(tmp_path / "ca"))
    url, ca = f"{broker_node.tls_url}?service={name}", ("--ca", tmp_path / "ca")
    with serving("handlers:echo", url, *ca):
        program = ratchet("call", url, "request", *ca)
        assert (program.returncode, program.stdout, program.stderr) == (0, b"request", b"")
        assert ratchet("ping", url, "-c", 1, "--insecure").returncode == 0
        assert ratchet("bench", url, "--seconds", 0.2, *ca).returncode == 0
        distrusted = ratchet("call", url, "request")
    assert distrusted.returncode == 3
    assert one_line(distrusted).startswith(
        f"the certificate of amqps://127.0.0.1:{broker_node.tls_port} is not trusted ("
    )
