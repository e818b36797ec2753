"""RabbitMQ nodes of the tests' own: started on free loopback ports, and ended with the tests.

`cluster()` starts an epmd, Erlang's register of nodes, and as many nodes as it is asked for, with their data
in a temporary folder; a single node is a cluster of one.  It takes no rights that a user does not have, and
leaves alone whatever else of Erlang or RabbitMQ the machine runs.

Every node, and epmd, is a child of this process, without a shell or a daemon in between, so its id is known.
The kernel kills it when the OS thread that started it ends, in whatever way: start nodes in the main thread
alone.  What a node starts by itself ends when the node does.

Everything that waits here lets the other greenlets run.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory, TemporaryFile

from gevent import socket as gevent_socket

from broker.processes import child, end, free_port, listens, processes_of
from certificates import authority
from helpers import LONG, wait_until

# Those on the path change the user first.
_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
_SERVER, _CTL = str(_SCRIPTS / "rabbitmq-server"), str(_SCRIPTS / "rabbitmqctl")

MISSING = [program for program in (_SERVER, "epmd", "setpriv") if shutil.which(program) is None]
"""What a test with a broker needs, and is not installed."""

PATIENCE = 100.0
"""Seconds that a node gets to start.  That takes eight of a processor's time, and many tests share those."""

_SETTINGS = {
    "cluster_partition_handling": "pause_minority",
    "vm_memory_high_watermark.absolute": "1GB",
    "disk_free_limit.absolute": "1MB",
    "cluster_formation.peer_discovery_backend": "classic_config",
}
# One scheduler, and no waiting in a loop: the processors have others to serve.
_ERLANG = (
    "+S 1:1 +SDcpu 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}"
)

_HEADER = b"AMQP\x00\x00\x09\x01"


def first_frame(port: int, seconds: float) -> bytes:
    """Send the header of AMQP, and return the first bytes of the answer; none if the node hangs up.

    Raises:
        OSError: nobody listens, or nobody answers within `seconds`.
    """
    # Not create_connection(), which would look up the address in an OS thread.
    with gevent_socket.socket() as connection:
        connection.settimeout(seconds)
        connection.connect(("127.0.0.1", port))
        connection.sendall(_HEADER)
        return bytes(connection.recv(65536))


def is_start(frame: bytes) -> bool:
    """Whether it is a method frame on channel 0 with Connection.Start, which is number 10 of class 10."""
    return frame[:3] == b"\x01\x00\x00" and frame[7:11] == b"\x00\x0a\x00\x0a"


class Node:
    """One RabbitMQ node; made by `cluster()`.

    Attributes:
        name: Erlang's name for it.
        port: where it listens, as long as it runs; it stays the same.
        tls_port: the same for TLS; None without it.
        stopped: whether its process is frozen.
    """

    def __init__(
        self, folder: Path, name: str, epmd_port: int, settings: Mapping[str, str], tls: bool
    ) -> None:
        self.name = name
        self.port, distribution_port = free_port(), free_port()
        self.tls_port = free_port() if tls else None
        self.stopped = False
        self._output = folder / f"{name}.out"
        self._process: subprocess.Popen[bytes] | None = None
        lines = {**settings, "listeners.tcp.1": f"127.0.0.1:{self.port}"}
        if tls:
            lines["listeners.ssl.1"] = f"127.0.0.1:{self.tls_port}"
        configuration = folder / f"{name}.conf"
        configuration.write_text("".join(f"{key} = {value}\n" for key, value in lines.items()))
        self._environment = {
            **environment(folder, epmd_port),
            "RABBITMQ_NODENAME": name,
            "RABBITMQ_DIST_PORT": str(distribution_port),
            "RABBITMQ_CONFIG_FILE": str(configuration),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": _ERLANG,
            # Any free port for a program that talks to the node.
            "RABBITMQ_CTL_DIST_PORT_MIN": "0",
            "RABBITMQ_CTL_DIST_PORT_MAX": "0",
            # So the script becomes the node, in place of waiting for it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def __repr__(self) -> str:
        return f"<Node {self.name} on port {self.port}, {'runs' if self.runs else 'does not run'}>"

    @property
    def address(self) -> str:
        """Host and port, as in a URL of several nodes."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.address}/"

    @property
    def tls_url(self) -> str:
        assert self.tls_port is not None, f"{self!r} was started without TLS"
        return f"amqps://guest:guest@127.0.0.1:{self.tls_port}/"

    @property
    def runs(self) -> bool:
        """Whether its process is there, stopped or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None, f"{self!r} was never started"
        return self._process.pid

    def start(self) -> None:
        """Start it, with the data that it has, and wait until it answers.

        In a cluster that was down as a whole, the node that went down last must be started first, or with
        this one: launch them all, then wait.
        """
        self.launch()
        self.wait_until_up()

    def launch(self) -> None:
        """Start its process, and do not wait."""
        assert not self.runs, f"{self!r} already"
        with open(self._output, "wb") as output:
            self._process = child([_SERVER], self._environment, output)
        self.stopped = False

    def wait_until_up(self, seconds: float = PATIENCE) -> None:
        """Wait until it answers the header of AMQP."""

        def is_up() -> bool:
            assert self.runs, f"{self!r}: it ended with\n{self.output()}"
            return self.answers(LONG)

        try:
            wait_until(is_up, f"{self!r}", seconds)
        except AssertionError as error:
            error.add_note(self.output())
            raise

    def answers(self, seconds: float = 1.0) -> bool:
        """Whether it answers the header of AMQP within `seconds`."""
        try:
            return is_start(first_frame(self.port, seconds))
        except OSError:
            return False

    def output(self) -> str:
        """The end of what it wrote."""
        return self._output.read_text(errors="replace")[-4000:] if self._output.exists() else ""

    def ctl(self, *arguments: str, seconds: float = 60.0) -> str:
        """Run `rabbitmqctl` on it, and return the output.  A stopped node does not answer.

        Raises:
            AssertionError: it failed, or took longer than `seconds`.
        """
        with TemporaryFile() as output:
            process = child([_CTL, "--quiet", "--node", self.name, *arguments], self._environment, output)
            try:
                wait_until(lambda: process.poll() is not None, f"rabbitmqctl {arguments}", seconds)
            finally:
                end(process)
            output.seek(0)
            text = output.read().decode(errors="replace")
        assert process.returncode == 0, f"rabbitmqctl {arguments} ended with {process.returncode}: {text}"
        return text

    def kill(self) -> None:
        """End its process as a crash does.  It may be stopped, or ended already."""
        if self._process is not None:
            end(self._process)

    def shut_down(self, seconds: float = 60.0) -> None:
        """End it as an operator does, who first has it close its connections and files."""
        assert self._process is not None, f"{self!r} was never started"
        self._process.terminate()
        wait_until(lambda: not self.runs, f"the end of {self!r}", seconds)

    def restart(self) -> None:
        """Kill it, and start it with the same data."""
        self.kill()
        self.start()

    def stop(self) -> None:
        """Freeze its process: connections stay, and nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        self.stopped = True

    def go_on(self) -> None:
        """Thaw its process."""
        os.kill(self.pid, signal.SIGCONT)
        self.stopped = False


class Cluster:
    """Nodes that know each other; made by `cluster()`.

    Attributes:
        folder: where all their files are.
        epmd_pid: the process of Erlang's register of nodes.
        nodes: the nodes; the first one is the one that the others joined.
    """

    def __init__(self, folder: Path, epmd_pid: int, nodes: list[Node]) -> None:
        self.folder = folder
        self.epmd_pid = epmd_pid
        self.nodes = nodes

    @property
    def url(self) -> str:
        """All nodes, in their order."""
        return f"amqp://guest:guest@{','.join(node.address for node in self.nodes)}/"

    def running_names(self, of: int = 0) -> list[str]:
        """The nodes that node number `of` takes for running members."""
        status = json.loads(self.nodes[of].ctl("cluster_status", "--formatter", "json"))
        return sorted(status["running_nodes"])

    def is_whole(self) -> bool:
        """Whether every node takes every node for a running member.  All of them must answer."""
        names = sorted(node.name for node in self.nodes)
        return all(self.running_names(number) == names for number in range(len(names)))

    def heal(self) -> None:
        """Start the nodes that have ended, thaw those that are frozen, and wait until the cluster is whole.

        At first a node that was frozen for long may answer, and then pause because the others have given it
        up.
        """
        hurt = [node for node in self.nodes if node.stopped or not node.runs]
        for node in hurt:
            if node.runs:
                node.go_on()
            else:
                node.launch()
        for node in hurt:
            node.wait_until_up()
        if hurt and len(self.nodes) > 1:
            wait_until(self.is_whole, "a whole cluster", PATIENCE)


@contextmanager
def cluster(
    count: int = 1, *, tls: bool = False, settings: Mapping[str, str] | None = None
) -> Iterator[Cluster]:
    """A cluster of `count` nodes that are up; all is ended, and its files are gone, at the end of the block.

    Args:
        count: how many nodes.
        tls: whether they listen for TLS, too, with a certificate of `certificates.authority()`.
        settings: more lines of rabbitmq.conf, such as `{"net_ticktime": "10"}`,
            `{"heartbeat": "5"}` or `{"vm_memory_high_watermark.absolute": "200MB"}`.
    """
    # Not pytest's directory: Erlang does not like long paths.
    with TemporaryDirectory(prefix="rmq", ignore_cleanup_errors=True) as path:
        folder = Path(path)
        (folder / "plugins").write_text("[].\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text(token_hex(16))
        cookie.chmod(0o400)
        common = {**_SETTINGS, **(tls_settings(folder) if tls else {}), **(settings or {})}
        epmd_port = free_port()
        names = [f"r{number}@localhost" for number in range(1, count + 1)]
        # The first one waits for nobody.
        peers = [names[:1], *[names] * (count - 1)]
        nodes = [
            Node(folder, name, epmd_port, {**common, **members(known)}, tls)
            for name, known in zip(names, peers, strict=True)
        ]
        epmd = child(["epmd"], environment(folder, epmd_port), subprocess.DEVNULL)
        try:
            wait_until(lambda: listens(epmd_port), "epmd")
            made = Cluster(folder, epmd.pid, nodes)
            # It is up before the others join it: they do so one by one, which a lock on it sees to.
            nodes[0].start()
            if count > 1:
                made.heal()
            yield made
        finally:
            for node in nodes:
                node.kill()
            end(epmd)
            wait_until(lambda: not processes_of(folder), f"the end of what has its home in {folder}")


def members(names: list[str]) -> dict[str, str]:
    return {f"cluster_formation.classic_config.nodes.{number}": name for number, name in enumerate(names, 1)}


def tls_settings(folder: Path) -> dict[str, str]:
    """Write the files of a server's certificate; the lines of rabbitmq.conf that name them."""
    certificate = authority().issue_cert("127.0.0.1", "localhost")
    trusted, chain, key = folder / "trusted.pem", folder / "server.pem", folder / "key.pem"
    authority().cert_pem.write_to_path(str(trusted))
    for number, part in enumerate(certificate.cert_chain_pems):
        part.write_to_path(str(chain), append=number > 0)
    certificate.private_key_pem.write_to_path(str(key))
    return {
        "ssl_options.cacertfile": str(trusted),
        "ssl_options.certfile": str(chain),
        "ssl_options.keyfile": str(key),
    }


def environment(folder: Path, epmd_port: int) -> dict[str, str]:
    """All that Erlang's programs get to see: nothing of the user's own settings for Erlang or RabbitMQ."""
    return {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_CRASH_DUMP": "/dev/null",
    }
