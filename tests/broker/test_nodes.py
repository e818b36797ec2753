"""Are the nodes that the tests start what they are taken for, and are they gone afterwards?"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from broker.nodes import Cluster, Node, cluster, first_frame, is_start
from broker.processes import free_port, processes_of
from certificates import client_context
from helpers import wait_until

pytestmark = pytest.mark.broker

# It says where its node's files are, and then has no time to clean up.
PROGRAM = """
from broker.nodes import cluster
with cluster() as made:
    print(made.folder, made.nodes[0].port, flush=True)
    input()
"""


def test_it_answers_the_header_of_amqp(broker_node: Node) -> None:
    frame = first_frame(broker_node.port, 20)
    assert is_start(frame)
    assert b"RabbitMQ" in frame


def test_another_protocol_is_no_start(broker_node: Node) -> None:
    with socket.create_connection(("127.0.0.1", broker_node.port), timeout=20) as connection:
        connection.sendall(b"GET / HT")
        assert not is_start(connection.recv(100))


def test_its_url_names_its_port(broker_node: Node) -> None:
    assert broker_node.url == f"amqp://guest:guest@127.0.0.1:{broker_node.port}/"


def test_ctl_returns_what_it_prints(broker_node: Node) -> None:
    assert broker_node.ctl("eval", "1 + 1.").split() == ["2"]


def test_ctl_fails_with_what_it_prints(broker_node: Node) -> None:
    with pytest.raises(AssertionError, match="no_such_queue"):
        broker_node.ctl("delete_queue", "no_such_queue")


def test_settings_reach_it(broker_node: Node) -> None:
    found = broker_node.ctl("eval", "rabbit_misc:get_env(rabbit, cluster_partition_handling, none).")
    assert found.strip() == "pause_minority"
    assert broker_node.ctl("eval", "erlang:system_info(schedulers).").strip() == "1"


def test_a_stopped_node_does_not_answer_until_it_goes_on(broker_node: Node) -> None:
    broker_node.stop()
    assert not broker_node.answers(0.3)
    assert broker_node.runs
    broker_node.go_on()
    assert broker_node.answers(20)


def test_it_speaks_tls(broker_node: Node) -> None:
    assert broker_node.tls_url == f"amqps://guest:guest@127.0.0.1:{broker_node.tls_port}/"
    with socket.create_connection(("127.0.0.1", broker_node.tls_port), timeout=20) as plain:
        with client_context(gevents=False).wrap_socket(plain, server_hostname="127.0.0.1") as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            assert is_start(connection.recv(65536))


def test_a_killed_node_comes_back_with_its_data(broker_node: Node) -> None:
    broker_node.ctl("add_user", "kept", "secret")
    before, port = broker_node.pid, broker_node.port
    broker_node.stop()
    broker_node.kill()
    assert not broker_node.runs
    with pytest.raises(ConnectionRefusedError):
        first_frame(port, 20)
    broker_node.start()
    assert broker_node.pid != before
    assert broker_node.port == port
    assert "kept" in broker_node.ctl("list_users")
    broker_node.ctl("delete_user", "kept")


def test_nothing_is_left_of_a_node_of_its_own() -> None:
    with cluster(settings={"net_ticktime": "10"}) as made:
        (node,) = made.nodes
        assert node.ctl("eval", "net_kernel:get_net_ticktime().").strip() == "10"
        assert {node.pid, made.epmd_pid} < set(processes_of(made.folder))
        node.shut_down()
        assert not node.runs
        assert processes_of(made.folder) == [made.epmd_pid]
    assert processes_of(made.folder) == []
    assert not made.folder.exists()


def test_three_nodes_form_a_cluster(broker_cluster: Cluster) -> None:
    assert len(broker_cluster.nodes) == 3
    assert broker_cluster.is_whole()
    assert broker_cluster.url.count(",") == 2


def test_a_cluster_is_whole_again_after_a_kill(broker_cluster: Cluster) -> None:
    first, second, third = broker_cluster.nodes
    third.kill()
    wait_until(lambda: broker_cluster.running_names() == [first.name, second.name], seconds=60)
    assert first.answers(20)
    broker_cluster.heal()
    assert broker_cluster.is_whole()


def test_nothing_outlives_a_killed_process() -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with program:
        assert program.stdout is not None
        folder, port = program.stdout.readline().split()
        assert processes_of(Path(folder))
        program.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes_of(Path(folder)), "the end of the node")
    shutil.rmtree(folder)
    with pytest.raises(ConnectionRefusedError):
        first_frame(int(port), 20)


def test_nothing_is_left_of_a_node_that_does_not_start() -> None:
    with pytest.raises(AssertionError, match="it ended with") as raised:
        with cluster(settings={"no.such.setting": "1"}):
            pytest.fail("it started")
    assert "no.such.setting" in str(raised.value)


def test_a_free_port_is_none_of_those_that_clients_get() -> None:
    with socket.socket() as client, socket.create_server(("127.0.0.1", 0)) as server:
        client.connect(server.getsockname())
        assert free_port() < client.getsockname()[1]
