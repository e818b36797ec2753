"""A service over a broker, one of whose servers is killed: what its client sees of that.

    python examples/broker_demo.py

Starts a RabbitMQ node of its own, on free ports of 127.0.0.1 and with its data in a temporary
folder; two processes of `broker_server.py`, and `broker_client.py`.  Kills one server in the
middle of a request, as a crash would, lets the client go on, and ends all that it has started.
It shows what each of them says.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from gevent.queue import Queue
from gevent.subprocess import PIPE, STDOUT, Popen

import ratchet
from ratchet import thread

HERE = Path(__file__).parent
PATIENCE = 120.0  # seconds for whatever is waited for; on a busy machine, a node takes many
# Where RabbitMQ's own scripts may be; the one that Debian has on the path changes the user.
PATH = os.pathsep.join(["/usr/lib/rabbitmq/bin", "/opt/homebrew/sbin", "/usr/local/sbin", os.environ["PATH"]])
NOT_INSTALLED = """\
This demo needs RabbitMQ, which is not installed.  Install it by
    apt-get install rabbitmq-server    on Debian and Ubuntu
    brew install rabbitmq              on macOS
and start the demo again.  It starts a node of its own, and needs no other to run."""


class Program:
    """A program that runs until the end of `stack`, if not shorter; what it says is shown if `shown`."""

    def __init__(
        self,
        stack: ExitStack,
        name: str,
        *command: str | Path,
        environment: dict[str, str] | None = None,
        shown: bool = True,
    ) -> None:
        self.name, self.shown = name, shown
        self.process = Popen(command, env=environment, stdout=PIPE, stderr=STDOUT, text=True)
        stack.callback(self.kill)
        self.lines: Queue[str] = Queue()
        thread.attach_background(self.listen)

    def listen(self) -> None:
        """One thread: read what it says."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if self.shown:
                print(f"{self.name:8} | {line}", end="", flush=True)
            self.lines.put(line)
        self.lines.put("")

    def wait_for(self, words: str) -> None:
        """Wait until it says these words, from now on."""
        said = self.lines = Queue()
        while words not in (line := said.get(timeout=PATIENCE)):
            if not line:
                raise SystemExit(f"{self.name} has ended, and never said {words!r}")

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Tell it to end, and wait until it has."""
        self.process.terminate()
        self.process.wait(PATIENCE)


def say(text: str) -> None:
    print(f"== {text}", flush=True)


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as trial:
        return str(trial.getsockname()[1])


def start_node(stack: ExitStack, rabbitmq: str, epmd: str) -> str:
    """Start a RabbitMQ node, and Erlang's register of nodes, without which none runs; returns the URL.

    They are children of this process, and know nothing of other nodes on this machine.
    """
    # First, so that it is removed last.
    folder = Path(stack.enter_context(TemporaryDirectory(prefix="rmq", ignore_cleanup_errors=True)))
    port = free_port()
    (folder / "plugins").write_text("[].\n", encoding="utf-8")
    (folder / "rabbitmq.conf").write_text(f"listeners.tcp.1 = 127.0.0.1:{port}\n", encoding="utf-8")
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("ERL", "RABBITMQ"))
    }
    environment = {
        **inherited,
        "HOME": str(folder),
        "ERL_EPMD_PORT": free_port(),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": "ratchet-demo@localhost",
        "RABBITMQ_DIST_PORT": free_port(),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": os.devnull,
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        # So the script becomes the node, in place of waiting for it.
        "RUNNING_UNDER_SYSTEMD": "true",
    }
    # Before the node, which would leave one of its own behind.
    register = Program(stack, "epmd", epmd, "-d", "-d", environment=environment, shown=False)
    register.wait_for("main select() loop")
    node = Program(stack, "node", rabbitmq, environment=environment, shown=False)
    node.wait_for("completed with")
    return f"amqp://guest:guest@127.0.0.1:{port}/"


def main(stack: ExitStack, rabbitmq: str, epmd: str) -> None:
    say("starting a RabbitMQ node, which takes some seconds")
    url = start_node(stack, rabbitmq, epmd)
    say("starting two servers and a client")
    servers = []
    for number in (1, 2):
        server = Program(stack, f"server {number}", sys.executable, HERE / "broker_server.py", url)
        server.wait_for("serving")
        servers.append(server)
    client = Program(stack, "client", sys.executable, HERE / "broker_client.py", url)
    for server in servers:
        client.wait_for(f"process {server.process.pid}")
    servers[0].wait_for("rendering")
    servers[0].kill()
    say("server 1 was killed while it was rendering: its client is told at once, and goes on")
    client.wait_for("UNKNOWN")
    for _ in range(8):
        client.wait_for(f"process {servers[1].process.pid}")
    say("ending all: the client and the server finish what they have begun")
    client.end()
    servers[1].end()


if __name__ == "__main__":
    rabbitmq, epmd = (shutil.which(name, path=PATH) for name in ("rabbitmq-server", "epmd"))
    if rabbitmq is None or epmd is None:
        sys.exit(NOT_INSTALLED)
    # So that all is ended then, too.
    for end in signal.SIGTERM, signal.SIGINT:
        signal.signal(end, lambda number, frame: sys.exit(128 + number))
    with ExitStack() as everything:
        ratchet.run(main, everything, rabbitmq, epmd)
